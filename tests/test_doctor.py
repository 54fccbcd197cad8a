"""What doctor finds, and what it says to do about it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from earlyfire_stream import doctor, engines
from earlyfire_stream.doctor import examine
from earlyfire_stream.engines import hf, machine
from earlyfire_stream.engines.base import Check
from earlyfire_stream.engines.machine import Device, Gpu
from earlyfire_stream.errors import UsageError
from tests.fakes.ollama import FakeOllama
from tests.fakes.worker import MODEL, FakeWorker

GB = 10**9


async def found(engine: str, **given: object) -> dict[str, Check]:
    checks = await examine(engine=engine, broker="amqtt", **given)  # type: ignore[arg-type]
    return {check.what: check for check in checks}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(doctor, "gpus", list)


# --- all of them ---------------------------------------------------------------------------------


def test_it_is_known_of_every_engine_which_settings_it_has() -> None:
    assert sorted(doctor.HAS) == engines.names()


async def test_without_an_engine_each_is_asked_with_the_settings_that_it_has(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def look(name: str, given: dict[str, object]) -> list[Check]:
        asked.append((name, given))
        return []

    monkeypatch.setattr(doctor, "_engine", look)
    await examine(model="m", url="http://box", broker="amqtt")
    assert asked == [
        ("baseline", {}),
        ("hf", {"model": "m"}),
        ("ollama", {"model": "m", "url": "http://box"}),
        ("openai", {"model": "m", "url": "http://box"}),
        ("recorded", {}),
        ("simulated", {}),
    ]


async def test_an_unknown_engine_is_the_caller_s_mistake_and_a_useless_setting_too() -> None:
    with pytest.raises(UsageError, match="did you mean 'ollama'"):
        await examine(engine="olama", broker="amqtt")
    with pytest.raises(UsageError, match="has no server"):
        await examine(engine="baseline", url="http://box", broker="amqtt")


async def test_a_recording_that_is_not_given_is_no_fault(tmp_path: Path) -> None:
    (check,) = [c for name, c in (await found("recorded")).items() if "recorded" in name]
    assert check.ok
    assert "--recording" in check.found
    checks = await found("recorded", recording=str(tmp_path / "none"))
    assert not checks["engine recorded"].ok
    assert "no such run folder" in checks["engine recorded"].found


# --- ollama --------------------------------------------------------------------------------------


async def test_memory_for_ollama_is_what_the_machine_has(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeOllama() as server:
        monkeypatch.setattr(doctor, "main_memory", lambda: 9 * GB)
        enough = (await found("ollama", url=server.url))["memory for Ollama's models"]
        assert enough.ok
        # the weights as they are pulled and 2 GB beside them
        assert "3b 5 GB, 7b 8 GB, 32b 23 GB, 72b 51 GB" in enough.found
        monkeypatch.setattr(doctor, "main_memory", lambda: 6 * GB)
        little = (await found("ollama", url=server.url))["memory for Ollama's models"]
        assert not little.ok
        assert little.remedy.startswith("ollama pull qwen2.5vl:3b")
        monkeypatch.setattr(doctor, "gpus", lambda: [Gpu("RTX", 4 * GB, GB)])
        assert (await found("ollama", url=server.url))["memory for Ollama's models"].ok


async def test_memory_of_another_machine_is_not_judged() -> None:
    check = (await found("ollama", url="http://192.0.2.1:9"))["memory for Ollama's models"]
    assert check.ok
    assert "another one" in check.found


# --- hf ------------------------------------------------------------------------------------------


async def test_workers_are_looked_at_where_they_are() -> None:
    async with FakeWorker() as one, FakeWorker(ready=False) as loading:
        checks = await found("hf", workers=[one.root, loading.root, "http://127.0.0.1:9"])
    assert checks[f"worker {one.url}"].found == f"{MODEL}, float32 on cpu, 8 at a time"
    assert checks[f"worker {one.url}"].ok
    assert "wait" in checks[f"worker {loading.url}"].remedy
    assert checks["worker http://127.0.0.1:9/v1"].remedy.startswith("start it there: earlyfire w")


async def test_missing_packages_are_told_with_the_command_that_brings_them(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    gone = ("torch", "llguidance")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else find(name)
    )
    checks = await found("hf")
    assert checks["Hugging Face packages"].found == "without torch, llguidance"
    assert checks["Hugging Face packages"].remedy.startswith("pip install -e '.[hf]'")


@pytest.mark.parametrize(
    ("model", "four_bit", "device", "ok", "remedy"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", False, 25, True, ""),
        ("Qwen/Qwen2.5-VL-7B-Instruct", False, 12, False, "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", True, 17, True, ""),
        ("Qwen/Qwen2.5-VL-72B-Instruct", True, 80, True, ""),
        ("Qwen/Qwen2.5-VL-72B-Instruct", False, 80, False, "in 4 bit"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", False, 2, False, "even the 3B model needs 10 GB"),
        ("/a/folder/of/mine", False, 1, True, ""),
    ],
)
def test_memory_is_held_against_what_the_model_needs(
    model: str, four_bit: bool, device: int, ok: bool, remedy: str
) -> None:
    free = Device(Check("device", True, ""), device * GB, gpu=True)
    check = hf.check_memory(model, four_bit, free)
    assert check.ok is ok
    assert remedy in check.remedy
    assert "3B 10 GB (4 bit 6), 7B 24 GB (4 bit 16)" in check.found


def test_a_model_is_there_once_all_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    model = "Qwen/Qwen2.5-VL-3B-Instruct"
    missing = hf.check_model(model)
    assert not missing.ok
    assert missing.remedy.startswith(f"hf download {model}")

    kept = tmp_path / "hub" / "models--Qwen--Qwen2.5-VL-3B-Instruct"
    snapshot = kept / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    assert "lacks config.json" in hf.check_model(model).found
    (snapshot / "config.json").write_text("{}")
    assert "lacks model.safetensors" in hf.check_model(model).found
    parts = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (snapshot / "one.safetensors").write_bytes(b"")
    assert "lacks 1 of 2 weight files" in hf.check_model(model).found
    (snapshot / "two.safetensors").write_bytes(b"")
    there = hf.check_model(model)
    assert there.ok
    assert there.found == str(snapshot)
    (snapshot / "model.safetensors.index.json").write_text("[]")
    assert "a sound model.safetensors.index.json" in hf.check_model(model).found


def test_a_folder_that_is_not_there_is_no_name_on_the_hub(tmp_path: Path) -> None:
    check = hf.check_model(str(tmp_path / "mine"))
    assert not check.ok
    assert "no folder" in check.found
    assert "hf download" not in check.remedy


def test_the_cards_are_those_that_the_driver_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA H200, 143771, 143000'\necho 'Old one, big, [N/A], [N/A]'\n"
    )
    program.chmod(0o755)
    assert machine.gpus() == [Gpu("NVIDIA H200", 143771 << 20, 143000 << 20)]


@pytest.mark.parametrize(
    ("told", "ok", "says"),
    [
        (
            {"cuda": True, "built": "12.8", "free": 70 * GB, "total": 80 * GB, "name": "H100"},
            True,
            "H100, 70.0 of 80.0 GB free",
        ),
        (
            {"cuda": False, "built": None, "free": 0, "total": 0, "name": ""},
            False,
            "RTX is there, but torch is built without CUDA",
        ),
    ],
)
def test_a_card_that_torch_cannot_use_is_told(
    told: dict[str, object], ok: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu("RTX", 8 * GB, 7 * GB)])
    monkeypatch.setattr(machine, "ABOUT_TORCH", f"print({json.dumps(json.dumps(told))})")
    device = machine.find_device(has_torch=True)
    assert device.check.ok is ok
    assert says in device.check.found
    assert device.gpu is ok


def test_a_torch_that_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(machine, "ABOUT_TORCH", "raise ImportError('libcudart.so.12 is missing')")
    device = machine.find_device(has_torch=True)
    assert not device.check.ok
    assert "libcudart.so.12 is missing" in device.check.found


def test_doctor_imports_no_torch() -> None:
    code = (
        "import asyncio, sys\n"
        "from earlyfire_stream.doctor import examine\n"
        "asyncio.run(examine(engine='hf', broker='amqtt'))\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
