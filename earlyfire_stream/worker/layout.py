"""The prompt as the model reads it: chat template, token ids, and a position for each token.

    <system> ... <user> <|vision_start|>   constant: its cache is shared by requests (the prefix)
    <|image_pad|> x n <|vision_end|> ...   the rest of the prompt
    {"has_smoke":                          what the answer is forced to begin with

Texts may not hold special tokens: whoever writes `<|im_end|>` into a question would speak with the
system's voice, and `<|image_pad|>` would ask for a picture that is not there.

Positions are three per token (time, row, column). Text counts on in all three; a picture's tokens
share one instant and count rows and columns from where it begins; what follows begins behind the
largest of them. In a clip the instant of a temporal grid is the true time of its first frame since
the clip's first, times the checkpoint's `tokens_per_second`, rounded down: for regular frames that
is what Qwen2.5-VL computes from `second_per_grid_ts`. (transformers 5.23 lets the text behind a
clip begin behind its rows and columns alone, so that instants of a long clip would lie in the
text's future, and generated tokens jump; Qwen's own code and this one begin behind all three.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from earlyfire_stream.errors import UsageError
from earlyfire_stream.worker.ask import Ask, Clip, Picture
from earlyfire_stream.worker.pixels import Patches, PatchRules

__all__ = ["Family", "Layout", "Prompt", "positions"]

TIME_SLACK = 1e-4
"""Positions: 2.9999999 is 3."""


@dataclass(frozen=True, slots=True)
class Family:
    """What the layout must know of a checkpoint."""

    image_token: int
    video_token: int
    vision_start: int
    clips: bool
    timed: bool
    """Instants follow true time (Qwen2.5-VL) rather than the count of grids (Qwen2-VL)."""
    tokens_per_second: float
    max_tokens: int
    """Longest prompt and answer together."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request's tokens. The first `prefix` of them are shared with other requests."""

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    """3 x tokens."""
    kinds: npt.NDArray[np.int32]
    """0 text, 1 image, 2 clip (transformers' mm_token_type_ids)."""
    prefix: int
    pictures: tuple[Patches, ...]
    clips: tuple[Patches, ...]
    next_position: int
    """Of the first generated token."""

    @property
    def visual_tokens(self) -> int:
        return sum(p.tokens for p in (*self.pictures, *self.clips))


def positions(
    kinds: Sequence[tuple[int, int]],
    grids: Sequence[tuple[int, int, int]],
    instants: Sequence[Sequence[int]],
    merge: int,
) -> tuple[npt.NDArray[np.int64], int]:
    """(3 x tokens, the next text position) of runs of tokens.

    `kinds`: (kind, tokens) of each run; for each run that is no text one of `grids` (patches) and
    of `instants` (one for each temporal grid, from 0).

    Text of 2, a picture of 4 x 6 patches merged by 2, text of 1: time 0 1 2 2 2 2 2 2 5,
    rows 0 1 2 2 2 3 3 3 5, columns 0 1 2 3 4 2 3 4 5.
    """
    at = 0
    visual = 0
    parts: list[npt.NDArray[np.int64]] = []
    for kind, count in kinds:
        if kind == 0:
            parts.append(np.broadcast_to(np.arange(at, at + count), (3, count)))
            at += count
            continue
        rows, columns = grids[visual][1] // merge, grids[visual][2] // merge
        times = np.asarray(instants[visual], dtype=np.int64)
        visual += 1
        t, h, w = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
        run = np.stack([t, h, w]).reshape(3, -1)
        assert run.shape[1] == count
        parts.append(run + at)
        at += int(run.max()) + 1
    return np.concatenate(parts, axis=1), at


class Layout:
    """Lays out requests for one checkpoint; any number of threads may use it."""

    def __init__(self, tokenizer: Any, family: Family, rules: PatchRules) -> None:
        self._tokenizer = tokenizer
        self._family = family
        self._rules = rules
        self._reserved = tuple(
            str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        self._names = {
            family.image_token: tokenizer.convert_ids_to_tokens(family.image_token),
            family.video_token: tokenizer.convert_ids_to_tokens(family.video_token),
        }

    def __call__(self, ask: Ask, forced: str) -> Prompt:
        """UsageError if it cannot be asked. `forced` is what the answer begins with."""
        family = self._family
        pieces = self._pieces(ask)
        visuals = [part for part in ask.parts if not isinstance(part, str)]
        wanted = [
            family.image_token if isinstance(v, Picture) else family.video_token for v in visuals
        ]
        if [token for token in pieces if isinstance(token, int)] != wanted:
            raise UsageError("this model's chat template leaves pictures out or reorders them")

        ids: list[int] = []
        runs: list[tuple[int, int]] = []
        pictures: list[Patches] = []
        clips: list[Patches] = []
        grids: list[tuple[int, int, int]] = []
        instants: list[list[int]] = []
        waiting = iter(visuals)
        prefix = 0
        if isinstance(pieces[-1], str):
            pieces[-1] += forced
        for piece in pieces:
            if isinstance(piece, str):
                text = self._tokenizer.encode(piece, add_special_tokens=False)
                ids += text
                runs.append((0, len(text)))
                continue
            if not grids and ids and ids[-1] == family.vision_start:
                prefix = len(ids)
            visual = next(waiting)
            if isinstance(visual, Picture):
                cut = self._rules.cut([visual.pixels])
                pictures.append(cut)
                instants.append([0])
            else:
                cut = self._clip(visual)
                clips.append(cut)
                instants.append(self._instants(visual, cut.grid[0]))
            grids.append(cut.grid)
            ids += [piece] * cut.tokens
            runs.append((1 if isinstance(visual, Picture) else 2, cut.tokens))
            if len(ids) > family.max_tokens:
                break
        if len(ids) + ask.max_tokens > family.max_tokens:
            raise UsageError(
                f"a prompt of {len(ids):,} tokens and an answer of {ask.max_tokens:,} do not fit "
                f"into this model's {family.max_tokens:,}"
            )
        where, following = positions(runs, grids, instants, self._rules.merge)
        kinds = np.repeat(
            np.array([kind for kind, _ in runs], dtype=np.int32), [count for _, count in runs]
        )
        return Prompt(
            np.array(ids, dtype=np.int64),
            where,
            kinds,
            prefix,
            tuple(pictures),
            tuple(clips),
            following,
        )

    def _pieces(self, ask: Ask) -> list[str | int]:
        """The rendered conversation, cut at its pictures: texts and placeholder token ids."""
        for text in (ask.system, *(part for part in ask.parts if isinstance(part, str))):
            for reserved in self._reserved:
                if reserved in text:
                    raise UsageError(f"a text must not hold the special token {reserved}")
        content: list[dict[str, str]] = []
        for part in ask.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                content.append({"type": "image" if isinstance(part, Picture) else "video"})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if ask.system:
            system = [{"type": "text", "text": ask.system}]
            messages.insert(0, {"role": "system", "content": system})
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            raise UsageError(f"this model's chat template fails: {error}") from error
        pieces: list[str | int] = [rendered]
        for token, name in self._names.items():
            split: list[str | int] = []
            for piece in pieces:
                if isinstance(piece, int):
                    split.append(piece)
                    continue
                first, *others = piece.split(name)
                split.append(first)
                for other in others:
                    split += [token, other]
            pieces = split
        return pieces

    def _clip(self, clip: Clip) -> Patches:
        if not self._family.clips:
            raise UsageError("this model takes no clips here; send single pictures")
        if len(clip.frames) == 1:
            return self._rules.cut([clip.frames[0], clip.frames[0]])
        return self._rules.cut(clip.frames)

    def _instants(self, clip: Clip, grids: int) -> list[int]:
        """0 s, 3 s, 10 s, 11 s at 2 positions a second -> grids at 0 s and 10 s -> 0, 20."""
        if not self._family.timed:
            return list(range(grids))
        firsts = clip.timestamps[:: self._rules.temporal]
        return [
            int((at - firsts[0]) * self._family.tokens_per_second + TIME_SLACK) for at in firsts
        ]
