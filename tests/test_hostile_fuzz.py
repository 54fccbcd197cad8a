"""A few hundred of the inputs that `make fuzz` makes by the hundred thousand, for every target."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator

import pytest

from tests.fuzz import driver
from tests.fuzz.http import HTTP, IN_MEMORY, request
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import (
    FRAMES,
    RECORDS,
    REPLIES,
    REQUESTS,
    SCENARIO,
    Target,
    body,
    uri,
)
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
        pytest.param(IN_MEMORY, 300, id="http in memory"),
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


# --- what it found, kept --------------------------------------------------------------------------


def became(target: Target, data: bytes) -> str:
    with target.opened() as check:
        watch = Watch(check)
        watch(data)
    assert watch.found == {}
    (word,) = watch.became
    return word


def test_a_billion_copies_of_a_camera_are_refused_before_they_are_named() -> None:
    """They took three gigabytes, and no end."""
    assert became(SCENARIO, SCENARIO.seeds[0] + b"    count: 2000000000\n") == "refused"


def test_a_chunk_of_a_png_that_is_longer_than_the_png_is_refused() -> None:
    """The decoder made room for what it said: two gigabytes."""
    png = base64.b64decode(uri("png").partition(",")[2])
    at = png.index(b"IDAT") - 4
    huge = png[:at] + b"\x7f" + png[at + 1 :]
    url = "data:image/png;base64," + base64.b64encode(huge).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    assert became(REQUESTS, body([part])) == "refused"
    fine = {"type": "image_url", "image_url": {"url": uri("png")}}
    assert became(REQUESTS, body([fine])) == "a look"


def test_a_body_that_never_comes_whole_is_waited_for_and_let_go() -> None:
    """Half a minute, in virtual time."""
    assert became(IN_MEMORY, request(body("hello"), length=10)) == "408"
    assert became(IN_MEMORY, request(body("hello"))) == "200"


def test_an_expectation_that_is_no_text_is_no_failure_of_ours() -> None:
    asked = request(body("hello"), Expect="x").replace(b"Expect: x", b"Expect: \xef\xff")
    assert became(HTTP, asked) in ("417", "400")
