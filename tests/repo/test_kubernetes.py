"""The manifests below deploy/kubernetes say what the services read, and agree with each other."""

from __future__ import annotations

import copy
import shutil
from typing import Any, cast

import pytest
import yaml
from tests.repo.kubernetes import OVERLAYS, ROOT, Tree, components, faults, forms, load, rendered
from tests.repo.monitoring import files

from saeserve.cli.settings import CliSettings
from saeserve.control.settings import ControlSettings
from saeserve.explorer.settings import ExplorerSettings
from saeserve.inference.settings import InferenceSettings
from saeserve.platform.settings import PREFIX, ServiceSettings
from saeserve.worker.settings import WorkerSettings

READ: dict[str, tuple[type[ServiceSettings], ...]] = {
    "control": (ControlSettings,),
    "inference": (InferenceSettings,),
    "explorer": (ExplorerSettings,),
    "worker": (WorkerSettings,),
    "worker-gpu": (WorkerSettings,),
}
FILES = {
    "control": "base/control.yaml",
    "inference": "base/inference.yaml",
    "explorer": "base/explorer.yaml",
    "worker": "base/worker.yaml",
    "worker-gpu": "components/gpu/worker-gpu.yaml",
}
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing")


def documents(path: str) -> list[Tree]:
    return [cast(Tree, each) for each in yaml.safe_load_all((ROOT / path).read_text())]


def pod(name: str) -> Tree:
    [found] = [each for each in documents(FILES[name]) if each["kind"] == "Deployment"]
    return cast(Tree, found["spec"]["template"]["spec"])


def environment(name: str) -> dict[str, str]:
    [container] = pod(name)["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def literals(path: str) -> dict[str, str]:
    lines = [
        line
        for each in load(path).get("configMapGenerator", [])
        for line in cast(list[str], each["literals"])
    ]
    return dict(cast("tuple[str, str]", tuple(line.split("=", 1))) for line in lines)


CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.glob("*/**/kustomization.yaml")
    if "configMapGenerator" in path.read_text()
)


@pytest.mark.parametrize("name", FILES)
def test_the_environment_of_a_pod_is_one_that_its_service_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {PREFIX + field.upper() for each in READ[name] for field in each.model_fields}
    if name == "control":
        known |= {PREFIX + field.upper() for field in CliSettings.model_fields}
    given = environment(name)
    assert {each for each in given if each.startswith(PREFIX)} <= known
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    READ[name][0].load()


def test_shared_settings_exist() -> None:
    every = (*(kind for kinds in READ.values() for kind in kinds), CliSettings)
    known = {PREFIX + field.upper() for each in every for field in each.model_fields}
    known |= {f"{PREFIX}TLS_CA", "GRPC_VERBOSITY"}
    assert "base/kustomization.yaml" in CONFIGS
    for path in CONFIGS:
        assert set(literals(path)) <= known, path


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_may_write_its_last_checkpoint(name: str) -> None:
    grace = int(environment(name)["SAESERVE_STOP_GRACE_SECONDS"])
    assert pod(name)["terminationGracePeriodSeconds"] >= grace + 30


def test_torch_takes_the_threads_that_the_limit_allows() -> None:
    [worker], [server] = pod("worker")["containers"], pod("inference")["containers"]
    assert worker["resources"]["limits"]["cpu"] == environment("worker")["SAESERVE_TORCH_THREADS"]
    threads = environment("inference")["SAESERVE_INFERENCE_THREADS"]
    assert server["resources"]["limits"]["cpu"] == threads


@pytest.mark.parametrize("name", FILES)
def test_a_pod_is_closed_and_knows_when_it_is_well(name: str) -> None:
    spec = pod(name)
    [container] = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "livenessProbe", "readinessProbe"} < set(container)
    assert spec["topologySpreadConstraints"]
    assert {"requests", "limits"} == set(container["resources"])
    ports = {each["containerPort"] for each in container["ports"]}
    bound = {int(v.rsplit(":", 1)[1]) for v in environment(name).values() if "0.0.0.0:" in v}
    assert ports == bound


def test_logs_are_json_alone() -> None:
    settings, _ = load("base/kustomization.yaml")["configMapGenerator"]
    assert {"SAESERVE_LOG_FORMAT=json", "GRPC_VERBOSITY=NONE"} < set(settings["literals"])


def test_a_new_store_is_asked_of_many_nodes() -> None:
    assert load("base/store.yaml")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_rules_and_dashboards_are_those_of_the_other_deployments() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path.name} is out of date: make monitoring"


def test_each_component_is_in_some_form() -> None:
    tried = {name for _, added in forms() for name in added}
    assert tried == set(components())


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_with_all_that_goes_together_is_valid(overlay: str) -> None:
    [(_, added)] = [
        max(((o, a) for o, a in forms() if o == overlay), key=lambda form: len(form[1]))
    ]
    resources = rendered(overlay, added)
    assert [fault for each in resources for fault in faults(each)] == []
    kinds = {each["kind"] for each in resources}
    assert {
        "ScaledObject",
        "PodMonitor",
        "PrometheusRule",
        "NetworkPolicy",
        "PodDisruptionBudget",
    } <= kinds


@needs_kubectl
def test_what_kubernetes_does_not_know_is_a_fault() -> None:
    for each in rendered("prod", ("gpu", "keda-gpu")):
        wrong: dict[str, Any] = copy.deepcopy(each)
        if wrong["kind"] in ("Deployment", "StatefulSet", "ScaledObject", "PodMonitor"):
            wrong["spec"]["replica"] = 3
            assert [*faults(each)] == []
            assert [*faults(wrong)], wrong["kind"]


@pytest.mark.parametrize("path", ["keda/worker.yaml", "keda-gpu/worker-gpu.yaml"])
def test_a_prometheus_that_is_down_or_knows_no_jobs_takes_no_worker_away(path: str) -> None:
    [scaled] = documents(f"components/{path}")
    fallback = scaled["spec"]["fallback"]
    assert (fallback["behavior"], fallback["replicas"]) == ("currentReplicasIfHigher", 1)
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_inference_reads_the_store_and_knows_no_password() -> None:
    spec = pod("inference")
    assert {each["name"] for each in spec["volumes"]} == {"store", "run", "tmp"}
    mounts = {each["name"]: each for each in spec["containers"][0]["volumeMounts"]}
    assert mounts["store"]["readOnly"] is True
    maps = [each["configMapRef"]["name"] for each in spec["containers"][0]["envFrom"]]
    assert maps == ["saeserve"]
    with_index = [name for name in FILES if "saeserve-index" in str(pod(name))]
    assert with_index == ["control", "worker", "worker-gpu"]


def test_valkey_refuses_writes_before_its_container_is_full() -> None:
    [server] = [each for each in documents("base/valkey.yaml") if each["kind"] == "StatefulSet"]
    [container] = server["spec"]["template"]["spec"]["containers"]
    assert "--maxmemory 768mb --maxmemory-policy noeviction" in container["args"][0]
    assert container["resources"]["limits"]["memory"] == "1Gi"


@needs_kubectl
def test_production_runs_one_release_of_every_image() -> None:
    images = {
        container["image"].removeprefix("registry.example/")
        for each in rendered("prod", ("gpu",))
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {
        *("saeserve-control:0.1.0", "saeserve-explorer:0.1.0", "saeserve-inference:0.1.0-cpu"),
        *("saeserve-worker:0.1.0-cpu", "saeserve-worker:0.1.0-cuda"),
    }


@needs_kubectl
def test_production_has_tls_and_tokens() -> None:
    resources = rendered("prod")
    maps = [each for each in resources if each["kind"] == "ConfigMap"]
    [config] = [each["data"] for each in maps if "SAESERVE_STORE" in each["data"]]
    assert config["SAESERVE_AUTH"] == "tokens"
    assert config["SAESERVE_INSECURE"] == "false"
    for each in resources:
        if each["kind"] == "Deployment" and each["metadata"]["name"] in ("control", "inference"):
            spec = each["spec"]["template"]["spec"]
            mounts = {m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
            assert "/etc/saeserve/tls" in mounts
