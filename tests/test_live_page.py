"""The live page: who may look, what it tells, and that a real browser shows a real run."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.async_api import Browser

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import UsageError
from earlyfire_stream.live import page as page_module
from earlyfire_stream.live.command import LiveCommand
from earlyfire_stream.live.follow import Following
from earlyfire_stream.live.guard import LiveAddress, cookie_for, read_token
from earlyfire_stream.live.page import LivePage
from earlyfire_stream.live.pictures import Pictures, small
from earlyfire_stream.live.wall import Wall
from earlyfire_stream.live.watching import Watcher
from earlyfire_stream.records import (
    AlarmRecord,
    CameraPlan,
    FaultPlan,
    FirePlan,
    Playing,
    Shot,
    Snapshot,
)
from earlyfire_stream.verdict import Alarm, Box, Fate, Reason, Truth, Verdict
from tests.browser import Opened, browser, opened
from tests.playing import (
    PATIENCE_S,
    Nursery,
    camera,
    free_port,
    open_mosquitto,
    pictures,
    run_folder,
    scenario,
    until,
    wait_for,
)
from tests.scored_runs import NO, SECOND, START_NS, answered, fated, shot

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
TOKEN = "a token of enough length"
SMOKE = Verdict(True, Box(0.5, 0.5, 0.2, 0.1), 0.9)
LOOPBACK = LiveAddress("127.0.0.1", 0)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def jpeg(width: int = 640, height: int = 360) -> bytes:
    image = np.full((height, width, 3), (60, 120, 160), np.uint8)
    cv2.circle(image, (width // 2, height // 2), 40, (255, 255, 255), -1)
    return cv2.imencode(".jpg", image)[1].tobytes()


def fire(name: str, onset: float = 1.0) -> CameraPlan:
    return CameraPlan(name, (FirePlan("f", onset),), 1.0)


def emitted(name: str, seq: int, at: float, box: Box | None = None) -> AlarmRecord:
    decided_ns = START_NS + round(at * SECOND)
    return AlarmRecord(Alarm(name, (seq,), at, decided_ns, box), True, decided_ns)


def row_of(wall: Wall, now: float, number: int = 0, seq: int | None = None) -> dict[str, Any]:
    wall.changes(now, START_NS + round(now * SECOND), lambda _: seq)
    return next(row for row in wall.whole()["rows"] if row["n"] == number)


# --- what it tells -------------------------------------------------------------------------------


def test_a_camera_is_quiet_then_burning_then_suspicious_then_alarmed() -> None:
    wall = Wall([fire("north", 2.0)])
    assert row_of(wall, 0.0)["s"] == "waiting"
    first = shot("north", 0, 0.0)
    wall.shot(first)
    wall.frame(answered(first, NO))
    assert row_of(wall, 1.0)["s"] == "quiet"
    assert row_of(wall, 3.0)["s"] == "burning"
    later = shot("north", 4, 4.0)
    wall.shot(later)
    wall.frame(answered(later, SMOKE))
    assert row_of(wall, 4.5)["s"] == "suspicious"
    wall.alarm(emitted("north", 4, 4.0))
    told = row_of(wall, 5.0)
    assert (told["s"], told["a"]) == ("alarm", 1)
    assert told["f"] == ["f", 2.0, 2.0]  # the alarm came two seconds after the onset


def test_a_camera_that_the_sampler_suspects_is_looked_at_closely() -> None:
    wall = Wall([CameraPlan("north", (), 1.0), CameraPlan("south", (), 1.0)])
    for name in ("north", "south"):
        taken = shot(name, 0, 0.0)
        wall.shot(taken)
        wall.frame(answered(taken, NO))
    assert row_of(wall, 0.5)["u"] is None  # nobody has told yet
    suspected = Snapshot(0, 0, 0, 0, None, 0.0, 1, 0, {}, suspected=frozenset({"north"}))
    wall.snap(suspected, START_NS)
    assert [row_of(wall, 1.0, n)["s"] for n in (0, 1)] == ["closer", "quiet"]
    wall.snap(replace(suspected, suspected=frozenset()), START_NS)
    told = wall.changes(1.5, START_NS + SECOND, lambda _: None)
    assert told["rows"] == [{"n": 0, "s": "quiet", "u": False}]


def test_an_alarm_without_a_fire_is_called_false_and_fades() -> None:
    wall = Wall([CameraPlan("north", (), 1.0)])
    one = shot("north", 0, 0.0)
    wall.shot(one)
    wall.frame(answered(one, SMOKE))
    wall.alarm(emitted("north", 0, 0.0))
    assert row_of(wall, 1.0)["s"] == "false"
    clear = shot("north", 1, 1.0)
    wall.shot(clear)
    wall.frame(answered(clear, NO))
    assert row_of(wall, 19.0)["s"] == "false"  # it is held for 20 s
    assert row_of(wall, 20.5)["s"] == "quiet"


def test_a_camera_that_says_it_is_off_is_off_where_only_the_watcher_runs() -> None:
    wall = Wall([CameraPlan("north", (), 1.0), CameraPlan("played", (), 1.0)])
    played = shot("played", 0, 0.0)
    wall.shot(played)
    for name in ("north", "played"):
        wall.frame(answered(shot(name, 0, 0.0), NO))
    on = Snapshot(0, 0, 0, 0, None, 0.0, 1, 0, {}, frozenset({"north", "played"}))
    off = replace(on, online=frozenset())
    wall.snap(on, START_NS)
    wall.snap(off, START_NS)
    assert [row_of(wall, 1.0, n)["s"] for n in (0, 1)] == ["off", "quiet"]
    wall.snap(on, START_NS)
    assert row_of(wall, 2.0)["s"] == "quiet"
    told = [(e["at"], e["kind"], e["camera"]) for e in wall.whole()["events"]]
    assert told == [(1.0, "off", "north"), (2.0, "back", "north")]


def test_who_only_watches_knows_no_lateness_of_the_replay() -> None:
    wall = Wall([CameraPlan("north", (), 1.0)])
    wall.frame(answered(shot("north", 0, 0.0), NO))
    row_of(wall, 1.0)
    assert wall.whole()["totals"]["late"] is None


def test_a_network_that_the_scenario_takes_away_is_an_event() -> None:
    wall = Wall([CameraPlan("north", (), 1.0)], cuts=[(3.0, 5.0), (3.0, 6.0), (9.0, 10.0)])
    row_of(wall, 2.9)
    assert wall.whole()["events"] == []
    row_of(wall, 9.5)
    told = [(e["at"], e["kind"], e["count"]) for e in wall.whole()["events"]]
    assert told == [(3.0, "cut", 2), (5.0, "mended", 1), (6.0, "mended", 1), (9.0, "cut", 1)]


CUT = FaultPlan("cut", "network-partition", 2.0, 5.0)
FROZEN = FaultPlan("still", "camera-frozen", 3.0, 9.0, ("north",))


def faulty_wall(*faults: FaultPlan) -> Wall:
    return Wall([CameraPlan("north", (), 1.0), CameraPlan("south", (), 1.0)], faults=faults)


def running(wall: Wall, now: float) -> list[list[Any]]:
    wall.changes(now, START_NS + round(now * SECOND), lambda _: None)
    found: list[list[Any]] = wall.whole()["totals"]["faults"]
    return found


def events(wall: Wall) -> list[tuple[Any, ...]]:
    told = wall.whole()["events"]
    return [(e["at"], e["kind"], e["camera"], e["count"], e["why"]) for e in told]


def test_a_fault_under_way_is_told_with_its_begin_and_whom_it_meets() -> None:
    wall = faulty_wall(CUT, FROZEN)
    cut = ["cut", "network-partition", 2.0, "", 2]
    still = ["still", "camera-frozen", 3.0, "north", 1]
    assert [running(wall, at) for at in (1.0, 2.0, 4.0, 5.0, 9.0)] == [
        *([], [cut], [cut, still], [still], [])
    ]
    assert events(wall) == [
        (2.0, "fault", "", 2, "network-partition"),
        (3.0, "fault", "north", 1, "camera-frozen"),
        (5.0, "fault_over", "", 2, "network-partition"),
        (9.0, "fault_over", "north", 1, "camera-frozen"),
    ]


def test_faults_that_are_told_late_stand_in_the_order_of_their_time() -> None:
    wall = faulty_wall(CUT, FROZEN)
    running(wall, 20.0)
    assert [event[0] for event in events(wall)] == [2.0, 3.0, 5.0, 9.0]


def test_what_happens_in_a_moment_is_under_way_for_ten_seconds() -> None:
    wall = faulty_wall(FaultPlan("restart", "broker-restart", 2.0, 2.0))
    assert [len(running(wall, at)) for at in (1.0, 2.0, 11.9, 12.0)] == [0, 1, 1, 0]
    assert [event[1] for event in events(wall)] == ["fault"]


def test_a_fault_is_when_the_run_noted_it_and_one_that_failed_is_none() -> None:
    wall = faulty_wall(CUT, FROZEN)
    wall.fault("cut", "begun", 2.5)
    wall.fault("still", "failed", 3.0)
    wall.fault("nobody", "begun", 1.0)
    assert running(wall, 2.2) == []
    assert running(wall, 4.0) == [["cut", "network-partition", 2.5, "", 2]]
    wall.fault("cut", "over", 7.0)
    assert len(running(wall, 6.0)) == 1
    assert running(wall, 7.0) == []
    assert [event[1] for event in events(wall)] == ["unplayed", "fault", "fault_over"]


def test_a_camera_s_timeline_has_the_faults_that_met_it() -> None:
    wall = faulty_wall(CUT, FROZEN)
    north, south = wall.camera(0, 9.0), wall.camera(1, 9.0)
    assert north is not None
    assert south is not None
    assert north["faults"] == [
        ["cut", "network-partition", 2.0, 5.0],
        ["still", "camera-frozen", 3.0, 9.0],
    ]
    assert (north["lane"]["faults"], south["lane"]["faults"]) == ([0, 1], [0])
    wall.fault("cut", "failed", 2.0)
    again = wall.camera(1, 9.0)
    assert again is not None
    assert again["lane"]["faults"] == []


def test_boxes_are_hundredths_of_the_picture_and_truth_is_that_of_the_frame_shown() -> None:
    wall = Wall([fire("north")])
    for seq, place in ((0, 0.2), (1, 0.4)):
        taken = shot("north", seq, float(seq), truth=(Truth("f", Box(place, 0.5, 0.2, 0.2)),))
        wall.shot(taken)
        wall.frame(answered(taken, SMOKE))
    told = row_of(wall, 2.0, seq=0)
    assert told["b"] == [40.0, 45.0, 20.0, 10.0]
    assert told["t"] == [[10.0, 40.0, 20.0, 20.0]]


def test_only_what_changed_is_told() -> None:
    wall = Wall([CameraPlan("a", (), 1.0), CameraPlan("b", (), 1.0)])
    row_of(wall, 0.0)
    wall.shot(shot("b", 0, 0.5))
    told = wall.changes(1.0, START_NS + SECOND, lambda _: None)
    assert told["rows"] == [{"n": 1, "s": "quiet"}]
    assert "rows" not in wall.changes(1.2, START_NS + SECOND, lambda _: None)


def test_many_cameras_that_go_off_at_once_are_one_event() -> None:
    plans = [CameraPlan(f"c{i}", (), 1.0) for i in range(9)]
    wall = Wall(plans)
    for plan in plans:
        wall.shot(shot(plan.id, 0, 0.0, unsent=Reason.BROKER_DOWN))
    wall.shot(shot("c0", 1, 1.0))
    told = wall.changes(1.0, START_NS + SECOND, lambda _: None)["events"]
    assert [(e["kind"], e.get("count"), e["camera"]) for e in told] == [
        ("off", 9, ""),
        ("back", None, "c0"),
    ]


def test_latency_and_rates_of_a_second_are_told_when_it_is_over() -> None:
    wall = Wall([CameraPlan("north", (), 1.0)])
    for seq in range(10):
        taken = shot("north", seq, seq * 0.1)
        wall.shot(taken)
        wall.frame(answered(taken, NO, answered_s=0.5))  # answered at 0.5 to 1.4 s
    told = wall.changes(2.0, START_NS + 2 * SECOND, lambda _: None)["points"]
    first = START_NS // SECOND
    # (second, p50, p95 needs more, answers/s and tokens/s over five seconds, no consumer seen)
    assert told == [
        [first, 0.5, None, 1.0, 300, None, None],
        [first + 1, 0.5, None, 2.0, 600, None, None],
    ]


def test_the_ledger_and_the_errors_are_counted() -> None:
    wall = Wall([CameraPlan("north", (), 1.0)])
    shots = [shot("north", seq, float(seq)) for seq in range(4)]
    for one in shots:
        wall.shot(one)
    wall.frame(answered(shots[0], NO))
    wall.frame(fated(shots[1], Fate.SAMPLED_OUT, Reason.IDLE))
    wall.frame(fated(shots[2], Fate.ENGINE_ERROR, Reason.TIMEOUT, detail="no answer"))
    totals = wall.changes(4.0, START_NS + 4 * SECOND, lambda _: None)["totals"]
    assert (totals["scheduled"], totals["pending"]) == (4, 1)
    assert totals["fate"] == {"sampled_out": 1, "answered": 1, "engine_error": 1}
    assert (totals["errors"], totals["trouble"]) == ({"timeout": 1}, "no answer")


def test_the_gap_of_a_frame_that_was_never_sent_is_told_once() -> None:
    wall = Wall([CameraPlan("north", (), 1.0)])
    for seq, unsent in enumerate((Reason.NONE, Reason.OUTAGE, Reason.NONE)):
        one = shot("north", seq, float(seq), unsent=unsent)
        wall.shot(one)
        wall.frame(answered(one, NO) if not unsent else fated(one, Fate.LOST, Reason.GAP))
    totals = wall.changes(3.0, START_NS + 3 * SECOND, lambda _: None)["totals"]
    assert totals["fate"] == {"unsent": 1, "answered": 2}
    assert totals["pending"] == 0
    told = wall.camera(0, 3.0)
    assert told is not None
    assert told["lane"]["frames"]["seq"] == [0, 1, 2]
    assert told["lane"]["frames"]["why"] == ["", "outage", ""]


def test_a_camera_s_history_is_a_timeline_as_the_report_draws_it() -> None:
    wall = Wall([fire("north", 1.0)])
    shots = [shot("north", seq, float(seq)) for seq in range(4)]
    for one in shots:
        wall.shot(one)
    wall.frame(answered(shots[1], NO))  # fates come in any order
    wall.frame(fated(shots[0], Fate.SAMPLED_OUT, Reason.IDLE))
    wall.frame(answered(shots[2], SMOKE))
    wall.frame(fated(shots[3], Fate.LOST, Reason.GAP))
    told = wall.camera(0, 5.0)
    assert told is not None
    assert told["span"] == [0.0, 5.0]
    lane = told["lane"]
    assert lane["frames"]["g"] == "cnSg"
    assert lane["frames"]["c"] == [None, None, 0.9, None]
    assert lane["fires"] == [["f", 1.0, None]]
    assert wall.camera(1, 5.0) is None


def test_a_fleet_of_thousands_keeps_less_of_each_camera() -> None:
    wall = Wall([CameraPlan(f"c{i}", (), 1.0) for i in range(5000)])
    for seq in range(100):
        wall.shot(shot("c0", seq, float(seq), unsent=Reason.OUTAGE))
    told = wall.camera(0, 100.0)
    assert told is not None
    assert (len(told["lane"]["frames"]["t"]), told["cut"]) == (60, True)
    wall.changes(1.0, START_NS, lambda _: None)
    assert len(wall.whole()["rows"]) == 1000


# --- pictures ------------------------------------------------------------------------------------


def test_the_last_picture_of_each_camera_is_kept_within_bounds() -> None:
    kept = Pictures(room_bytes=25)
    for seq, name in enumerate(("a", "b", "a", "c")):
        kept.keep(name, seq, bytes(10))
    assert [kept.seq(name) for name in "abc"] == [2, None, 3]


def test_a_picture_is_made_small_once() -> None:
    kept = Pictures()
    kept.keep("a", 7, jpeg())
    found = kept.shrunk("a", 320)
    assert found is not None
    assert found[0] == 7
    image = cv2.imdecode(np.frombuffer(found[1], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (180, 320, 3)
    again = kept.shrunk("a", 320)
    assert again is not None
    assert again[1] is found[1]


@pytest.mark.parametrize("junk", [b"", b"\xff\xd8 nonsense", jpeg()[:400]])
def test_what_is_no_picture_is_no_picture(junk: bytes) -> None:
    assert small(junk, 320) is None


# --- who may look --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loopback", "network"),
    [
        ("127.0.0.1:8787", True, True),
        ("localhost:9", True, True),
        ("[::1]:8787", True, True),
        ("192.168.1.7:8787", False, True),
        ("evil.example:8787", False, False),
        ("127.0.0.1.evil.example", False, False),
        (f"{socket.gethostname()}:8787", False, True),
        ("", False, False),
    ],
)
def test_a_name_that_could_be_made_to_lead_here_is_refused(
    name: str, loopback: bool, network: bool
) -> None:
    assert LiveAddress("127.0.0.1", 8787).answers_to(name) is loopback
    assert LiveAddress("0.0.0.0", 8787).answers_to(name) is network


@pytest.mark.parametrize("text", ["", "here", "1:2:3", "127.0.0.1:70000", "host:", "a b:1"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        LiveAddress.parse(text)


def test_other_interfaces_need_a_token() -> None:
    with pytest.raises(UsageError, match="EARLYFIRE_LIVE_TOKEN"):
        LivePage(Watcher("s"), LiveAddress("0.0.0.0", 0))


def test_the_token_comes_from_the_environment_or_a_file_and_is_long(tmp_path: Path) -> None:
    place = tmp_path / "token"
    place.write_text(f"{TOKEN}\n")
    assert read_token({"EARLYFIRE_LIVE_TOKEN": TOKEN}) == TOKEN
    assert read_token({"EARLYFIRE_LIVE_TOKEN_FILE": str(place)}) == TOKEN
    assert read_token({}) is None
    with pytest.raises(UsageError, match="shorter than 16"):
        read_token({"EARLYFIRE_LIVE_TOKEN": "short"})
    with pytest.raises(UsageError, match="cannot be read"):
        read_token({"EARLYFIRE_LIVE_TOKEN_FILE": str(tmp_path / "none")})


def test_a_port_that_is_taken_is_one_error_before_anything_is_started(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 3)
    scenario(tmp_path, camera("north"))
    with LoopbackPort() as port:
        code, command = nursery.run("run", "tiny.yaml", "--live", f"127.0.0.1:{port}", cwd=tmp_path)
    assert code == 2
    assert "Address already in use; choose another place" in command.err
    assert not (tmp_path / "runs").exists()


def test_live_may_stand_alone() -> None:
    taken: list[list[str]] = []

    class Parsed(LiveCommand):
        def __init__(self) -> None:
            """Only its parsing is asked for."""

    place = "127.0.0.1:8787"
    command = Parsed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "typer.core.TyperCommand.parse_args", lambda _self, _ctx, args: taken.append(args)
        )
        command.parse_args(None, ["demo", "--live"])
        command.parse_args(None, ["--live", "demo"])
        command.parse_args(None, ["--live", "0.0.0.0:80", "demo"])
        command.parse_args(None, ["demo", "--live", "--speed", "2"])
    assert taken == [
        ["demo", "--live", place],
        ["--live", place, "demo"],
        ["--live", "0.0.0.0:80", "demo"],
        ["demo", "--live", place, "--speed", "2"],
    ]


# --- a server ------------------------------------------------------------------------------------


class LoopbackPort:
    """A port that somebody listens on."""

    def __enter__(self) -> int:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        port: int = self._socket.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@dataclass
class Shown:
    """A page of a run that a test plays by hand."""

    watcher: Watcher
    page: LivePage

    def see(self, name: str, seq: int, at: float, verdict: Verdict | None, **more: Any) -> None:
        taken = shot(name, seq, at, **more)
        self.watcher.picture(name, seq, jpeg())
        self.watcher.shot(taken)
        if verdict is not None:
            self.watcher.frame(answered(taken, verdict, answered_s=0.3))

    def get(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body; without following anything."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=20)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return (
                answer.status,
                {k.lower(): v for k, v in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()


@contextlib.contextmanager
def shown(
    clock: Clock,
    *plans: CameraPlan,
    port: int = 0,
    token: str | None = None,
    faults: tuple[FaultPlan, ...] = (),
) -> Iterator[Shown]:
    watcher = Watcher("hills", "simulated", "perfect")
    if faults:
        watcher.opened(
            Playing("r", "hills", "run", "simulated", "m", "fixed", "wall", faults=faults)
        )
    with LivePage(watcher, LiveAddress("127.0.0.1", port), token) as page:
        watcher.begin(plans, clock, None)
        wait_for(lambda: watcher.wall.name_of(len(plans) - 1) is not None or not plans)
        yield Shown(watcher, page)


@pytest.fixture
async def clock() -> Clock:
    """Scenario second 100 of the runs by hand, and it goes on."""
    made = Clock()
    made.begin(made.wall_ns() - 100 * SECOND)
    return made


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


async def test_every_answer_carries_the_page_s_policy(clock: Clock) -> None:
    with shown(clock, fire("north")) as on:
        on.see("north", 0, 0.0, NO)
        paths = ("/", "/assets/live.js", "/nowhere", "/camera/0", "/camera/0/picture", "/camera/99")
        answers = [await asyncio.to_thread(on.get, path) for path in paths]
    assert [status for status, _, _ in answers] == [200, 200, 404, 200, 200, 404]
    for _, headers, _ in answers:
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["server"] == "earlyfire"


async def test_another_host_name_is_refused(clock: Clock) -> None:
    with shown(clock) as on:
        status, _, body = await asyncio.to_thread(on.get, "/", Host="evil.example:8787")
        assert (status, body) == (421, b"this page is not served under that name\n")


async def test_other_pages_may_not_fetch_from_it(clock: Clock) -> None:
    with shown(clock) as on:
        ask = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
        assert (await asyncio.to_thread(on.get, "/camera/0/picture", **ask))[0] == 403
        visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
        assert (await asyncio.to_thread(on.get, "/", **visit))[0] == 200


async def test_nothing_can_be_changed_through_it(clock: Clock) -> None:
    with shown(clock) as on:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await asyncio.to_thread(on.get, "/camera/0", method))[0] == 405
        big = await asyncio.to_thread(on.get, "/login", "POST", "token=" + "x" * 100_000)
        assert big[0] in (303, 413)


@pytest.mark.parametrize(
    "path",
    [
        "/assets/..%2f..%2fpage.py",
        "/assets/page.html.jinja",
        "/assets/%2fetc%2fpasswd",
        "/camera/0/key/..%2f1",
        "/camera/-1",
        "/report",
    ],
)
async def test_no_other_file_is_served(clock: Clock, path: str) -> None:
    with shown(clock, fire("north")) as on:
        status, _, body = await asyncio.to_thread(on.get, path)
        assert status == 404
        assert b"/work" not in body
        assert b"Traceback" not in body


async def test_a_picture_is_sent_again_only_when_it_is_another(clock: Clock) -> None:
    with shown(clock, fire("north")) as on:
        on.see("north", 3, 3.0, NO)
        await until(lambda: on.get("/camera/0/picture")[0] == 200)
        status, headers, body = await asyncio.to_thread(on.get, "/camera/0/picture?w=320")
        assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
        same = {"If_None_Match": headers["etag"]}
        assert (await asyncio.to_thread(on.get, "/camera/0/picture?w=320", **same))[0] == 304
        on.see("north", 4, 4.0, NO)
        assert (await asyncio.to_thread(on.get, "/camera/0/picture?w=320", **same))[0] == 200


async def test_without_the_token_nothing_is_told(clock: Clock) -> None:
    with shown(clock, fire("north"), token=TOKEN) as on:
        get = on.get
        assert (await asyncio.to_thread(get, "/"))[1]["location"] == "/login"
        for path in ("/events", "/camera/0", "/camera/0/picture", "/report"):
            assert (await asyncio.to_thread(get, path))[0] == 401
        wrong = f"Bearer {TOKEN[:-1]}!"
        assert (await asyncio.to_thread(get, "/camera/0", Authorization=wrong))[0] == 401
        right = f"Bearer {TOKEN}"
        assert (await asyncio.to_thread(get, "/camera/0", Authorization=right))[0] == 200
        cookie = f"earlyfire_live_{on.page.port}={cookie_for(TOKEN)}"
        assert (await asyncio.to_thread(get, "/camera/0", Cookie=cookie))[0] == 200


async def test_wrong_tokens_are_not_tried_for_ever(clock: Clock) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    with shown(clock, token=TOKEN) as on:
        tried = [
            (await asyncio.to_thread(on.get, "/login", "POST", f"token=guess{n}", **form))[0]
            for n in range(11)
        ]
    assert tried == [401] * 10 + [429]


async def test_who_does_not_read_is_dropped_and_the_run_goes_on(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "BEAT_S", 0.005)
    monkeypatch.setattr(page_module, "SEND_BYTES", 4096)
    plans = [CameraPlan(f"camera-{n}-{'x' * 60}", (), 1.0) for n in range(300)]
    with shown(clock, *plans) as on, socket.socket() as sleepy:
        sleepy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleepy.connect(("127.0.0.1", on.page.port))
        sleepy.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seq = 0

        def dropped() -> int:
            nonlocal seq
            seq += 1
            for plan in plans:
                on.watcher.shot(shot(plan.id, seq, float(seq)))
                on.watcher.frame(answered(shot(plan.id, seq, float(seq)), NO))
            return on.page.dropped

        await until(dropped)
        assert (await asyncio.to_thread(on.get, "/camera/0"))[0] == 200


async def test_a_page_that_breaks_does_not_break_the_run(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with shown(clock, fire("north")) as on:
        monkeypatch.setattr(Wall, "shot", broken)
        on.see("north", 0, 0.0, NO)
        await until(lambda: "could not show something" in caplog.text)
        on.see("north", 1, 1.0, NO)
        assert (await asyncio.to_thread(on.get, "/camera/0"))[0] == 200


# --- in a browser --------------------------------------------------------------------------------


async def true(told: Opened, expression: str) -> None:
    """Wait until it is; the page's policy lets the driver's own waiting evaluate nothing."""
    async with asyncio.timeout(PATIENCE_S):
        while not await told.ask(expression):  # noqa: ASYNC110 - a page sets no events
            await asyncio.sleep(0.05)


async def test_a_browser_shows_cameras_as_they_change(chromium: Browser, clock: Clock) -> None:
    with shown(clock, fire("north", 99.0), CameraPlan("south", (), 1.0)) as on:
        on.see("north", 0, 98.0, NO)
        on.see("south", 0, 98.0, NO)
        async with opened(chromium, on.page.url) as told:
            page = told.page
            await page.wait_for_selector(".cam[data-s=burning]")
            assert await told.ask("document.querySelectorAll('.cam').length") == 2
            await true(told, "document.querySelector('.cam img').naturalWidth === 320")
            truth = (Truth("f", Box(0.5, 0.5, 0.3, 0.3)),)
            on.see("north", 1, 100.0, SMOKE, truth=truth)
            await page.wait_for_selector(".cam[data-s=suspicious] rect.said")
            await page.wait_for_selector(".cam[data-s=suspicious] rect.truth")
            on.watcher.alarm(emitted("north", 1, 100.0))
            await page.wait_for_selector(".cam[data-s=alarm]")
            assert await page.inner_text(".cam[data-s=alarm] .name b") == "north"
            assert "ALARM" in await page.inner_text("#feed li[data-kind=true]")
            assert "1.00 s after onset" in await page.inner_text("#feed li[data-kind=true]")
            on.see("south", 1, 100.0, None, unsent=Reason.OUTAGE)
            await page.wait_for_selector(".cam[data-s=off]")
            assert (told.said, told.requests) == ([], [])


async def test_a_click_leads_to_the_camera_s_history(chromium: Browser, clock: Clock) -> None:
    with shown(clock, fire("north", 99.0)) as on:
        for seq in range(4):
            on.see("north", seq, 98.0 + seq, SMOKE if seq > 1 else NO)
        async with opened(chromium, on.page.url) as told:
            await told.page.click(".cam")
            await told.page.wait_for_selector("#camera-line[data-drawn]")
            await true(told, "document.querySelector('#camera-frame img').naturalWidth > 0")
            assert await told.page.inner_text("#camera-name") == "north"
            rows = await told.page.locator("#camera-looks tr").all_inner_texts()
            assert [row.split("\t")[:3] for row in rows] == [
                ["3", "1:41", "smoke 90 %"],
                ["2", "1:40", "smoke 90 %"],
                ["1", "1:39", "clear"],
                ["0", "1:38", "clear"],
            ]
            colours = await told.ask(
                """(() => { const c = document.getElementById('camera-line');
                const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                return new Set(new Uint32Array(d.buffer)).size; })()"""
            )
            assert colours > 4
            await told.page.keyboard.press("Escape")
            await told.page.wait_for_selector("#camera:not([open])", state="attached")
            assert (told.said, told.requests) == ([], [])


async def test_a_script_in_a_name_or_an_answer_stays_text(chromium: Browser, clock: Clock) -> None:
    with shown(clock, CameraPlan(HOSTILE, (FirePlan(HOSTILE, 99.0),), 1.0)) as on:
        taken = shot(HOSTILE, 0, 100.0)
        said = answered(taken, SMOKE)
        assert said.answer is not None
        on.watcher.picture(HOSTILE, 0, jpeg())
        on.watcher.shot(taken)
        on.watcher.frame(replace(said, answer=replace(said.answer, text=HOSTILE + "\ud800")))
        lost = shot(HOSTILE, 1, 101.0)
        on.watcher.frame(fated(lost, Fate.ENGINE_ERROR, Reason.ERROR, detail=HOSTILE))
        on.watcher.alarm(emitted(HOSTILE, 0, 100.0))
        on.watcher.stage(HOSTILE)
        async with opened(chromium, on.page.url) as told:
            await told.page.wait_for_selector(".cam[data-s=alarm]")
            await told.page.click(".cam")
            await told.page.wait_for_selector("#camera-looks tr")
            assert await told.page.inner_text("#camera-name") == HOSTILE
            assert HOSTILE in await told.page.inner_text("#camera-looks")
            assert await told.ask("document.querySelectorAll('script').length") == 3
            assert await told.ask("document.querySelectorAll('img[onerror]').length") == 0
            assert "taken" not in await told.page.title()
            assert (told.said, told.requests) == ([], [])


@pytest.mark.parametrize("width", [1280, 390])
async def test_a_fault_under_way_is_shown_above_everything(
    chromium: Browser, clock: Clock, width: int
) -> None:
    # it is scenario second 100: two are under way, one is to come
    faults = (
        FaultPlan(HOSTILE, "network-partition", 95.0, 10_000.0),
        FaultPlan("camera-frozen", "camera-frozen", 98.0, 10_000.0, ("north",)),
        FaultPlan("later", "host-cpu", 9_000.0, 9_900.0),
    )
    plans = (CameraPlan("north", (), 1.0), CameraPlan("south", (), 1.0))
    with shown(clock, *plans, faults=faults) as on:
        on.see("north", 0, 96.0, NO)
        on.see("south", 0, 96.0, NO)
        async with opened(chromium, on.page.url, width=width) as told:
            await told.page.wait_for_selector("#faults:not([hidden])")
            said = await told.page.locator("#faults li").all_inner_texts()
            assert [line.split("\n") for line in said] == [
                ["network partition", HOSTILE, "since 1:35", "all cameras"],
                ["camera frozen", "since 1:38", "north"],
            ]
            await true(told, "document.querySelectorAll('#feed [data-kind=fault]').length === 2")
            feed = await told.page.locator("#feed [data-kind=fault]").all_inner_texts()
            assert any("FAULT north · camera frozen" in line for line in feed)
            assert any("FAULT 2 cameras · network partition" in line for line in feed)
            await told.page.click(".cam")
            await told.page.wait_for_selector("#camera-legend .fault")
            facts = await told.page.inner_text("#camera-facts")
            assert "camera frozen" in facts
            assert await told.ask(OVERFLOW) <= 0
            assert await told.ask("document.querySelectorAll('img[onerror]').length") == 0
            assert "taken" not in await told.page.title()
            assert (told.said, told.requests) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_telephone_shows_the_wall_without_scrolling_sideways(
    chromium: Browser, clock: Clock, scheme: str
) -> None:
    plans = [fire(f"a-camera-with-quite-a-long-name-{n}", 99.0) for n in range(30)]
    with shown(clock, *plans) as on:
        for plan in plans:
            on.see(plan.id, 0, 100.0, SMOKE)
            on.watcher.alarm(emitted(plan.id, 0, 100.0))
        async with opened(chromium, on.page.url, width=390, scheme=scheme) as told:
            await told.page.wait_for_selector(".cam[data-s=alarm]")
            assert await told.ask(OVERFLOW) == 0
            dark = await told.ask("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(20, 22, 26)") is (scheme == "dark")
            await told.page.click(".cam")
            await told.page.wait_for_selector("#camera-line[data-drawn]")
            assert await told.ask(OVERFLOW) == 0
            assert told.said == []


async def test_an_alarm_moves_nothing_but_its_card(chromium: Browser, clock: Clock) -> None:
    long_name = "a-camera-" * 7
    with shown(clock, fire(long_name, 99.0), CameraPlan("south", (), 1.0)) as on:
        on.see(long_name, 0, 99.0, NO)
        async with opened(chromium, on.page.url, width=390) as told:
            await told.page.wait_for_selector(".cam[data-s=burning]")
            top = "document.getElementById('wall').getBoundingClientRect().top"
            before = await told.ask(top)
            on.see(long_name, 1, 100.0, SMOKE)
            on.watcher.alarm(emitted(long_name, 1, 100.0))
            await told.page.wait_for_selector(".cam[data-s=alarm]")
            assert await told.ask("document.querySelectorAll('#feed li').length") == 2
            assert await told.ask(top) == before
            # a long name leaves room for the verdict
            word = "document.querySelector('.cam[data-s=alarm] .smoke')"
            assert await told.ask(f"{word}.scrollWidth - {word}.clientWidth") <= 1


async def test_only_cards_in_sight_ask_for_pictures(chromium: Browser, clock: Clock) -> None:
    plans = [CameraPlan(f"c{n}", (), 1.0) for n in range(200)]
    with shown(clock, *plans) as on:
        for plan in plans:
            on.see(plan.id, 0, 100.0, NO)
        async with opened(chromium, on.page.url) as told:
            loaded = "[...document.querySelectorAll('.cam img')].filter((i) => i.naturalWidth)"
            await true(told, f"{loaded}.length > 20")
            assert await told.ask(f"{loaded}.length") < 100
            last = told.page.locator(".cam").last
            await last.scroll_into_view_if_needed()
            await true(told, "document.querySelector('.cam:last-child img').naturalWidth > 0")
            assert told.said == []


async def test_it_comes_back_by_itself_when_the_server_does(
    chromium: Browser, clock: Clock
) -> None:
    port = free_port()
    with shown(clock, fire("north"), port=port) as on:
        address = on.page.url
        async with contextlib.AsyncExitStack() as stack:
            told = await stack.enter_async_context(opened(chromium, address))
            await told.page.wait_for_selector("body[data-link=live] .cam")
            on.page.__exit__(None, None, None)
            await told.page.wait_for_selector("body[data-link=lost]")
            with shown(clock, fire("south"), fire("west"), port=port):
                await told.page.wait_for_selector("body[data-link=live] .cam[data-s]:nth-child(2)")
                names = await told.page.locator(".cam .name b").all_inner_texts()
                assert sorted(names) == ["south", "west"]


async def test_a_browser_is_asked_for_the_token_once(chromium: Browser, clock: Clock) -> None:
    with shown(clock, fire("north"), token=TOKEN) as on:
        async with opened(chromium, on.page.url) as told:
            await told.page.wait_for_url("**/login")
            await told.page.fill("#token", TOKEN)
            await told.page.click("button")
            await told.page.wait_for_selector("body[data-link=live] .cam")
            (cookie,) = await told.page.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            assert TOKEN not in cookie["value"]
            assert (told.said, told.requests) == ([], [])


# --- a real run ----------------------------------------------------------------------------------


async def test_a_real_run_over_mosquitto_is_watched_to_its_report(
    chromium: Browser, mosquitto: str, nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 60, (320, 200))
    (tmp_path / "labels").mkdir()
    for number in range(60):
        text = "0 0.5 0.5 0.2 0.2\n" if number >= 20 else ""
        (tmp_path / "labels" / f"{number:04}.txt").write_text(text)
    north = camera("north", fires=[{"id": "f", "onset": "2s"}])
    north["source"]["labels"] = "labels"
    scenario(tmp_path, north, camera("south"))
    port = free_port()
    with open_mosquitto(mosquitto, tmp_path) as broker:
        command = nursery.start(
            "run",
            "tiny.yaml",
            "--broker",
            f"mqtt://127.0.0.1:{broker}",
            "--live",
            f"127.0.0.1:{port}",
            "--linger",
            "1h",
            cwd=tmp_path,
        )
        await asyncio.to_thread(wait_for, lambda: "live page:" in command.err)
        async with opened(chromium, f"http://127.0.0.1:{port}/") as told:
            page = told.page
            await page.wait_for_selector(".cam[data-s=quiet]", timeout=60_000)
            await page.wait_for_selector(".cam[data-s=alarm]", timeout=60_000)
            await page.wait_for_selector(".cam[data-s=alarm] rect.said")
            await page.wait_for_selector("#feed li[data-kind=true]")
            await page.wait_for_selector("#over:not([hidden])", timeout=60_000)
            assert await page.inner_text("#over-title") == "The run is over."
            result = await page.inner_text("#result")
            assert "1 of 1" in result
            under_way = "document.querySelector('#ledger dl div:last-child dd').innerText"
            await true(told, f"{under_way} === '0'")
            link = await page.get_attribute("#report", "href")
            assert (told.said, told.requests) == ([], [])
            await page.click(".cam[data-s=alarm]")
            await page.wait_for_selector("#camera-keys img")
            await page.goto(f"http://127.0.0.1:{port}{link}")
            assert "Early-Fire report" in await page.title()
            assert told.said == []
        await asyncio.to_thread(wait_for, lambda: " stays for " in command.err)
        command.send(2)  # Ctrl-C ends the lingering
        assert await asyncio.to_thread(command.wait) == 0
    folder = run_folder(tmp_path / "runs")
    assert (folder / "report.html").exists()


async def test_the_page_of_a_finished_folder_tells_what_the_run_told(
    chromium: Browser, nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 20, (320, 200))
    scenario(tmp_path, camera("north", fires=[{"id": "f", "onset": "1s"}]), camera("south"))
    code, _ = nursery.run("run", "tiny.yaml", cwd=tmp_path)
    assert code == 0
    folder = run_folder(tmp_path / "runs")
    with LivePage(Following(folder), LOOPBACK) as page:
        async with opened(chromium, page.url) as told:
            await told.page.wait_for_selector("#over:not([hidden])")
            # cards are drawn once they are known to be in sight
            await true(
                told,
                "[...document.querySelectorAll('.cam')].map((c) => c.dataset.s).join() "
                "=== 'alarm,quiet'",
            )
            ledger = json.loads((folder / "score.json").read_text())["ledger"]
            shown_ledger = await told.page.locator("#ledger dd").all_inner_texts()
            assert int(shown_ledger[0]) == ledger["scheduled"] == 40
            await true(
                told, "document.querySelector('.cam[data-s=alarm] img').naturalWidth === 320"
            )
            assert (told.said, told.requests) == ([], [])


def test_a_folder_that_is_none_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    code, command = nursery.run("live", tmp_path / "none", "--at", "127.0.0.1:0", cwd=tmp_path)
    assert code == 2
    assert "no such run folder" in command.err


async def test_a_growing_folder_is_followed(tmp_path: Path, nursery: Nursery) -> None:
    pictures(tmp_path / "pictures", 10)
    scenario(tmp_path, camera("north"))
    assert nursery.run("run", "tiny.yaml", cwd=tmp_path)[0] == 0
    folder = run_folder(tmp_path / "runs")
    whole = (folder / "records.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:9])
    following = Following(folder)
    for _ in range(5):
        following.poll()
    before = following.wall.tally.fates.total()
    with (folder / "records.jsonl").open("ab") as file:
        file.write(whole[len(b"".join(lines[:5])) + 9 :])
    for _ in range(5):
        following.poll()
    following.close()
    assert before < following.wall.tally.fates.total() == 10


def test_frames_that_were_never_sent_count_once_in_a_folder_that_is_followed(
    tmp_path: Path, nursery: Nursery
) -> None:
    pictures(tmp_path / "pictures", 20)
    off = [{"start": "0.2s", "end": "0.5s"}]
    scenario(tmp_path, camera("north", outages=off), camera("south"), clock="virtual")
    assert nursery.run("run", "tiny.yaml", cwd=tmp_path)[0] == 0
    folder = run_folder(tmp_path / "runs")
    ledger = json.loads((folder / "score.json").read_text())["ledger"]
    assert ledger["fates"]["unsent"] > 0
    told_lost = (folder / "records.jsonl").read_text().count('"fate":"lost"')
    assert told_lost > 0  # the consumer noted their gap
    following = Following(folder)
    for _ in range(5):
        following.poll()
    following.close()
    told = following.wall.tally
    assert {fate.value: n for fate, n in told.fates.items()} == ledger["fates"]
    assert (told.scheduled, told.pending) == (ledger["scheduled"], 0)
    history = following.wall.camera(0, 10.0)
    assert history is not None
    assert len(history["lane"]["frames"]["seq"]) == told.cameras["north"].scheduled


def test_the_faults_of_a_folder_that_is_followed_are_those_that_the_run_noted(
    tmp_path: Path, nursery: Nursery
) -> None:
    pictures(tmp_path / "pictures", 20)
    frozen = {"kind": "camera-frozen", "start": "0.5s", "end": "1.2s", "cameras": ["north"]}
    scenario(tmp_path, camera("north"), camera("south"), clock="virtual", faults=[frozen])
    assert nursery.run("run", "tiny.yaml", cwd=tmp_path)[0] == 0
    following = Following(run_folder(tmp_path / "runs"))
    for _ in range(5):
        following.poll()
    following.close()
    wall = following.wall
    wall.changes(*following.now(), lambda _: None)
    told = [event for event in wall.whole()["events"] if event["kind"].startswith("fault")]
    assert [(e["at"], e["kind"], e["camera"], e["why"]) for e in told] == [
        (0.5, "fault", "north", "camera-frozen"),
        (1.2, "fault_over", "north", "camera-frozen"),
    ]
    lanes = [wall.camera(number, 2.0) for number in (0, 1)]
    assert [lane["lane"]["faults"] for lane in lanes if lane is not None] == [[0], []]


def test_a_run_that_ends_while_the_page_takes_it_in_ends_with_its_last_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher("s")
    taken_in: list[int] = []

    def shown_slowly(_: Wall, one: Shot) -> None:
        taken_in.append(one.seq)
        if one.seq == 0:  # and meanwhile, in the run's thread
            watcher.shot(shot("north", 1, 7.0))
            watcher.ended(tmp_path, None)

    monkeypatch.setattr(Wall, "shot", shown_slowly)
    monkeypatch.setattr("earlyfire_stream.live.watching.read_run", lambda _: {})
    watcher.shot(shot("north", 0, 3.0))
    for _ in range(2):
        watcher.poll()
    assert taken_in == [0, 1]
    assert watcher.now()[0] == 7.0


def test_the_consumer_is_glanced_at_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([10.0, 10.1, 10.4, 10.6])
    monkeypatch.setattr("earlyfire_stream.live.watching.time.monotonic", lambda: next(instants))
    taken: list[int] = []

    def snapshot() -> Snapshot:
        taken.append(1)
        return Snapshot(0, 0, 0, 0, None, 0.0, 1, 0, {})

    watcher = Watcher("s")
    watcher._snapshot = snapshot
    for seq in range(4):
        watcher.shot(shot("north", seq, float(seq)))
    assert len(taken) == 2
