"""What models would run on: graphics cards and memory. Torch is never imported in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from earlyfire_stream.engines.base import Check
from earlyfire_stream.worker.loading import INSTALL, free_bytes

__all__ = ["Device", "Gpu", "find_device", "gpus", "main_memory"]

ASK_TORCH_S = 120.0
"""Wall seconds; the first import of torch reads a gigabyte."""
ABOUT_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
free, total = torch.cuda.mem_get_info() if cuda else (0, 0)
print(json.dumps({"cuda": cuda, "built": torch.version.cuda, "free": free, "total": total,
                  "name": torch.cuda.get_device_name() if cuda else ""}))
"""


@dataclass(frozen=True, slots=True)
class Device:
    """What models would run on."""

    check: Check
    free_bytes: int
    gpu: bool


def find_device(has_torch: bool) -> Device:
    """Blocking, some seconds: torch is asked in a process of its own."""
    cards = gpus()
    if not has_torch:
        found = "; ".join(card.name for card in cards) or "no NVIDIA GPU found"
        return Device(Check("device", True, found), *_free(cards))
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", ABOUT_TORCH],
            capture_output=True,
            text=True,
            timeout=ASK_TORCH_S,
            check=True,
        )
        about = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as why:
        last = str(getattr(why, "stderr", "") or why).strip().splitlines()[-1:]
        check = Check("device", False, f"torch does not work: {' '.join(last)}", INSTALL)
        return Device(check, *_free(cards))
    if about["cuda"]:
        gb = f"{about['free'] / 1e9:.1f} of {about['total'] / 1e9:.1f} GB free"
        return Device(Check("device", True, f"{about['name']}, {gb}"), about["free"], True)
    if cards:
        built = (
            f"was built for CUDA {about['built']}" if about["built"] else "is built without CUDA"
        )
        check = Check(
            "device",
            False,
            f"{cards[0].name} is there, but torch {built} and cannot use it",
            "install the torch that fits the driver: https://pytorch.org/get-started/locally/",
        )
        return Device(check, *_free(()))
    check = Check("device", True, "no GPU: models run on the CPU, seconds to minutes a picture")
    return Device(check, *_free(()))


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_bytes: int
    free_bytes: int


def gpus() -> list[Gpu]:
    """NVIDIA's, as the driver tells; none where there is no driver."""
    try:
        asked = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=name,memory.total,memory.free",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in asked.stdout.splitlines():
        name, *numbers = (part.strip() for part in line.rsplit(",", 2))
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            total, free = (int(number) << 20 for number in numbers)
            found.append(Gpu(name, total, free))
    return found


def _free(cards: Sequence[Gpu]) -> tuple[int, bool]:
    """Free memory, and whether it is a GPU's."""
    if cards:
        return max(card.free_bytes for card in cards), True
    return free_bytes("cpu") or 0, False


def main_memory() -> int:
    """Bytes of it, free or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
