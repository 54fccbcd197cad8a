"""Hostile input by the hundred thousand: `make fuzz`, or python -m tests.fuzz --inputs 100000.

Every target (frames off the wire, replies, scenarios, run folders, requests to the worker, its HTTP
over a socket and in memory) gets that many inputs from Hypothesis, and all but the socket as many
again from atheris, guided by the branches they take, where it is installed. Each target runs in a
process of its own. A finding is an exception that is not the module's own refusal, a promise that
was broken, more than two seconds of processor time or 256 MiB for one input, or time that grows
with the square of the size. The shortest input of each kind is kept in a file. Exit code 1 if there
is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

KEPT = Path(".hypothesis") / "found"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target and driver")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--driver", choices=("hypothesis", "atheris", "growth"), help="only this")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _work(given.target[0], given.driver, given.inputs, given.seed)
        return 0
    return _all(given)


# --- one target, in a process of its own ----------------------------------------------------------


def _work(name: str, driver: str, inputs: int, seed: int) -> None:
    """Progress and, as the last line, the outcome: JSON on stdout."""
    # decoders write what they think of a picture straight to stderr
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from tests.fuzz import driver as drivers

    if driver == "atheris":
        drivers.instrument()
    from tests.fuzz.growth import steep
    from tests.fuzz.http import HTTP, IN_MEMORY
    from tests.fuzz.targets import TARGETS

    target = next(t for t in (*TARGETS, HTTP, IN_MEMORY) if t.name == name)

    def told(done: int, found: int) -> None:
        print(json.dumps({"inputs": done, "found": found}), flush=True)

    def done(outcome: drivers.Outcome) -> None:
        found = [{**asdict(f), "data": f.data.hex()} for f in outcome.found]
        print(json.dumps({"outcome": {**asdict(outcome), "found": found}}), flush=True)

    if driver == "growth":
        began = time.monotonic()
        found = list(steep(target))
        outcome = drivers.Outcome(name, driver, len(target.grow), time.monotonic() - began)
        outcome.found = found
        done(outcome)
    elif driver == "hypothesis":
        done(drivers.hypothesis(target, inputs, seed, told))
    else:
        drivers.guided(target, inputs, seed, told, done)


# --- all of them ----------------------------------------------------------------------------------


def _all(given: argparse.Namespace) -> int:
    from tests.fuzz.driver import has_atheris
    from tests.fuzz.http import HTTP, IN_MEMORY
    from tests.fuzz.targets import TARGETS

    targets = [t for t in (*TARGETS, HTTP, IN_MEMORY) if not given.target or t.name in given.target]
    jobs = [(t.name, "growth") for t in targets if t.grow]
    jobs += [(t.name, "hypothesis") for t in targets]
    if has_atheris():
        jobs += [(t.name, "atheris") for t in targets if t.guided]
    elif given.driver in (None, "atheris"):
        print("LEFT OUT: atheris is not installed (pip install atheris; Linux on x86-64)")
    jobs = [job for job in jobs if given.driver in (None, job[1])]
    if not jobs:
        print("nothing to do: no such target or driver", file=sys.stderr)
        return 2
    print(f"{given.inputs:,} inputs for each target and driver, seed {given.seed}", flush=True)
    progress = _Progress()
    with ThreadPoolExecutor(given.jobs) as pool:
        outcomes = list(pool.map(lambda job: _child(*job, given, progress), jobs))
    return _told(outcomes)


class _Progress:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._last: dict[str, float] = {}

    def say(self, job: str, text: str, always: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            if always or now - self._last.get(job, -99.0) > 10:
                self._last[job] = now
                print(f"[{now - self._began:5.0f} s] {job}: {text}", flush=True)


def _child(
    name: str, driver: str, given: argparse.Namespace, progress: _Progress
) -> dict[str, Any]:
    job = f"{name} ({driver})"
    command = [sys.executable, "-m", "tests.fuzz", "--child", "--target", name, "--driver", driver,
               "--inputs", str(given.inputs), "--seed", str(given.seed)]  # fmt: skip
    outcome: dict[str, Any] | None = None
    at = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # libFuzzer's own words
            if "outcome" in told:
                outcome = told["outcome"]
            elif "inputs" in told:
                at = told["inputs"]
                progress.say(job, f"{at:,} inputs, {told['found']} found")
    if outcome is None:
        what = f"the process ended with {child.returncode} after some {at:,} inputs"
        outcome = {"target": name, "driver": driver, "inputs": at, "wall_s": 0.0, "slowest_s": 0.0,
                   "became": {}, "found": [{"what": what, "where": "", "data": ""}]}  # fmt: skip
    progress.say(job, f"done, {len(outcome['found'])} found", always=True)
    return outcome


def _told(outcomes: list[dict[str, Any]]) -> int:
    print(f"\n{'target':<16} {'driver':<11} {'inputs':>9} {'wall s':>7} {'slowest s':>9}  found")
    for o in outcomes:
        found = len(o["found"])
        print(
            f"{o['target']:<16} {o['driver']:<11} {o['inputs']:>9,} {o['wall_s']:>7.0f} "
            f"{o['slowest_s']:>9.3f}  {found or 'nothing'}"
        )
    print("\nwhat became of them (Hypothesis):")
    for o in (o for o in outcomes if o["driver"] == "hypothesis"):
        shares = [f"{what} {n / o['inputs']:.1%}" for what, n in list(o["became"].items())[:8]]
        print(f"  {o['target']}: {', '.join(shares)}")
    number = 0
    for o in outcomes:
        for finding in o["found"]:
            KEPT.mkdir(parents=True, exist_ok=True)
            path = KEPT / f"{o['target'].replace(' ', '-')}-{o['driver']}-{number}.bin"
            path.write_bytes(bytes.fromhex(finding["data"]))
            number += 1
            print(f"\nFOUND in {o['target']}: {finding['what']}\n  {finding['where']}\n  {path}")
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main())
