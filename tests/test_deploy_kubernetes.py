"""The manifests: rendered, held against Kubernetes' schemas, their commands run on this machine."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlyfire_stream.frames import shard_of
from tests.conftest import left_out
from tests.containers import (
    HARNESS,
    broker_settings,
    container,
    fetch,
    make_credentials,
    metrics_address,
)
from tests.deployed import DEPLOY, RULES, program, rules, yaml_of
from tests.playing import (
    camera,
    fates,
    open_mosquitto,
    pictures,
    run_folder,
    scenario,
    wait_for,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it still asks setuptools for its own files
    import kubernetes_validate

KUBERNETES = DEPLOY / "kubernetes"
VERSION = "1.31"
OPERATORS_OWN = "monitoring.coreos.com/v1"
PLACES = ("base", "cluster")
each_place = pytest.mark.parametrize("place", PLACES)


@cache
def rendered(place: str) -> tuple[dict[str, Any], ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        left_out("no kubectl on PATH (https://kubernetes.io/docs/tasks/tools)")
    assert kubectl is not None
    done = subprocess.run(
        [kubectl, "kustomize", KUBERNETES / place], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(place: str, *kinds: str) -> dict[str, Any]:
    found = [one for one in rendered(place) if one["kind"] in kinds]
    return {one["metadata"]["name"]: one for one in found}


def pods(place: str) -> dict[str, Any]:
    found = of_kind(place, "Deployment", "StatefulSet", "Job")
    return {name: one["spec"]["template"] for name, one in found.items()}


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)


@each_place
def test_every_resource_follows_kubernetes_own_schema(place: str) -> None:
    for resource in rendered(place):
        if resource["apiVersion"] != OPERATORS_OWN:  # not Kubernetes' own; see below
            kubernetes_validate.validate(resource, VERSION, strict=True)


def test_the_schema_sees_a_wrong_key() -> None:
    wrong = {**of_kind("base", "Job")["cameras"], "spec": {"tmplate": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@each_place
def test_pods_are_nobody_may_do_nothing_and_are_asked_how_they_are(place: str) -> None:
    found = pods(place)
    also = {"worker"} if place == "cluster" else set()
    assert set(found) == {"mosquitto", "cameras", "consumer"} | also
    for name, pod in found.items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert ":" in one["image"], "a tag"
            assert not one["image"].endswith(":latest")
            assert one["livenessProbe"], name
            assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
            mounts = {mount["name"] for mount in one["volumeMounts"]}
            claims = {"runs"} if name == "consumer" else set()
            assert mounts == {volume["name"] for volume in spec["volumes"]} | claims


@each_place
def test_secrets_are_named_and_none_is_there(place: str) -> None:
    assert of_kind(place, "Secret") == {}
    named = set()
    for key, value in leaves(list(rendered(place))):
        if key == "secretName":
            named.add(value)
        if key in ("secretKeyRef", "credentials") and isinstance(value, dict) and "name" in value:
            named.add(value["name"])
    worker = {"earlyfire-worker", "earlyfire-hub"} if place == "cluster" else set()
    assert named == {"earlyfire-broker"} | worker
    readme = (DEPLOY / "README.md").read_text()
    assert all(f"generic {name}" in readme for name in named), "how it is made"


@each_place
def test_every_configuration_that_is_mounted_is_rendered(place: str) -> None:
    there = of_kind(place, "ConfigMap").keys()
    for name, pod in pods(place).items():
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in there, name


@each_place
def test_services_lead_to_pods(place: str) -> None:
    for name, service in of_kind(place, "Service").items():
        pod = pods(place)[name]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"] for one in pod["spec"]["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_a_watcher_for_every_shard() -> None:
    consumer = of_kind("base", "StatefulSet")["consumer"]["spec"]
    (one,) = consumer["template"]["spec"]["containers"]
    told = {variable["name"]: variable for variable in one["env"]}
    assert told["SHARDS"]["value"] == str(consumer["replicas"])
    ordinal = told["SHARD"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert ordinal == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert one["args"][one["args"].index("--shard") + 1] == "$(SHARD)/$(SHARDS)"


def test_the_worker_has_a_gpu_and_the_watchers_ask_it() -> None:
    (worker,) = pods("cluster")["worker"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    (consumer,) = pods("cluster")["consumer"]["spec"]["containers"]
    assert consumer["args"][-2:] == ["--worker", "http://worker:8100"]
    told = {variable["name"]: variable for variable in consumer["env"]}
    assert told["ENGINE"]["value"] == "hf"
    assert told["EARLYFIRE_WORKER_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "earlyfire-worker"


# --- the operator's resources --------------------------------------------------------------------


def test_prometheus_finds_the_same_jobs_as_without_the_operator() -> None:
    jobs = yaml_of(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    found = {}
    for name, monitor in of_kind("cluster", "ServiceMonitor", "PodMonitor").items():
        spec = monitor["spec"]
        (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
        (job,) = [r for r in endpoint["relabelings"] if r["targetLabel"] == "job"]
        found[job["replacement"]] = endpoint
        labels = spec["selector"]["matchLabels"]
        matching = [
            pod
            for pod in pods("cluster").values()
            if labels.items() <= pod["metadata"]["labels"].items()
        ]
        assert len(matching) == 1, name
        (one,) = matching[0]["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in one["ports"]}
    assert found.keys() == {job["job_name"] for job in jobs}
    assert found["earlyfire-worker"]["authorization"]["credentials"]["name"] == "earlyfire-worker"


def test_the_operators_monitors_have_fields_that_it_knows_and_services_to_find() -> None:
    """A cluster drops a field that it does not know without a word. Those here are in the
    definitions of monitoring.coreos.com/v1, in these forms."""
    services = of_kind("cluster", "Service").values()
    for monitor in of_kind("cluster", "ServiceMonitor", "PodMonitor").values():
        of_service = monitor["kind"] == "ServiceMonitor"
        place = "endpoints" if of_service else "podMetricsEndpoints"
        spec = monitor["spec"]
        assert spec.keys() == {"selector", place}
        assert spec["selector"].keys() == {"matchLabels"}
        (endpoint,) = spec[place]
        own = {"port", "interval", "scrapeTimeout", "relabelings"}
        assert endpoint.keys() - {"authorization"} == own
        if "authorization" in endpoint:  # of type Bearer unless it says else
            assert endpoint["authorization"].keys() == {"credentials"}
            assert endpoint["authorization"]["credentials"].keys() == {"name", "key"}
        # whole seconds; the operator refuses a timeout beyond the interval
        interval, patience = (endpoint[name] for name in ("interval", "scrapeTimeout"))
        assert interval.endswith("s")
        assert patience.endswith("s")
        assert 0 < int(patience[:-1]) <= int(interval[:-1])
        for relabeling in endpoint["relabelings"]:
            given = relabeling.keys()
            assert given in ({"targetLabel", "replacement"}, {"targetLabel", "sourceLabels"})
        if of_service:
            labels = spec["selector"]["matchLabels"].items()
            (found,) = [one for one in services if labels <= one["metadata"]["labels"].items()]
            assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}


def test_the_operators_rules_are_the_rules(tmp_path: Path) -> None:
    source = KUBERNETES / "monitoring" / "build.py"
    spec = importlib.util.spec_from_file_location("rules_source", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (KUBERNETES / "monitoring" / "rules.yaml").read_text()
    assert written == module.text(), "run build.py"
    groups = of_kind("cluster", "PrometheusRule")["earlyfire"]["spec"]
    assert [rule for group in groups["groups"] for rule in group["rules"]] == [
        rule for path in RULES for rule in rules(path)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps(groups))
    subprocess.run(
        [program("promtool"), "check", "rules", tmp_path / "rules.yml"],
        check=True,
        capture_output=True,
    )


# --- what the pods do ----------------------------------------------------------------------------


@pytest.mark.timeout(400)  # processes of their own on a busy machine
def test_cameras_and_every_watcher_of_the_cluster_meet_and_no_frame_is_seen_twice_or_missed(
    mosquitto: str, tmp_path: Path
) -> None:
    made = make_credentials(tmp_path)
    pictures(tmp_path / "pictures", 30)
    data = [one["data"] for one in of_kind("base", "ConfigMap").values()]
    (config,) = [files["mosquitto.conf"] for files in data if "mosquitto.conf" in files]
    replicas = of_kind("base", "StatefulSet")["consumer"]["spec"]["replicas"]
    watchers = [f"consumer-{ordinal}" for ordinal in range(replicas)]
    settings, listens = broker_settings(config, made)
    (tmp_path / "broker").mkdir()
    names = ("north", "south", "east", "mast", "peak", "summit")
    assert {shard_of(name) % len(watchers) for name in names} == {0, 1}
    scenario(tmp_path, *(camera(name) for name in names))
    with ExitStack() as stack:
        port = stack.enter_context(open_mosquitto(mosquitto, tmp_path / "broker", settings))

        def start(name: str, pod: str, ordinal: int = 0) -> Any:
            (one,) = pods("base")[name]["spec"]["containers"]
            told = {v["name"]: v.get("value", str(ordinal)) for v in one["env"]}
            given = []
            for word in one["args"]:
                for variable, value in told.items():
                    word = word.replace(f"$({variable})", value)
                for here, there in (
                    ("/scenario/scenario.yaml", f"{tmp_path}/tiny.yaml"),
                    ("/run/credentials", str(made)),
                    (f"mosquitto:{listens}", f"127.0.0.1:{port}"),
                    ("baseline", "simulated"),
                    ("0.0.0.0:9464", "127.0.0.1:0"),
                ):
                    word = word.replace(here, there)
                given.append(word)
            told = {k: v.replace("/run/credentials", str(made)) for k, v in told.items()}
            return stack.enter_context(container(HARNESS, given, tmp_path / pod, told))

        for number, pod in enumerate(watchers):
            start("consumer", pod, number)
        for pod in watchers:
            out = tmp_path / pod / "out"
            wait_for(lambda out=out: "waiting for the cameras" in out.read_text())
        start("cameras", "cameras")
        for pod in ("cameras", *watchers):
            url = metrics_address(tmp_path / pod)
            wait_for(lambda url=url: b"earlyfire_run_ended 1.0" in fetch(url))
    cameras = run_folder(tmp_path / "cameras" / "runs")
    watched = [run_folder(tmp_path / pod / "runs") for pod in watchers]
    logs = [fates(one) for one in watched]
    assert all(logs), "each had something to do"
    seen = Counter((frame["camera"], frame["seq"]) for log in logs for frame in log)
    assert len(seen) == 6 * 30
    assert set(seen.values()) == {1}
    earlyfire = Path(sys.executable).with_name("earlyfire")
    done = subprocess.run(
        [earlyfire, "score", *watched, "--cameras", cameras, "-o", tmp_path / "whole", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ledger"]["balanced"] is True
