"""The files below deploy/ and docker-compose.yml say what the services read, and agree."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from saeserve.cli.settings import CliSettings
from saeserve.control.settings import ControlSettings
from saeserve.inference.settings import InferenceSettings
from saeserve.platform.address import parse_tcp
from saeserve.platform.broker_server import arguments
from saeserve.platform.settings import PREFIX, ServiceSettings
from saeserve.v1 import inference_service_pb2, job_service_pb2
from saeserve.worker.settings import WorkerSettings

Tree = dict[str, Any]
ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "control": ControlSettings,
    "worker": WorkerSettings,
    "inference": InferenceSettings,
}
OURS = tuple(SETTINGS)
GRPC_SERVICES = {
    service.full_name
    for file in (job_service_pb2, inference_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ")


def load(path: str) -> Tree:
    return cast(Tree, yaml.safe_load((ROOT / path).read_text()))


COMPOSE = load("docker-compose.yml")
SERVICES: dict[str, Tree] = COMPOSE["services"]
OVERRIDES = {
    path.name: load(f"deploy/compose/{path.name}") for path in ROOT.glob("deploy/compose/*")
}


def settings(service: str, monkeypatch: pytest.MonkeyPatch, override: Tree | None = None) -> Tree:
    """The service's settings under its environment in the compose file; unknown names fail."""
    more = (override or {}).get("services", {}).get(service, {}).get("environment", {})
    environment: dict[str, str] = {**SERVICES[service]["environment"], **more}
    read = [SETTINGS[service], *((CliSettings,) if service == "control" else ())]
    fields = {PREFIX + name.upper() for each in read for name in each.model_fields}
    assert not {name for name in environment if name.startswith(PREFIX)} - fields
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return SETTINGS[service].load().model_dump()


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def stages() -> dict[str, list[str]]:
    """Instructions of each stage of the Dockerfile, by its name."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        if match := re.fullmatch(r"FROM \S+ AS (\w+)", line):
            found[match[1]] = []
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def scraped(config: Tree) -> dict[str, list[str]]:
    """host:port of each job of a Prometheus configuration."""
    return {
        job["job_name"]: [
            *(target for static in job.get("static_configs", ()) for target in static["targets"]),
            *(
                f"{name}:{found['port']}"
                for found in job.get("dns_sd_configs", ())
                for name in found["names"]
            ),
        ]
        for job in config["scrape_configs"]
    }


@pytest.mark.parametrize("service", OURS)
def test_the_environment_is_what_the_service_reads(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings(service, monkeypatch)
    broker = re.fullmatch(r"redis://(\w+):6379/0", read["redis_url"])
    assert broker is not None
    assert broker[1] in SERVICES
    for address in (read[name] for name in read if name.endswith("_address")):
        assert parse_tcp(address).host == "0.0.0.0"
        assert read["insecure"]


def test_the_command_line_in_controls_image_finds_the_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings("control", monkeypatch)
    assert "cli" in SERVICES["control"]["build"]["args"]["EXTRAS"].split(",")
    found = CliSettings.load()
    assert found.inference_address == "inference:" + str(
        parse_tcp(SERVICES["inference"]["environment"]["SAESERVE_INFERENCE_ADDRESS"]).port
    )
    assert set(SERVICES["control"]["networks"]) & set(SERVICES["inference"]["networks"])


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_change_services_that_exist(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(OVERRIDES[override]["services"]) <= set(SERVICES)
    for service in set(OVERRIDES[override]["services"]) & set(OURS):
        settings(service, monkeypatch, OVERRIDES[override])


@pytest.mark.parametrize("override", [None, *OVERRIDES.values()], ids=["none", *OVERRIDES])
def test_the_worker_takes_the_jobs_that_control_queues(
    override: Tree | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = settings("control", monkeypatch, override)
    worker = settings("worker", monkeypatch, override)
    # "auto" follows the workers that are there; no classes are those of the device that is there.
    assert control["auto_class"] in ("auto", *worker["worker_classes"])
    assert not worker["worker_classes"] or "cpu" in worker["worker_classes"]
    assert control["lease_seconds"] == worker["lease_seconds"]
    assert control["roots"] == worker["roots"]


@pytest.mark.parametrize("service", OURS)
def test_volumes_lie_where_the_settings_say(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(service, monkeypatch)
    named = [each for each in SERVICES[service]["volumes"] if isinstance(each, str)]
    roots = [each for each in SERVICES[service]["volumes"] if not isinstance(each, str)]
    store = named[0]
    source, target, *mode = store.split(":")
    assert source in COMPOSE["volumes"]
    assert target == str(read["store"])
    assert mode == (["ro"] if service == "inference" else [])
    assert [root["target"] for root in roots] == [str(path) for path in read["roots"].values()]
    assert all(root["read_only"] for root in roots)


def variables(stage: str) -> dict[str, str]:
    """What a stage of the Dockerfile sets by ENV."""
    words = [line.split()[1:] for line in stages()[stage] if line.startswith("ENV ")]
    return dict(word.split("=", 1) for each in words for word in each)


def test_a_worker_keeps_its_run_directory_and_compiled_kernels_on_a_volume() -> None:
    """The root is read-only: without a volume each start would compile for a minute, or fail."""
    run = variables("runtime")["SAESERVE_RUN"]
    assert any(line.startswith("RUN ") and f" {run}" in line for line in stages()["runtime"])
    volumes = [each for each in SERVICES["worker"]["volumes"] if isinstance(each, str)]
    [source] = [each.partition(":")[0] for each in volumes if each.endswith(f":{run}")]
    assert source in COMPOSE["volumes"]
    assert Path(variables("worker")["NUMBA_CACHE_DIR"]).is_relative_to(run)


@pytest.mark.parametrize("service", OURS)
def test_probes_ask_where_the_service_answers(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings(service, monkeypatch)
    *command, address = SERVICES[service]["healthcheck"]["test"][:5]
    assert command == ["CMD", "python", "-m", "saeserve.platform.healthcheck"]
    if service == "worker":
        port = parse_tcp(read["worker_metrics_address"]).port
        assert address == f"http://127.0.0.1:{port}/metrics"
    else:
        assert address == f"127.0.0.1:{parse_tcp(read[f'{service}_address']).port}"
        assert SERVICES[service]["healthcheck"]["test"][5] in GRPC_SERVICES


@pytest.mark.parametrize("service", OURS)
def test_ports_are_those_of_the_addresses(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(service, monkeypatch)
    metrics = parse_tcp(read[f"{service}_metrics_address"]).port
    grpc = [parse_tcp(read[name]).port for name in (f"{service}_address",) if name in read]
    published = [f"127.0.0.1:{port}:{port}" for port in grpc]
    assert SERVICES[service].get("ports", []) == published
    assert f"EXPOSE {' '.join(map(str, [*grpc, metrics]))}" in stages()[service]
    assert scraped(load("deploy/prometheus/prometheus.yml"))[service] == [f"{service}:{metrics}"]


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
    assert "healthcheck" in each
    assert {"service_healthy", "service_started"} >= {
        needed["condition"] for needed in each.get("depends_on", {}).values()
    }


@pytest.mark.parametrize("service", OURS)
def test_a_stop_leaves_the_time_that_the_service_takes(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings(service, monkeypatch)
    own = read["stop_grace_seconds"] if service == "worker" else read["grace_seconds"]
    assert seconds(SERVICES[service]["stop_grace_period"]) > own


def test_valkey_is_as_durable_as_the_embedded_broker() -> None:
    embedded = list(arguments(Path("d"), Path("s"), 0))
    told = [str(part) for part in SERVICES["valkey"]["command"]]
    for option in ("--appendonly", "--appendfsync", "--save", "--maxmemory-policy"):
        assert told[told.index(option) + 1] == embedded[embedded.index(option) + 1]


@pytest.mark.parametrize("service", OURS)
def test_each_image_is_built_with_its_extra_and_runs_its_module(service: str) -> None:
    build = SERVICES[service]["build"]
    assert build["dockerfile"] == "deploy/docker/Dockerfile"
    assert build["target"] == build["args"]["EXTRAS"].split(",")[0] == service
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert service in project["optional-dependencies"]
    assert f'ENTRYPOINT ["python", "-m", "saeserve.{service}"]' in stages()[service]
    assert importlib.util.find_spec(f"saeserve.{service}.__main__") is not None


def test_images_run_as_nobody_special_and_stop_in_order() -> None:
    runtime = stages()["runtime"]
    user = next(line for line in runtime if line.startswith("USER "))
    assert int(user.removeprefix("USER ").split(":")[0]) >= 10001
    assert "STOPSIGNAL SIGTERM" in runtime
    assert [line for line in runtime if line.startswith("COPY")] == [
        "COPY --from=build /opt/saeserve /opt/saeserve"
    ]


def test_images_set_both_allocator_thresholds_and_what_services_read() -> None:
    environment = set(re.findall(r"(?:ENV|\s)\s*([A-Z_]+)=", " ".join(stages()["runtime"])))
    assert {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} <= environment
    ours = {name for name in environment if name.startswith(PREFIX)}
    assert ours <= {PREFIX + name.upper() for name in ServiceSettings.model_fields}
    assert f"SAESERVE_STORE={SERVICES['control']['environment']['SAESERVE_STORE']}" in DOCKERFILE


def test_the_build_context_holds_what_the_image_copies() -> None:
    copied = [
        source
        for line in stages()["build"]
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    assert "constraints.txt" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in admitted
