"""The page of a soak: it stands by itself, fits a phone, and says what the terminal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from earlyfire_stream.report import soak_page
from earlyfire_stream.scenario.models import SLO
from earlyfire_stream.soak.asked import Asked, Ramp
from earlyfire_stream.soak.folder import Leg
from earlyfire_stream.soak.judging import judge, knee
from earlyfire_stream.soak.play import Result
from earlyfire_stream.soak.windows import Part
from earlyfire_stream.soak.words import knee_line, verdict_cells
from tests.browser import browser, opened
from tests.test_soak import histogram, level, window

STRANGE = "</script><img src=x onerror=alert(1)>"


def page(folder: Path) -> Path:
    """A ramp of two steps, a leak, a fault with a strange name, an hour of pause."""
    ramp = Ramp(10, 20, 10, 300.0)
    asked = Asked(1200.0, 50.0, SLO(p95_latency=1.0, drop_share=0.1), 8_000_000_000, ramp)
    windows = [
        window(
            n,
            part=Part.WARM_UP if n == 1 else Part.MEASURED,
            faults=(STRANGE,) if n == 9 else (),
            cameras=ramp.at(50.0 * (n - 1)),
            due_per_s=1.0 if n < 7 else 2.0,
            errors={"timeout": 2} if n == 9 else {},
            latency=histogram(*[0.2 + 0.01 * n] * 140),
            processes={
                "harness": level(200_000_000),
                "engine": level(1_000_000_000 + n * 9_000_000),
            },
        )
        for n in range(1, 25)
    ]
    found = Result(
        "ridge-fleet",
        "ollama",
        asked,
        tuple(windows),
        (Leg(1, 0.0, None, 2.5, False, False), Leg(2, 600.0, 3600.0, 2.5, False, True)),
        judge(windows, asked),
        knee(windows, ramp, asked),
        1200.0,
        folder,
    )
    told: dict[str, Any] = orjson.loads(orjson.dumps(found.to_json()))
    assert found.knee is not None
    cells = [verdict_cells(verdict) for verdict in found.verdicts]
    return soak_page.write(folder, told, cells, knee_line(found.knee))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_stands_by_itself_and_fits(tmp_path: Path, width: int, scheme: str) -> None:
    async with browser() as chromium, opened(chromium, page(tmp_path), width, scheme) as told:
        assert (told.said, told.requests) == ([], [])
        assert await told.ask("document.documentElement.scrollWidth") == width
        drawn = await told.ask(
            "[...document.querySelectorAll('[data-chart]')].map(f => "
            "[f.dataset.chart, f.querySelectorAll('svg path').length > 0])"
        )
        assert drawn == [[name, True] for name in ("rates", "latency", "drops", "memory")]
        assert await told.ask("document.querySelectorAll('.fault').length") >= 4
        assert await told.ask("document.querySelectorAll('img').length") == 0, "names are text"


async def test_it_is_drawn_for_paper_before_the_paper_is_cut_into_pages(tmp_path: Path) -> None:
    """What grows once a browser has counted its pages is missing at the end. A4 has 688 px."""
    async with browser() as chromium, opened(chromium, page(tmp_path)) as told:
        widths = await told.ask(
            "dispatchEvent(new Event('beforeprint')) && "
            "[...document.querySelectorAll('.chart > svg')].map(one => one.viewBox.baseVal.width)"
        )
        # two of rates, one each of latency and drops, two of memory
        assert widths == [680] * 6


async def test_the_page_says_what_was_breached_the_knee_and_the_gap(tmp_path: Path) -> None:
    async with browser() as chromium, opened(chromium, page(tmp_path)) as told:
        words = await told.ask("document.body.innerText")
    assert "A limit was breached" in words
    # 9 MB in 50 s
    assert "+648.0 MB/h" in words
    assert "Knee: 10 cameras; at 20 (windows 16 to 24): 1 looks/s of the 2 that are due." in words
    assert "gap of 1:00:00 h at 10:00 min" in words
    assert STRANGE in words


def test_what_is_undecided_is_not_said_to_hold(tmp_path: Path) -> None:
    asked = Asked(200.0, 50.0, SLO(), 8_000_000_000)
    few = tuple(window(n) for n in range(1, 5))
    found = Result(
        *("calm", "simulated", asked, few, (Leg(1, 0.0),), judge(few, asked), None, 200.0),
        tmp_path,
    )
    told = orjson.loads(orjson.dumps(found.to_json()))
    html = soak_page.render(told, [verdict_cells(verdict) for verdict in found.verdicts], "")
    assert "Nothing breached, 2 undecided" in html
    assert "Every limit held" not in html


def test_the_page_is_small(tmp_path: Path) -> None:
    assert page(tmp_path).stat().st_size < 120_000
