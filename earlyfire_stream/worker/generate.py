"""The model at work: one pass over a micro-batch, then only what must be decoded.

A batch is laid out in columns, oldest first: each row's cached prefix, padded on its left to the
longest one, then the rest of its prompt, padded on its left. Padding is masked and every token
carries its own explicit position, so that holes cost nothing but their width. (transformers would
otherwise derive positions from `rope_deltas`, which lives on the model: one request's would serve
the next.)

The one pass answers rows whose verdict is false at once. The others leave the batch as they end;
what their schema forces is fed together with the token before it, in one pass and unsampled.

Everything here runs in one thread, except `Brain.prepare`.
"""

from __future__ import annotations

import codecs
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from earlyfire_stream.worker.ask import (
    Ask,
    Card,
    Clip,
    OutOfMemory,
    Picture,
    Piece,
    Timings,
    TokenLogprob,
)
from earlyfire_stream.worker.grammar import Grammar, GrammarMaker
from earlyfire_stream.worker.layout import Layout, Prompt
from earlyfire_stream.worker.pixels import normalised

__all__ = [
    "Ask",
    "Brain",
    "Card",
    "Clip",
    "OutOfMemory",
    "Picture",
    "Piece",
    "Prepared",
    "Timings",
    "TokenLogprob",
]

PREFIXES_KEPT = 8
"""Constant instructions whose cache is kept: a few prompts, each for a few box conventions."""

Emit = Callable[[int, Piece], None]
Alive = Callable[[int], bool]
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as the model reads it. It may be answered again, after OutOfMemory."""

    ask: Ask
    prompt: Prompt
    grammar: Grammar | None

    @property
    def visual_tokens(self) -> int:
        return self.prompt.visual_tokens

    @property
    def prompt_tokens(self) -> int:
        """Visual tokens and prefix included, without what the answer is forced to begin with."""
        forced = 0 if self.grammar is None else len(self.grammar.forced_ids)
        return len(self.prompt.ids) - forced

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids of the constant beginning. Batches may mix prefixes at the price of padding."""
        return tuple(self.prompt.ids[: self.prompt.prefix].tolist())


@dataclass(eq=False, slots=True)
class _Row:
    """One row of a batch while it is answered."""

    index: int
    prepared: Prepared
    matcher: llguidance.LLMatcher | None
    position: int
    """Of the next token."""
    text: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    taken: int = 0
    """Tokens of the answer so far."""
    pending: list[int] = field(default_factory=list)
    """Of those, what the model has not read yet."""
    done: bool = False


@dataclass(slots=True)
class _Emitter:
    """Passes pieces on and remembers whether it did."""

    emit: Emit
    any: bool = False

    def __call__(self, row: int, piece: Piece) -> None:
        self.any = True
        self.emit(row, piece)


class Brain:
    """A loaded model. `prepare` may run in any thread, `answer` in one thread at a time."""

    def __init__(
        self,
        model: Any,
        layout: Layout,
        grammars: GrammarMaker,
        card: Card,
        stops: tuple[int, ...],
        padding: int,
    ) -> None:
        self.card = card
        self._model = model
        self._layout = layout
        self._grammars = grammars
        self._stops = frozenset(stops)
        self._padding = padding
        self._device = torch.device(model.device)
        self._dtype: torch.dtype = model.dtype
        self._prefixes: OrderedDict[tuple[int, ...], KeyValues] = OrderedDict()

    # --- before the model ------------------------------------------------------------------------

    def prepare(self, ask: Ask) -> Prepared:
        """Tokens, patches, positions and grammar; no work for the model. UsageError if it cannot
        be asked: a picture's shape, a schema, a special token in a text, too many tokens."""
        grammar = None if ask.schema is None else self._grammars(ask.schema)
        prompt = self._layout(ask, "" if grammar is None else grammar.forced)
        return Prepared(ask, prompt, grammar)

    # --- the model -------------------------------------------------------------------------------

    def answer(self, batch: Sequence[Prepared], emit: Emit, alive: Alive) -> Timings:
        """Run the batch to its end. OutOfMemory says whether anything had been emitted.

        `emit(row, piece)` is called in this thread, as soon as the piece is known. A row whose
        `alive(row)` turned False gets no more pieces after the step in hand.
        """
        if not batch:
            return Timings()
        emitter = _Emitter(emit)
        try:
            with torch.inference_mode():
                return self._answer(batch, emitter, alive)
        except (torch.OutOfMemoryError, MemoryError) as error:
            short = str(error) or "out of memory"
        except RuntimeError as error:
            # the CPU allocator has no class of its own
            if "allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            short = str(error)
        # outside the handler: the traceback holds the very tensors that must go
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(short.splitlines()[0][:300], emitter.any)

    def memory(self) -> dict[str, int]:
        """Bytes of the device: used, peak, total; empty where only the system could tell."""
        if self._device.type != "cuda":
            return {}
        _free, total = torch.cuda.mem_get_info(self._device)
        return {
            "used": torch.cuda.memory_allocated(self._device),
            "peak": torch.cuda.max_memory_allocated(self._device),
            "total": total,
        }

    def _answer(self, batch: Sequence[Prepared], emit: _Emitter, alive: Alive) -> Timings:
        timings = Timings(rows=len(batch))
        began = time.perf_counter()
        rows = [
            _Row(
                index,
                prepared,
                None if prepared.grammar is None else prepared.grammar.matcher.deep_copy(),
                prepared.prompt.next_position,
            )
            for index, prepared in enumerate(batch)
        ]
        logits, cache, mask = self._read(rows, timings)
        self._advance(rows, logits, emit, timings)
        timings.prompt_s = time.perf_counter() - began
        began = time.perf_counter()
        dropped = []
        while True:
            kept = []
            for place, row in enumerate(rows):
                if not row.done and not alive(row.index):
                    row.done = True
                    dropped.append(row.index)
                if not row.done:
                    kept.append(place)
            if not kept:
                break
            if len(kept) < len(rows):
                rows = [rows[place] for place in kept]
                places = torch.tensor(kept, device=self._device)
                cache.batch_select_indices(places)
                mask = mask[places]
            logits, mask = self._step(rows, cache, mask)
            timings.steps += 1
            self._advance(rows, logits, emit, timings)
        timings.predicted_s = time.perf_counter() - began
        timings.dropped_rows = tuple(dropped)
        return timings

    def _prefix(self, ids: tuple[int, ...], timings: Timings) -> KeyValues:
        """Keys and values of a constant beginning, computed once."""
        if not ids:
            return []
        found = self._prefixes.get(ids)
        if found is not None:
            self._prefixes.move_to_end(ids)
            timings.prefix_hits += 1
            return found
        timings.prefix_misses += 1
        cache = DynamicCache(config=self._model.config)
        count = torch.arange(len(ids), device=self._device)
        self._model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=count.view(1, 1, -1).expand(3, 1, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        layers: Sequence[Any] = cache.layers
        found = [(layer.keys, layer.values) for layer in layers]
        self._prefixes[ids] = found
        while len(self._prefixes) > PREFIXES_KEPT:
            self._prefixes.popitem(last=False)
        return found

    def _read(
        self, rows: list[_Row], timings: Timings
    ) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
        """One pass over all prompts: (last logits, cache, which columns each row may look at)."""
        prompts = [row.prepared.prompt for row in rows]
        prefixes = [self._prefix(row.prepared.prefix, timings) for row in rows]
        longest_prefix = max(prompt.prefix for prompt in prompts)
        longest_rest = max(len(prompt.ids) - prompt.prefix for prompt in prompts)
        cache = DynamicCache(config=self._model.config)
        if longest_prefix:
            self._fill(cache, prefixes, longest_prefix)

        ids = np.full((len(rows), longest_rest), self._padding, dtype=np.int64)
        where = np.zeros((3, len(rows), longest_rest), dtype=np.int64)
        seen = np.zeros((len(rows), longest_prefix + longest_rest), dtype=np.int64)
        for r, prompt in enumerate(prompts):
            rest = len(prompt.ids) - prompt.prefix
            ids[r, longest_rest - rest :] = prompt.ids[prompt.prefix :]
            where[:, r, longest_rest - rest :] = prompt.positions[:, prompt.prefix :]
            seen[r, longest_prefix - prompt.prefix : longest_prefix] = 1
            seen[r, longest_prefix + longest_rest - rest :] = 1
            timings.prompt_tokens += rest
            timings.visual_tokens += prompt.visual_tokens
        visual: dict[str, torch.Tensor] = {}
        pictures = [cut for prompt in prompts for cut in prompt.pictures]
        if pictures:
            values, grids = normalised(pictures, self._device, self._dtype)
            visual |= {"pixel_values": values, "image_grid_thw": grids}
        clips = [cut for prompt in prompts for cut in prompt.clips]
        if clips:
            values, grids = normalised(clips, self._device, self._dtype)
            visual |= {"pixel_values_videos": values, "video_grid_thw": grids}
        mask = self._to_device(seen)
        logits = self._model(
            input_ids=self._to_device(ids),
            position_ids=self._to_device(where),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **visual,
        ).logits[:, -1]
        return logits, cache, mask

    def _fill(self, cache: DynamicCache, prefixes: list[KeyValues], width: int) -> None:
        """The first columns of a batch's cache; shorter prefixes get (masked) zeros before them."""
        layers = max(len(prefix) for prefix in prefixes)
        alike = all(prefix is prefixes[0] for prefix in prefixes)
        for layer in range(layers):
            both = []
            for which in range(2):
                if alike:
                    first = prefixes[0][layer][which]
                    both.append(first.expand(len(prefixes), -1, -1, -1))
                    continue
                model = next(prefix for prefix in prefixes if prefix)[layer][which]
                filled = model.new_zeros((len(prefixes), model.shape[1], width, model.shape[3]))
                for r, prefix in enumerate(prefixes):
                    if prefix:
                        own = prefix[layer][which]
                        filled[r, :, width - own.shape[2] :] = own[0]
                both.append(filled)
            cache.update(both[0], both[1], layer)

    def _step(
        self, rows: list[_Row], cache: DynamicCache, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read what is pending: (last logits, the longer mask)."""
        width = max(len(row.pending) for row in rows)
        ids = np.full((len(rows), width), self._padding, dtype=np.int64)
        where = np.zeros((len(rows), width), dtype=np.int64)
        seen = np.zeros((len(rows), width), dtype=np.int64)
        for r, row in enumerate(rows):
            count = len(row.pending)
            ids[r, width - count :] = row.pending
            where[r, width - count :] = np.arange(row.position, row.position + count)
            seen[r, width - count :] = 1
            row.position += count
            row.pending = []
        mask = torch.cat([mask, self._to_device(seen)], dim=1)
        logits = self._model(
            input_ids=self._to_device(ids),
            position_ids=self._to_device(where).expand(3, -1, -1),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits, mask

    def _to_device(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)

    # --- from logits to pieces -------------------------------------------------------------------

    def _advance(
        self, rows: list[_Row], logits: torch.Tensor, emit: _Emitter, timings: Timings
    ) -> None:
        """Choose each row's next token, emit it and whatever it forces, and note what is to be
        read next."""
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = self._greedy(rows, logprobs)
        own = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        most = max(row.prepared.ask.top_logprobs for row in rows)
        tops = [t.tolist() for t in logprobs.topk(most, dim=-1)] if most else [[], []]
        for r, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if row.taken == 0 and row.prepared.grammar is not None:
                begun = row.prepared.grammar.forced_ids
                timings.forced_tokens += len(begun)
                if row.prepared.grammar.verdicts is not None:
                    self._decide(row, logprobs[r], emit, timings)
                    continue
            else:
                begun = ()
            wanted = row.prepared.ask.top_logprobs
            top = (
                tuple(
                    (self._word(t), lp)
                    for lp, t in zip(tops[0][r][:wanted], tops[1][r][:wanted], strict=True)
                )
                if wanted
                else ()
            )
            said = [TokenLogprob(self._word(t), 0.0) for t in begun]
            if row.matcher is None:
                if token in self._stops:
                    self._say(row, [], [], "stop", emit, timings)
                else:
                    said.append(TokenLogprob(self._word(token), own[r], top))
                    self._say(row, [token], said, None, emit, timings)
                continue
            if not row.matcher.consume_token(token):
                self._fail(row, emit)
                continue
            ids = list(begun)
            if token not in self._stops:
                ids.append(token)
                said.append(TokenLogprob(self._word(token), own[r], top))
            self._follow(row, ids, said, len(begun), emit, timings)

    def _greedy(self, rows: list[_Row], logprobs: torch.Tensor) -> torch.Tensor:
        """The likeliest token that each row's grammar admits."""
        held = [r for r, row in enumerate(rows) if row.matcher is not None]
        if not held:
            return logprobs.argmax(dim=-1)
        vocabulary = logprobs.shape[1]
        packed = llguidance.numpy.allocate_token_bitmask(len(rows), vocabulary)  # all admitted
        for r in held:
            matcher = rows[r].matcher
            assert matcher is not None
            if not (rows[r].taken == 0 and _verdict_next(rows[r])):
                llguidance.numpy.fill_next_token_bitmask(matcher, packed, r)
        bits = torch.arange(32, dtype=torch.int32, device=self._device)
        admitted = (self._to_device(packed)[:, :, None] >> bits) & 1
        admitted = admitted.view(len(rows), -1)[:, :vocabulary].bool()
        return logprobs.masked_fill(~admitted, -math.inf).argmax(dim=-1)

    def _decide(self, row: _Row, logprobs: torch.Tensor, emit: _Emitter, timings: Timings) -> None:
        """The verdict: P(true) against P(false), spaced and unspaced variants together."""
        grammar = row.prepared.grammar
        assert grammar is not None
        assert grammar.verdicts is not None
        assert row.matcher is not None
        variants = [*grammar.verdicts.true, *grammar.verdicts.false]
        each = logprobs[variants].tolist()
        true = sum(math.exp(lp) for lp in each[: len(grammar.verdicts.true)])
        false = sum(math.exp(lp) for lp in each[len(grammar.verdicts.true) :])
        says = true >= row.prepared.ask.threshold * (true + false)
        token = (grammar.verdicts.true if says else grammar.verdicts.false)[0]
        top = sorted(
            ((self._word(t), lp) for t, lp in zip(variants, each, strict=True)),
            key=lambda pair: -pair[1],
        )
        said = [TokenLogprob(self._word(t), 0.0) for t in grammar.forced_ids]
        said.append(TokenLogprob(self._word(token), each[variants.index(token)], tuple(top)))
        ids = [*grammar.forced_ids, token]
        if not says and grammar.false_ids:
            rest = list(grammar.false_ids[1:])
            timings.forced_tokens += len(rest)
            said += [TokenLogprob(self._word(t), 0.0) for t in rest]
            self._say(row, ids + rest, said, "stop", emit, timings)
            return
        row.matcher.consume_token(token)
        self._follow(row, ids, said, len(grammar.forced_ids), emit, timings)

    def _follow(
        self,
        row: _Row,
        ids: list[int],
        said: list[TokenLogprob],
        read: int,
        emit: _Emitter,
        timings: Timings,
    ) -> None:
        """Add what the grammar forces behind `ids`, of which the model has `read` the first."""
        matcher = row.matcher
        assert matcher is not None
        forced = list(matcher.compute_ff_tokens())
        if forced and not matcher.consume_tokens(forced):
            self._fail(row, emit)
            return
        timings.forced_tokens += len(forced)
        said += [TokenLogprob(self._word(t), 0.0) for t in forced]
        ended = matcher.is_stopped()
        if matcher.is_error():
            self._fail(row, emit)
            return
        self._say(row, ids + forced, said, "stop" if ended else None, emit, timings, read)

    def _say(
        self,
        row: _Row,
        ids: list[int],
        said: list[TokenLogprob],
        finish: str | None,
        emit: _Emitter,
        timings: Timings,
        read: int = 0,
    ) -> None:
        """Emit tokens, as many as the answer may still have."""
        left = row.prepared.ask.max_tokens - row.taken
        if len(ids) > left or (len(ids) == left and finish is None):
            ids, said, finish = ids[:left], said[:left], "length"
        row.taken += len(ids)
        row.pending = ids[read:]
        row.done = finish is not None
        timings.generated_tokens += len(ids)
        text = row.text.decode(self._bytes(ids), final=row.done)
        emit(row.index, Piece(text, tuple(said), finish))

    def _fail(self, row: _Row, emit: _Emitter) -> None:
        assert row.matcher is not None
        reason = row.matcher.get_error().strip().split("\n", 1)[0][:300]
        row.done = True
        emit(row.index, Piece("", error=f"the schema could not be followed: {reason}"))

    def _bytes(self, ids: list[int]) -> bytes:
        """Special tokens are no text."""
        tokens = self._grammars.tokens
        return tokens.decode_bytes([t for t in ids if not tokens.is_special_token(t)])

    def _word(self, token: int) -> str:
        return self._grammars.tokens.decode_bytes([token]).decode("utf-8", "replace")


def _verdict_next(row: _Row) -> bool:
    grammar = row.prepared.grammar
    return grammar is not None and grammar.verdicts is not None
