"""The real camera sequences as a scenario; `python -m tests.real_sequences` plays them whole.

The data's own `meta.json` says when each frame was taken; nothing of the data is copied.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from earlyfire_stream import run
from earlyfire_stream.live.screen import PlainLines
from earlyfire_stream.records import RunLog, load
from earlyfire_stream.scenario.load import load as load_scenario

UNIMI_INTERVAL_S = 30.0
"""Its true cadence is unknown; the project declares this one."""
MOVING = (
    "pos_figlib_20160604_smer-tcs3-mobo-c",
    "pos_figlib_20160619_lp-e-iqeye",
    "pos_figlib_20160619_om-e-mobo-c",
    "pos_figlib_20160718_mg-s-iqeye",
    "pos_unimi_smoke3",
    "neg_figlib_20160604_rm-n-mobo-c_preignition",
    "neg_figlib_20160722_mg-s-iqeye_preignition",
)
STILLS = ("neg_knmi_meetterrein_201510",)


def meta(data: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / name / "meta.json").read_text())
    return found


def instants(data: Path, name: str) -> list[float]:
    """Seconds from the first frame to each."""
    about = meta(data, name)
    if about.get("interval_s") is None:
        return [n * UNIMI_INTERVAL_S for n in range(len(about["frame_list"]))]
    first = about["frame_list"][0]["epoch"]
    return [float(frame["epoch"] - first) for frame in about["frame_list"]]


def onset(data: Path, name: str) -> float | None:
    """Seconds from the first frame to FIgLib's t0, or UNIMI's first mask; None without a fire."""
    about = meta(data, name)["onset"]
    if about is None:
        return None
    return instants(data, name)[about.get("figlib_ignition_n", about.get("first_mask_n"))]


def write_scenario(
    data: Path,
    folder: Path,
    names: Sequence[str] = MOVING + STILLS,
    *,
    speed: float = 300.0,
    **settings: Any,
) -> Path:
    """A scenario file in `folder` that plays the named sequences where they lie."""
    cameras: list[dict[str, Any]] = []
    for name in names:
        short = name.split("_", 2)[-1].lstrip("0123456789_") or name
        place = data / name
        camera: dict[str, Any] = {"id": f"{name[:3]}-{short}"[:60], "phase": 0}
        if name in STILLS:
            source = {"kind": "stills", "path": str(place / "frames"), "smoke": False}
            cameras.append({**camera, "cadence": "30s", "source": source})
            continue
        times = folder / f"{name}.csv"
        frames = meta(data, name)["frame_list"]
        rows = zip(frames, instants(data, name), strict=True)
        lines = [f"{Path(frame['file']).name},{at:g}" for frame, at in rows]
        times.write_text("\n".join(["file,at", *lines]) + "\n")
        camera["source"] = {"kind": "images", "path": str(place / "frames"), "times": str(times)}
        began = onset(data, name)
        if began is not None:
            camera["source"]["labels"] = str(place / "labels")
            camera["fires"] = [{"id": f"fire-{short}"[:60], "onset": began}]
        cameras.append(camera)
    scenario = {
        "earlyfire": 1,
        "name": "real",
        "speed": speed,
        "cameras": cameras,
        "sampling": {"policy": "every"},
        "engine": {"name": "baseline"},
        **settings,
    }
    path = folder / "real.yaml"
    path.write_text(yaml.safe_dump(scenario, sort_keys=False))
    return path


def first_box_frame(data: Path, name: str) -> int | None:
    boxed = (n for n, f in enumerate(meta(data, name)["frame_list"]) if f["boxes_yolo"])
    return next(boxed, None)


def results(log: RunLog, score: dict[str, Any], data: Path, names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in (
        "sequence",
        "onset",
        "first box",
        "alarm",
        "located",
        "TTFD s",
        "frames",
        "false-alarm episodes",
    ):
        table.add_column(title, justify="left" if title == "sequence" else "right")
    fires = {fire["camera"]: fire for fire in score["fires"]}
    by_camera = score["false_alarms"]["by_camera"]
    episodes = {camera: rate["episodes"] for camera, rate in by_camera.items()}
    for plan, name in zip(log.cameras, names, strict=True):
        fire = fires.get(plan.id)
        box = first_box_frame(data, name)
        cells = ["–"] * 5
        if fire is not None:
            at = "miss" if fire["alarm_s"] is None else f"{fire['alarm_s']:.0f} s"
            cells = [
                f"{fire['onset_s']:.0f} s",
                "–" if box is None else f"{instants(data, name)[box]:.0f} s",
                at,
                str(fire["located"]),
                "–" if fire["ttfd_s"] is None else f"{fire['ttfd_s']:.2f}",
            ]
        frames = "–" if fire is None or fire["ttfd_frames"] is None else str(fire["ttfd_frames"])
        count = "stills" if name in STILLS else str(episodes.get(plan.id, 0))
        table.add_row(plan.id, *cells, frames, count)
    return table


def main() -> None:
    data = Path(os.environ["EARLYFIRE_DATA"])
    console = Console(width=120)
    names = MOVING + STILLS
    with tempfile.TemporaryDirectory() as temporary:
        loaded = load_scenario(write_scenario(data, Path(temporary), names))
        options = run.Options(out=Path(temporary))
        outcome = asyncio.run(run.play(loaded, options, [PlainLines(console)], asyncio.Event()))
        assert outcome.score is not None
        score = outcome.score.to_json()
        console.print(results(load(outcome.folder), score, data, names))
        console.print(f"Early-Fire Score {score['early_fire_score']}, ledger {score['ledger']}")


if __name__ == "__main__":
    main()
