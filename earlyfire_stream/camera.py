"""Plays the fleet: each camera publishes its own frames on its own schedule.

A frame's capture instant is its schedule, not its sending: whatever delays it later counts as
latency. Every frame that falls due is logged once, sent or not; that log is the count against which
the consumer's fates are held.
"""

from __future__ import annotations

__all__ = ["Fleet", "Live"]

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from earlyfire_stream.clock import Clock
from earlyfire_stream.frames import Capture, wrap
from earlyfire_stream.records import Shot
from earlyfire_stream.reel import DEFAULT_CADENCE_S, NOTHING, Due, Plate, Reel, dues
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Label, LiveSource
from earlyfire_stream.transport.base import Link
from earlyfire_stream.verdict import Reason

PATIENCE_S = 5.0
"""Wall seconds that a due frame's picture is waited for; after them it is `unsent(late)`."""

Live = Mapping[str, LiveSource]
"""Camera id -> its live source."""


class Fleet:
    """All cameras of one run in one event loop."""

    def __init__(
        self,
        run: str,
        cameras: Sequence[Camera],
        phases: Mapping[str, float],
        reel: Reel,
        link: Link,
        clock: Clock,
        *,
        on_label: Callable[[str, int, Label], None],
        on_shot: Callable[[Shot], None],
        seed: int,
        duration: float | None,
        live: Live | None = None,
        off: Callable[[str, float], bool] = lambda *_: False,
    ) -> None:
        self._run = run
        self._cameras = cameras
        self._phases = phases
        self._reel = reel
        self._link = link
        self._clock = clock
        self._on_label = on_label
        """Told before a frame is published: (camera, seq, its truth)."""
        self._on_shot = on_shot
        """Told once for every frame that fell due, sent or not."""
        self._seed = seed
        self._duration = duration
        self._live = live or {}
        self._off = off
        """(camera, scenario second): has a fault switched it off, beside its own outages?"""
        self.last_seqs: dict[str, int] = {camera.id: -1 for camera in cameras}
        """Camera -> last seq that fell due so far; -1 for none."""

    async def play(self) -> None:
        """Publish everything; returns when the last camera is through."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for camera in self._cameras:
                play = self._play_live if camera.id in self._live else self._play
                group.create_task(play(camera), name=f"camera {camera.id}")

    async def _play(self, camera: Camera) -> None:
        online = False
        times, phase = self._reel.times[camera.id], self._phases[camera.id]
        for due in dues(camera, phase, times, self._duration, self._seed):
            await self._clock.until(due.captured_at)
            off = any(due.captured_at in window for window in camera.outages) or self._off(
                camera.id, due.captured_at
            )
            if off == online:
                online = not off
                self._tell_status(camera.id, online)
            plate = await self._plate(camera.id, due)
            if plate is None:
                self._note(camera.id, due, NOTHING, Reason.LATE)
            elif off:
                self._note(camera.id, due, plate, Reason.OUTAGE)
            elif plate.jpeg is None:
                self._note(camera.id, due, plate, Reason.SOURCE_BROKEN)
            else:
                await self._publish(camera.id, due, plate)
        if online:
            self._tell_status(camera.id, False)

    def _tell_status(self, camera: str, online: bool) -> None:
        # Beside the schedule: a broker that is slow to confirm must not make frames late.
        self._group.create_task(self._link.set_status(camera, online), name=f"status {camera}")

    async def _play_live(self, camera: Camera) -> None:
        """Pass on what a real camera shows, a picture a cadence; it has no schedule to miss."""
        source = self._live[camera.id]
        cadence_s = (camera.cadence or DEFAULT_CADENCE_S) / self._clock.speed
        self._tell_status(camera.id, True)
        after, seq = -1.0, 0
        while self._duration is None or self._clock.now() < self._duration:
            left_s = None
            if self._duration is not None:
                left_s = (self._duration - self._clock.now()) / self._clock.speed
            try:
                async with asyncio.timeout(left_s):
                    picture = await source.newest(after)
            except TimeoutError:
                break  # a camera that is away must not keep the run from its end
            after = picture.at + cadence_s * 0.999
            now = self._clock.now()
            due = Due(seq, round(now, 6), round(now, 6))
            plate = Plate(picture.jpeg, "", picture.label)
            if self._off(camera.id, due.captured_at):
                self._note(camera.id, due, plate, Reason.OUTAGE)
            else:
                await self._publish(camera.id, due, plate)
            seq += 1
        self._tell_status(camera.id, False)

    async def _plate(self, camera: str, due: Due) -> Plate | None:
        if self._clock.virtual:
            return await self._reel.take(camera, due)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._reel.take(camera, due)
        except TimeoutError:
            return None

    async def _publish(self, camera: str, due: Due, plate: Plate) -> None:
        assert plate.jpeg is not None
        capture = Capture(
            run=self._run,
            camera=camera,
            seq=due.seq,
            captured_at=due.captured_at,
            captured_ns=self._clock.wall_of(due.captured_at),
            published_ns=self._clock.wall_ns(),
            speed=self._clock.speed,
        )
        self._on_label(camera, due.seq, plate.label)
        shot = self._shot(camera, due, plate)
        try:
            unsent = await self._link.publish(camera, due.seq, wrap(plate.jpeg, capture))
        except asyncio.CancelledError:
            self._log(shot)  # it may be on its way already
            raise
        self._log(shot if unsent is Reason.NONE else replace(shot, unsent=unsent))

    def _note(self, camera: str, due: Due, plate: Plate, unsent: Reason) -> None:
        self._log(replace(self._shot(camera, due, plate), unsent=unsent))

    def _log(self, shot: Shot) -> None:
        self.last_seqs[shot.camera] = shot.seq
        self._on_shot(shot)

    def _shot(self, camera: str, due: Due, plate: Plate) -> Shot:
        captured_ns = self._clock.wall_of(due.captured_at)
        return Shot(
            camera=camera,
            seq=due.seq,
            captured_at=due.captured_at,
            captured_ns=captured_ns,
            late_s=max(0.0, (self._clock.wall_ns() - captured_ns) / 1e9),
            identity=plate.identity,
            size_bytes=len(plate.jpeg or b""),
            smoke=plate.label.smoke,
            truth=plate.label.truth,
            boxed=plate.label.boxed,
        )
