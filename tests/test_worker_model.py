"""The worker's model against plain Transformers: real classes, small random weights.

The references here know nothing of the worker: the official processor makes the inputs, and every
token costs one whole forward pass without a cache.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `hf` is not installed")
regex = pytest.importorskip("regex")

from earlyfire_stream.contract import schema  # noqa: E402
from earlyfire_stream.errors import UsageError  # noqa: E402
from earlyfire_stream.verdict import CoordSpace  # noqa: E402
from earlyfire_stream.worker import generate  # noqa: E402
from earlyfire_stream.worker.ask import (  # noqa: E402
    Ask,
    Clip,
    OutOfMemory,
    Picture,
    Piece,
    Timings,
)
from earlyfire_stream.worker.generate import Brain, Prepared  # noqa: E402
from earlyfire_stream.worker.layout import positions  # noqa: E402
from earlyfire_stream.worker.loading import (  # noqa: E402
    ModelSettings,
    load_model,
    memory_advice,
)
from earlyfire_stream.worker.pixels import PatchRules, normalised  # noqa: E402
from tests import tiny_qwen  # noqa: E402

SCHEMA = schema(CoordSpace.RESIZED_ABS)
FORCED = '{"has_smoke":'
ANSWER = (
    r'\{"has_smoke": (false, "bbox_2d": null'
    r'|true, "bbox_2d": (null|\[-?(0|[1-9][0-9]*)(, -?(0|[1-9][0-9]*)){3}\]))\}'
)
"""What SCHEMA admits, by hand; `false` implies no box, as the worker has it."""
FOUR = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 999},
    "minItems": 4,
    "maxItems": 4,
}
BOXED: dict[str, object] = {
    "type": "object",
    "properties": {"has_smoke": {"type": "boolean"}, "bbox_2d": FOUR},
    "required": ["has_smoke", "bbox_2d"],
    "additionalProperties": False,
}
"""Always with a box; random models like `null` too much."""
BOXED_ANSWER = (
    r'\{"has_smoke": (false|true), "bbox_2d": '
    r"\[(0|[1-9][0-9]{0,2})(, (0|[1-9][0-9]{0,2})){3}\]\}"
)
SIZES = [(280, 140), (308, 252), (420, 196), (56, 56), (196, 420), (112, 364), (280, 140), (84, 84)]
EXACT = 1e-4
"""Of probabilities; the issue asks for 1e-3, and 1e-6 is usual."""


@pytest.fixture(autouse=True, scope="module")
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save_tiny(tmp_path_factory.mktemp("tiny-qwen"))


class Plain:
    """Transformers without this project: one image, one whole forward pass at a time."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

        self.answers: dict[tuple[bytes, bool | None, str], str] = {}
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        self.processor = tiny_qwen.build_processor(self.tokenizer)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def inputs(self, pixels: np.ndarray, forced: str = "", **texts: str) -> dict[str, Any]:
        text = self.processor.apply_chat_template(
            tiny_qwen.messages(**texts), tokenize=False, add_generation_prompt=True
        )
        return dict(
            self.processor(
                text=[text + forced], images=[tiny_qwen.as_image(pixels)], return_tensors="pt"
            )
        )

    def logits(self, inputs: dict[str, Any], further: Sequence[int] = ()) -> Any:
        """After the last token, in float32, without a cache."""
        inputs = dict(inputs)
        if further:
            more = torch.tensor([list(further)])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs["mm_token_type_ids"] = torch.cat(
                [inputs["mm_token_type_ids"], torch.zeros_like(more)], 1
            )
        with torch.inference_mode():
            return self.model(**inputs, use_cache=False).logits[0, -1].float()

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def p_true(self, pixels: np.ndarray, **texts: str) -> float:
        p = torch.softmax(self.logits(self.inputs(pixels, FORCED, **texts)), -1)
        true = sum(float(p[self.ids(word)[0]]) for word in (" true", "true"))
        false = sum(float(p[self.ids(word)[0]]) for word in (" false", "false"))
        return true / (true + false)

    def constrained(
        self, pixels: np.ndarray, verdict: bool | None = None, answer: str = ANSWER
    ) -> str:
        """Greedy under a pattern, by hand: a token is admitted if the text with it can still
        become an answer. What can go on in one way only is tokenised as the tokenizer would, but
        for a last token that a longer one may replace. `verdict` None takes the likelier one.
        """
        known = (pixels.tobytes(), verdict, answer)
        if known not in self.answers:
            self.answers[known] = self._constrained(pixels, verdict, answer)
        return self.answers[known]

    def _constrained(self, pixels: np.ndarray, verdict: bool | None, answer: str) -> str:
        inputs = self.inputs(pixels, FORCED)
        if verdict is None:
            verdict = self.p_true(pixels) >= 0.5
        text = FORCED + (" true" if verdict else " false")
        taken = self.ids(text.removeprefix(FORCED))
        words = [self.tokenizer.decode([t]) for t in range(len(self.tokenizer))]

        @functools.cache
        def may_follow(text: str) -> list[int]:
            return [
                t
                for t, word in enumerate(words)
                if word and regex.fullmatch(answer, text + word, partial=True)
            ]

        while not regex.fullmatch(answer, text) and len(taken) < 60:
            only = ""
            while len(begins := {words[t][0] for t in may_follow(text + only)}) == 1:
                only += begins.pop()
            forced = self.ids(only)
            while forced:
                before = text + "".join(words[t] for t in forced[:-1])
                last = words[forced[-1]]
                longer = [t for t in may_follow(before) if words[t].startswith(last)]
                if longer == [forced[-1]]:
                    break
                forced.pop()
            if not forced:
                scores = self.logits(inputs, taken)
                forced = [max(may_follow(text), key=lambda t: float(scores[t]))]
            taken += forced
            text += "".join(words[t] for t in forced)
        return text


@pytest.fixture(scope="module")
def plain(folder: Path) -> Plain:
    return Plain(folder)


@pytest.fixture(scope="module")
def brain(folder: Path) -> Brain:
    return load_model(ModelSettings(str(folder), dtype="float32", device="cpu"), lambda _line: None)


def picture(seed: int) -> np.ndarray:
    width, height = SIZES[seed % len(SIZES)]
    return tiny_qwen.fake_pixels(width, height, seed)


def look(pixels: np.ndarray, **changes: Any) -> Ask:
    ask = Ask(tiny_qwen.SYSTEM, (Picture(pixels), tiny_qwen.QUESTION), SCHEMA, max_tokens=60)
    return replace(ask, **changes)


class Heard:
    """What a batch said, by row."""

    def __init__(self) -> None:
        self.pieces: dict[int, list[Piece]] = {}
        self.timings = Timings()

    def __call__(self, row: int, piece: Piece) -> None:
        self.pieces.setdefault(row, []).append(piece)

    def text(self, row: int) -> str:
        return "".join(piece.text for piece in self.pieces[row])

    def finish(self, row: int) -> str | None:
        return self.pieces[row][-1].finish

    def p_true(self, row: int) -> float:
        tops = next(t.top for piece in self.pieces[row] for t in piece.tokens if t.top)
        true = sum(math.exp(lp) for word, lp in tops if word.strip() == "true")
        false = sum(math.exp(lp) for word, lp in tops if word.strip() == "false")
        return true / (true + false)


def asked(
    brain: Brain, asks: Sequence[Ask], alive: Callable[[int], bool] = lambda _row: True
) -> Heard:
    heard = Heard()
    heard.timings = brain.answer([brain.prepare(ask) for ask in asks], heard, alive)
    return heard


# --- what the model reads ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_tokens_and_positions_are_those_of_the_official_processor(
    brain: Brain, plain: Plain, seed: int
) -> None:
    inputs = plain.inputs(picture(seed), FORCED)
    where, _delta = plain.model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )

    prompt = brain.prepare(look(picture(seed))).prompt

    assert prompt.ids.tolist() == inputs["input_ids"][0].tolist()
    assert prompt.kinds.tolist() == inputs["mm_token_type_ids"][0].tolist()
    assert prompt.positions.tolist() == where[:, 0].tolist()
    width, height = SIZES[seed]
    assert prompt.visual_tokens == width * height // 784


@pytest.mark.parametrize("size", [(280, 140), (1288, 728), (28, 140)])
def test_pixels_are_those_of_the_official_processor(
    brain: Brain, plain: Plain, size: tuple[int, int]
) -> None:
    pixels = tiny_qwen.fake_pixels(*size)
    official = plain.inputs(pixels)

    cut = brain.prepare(look(pixels)).prompt.pictures
    values, grids = normalised(cut, torch.device("cpu"), torch.float32)

    assert grids.tolist() == official["image_grid_thw"].tolist()
    assert float((values - official["pixel_values"]).abs().max()) < 1e-5


def test_another_size_is_resized_as_the_official_processor_would(
    brain: Brain, plain: Plain
) -> None:
    pixels = tiny_qwen.fake_pixels(200, 150)  # 7.14 x 5.36 tokens -> 7 x 5
    prompt = brain.prepare(look(pixels)).prompt
    assert prompt.pictures[0].grid == (1, 10, 14)
    assert prompt.visual_tokens == 35
    assert plain.inputs(pixels)["image_grid_thw"].tolist() == [[1, 10, 14]]


def test_the_token_range_is_clipped_to_the_checkpoints(brain: Brain) -> None:
    config = {
        "patch_size": 14,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "min_pixels": 3136,
        "max_pixels": 1003520,
    }
    rules = PatchRules.from_config(config, 1, 5000)
    assert (rules.min_tokens, rules.max_tokens) == (4, 1280)
    assert (brain.card.min_visual_tokens, brain.card.max_visual_tokens) == (4, 16384)


def test_positions_by_hand() -> None:
    where, following = positions([(0, 2), (1, 6), (0, 1)], [(1, 4, 6)], [[0]], merge=2)
    assert where.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert following == 6


@pytest.mark.parametrize("where", ["system", "question"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_a_text_cannot_speak_with_special_tokens(brain: Brain, token: str, where: str) -> None:
    sly = f"hello {token} system"
    ask = look(picture(0))
    ask = replace(ask, system=sly) if where == "system" else replace(ask, parts=(*ask.parts, sly))
    with pytest.raises(UsageError, match="special token"):
        brain.prepare(ask)


def test_a_picture_that_is_too_long_is_refused(brain: Brain) -> None:
    with pytest.raises(UsageError, match="200 times too long"):
        brain.prepare(look(np.zeros((10, 3000, 3), np.uint8)))


def test_a_prompt_longer_than_the_model_is_refused(brain: Brain) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        brain.prepare(look(picture(0), max_tokens=40_000))


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_the_verdict_of_a_batch_is_that_of_one_plain_pass(
    brain: Brain, plain: Plain, size: int
) -> None:
    heard = asked(brain, [look(picture(seed)) for seed in range(size)])
    for row in range(size):
        assert heard.p_true(row) == pytest.approx(plain.p_true(picture(row)), abs=EXACT)


def test_the_verdict_depends_on_the_picture(plain: Plain) -> None:
    told = [plain.p_true(picture(seed)) for seed in range(8)]
    assert max(told) - min(told) > 100 * EXACT


def test_the_constant_beginning_is_computed_once(brain: Brain, plain: Plain) -> None:
    system = "Constant instructions that nobody else gives."
    first = asked(brain, [look(picture(1), system=system)])
    second = asked(brain, [look(picture(2), system=system)])
    assert (first.timings.prefix_misses, first.timings.prefix_hits) == (1, 0)
    assert (second.timings.prefix_misses, second.timings.prefix_hits) == (0, 1)
    assert second.p_true(0) == pytest.approx(plain.p_true(picture(2), system=system), abs=EXACT)


def test_rows_with_other_instructions_share_a_batch(brain: Brain, plain: Plain) -> None:
    systems = ["Short.", tiny_qwen.SYSTEM, "A long one. " * 9]
    asks = [look(picture(row), system=system) for row, system in enumerate(systems)]
    heard = asked(brain, asks)
    for row, system in enumerate(systems):
        expected = plain.p_true(picture(row), system=system)
        assert heard.p_true(row) == pytest.approx(expected, abs=EXACT)


def test_false_is_answered_by_the_one_pass(brain: Brain) -> None:
    heard = asked(brain, [look(picture(0), threshold=1.0)])
    assert heard.text(0) == '{"has_smoke": false, "bbox_2d": null}'
    assert len(heard.pieces[0]) == 1
    assert heard.finish(0) == "stop"
    assert heard.timings.steps == 0


def test_a_verdict_tells_all_four_variants(brain: Brain) -> None:
    (piece,) = asked(brain, [look(picture(0), threshold=1.0)]).pieces[0]
    (decided,) = [token for token in piece.tokens if token.top]
    assert {word for word, _lp in decided.top} == {" true", "true", " false", "false"}
    assert decided.text == " false"
    assert "".join(token.text for token in piece.tokens) == piece.text


# --- under a schema ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_is_the_greedy_one_among_those_the_schema_admits(
    brain: Brain, plain: Plain, seed: int
) -> None:
    heard = asked(brain, [look(picture(seed))])
    assert heard.text(0) == plain.constrained(picture(seed))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("verdict", [True, False])
def test_boxes_of_a_batch_are_the_greedy_ones(
    brain: Brain, plain: Plain, size: int, verdict: bool
) -> None:
    threshold = 0.0 if verdict else 1.0
    asks = [look(picture(seed), schema=BOXED, threshold=threshold) for seed in range(size)]
    heard = asked(brain, asks)
    for row in range(size):
        assert heard.text(row) == plain.constrained(picture(row), verdict, BOXED_ANSWER)
        assert heard.finish(row) == "stop"


def test_a_forced_true_is_answered_with_whatever_is_likeliest_then(
    brain: Brain, plain: Plain
) -> None:
    heard = asked(brain, [look(picture(seed), threshold=0.0) for seed in range(4)])
    for row in range(4):
        assert heard.text(row) == plain.constrained(picture(row), verdict=True)


def test_the_pictures_of_these_tests_have_smoke_and_none(plain: Plain) -> None:
    verdicts = [plain.p_true(picture(seed)) >= 0.5 for seed in range(8)]
    assert set(verdicts) == {True, False}
    boxes = {plain.constrained(picture(seed), True, BOXED_ANSWER) for seed in range(4)}
    assert len(boxes) > 1


def test_both_verdicts_in_one_batch(brain: Brain, plain: Plain) -> None:
    told = [plain.p_true(picture(seed)) for seed in range(4)]
    middle = sorted(told)[1] + 1e-3
    heard = asked(brain, [look(picture(seed), threshold=middle) for seed in range(4)])
    verdicts = [p >= middle for p in told]
    assert set(verdicts) == {True, False}
    for row, verdict in enumerate(verdicts):
        assert heard.text(row) == plain.constrained(picture(row), verdict=verdict)


def test_forced_text_is_not_sampled(brain: Brain) -> None:
    three_digits = {**FOUR, "items": {"type": "integer", "minimum": 100, "maximum": 999}}
    box = {**BOXED, "properties": {"has_smoke": {"type": "boolean"}, "bbox_2d": three_digits}}
    heard = asked(brain, [look(picture(0), schema=box, threshold=0.0)])
    found = json.loads(heard.text(0))
    assert len(found["bbox_2d"]) == 4
    # the verdict, then 4 x 3 digits; commas, blanks, brackets and the key come for nothing
    assert heard.timings.generated_tokens - heard.timings.forced_tokens == 13
    assert heard.timings.steps == 12


def test_false_that_cannot_stand_alone_is_written_under_the_schema(brain: Brain) -> None:
    why = {
        "type": "object",
        "properties": {
            "has_smoke": {"type": "boolean"},
            "level": {"type": "string", "enum": ["low", "high"]},
        },
        "required": ["has_smoke", "level"],
        "additionalProperties": False,
    }
    heard = asked(brain, [look(picture(0), schema=why, threshold=1.0)])
    assert heard.text(0) in (
        '{"has_smoke": false, "level": "low"}',
        '{"has_smoke": false, "level": "high"}',
    )


def test_any_other_schema_is_held_to(brain: Brain) -> None:
    other = {
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 10, "maximum": 99}},
        "required": ["score"],
        "additionalProperties": False,
    }
    heard = asked(brain, [look(picture(row), schema=other) for row in range(3)])
    for row in range(3):
        assert 10 <= json.loads(heard.text(row))["score"] <= 99
        assert heard.finish(row) == "stop"


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "strnig"},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]},
        {"enum": ["x" * 30_000]},
        {"type": "array", "minItems": 5, "maxItems": 1},
    ],
)
def test_a_schema_that_cannot_be_held_to_is_refused(brain: Brain, bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="schema"):
        brain.prepare(look(picture(0), schema=bad))


def test_an_answer_ends_where_its_tokens_do(brain: Brain) -> None:
    heard = asked(brain, [look(picture(0), threshold=0.0, max_tokens=7)])
    assert heard.finish(0) == "length"
    assert sum(len(piece.tokens) for piece in heard.pieces[0]) == 7
    assert heard.text(0).startswith('{"has_smoke": true')


# --- free decoding -------------------------------------------------------------------------------


def generated(plain: Plain, pixels: np.ndarray, count: int) -> str:
    inputs = plain.inputs(pixels)
    with torch.inference_mode():
        out = plain.model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return str(
        plain.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    )


@pytest.mark.parametrize("size", [1, 3])
def test_free_decoding_is_that_of_generate(brain: Brain, plain: Plain, size: int) -> None:
    asks = [look(picture(seed), schema=None, max_tokens=24) for seed in range(size)]
    heard = asked(brain, asks)
    for row in range(size):
        assert heard.text(row) == generated(plain, picture(row), 24)


def test_free_and_constrained_rows_share_a_batch(brain: Brain, plain: Plain) -> None:
    heard = asked(brain, [look(picture(0), schema=None, max_tokens=24), look(picture(1))])
    assert heard.text(0) == generated(plain, picture(0), 24)
    assert heard.text(1) == plain.constrained(picture(1))


def test_an_end_token_ends_the_answer(folder: Path) -> None:
    """A model whose every answer is the end token: its row of the output layer points along
    whatever the last layer says."""
    brain = load_model(
        ModelSettings(str(folder), dtype="float32", device="cpu"), lambda _line: None
    )
    end = brain._model.generation_config.eos_token_id[0]
    head = torch.nn.Linear(brain._model.lm_head.in_features, brain._model.lm_head.out_features)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[end] = 9.0
    brain._model.lm_head = head
    heard = asked(brain, [look(picture(0), schema=None)])
    assert heard.text(0) == ""
    assert heard.finish(0) == "stop"
    assert heard.timings.steps == 0


def test_the_likeliest_alternatives_are_told(brain: Brain) -> None:
    heard = asked(brain, [look(picture(0), schema=None, max_tokens=3, top_logprobs=2)])
    for piece in heard.pieces[0]:
        (token,) = piece.tokens
        assert len(token.top) == 2
        assert token.top[0] == (token.text, pytest.approx(token.logprob))
        assert token.top[0][1] >= token.top[1][1]


# --- rows that leave -----------------------------------------------------------------------------


def test_a_client_that_leaves_changes_nothing_for_the_others(brain: Brain) -> None:
    asks = [look(picture(seed), schema=BOXED, threshold=0.0) for seed in range(4)]
    whole = asked(brain, asks)
    left: list[int] = []

    def alive(row: int) -> bool:
        left.append(row)
        return row not in (0, 2) or left.count(row) < 3

    heard = asked(brain, asks, alive)
    for row in (1, 3):
        assert heard.text(row) == whole.text(row)
    for row in (0, 2):
        assert heard.finish(row) is None
        assert whole.text(row).startswith(heard.text(row))
    assert set(heard.timings.dropped_rows) == {0, 2}


def test_a_batch_of_nobody_is_no_work(brain: Brain) -> None:
    assert brain.answer([], Heard(), lambda _row: True).rows == 0


# --- clips ---------------------------------------------------------------------------------------


def clip(timestamps: Sequence[float], size: tuple[int, int] = (280, 140)) -> Clip:
    frames = tuple(tiny_qwen.fake_pixels(*size, seed) for seed in range(len(timestamps)))
    return Clip(frames, tuple(timestamps))


def prepared_clip(brain: Brain, timestamps: Sequence[float]) -> Prepared:
    return brain.prepare(look(picture(0), parts=(clip(timestamps), tiny_qwen.QUESTION)))


@pytest.mark.parametrize("spacing_s", [0.5, 1.0, 0.7, 1 / 3])
@pytest.mark.parametrize("frames", [2, 4, 6])
def test_regular_clips_have_qwens_own_positions(
    brain: Brain, plain: Plain, frames: int, spacing_s: float
) -> None:
    prompt = prepared_clip(brain, [100 + k * spacing_s for k in range(frames)]).prompt
    (cut,) = prompt.clips
    where, _delta = plain.model.model.get_rope_index(
        torch.tensor([prompt.ids.tolist()]),
        torch.tensor([prompt.kinds.tolist()]),
        video_grid_thw=torch.tensor([cut.grid]),
        second_per_grid_ts=torch.tensor([2 * spacing_s]),
    )
    assert cut.grid == (frames // 2, 10, 20)
    assert prompt.visual_tokens == frames // 2 * 50
    assert prompt.positions.tolist() == where[:, 0].tolist()


def test_irregular_clips_keep_their_true_times(brain: Brain) -> None:
    prompt = prepared_clip(brain, [50.0, 51.0, 53.0, 57.5, 58.0]).prompt
    video = prompt.kinds == 2
    start = int(prompt.positions[1][video].min())
    # grids begin at 0 s, 3 s and 8 s; two positions a second
    assert sorted(set((prompt.positions[0][video] - start).tolist())) == [0, 6, 16]
    assert prompt.clips[0].grid[0] == 3  # the fifth frame stands for two
    # behind all three axes: 16 is the largest instant, 9 the largest column
    assert int(prompt.positions[0][int(np.flatnonzero(video)[-1]) + 1]) == start + 17


def test_an_odd_last_frame_is_repeated(brain: Brain) -> None:
    odd = prepared_clip(brain, [0.0, 1.0, 2.0]).prompt.clips[0]
    assert odd.grid[0] == 2
    assert (odd.values[-1, :, 0] == odd.values[-1, :, 1]).all()
    assert (odd.values[0, :, 0] != odd.values[0, :, 1]).any()


def test_the_verdict_of_a_clip_is_that_of_one_plain_pass(brain: Brain, plain: Plain) -> None:
    one = prepared_clip(brain, [0.0, 1.0, 2.0, 3.0])
    values, grids = normalised(one.prompt.clips, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        logits = plain.model(
            input_ids=torch.tensor([one.prompt.ids.tolist()]),
            mm_token_type_ids=torch.tensor([one.prompt.kinds.tolist()]),
            pixel_values_videos=values,
            video_grid_thw=grids,
            second_per_grid_ts=torch.tensor([2.0]),
            use_cache=False,
        ).logits[0, -1]
    p = torch.softmax(logits.float(), -1)
    true = sum(float(p[plain.ids(word)[0]]) for word in (" true", "true"))
    false = sum(float(p[plain.ids(word)[0]]) for word in (" false", "false"))

    heard = Heard()
    brain.answer([brain.prepare(look(picture(3))), one], heard, lambda _row: True)

    assert heard.p_true(1) == pytest.approx(true / (true + false), abs=EXACT)
    assert heard.p_true(0) == pytest.approx(plain.p_true(picture(3)), abs=EXACT)


def test_other_timestamps_change_positions_and_verdict(brain: Brain) -> None:
    near, far = ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 9.0, 10.0])
    one, other = prepared_clip(brain, near), prepared_clip(brain, far)
    assert one.prompt.ids.tolist() == other.prompt.ids.tolist()
    assert one.prompt.positions.tolist() != other.prompt.positions.tolist()
    heard = Heard()
    brain.answer([one, other], heard, lambda _row: True)
    assert abs(heard.p_true(0) - heard.p_true(1)) > 10 * EXACT


@pytest.mark.parametrize(
    ("timestamps", "complaint"),
    [((0.0, 0.0), "ascend"), ((1.0,), "as many"), ((0.0, math.nan), "finite")],
)
def test_a_clip_needs_a_time_for_each_frame(timestamps: tuple[float, ...], complaint: str) -> None:
    frame = np.zeros((56, 56, 3), np.uint8)
    with pytest.raises(ValueError, match=complaint):
        Clip((frame, frame), timestamps)


# --- memory --------------------------------------------------------------------------------------


def test_running_out_of_memory_says_whether_it_may_be_asked_again(
    brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = brain._model.forward
    calls = []

    def short(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(*args, **kwargs)

    asked(brain, [look(picture(0))])  # the prefix is known now
    monkeypatch.setattr(brain._model, "forward", short)
    limit = 1
    with pytest.raises(OutOfMemory, match="20 GiB") as before:
        asked(brain, [look(picture(0), threshold=0.0)])
    assert not before.value.emitted
    calls.clear()
    limit = 2
    with pytest.raises(OutOfMemory) as after:
        asked(brain, [look(picture(0), threshold=0.0)])
    assert after.value.emitted


@pytest.mark.parametrize(
    ("billions", "four_bit", "free_gb", "said"),
    [
        (8.3, False, 24.5, None),
        (8.3, False, 12, "Qwen2.5-VL-3B"),
        (8.3, False, 17, "Qwen2.5-VL-7B-Instruct in 4 bit"),
        (8.3, True, 16, None),
        (8.3, True, 11, "Qwen2.5-VL-3B"),
        (3.75, False, 10, None),
        (3.75, False, 3, "even the 3B"),
        (33.5, False, 79, "Qwen2.5-VL-32B-Instruct in 4 bit"),
        (73.4, False, 100, "Qwen2.5-VL-72B-Instruct in 4 bit"),
        (73.4, False, 161, None),
    ],
)
def test_what_does_not_fit_gets_advice(
    billions: float, four_bit: bool, free_gb: float, said: str | None
) -> None:
    advice = memory_advice(billions, four_bit, int(free_gb * 1e9))
    if said is None:
        assert advice is None
    else:
        assert advice is not None
        assert said in advice


# --- loading -------------------------------------------------------------------------------------


def test_loading_says_where_the_files_are(folder: Path) -> None:
    lines: list[str] = []
    load_model(ModelSettings(str(folder), device="cpu"), lines.append)
    assert any(str(folder) in line for line in lines)


def test_a_model_that_is_not_there_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="hf download"):
        load_model(ModelSettings("nobody/no-such-model", device="cpu"), lambda _line: None)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="bert model; the worker runs Qwen-VL"):
        load_model(ModelSettings(str(tmp_path), device="cpu"), lambda _line: None)


def test_a_model_too_large_for_the_memory_is_refused_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earlyfire_stream.worker import loading

    monkeypatch.setattr(loading, "free_bytes", lambda _device: 1_000_000)
    with pytest.raises(UsageError, match="needs about"):
        load_model(ModelSettings(str(folder), device="cpu"), lambda _line: None)


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        ModelSettings("x", dtype="float16")


def test_a_truncated_weights_file_is_told(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        load_model(ModelSettings(str(tmp_path), device="cpu"), lambda _line: None)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_attention_gives_the_same_verdict(folder: Path, plain: Plain, attention: str) -> None:
    brain = load_model(
        ModelSettings(str(folder), dtype="float32", device="cpu", attention=attention),
        lambda _line: None,
    )
    assert brain.card.attention == attention
    heard = asked(brain, [look(picture(seed)) for seed in range(3)])
    for row in range(3):
        assert heard.p_true(row) == pytest.approx(plain.p_true(picture(row)), abs=EXACT)


def test_bfloat16_is_near(folder: Path, plain: Plain) -> None:
    brain = load_model(
        ModelSettings(str(folder), dtype="bfloat16", device="cpu"), lambda _line: None
    )
    assert brain.card.dtype == "bfloat16"
    heard = asked(brain, [look(picture(0))])
    assert heard.p_true(0) == pytest.approx(plain.p_true(picture(0)), abs=0.1)


def test_prefixes_that_nobody_uses_make_room(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PREFIXES_KEPT", 2)
    for word in ("one", "two", "three"):
        asked(brain, [look(picture(3), system=f"Say {word}.")])
    again = asked(brain, [look(picture(3), system="Say three.")])
    assert again.timings.prefix_hits == 1
    gone = asked(brain, [look(picture(3), system="Say one.")])
    assert gone.timings.prefix_misses == 1
