"""Answers held to a JSON schema: what must come next, what may, and what `false` implies.

llguidance compiles the schema; separators are `, ` and `: `, no other whitespace. What every
answer must begin with goes into the prompt. Where the first property is a required boolean
(`has_smoke`), everything up to its colon is forced, *without* the blank after it: in Qwen's
vocabulary ` true` is one token and a lone blank is nothing it would ever write.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import llguidance
import llguidance.hf

from earlyfire_stream.errors import UsageError

__all__ = ["Grammar", "GrammarMaker", "Verdicts"]

MAX_SCHEMA_CHARS = 20_000
KEPT = 32
"""Compiled schemas kept; a consumer uses one."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Token ids that mean true and false; empty where they are no single tokens.

    The spaced variant stands first: it is the one that is written."""

    true: tuple[int, ...]
    false: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled schema. Matchers are stateful: each answer takes a copy."""

    forced: str
    """What every answer begins with, as text for the prompt."""
    forced_ids: tuple[int, ...]
    matcher: llguidance.LLMatcher
    """Has consumed `forced`."""
    verdicts: Verdicts | None
    """Set where the next token is the verdict."""
    false_ids: tuple[int, ...]
    """The rest of the answer from ` false` on, all others null; empty if they cannot be null."""


class GrammarMaker:
    """Compiles schemas for one tokenizer; any number of threads may use it."""

    def __init__(self, tokenizer: Any, vocabulary: int, stops: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self.tokens = llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=vocabulary, eos_token=list(stops)
        )
        self.verdicts = Verdicts(self._single("true"), self._single("false"))
        self._compiled = functools.lru_cache(maxsize=KEPT)(self._compile)

    def _single(self, word: str) -> tuple[int, ...]:
        found = (self._tokenizer.encode(v, add_special_tokens=False) for v in (f" {word}", word))
        return tuple(ids[0] for ids in found if len(ids) == 1)

    def __call__(self, schema: Mapping[str, object]) -> Grammar:
        """UsageError if the schema cannot be held to."""
        try:
            text = json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the schema is no JSON: {error}") from error
        if len(text) > MAX_SCHEMA_CHARS:
            raise UsageError(f"the schema is longer than {MAX_SCHEMA_CHARS:,} characters")
        return self._compiled(text)

    def _compile(self, text: str) -> Grammar:
        try:
            source = llguidance.LLMatcher.grammar_from_json_schema(
                text,
                overrides={
                    "item_separator": ", ",
                    "key_separator": ": ",
                    "whitespace_flexible": False,
                },
            )
        except ValueError as error:
            raise UsageError(f"the schema cannot be held to: {error}") from error
        matcher = llguidance.LLMatcher(self.tokens, source, log_level=0)
        if matcher.is_error():
            raise UsageError(f"the schema cannot be held to: {_first_line(matcher.get_error())}")
        decided = self._up_to_the_verdict(text, matcher)
        if decided is not None:
            return decided
        ids = tuple(matcher.compute_ff_tokens())
        matcher.consume_tokens(list(ids))
        forced = self.tokens.decode_bytes(list(ids)).decode("utf-8", "replace")
        if tuple(self._encode(forced)) != ids:
            # the prompt would be read as other tokens than these: leave them to the decoding
            matcher.reset()
            forced, ids = "", ()
        return Grammar(forced, ids, matcher, None, ())

    def _up_to_the_verdict(self, text: str, matcher: llguidance.LLMatcher) -> Grammar | None:
        schema = json.loads(text)
        name = _first_required_boolean(schema)
        if name is None or not (self.verdicts.true and self.verdicts.false):
            return None
        forced = "{" + json.dumps(name, ensure_ascii=False) + ":"
        ids = self._encode(forced)
        branch = matcher.deep_copy()
        for word in (" true", " false"):
            if branch.validate_tokens(whole := [*ids, *self._encode(word)]) != len(whole):
                return None
        branch.consume_tokens(ids)
        others = schema.get("required", [])
        nothing = "".join(
            f", {json.dumps(key, ensure_ascii=False)}: null"
            for key in schema["properties"]
            if key != name and key in others
        )
        rest = self._encode(" false" + nothing + "}")
        ending = branch.deep_copy()
        if ending.try_consume_tokens(rest) != len(rest) or not ending.is_accepting():
            rest = []
        return Grammar(forced, tuple(ids), branch, self.verdicts, tuple(rest))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _first_required_boolean(schema: object) -> str | None:
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not properties or not isinstance(required, list):
        return None
    name, first = next(iter(properties.items()))
    plain = isinstance(first, dict) and first.get("type") == "boolean"
    # enum or const would leave one of the two impossible
    return name if plain and not {"enum", "const"} & first.keys() and name in required else None


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]
