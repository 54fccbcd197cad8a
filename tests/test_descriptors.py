"""Descriptors for connections: asked of the system before anything is opened."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from earlyfire_stream.errors import UsageError
from earlyfire_stream.run import Options, play, play_cameras
from earlyfire_stream.transport.address import BrokerAddress
from earlyfire_stream.transport.descriptors import make_room
from earlyfire_stream.transport.mqtt import clients
from tests.playing import camera, loaded, pictures

ANY = resource.RLIM_INFINITY


class System:
    """Lets a process have so many; what is asked beyond `gives` it refuses."""

    def __init__(self, soft: int, hard: int, gives: int) -> None:
        self.limits = (soft, hard)
        self._gives = gives

    def get(self, what: int) -> tuple[int, int]:
        assert what == resource.RLIMIT_NOFILE
        return self.limits

    def set(self, what: int, limits: tuple[int, int]) -> None:
        if limits[0] > self._gives:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> System:
    made = System(*request.param)
    monkeypatch.setattr(resource, "getrlimit", made.get)
    monkeypatch.setattr(resource, "setrlimit", made.set)
    return made


@pytest.mark.parametrize(
    ("system", "connections", "proxied", "soft"),
    [
        ((1024, 4096, 4096), 768, False, 1024),  # and 256 beside them
        ((1024, 4096, 4096), 769, False, 1025),
        ((1024, 4096, 4096), 402, False, 1024),
        ((1024, 4096, 4096), 402, True, 2266),  # five each
        ((1024, ANY, 9999), 1000, False, 1256),
        ((ANY, ANY, 0), 10_000, True, ANY),
    ],
    indirect=["system"],
)
def test_the_limit_is_raised_as_far_as_is_needed_and_no_further(
    system: System, connections: int, proxied: bool, soft: int
) -> None:
    hard = system.limits[1]
    make_room(connections, proxied=proxied)
    assert system.limits == (soft, hard)


@pytest.mark.parametrize(
    ("system", "allowed"),
    [((1024, 2000, 2000), "2,000"), ((256, ANY, 1000), "256")],
    indirect=["system"],
)
def test_where_the_system_allows_too_few_the_remedy_is_said(system: System, allowed: str) -> None:
    said = f"402 connections .* 2,266 open files, .* allows {allowed}: write `connections: shared`"
    with pytest.raises(UsageError, match=said):
        make_room(402, proxied=True)


@pytest.mark.parametrize(
    ("connections", "cameras", "count"),
    [("auto", 50, 51), ("auto", 51, 1), ("per_camera", 51, 52), ("shared", 2, 1)],
)
def test_a_link_has_a_connection_of_its_own_and_perhaps_one_of_each_camera(
    connections: Any, cameras: int, count: int
) -> None:
    assert clients(connections, cameras) == count


@pytest.mark.parametrize("system", [(258, 258, 258)], indirect=True)
async def test_too_few_are_found_out_before_anything_is_opened(
    tmp_path: Path, system: System
) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario = loaded(tmp_path, camera("a"), camera("b"))  # two, the fleet's, the consumer's
    address = BrokerAddress.parse("mqtt://nobody.invalid")
    for half in (play, play_cameras):
        with pytest.raises(UsageError, match="4 connections to the broker take 260 open files"):
            await half(scenario, Options(broker=address, out=tmp_path / "o"), [], asyncio.Event())
    assert not (tmp_path / "o").exists()
