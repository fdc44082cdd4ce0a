"""The files below deploy/ and docker-compose.yml say what the services read, and agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.repo.deploy_files import (
    CLIENT,
    COMPOSE,
    GRPC_SERVICES,
    OURS,
    OVERRIDES,
    ROOT,
    SERVICES,
    SETTINGS,
    VARIABLE,
    Tree,
    load,
    mounts,
    scraped,
    seconds,
    settings_of,
    stages,
    variables,
)

from saeserve.cli.settings import CliSettings
from saeserve.platform.address import parse_tcp
from saeserve.platform.broker_server import arguments


@pytest.mark.parametrize("service", ["control", "worker"])
def test_the_services_come_to_valkey_with_user_and_password(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings_of(service, monkeypatch)
    broker = re.fullmatch(r"redis://(\w+)@(\w+):6379/0", read["redis_url"])
    assert broker is not None
    assert broker[2] in SERVICES
    assert f"user {broker[1]} on " in (ROOT / "deploy/compose/secrets.sh").read_text()
    assert read["redis_password_file"] == Path("/run/secrets/redis_password")
    assert SERVICES[service]["secrets"] == ["redis_password"]


def test_who_needs_no_password_is_given_none() -> None:
    assert SERVICES["valkey"]["secrets"] == ["redis_acl"]
    assert "secrets" not in SERVICES["inference"]
    assert "SAESERVE_REDIS_URL" not in SERVICES["inference"]["environment"]
    assert set(COMPOSE["secrets"]) == {"redis_password", "redis_acl", "admin_token", "pip"}


@pytest.mark.parametrize("service", ["control", "inference", "explorer"])
def test_callers_are_answered_over_tls_and_with_tokens(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(service, monkeypatch)
    read = SETTINGS[service].load()
    address = SERVICES[service]["environment"][f"SAESERVE_{service.upper()}_ADDRESS"]
    assert parse_tcp(address).host == "0.0.0.0"
    assert read.tls is not None
    assert read.asks_tokens(address)
    assert not read.insecure
    [mounted] = [each for each in mounts(SERVICES[service]) if each["target"].endswith("/tls")]
    assert {str(path.parent) for path in read.tls.paths()} == {mounted["target"]}
    assert mounted["read_only"]


def test_the_client_finds_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLIENT["environment"].items():
        monkeypatch.setenv(name, value)
    found = CliSettings.load()
    for service, address in (
        ("control", found.control_address),
        ("inference", found.inference_address),
    ):
        own = SERVICES[service]["environment"][f"SAESERVE_{service.upper()}_ADDRESS"]
        assert address == f"{service}:{parse_tcp(own).port}"
        assert set(CLIENT["networks"]) & set(SERVICES[service]["networks"])
    assert found.token_file == Path("/run/secrets/admin_token")
    assert str(found.tls_ca) in [mount["target"] for mount in mounts(CLIENT)]
    assert CLIENT["profiles"] == ["client"]
    assert CLIENT["restart"] == "no"


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_change_services_that_exist(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = set(OVERRIDES[override]["services"]) - set(SERVICES)
    assert added <= {"worker-gpu"}
    for service in set(OVERRIDES[override]["services"]) & set(OURS):
        settings_of(service, monkeypatch, OVERRIDES[override])


def test_a_gpus_worker_stands_beside_the_cpus_and_differs_in_its_device_alone() -> None:
    worker = SERVICES["worker"]
    gpu: Tree = OVERRIDES["gpu.yml"]["services"]["worker-gpu"]
    differing = {"image", "build", "environment", "volumes", "mem_limit", "healthcheck", "deploy"}
    assert {key for key in gpu if gpu[key] != worker.get(key)} == differing
    assert set(worker) - set(gpu) == {"cpu_shares"}
    assert gpu["environment"] == {
        **worker["environment"],
        "SAESERVE_WORKER_CLASSES": '["gpu"]',
    }
    assert OVERRIDES["gpu.yml"]["services"]["worker"]["environment"] == {
        "SAESERVE_WORKER_CLASSES": '["cpu"]'
    }
    assert gpu["volumes"][1] == "worker-gpu-run:/var/lib/saeserve/run"
    assert [*gpu["volumes"][:1], *gpu["volumes"][2:]] == [
        *worker["volumes"][:1],
        *worker["volumes"][2:],
    ]
    assert "worker-gpu-run" in OVERRIDES["gpu.yml"]["volumes"]
    assert gpu["healthcheck"]["test"] == worker["healthcheck"]["test"]


@pytest.mark.parametrize(
    ("override", "service"), [("gpu.yml", "worker-gpu"), ("gpu-inference.yml", "inference")]
)
def test_a_gpus_container_has_one_device_and_an_image_with_cuda(
    override: str, service: str
) -> None:
    each: Tree = OVERRIDES[override]["services"][service]
    assert each["build"]["args"]["TORCH_VARIANT"] == "cuda"
    assert each["image"].endswith(":cuda")
    [device] = each["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}


@pytest.mark.parametrize("override", [None, *OVERRIDES.values()], ids=["none", *OVERRIDES])
def test_the_worker_takes_the_jobs_that_control_queues(
    override: Tree | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = settings_of("control", monkeypatch, override)
    worker = settings_of("worker", monkeypatch, override)
    # "auto" follows the workers that are there; no classes are those of the device that is there.
    assert control["auto_class"] in ("auto", *worker["worker_classes"])
    assert not worker["worker_classes"] or "cpu" in worker["worker_classes"]
    assert control["lease_seconds"] == worker["lease_seconds"]
    assert control["roots"] == worker["roots"]


@pytest.mark.parametrize("service", [name for name in OURS if name != "explorer"])
def test_volumes_lie_where_the_settings_say(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings_of(service, monkeypatch)
    named = [each for each in SERVICES[service]["volumes"] if isinstance(each, str)]
    store = named[0]
    source, target, *mode = store.split(":")
    assert source in COMPOSE["volumes"]
    assert target == str(read["store"])
    assert mode == (["ro"] if service == "inference" else [])
    targets = [mount["target"] for mount in mounts(SERVICES[service])]
    roots = [str(path) for path in read["roots"].values()]
    assert [target for target in targets if not target.endswith("/tls")] == roots
    assert all(mount["read_only"] for mount in mounts(SERVICES[service]))


def test_the_explorer_reads_through_the_services_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings_of("explorer", monkeypatch)
    assert [each["target"] for each in mounts(SERVICES["explorer"])] == ["/etc/saeserve/tls"]
    assert "secrets" not in SERVICES["explorer"]
    for service in ("control", "inference"):
        own = SERVICES[service]["environment"][f"SAESERVE_{service.upper()}_ADDRESS"]
        assert read[f"{service}_address"] == f"{service}:{parse_tcp(own).port}"
    assert read["tls_ca"].parent == read["tls_cert"].parent


def test_a_worker_keeps_its_run_directory_and_compiled_kernels_on_a_volume() -> None:
    """The root is read-only: without a volume each start would compile for a minute, or fail."""
    run = variables("runtime")["SAESERVE_RUN"]
    assert any(line.startswith("RUN ") and f" {run}" in line for line in stages()["runtime"])
    volumes = [each for each in SERVICES["worker"]["volumes"] if isinstance(each, str)]
    [source] = [each.partition(":")[0] for each in volumes if each.endswith(f":{run}")]
    assert source in COMPOSE["volumes"]
    for cache in ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert Path(variables("worker")[cache]).is_relative_to(run)


def test_kernels_of_a_gpu_are_kept_where_inference_may_write() -> None:
    [place, *_] = [each.partition(":")[0] for each in SERVICES["inference"]["tmpfs"]]
    assert Path(variables("inference")["TRITON_CACHE_DIR"]).is_relative_to(place)


@pytest.mark.parametrize("service", OURS)
def test_probes_ask_where_the_service_answers(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings_of(service, monkeypatch)
    *command, address = SERVICES[service]["healthcheck"]["test"][:5]
    assert command == ["CMD", "python", "-m", "saeserve.platform.healthcheck"]
    if service in ("worker", "explorer"):
        port = parse_tcp(read[f"{service}_metrics_address"]).port
        path = {"worker": "metrics", "explorer": "healthz"}[service]
        assert address == f"http://127.0.0.1:{port}/{path}"
    else:
        assert address == f"127.0.0.1:{parse_tcp(read[f'{service}_address']).port}"
        assert SERVICES[service]["healthcheck"]["test"][5] in GRPC_SERVICES


@pytest.mark.parametrize("service", OURS)
def test_ports_are_those_of_the_addresses(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings_of(service, monkeypatch)
    metrics = parse_tcp(read[f"{service}_metrics_address"]).port
    grpc = [parse_tcp(read[name]).port for name in (f"{service}_address",) if name in read]
    published = [f"127.0.0.1:{port}:{port}" for port in grpc]
    assert SERVICES[service].get("ports", []) == published
    assert f"EXPOSE {' '.join(map(str, [*grpc, metrics]))}" in stages()[service]
    assert f"{service}:{metrics}" in scraped(load("deploy/prometheus/prometheus.yml"))[service]


def test_a_gpus_worker_is_scraped() -> None:
    assert "worker-gpu:9471" in scraped(load("deploy/prometheus/prometheus.yml"))["worker"]


@pytest.mark.parametrize("service", OURS)
def test_the_local_configuration_scrapes_the_defaults(service: str) -> None:
    default = SETTINGS[service].model_fields[f"{service}_metrics_address"].default
    assert scraped(load("deploy/prometheus/local.yml"))[service] == [default]


def test_everything_is_published_on_loopback_alone() -> None:
    published = [port for each in SERVICES.values() for port in each.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_valkey_and_jobs_have_no_way_out() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert SERVICES["valkey"]["networks"] == SERVICES["worker"]["networks"] == ["inside"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_is_confined_and_comes_back(service: str) -> None:
    each = SERVICES[service]
    assert each["read_only"] is True
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert each["restart"] == "unless-stopped"
    assert each["init"] is True
    assert "healthcheck" in each
    assert {"service_healthy", "service_started"} >= {
        needed["condition"] for needed in each.get("depends_on", {}).values()
    }


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_every_container_has_limits_and_its_logs_too(service: str) -> None:
    each: Tree = COMPOSE["services"][service]
    assert re.fullmatch(r"\d+g|\d+m", str(each["mem_limit"]))
    assert each["pids_limit"] > 0
    assert service == "client" or "cpus" in each
    assert each["logging"] == {
        "driver": "json-file",
        "options": {"max-size": "10m", "max-file": "5"},
    }
    for mounted in each.get("tmpfs", ()):
        assert ":size=" in mounted


@pytest.mark.parametrize("service", [*OURS, "valkey", "client"])
def test_nothing_that_works_waits_for_what_watches(service: str) -> None:
    """Prometheus or Grafana may be down: they call, and are never called."""
    watching = {"prometheus", "grafana"}
    for found in (COMPOSE, *OVERRIDES.values()):
        each = found["services"].get(service, {})
        assert not watching & set(each.get("depends_on", ()))
        told = " ".join(map(str, each.get("environment", {}).values()))
        assert not [name for name in watching if name in told]


def test_variables_are_in_the_example_with_their_defaults() -> None:
    texts = [
        (ROOT / path).read_text()
        for path in ("docker-compose.yml", *(f"deploy/compose/{name}" for name in OVERRIDES))
    ]
    used = {name: value for text in texts for name, value in VARIABLE.findall(text)}
    example = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert {name: shown.get(name) for name in used} == used


@pytest.mark.parametrize("service", OURS)
def test_a_stop_leaves_the_time_that_the_service_takes(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings_of(service, monkeypatch)
    own = read["stop_grace_seconds"] if service == "worker" else read["grace_seconds"]
    assert seconds(SERVICES[service]["stop_grace_period"]) > own


def test_valkey_is_as_durable_as_the_embedded_broker() -> None:
    embedded = list(arguments(Path("d"), Path("s"), 0))
    told = [str(part) for part in SERVICES["valkey"]["command"]]
    for option in ("--appendonly", "--appendfsync", "--save", "--maxmemory-policy"):
        assert told[told.index(option) + 1] == embedded[embedded.index(option) + 1]
