"""A few hundred of the inputs that `make fuzz` makes by the hundred thousand, for every target."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz import driver
from tests.fuzz.http import HTTP
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import FRAMES, RECORDS, REPLIES, REQUESTS, SCENARIO, Target
from tests.fuzz.watch import Watch

SEED = 6


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Decoders write what they think of a picture straight to stderr."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        pytest.param(FRAMES, 2_000, id="frames"),
        pytest.param(REPLIES, 2_000, id="replies"),
        pytest.param(SCENARIO, 1_000, id="scenarios"),
        pytest.param(RECORDS, 700, id="records"),
        pytest.param(REQUESTS, 2_000, id="requests"),
        pytest.param(HTTP, 500, id="http"),
    ],
)
def test_nothing_hostile_gets_through(target: Target, inputs: int) -> None:
    outcome = driver.hypothesis(target, inputs, SEED, lambda done, found: None)
    assert outcome.inputs == inputs
    assert len(outcome.became) > 2  # more than one thing became of them
    assert outcome.found == []


def test_an_exception_is_found_and_its_shortest_input_kept() -> None:
    def picky(data: bytes) -> str:
        if b"x" in data:
            raise KeyError("x")
        return "fine"

    watch = Watch(picky)
    for data in (b"axa", b"a", b"x", b"xx"):
        watch(data)
    (finding,) = watch.found.values()
    assert (finding.what, finding.data) == ("KeyError: 'x'", b"x")
    assert (watch.inputs, watch.became) == (4, {"fine": 1})


def test_one_seed_makes_the_same_inputs_every_time() -> None:
    first = [mutated((b"abc", b"{}"), (b"a",), n) for n in range(100)]
    assert first == [mutated((b"abc", b"{}"), (b"a",), n) for n in range(100)]
    assert len(set(first)) > 50
