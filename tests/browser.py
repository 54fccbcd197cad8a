"""A real headless Chromium that opens a page, and tells what the page did."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from tests.conftest import left_out
from tests.playing import PATIENCE_S

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """The path of a Chromium that this machine has; the driver brings none."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        left_out("no Chromium on PATH (Debian: apt-get install chromium)")
    assert found is not None
    return found


@dataclass
class Opened:
    page: Page
    said: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions that nobody caught."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, `data:` and those that begin with the page's own aside."""

    async def ask(self, expression: str) -> Any:
        return await self.page.evaluate(expression)


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as driver:
        # in a container root has no sandbox to use
        started = await driver.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu"],
            timeout=1000 * PATIENCE_S,
        )
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def opened(
    browser: Browser, place: Path | str, width: int = 1280, scheme: str = "light"
) -> AsyncIterator[Opened]:
    """The page of a file or an address at that width, everything drawn."""
    page = await browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page.set_default_timeout(1000 * PATIENCE_S)
    told = Opened(page)
    page.on(
        "console",
        lambda m: told.said.append(m.text) if m.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: told.said.append(str(error)))
    address = place if isinstance(place, str) else place.as_uri()
    page.on(
        "request",
        lambda r: None if r.url.startswith(("data:", address)) else told.requests.append(r.url),
    )
    try:
        await page.goto(address)
        yield told
    finally:
        await page.close()
