"""The Dockerfile makes an image for each service, of what the service needs and nothing else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from tests.repo.deploy_files import (
    BUILT,
    COMPOSE,
    DOCKERFILE,
    ROOT,
    SERVICES,
    stages,
)

from saeserve.platform.settings import PREFIX, ServiceSettings


@pytest.mark.parametrize("image", BUILT)
def test_each_image_is_built_with_its_extra_and_runs_its_module(image: str) -> None:
    build = COMPOSE["services"][image]["build"]
    extras = {"client": "cli", "control": "control,cli"}.get(image, image)
    assert build["dockerfile"] == "deploy/docker/Dockerfile"
    assert build["target"] == image
    assert build["args"]["EXTRAS"] == extras
    assert build["secrets"] == ["pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    if image == "client":
        assert 'ENTRYPOINT ["saeserve"]' in stages()[image]
        assert "saeserve" in project["scripts"]
        return
    assert f'ENTRYPOINT ["python", "-m", "saeserve.{image}"]' in stages()[image]
    assert importlib.util.find_spec(f"saeserve.{image}.__main__") is not None


@pytest.mark.parametrize("image", ["worker", "inference"])
def test_images_with_torch_have_a_variant_without_cuda(image: str) -> None:
    each = COMPOSE["services"][image]
    assert each["build"]["args"]["TORCH_VARIANT"] == "cpu"
    assert each["image"].endswith(":cpu")
    assert 'LABEL saeserve.torch.variant="${TORCH_VARIANT}"' in stages()[image]


@pytest.mark.parametrize(
    ("variant", "taken", "refused"),
    [("cpu", "2.13.0+cpu", "2.13.0"), ("cuda", "2.13.0", "2.13.0+cpu")],
)
def test_a_variants_constraint_takes_its_own_build_of_torch(
    variant: str, taken: str, refused: str
) -> None:
    """The Dockerfile's own line, run on the constraints of a release."""
    [script] = re.findall(rf" {variant}\) (sed .*?) constraints.txt ;;", DOCKERFILE)
    made = subprocess.run(
        ["sh", "-c", script], input="torch==2.13.0\n", capture_output=True, text=True, check=True
    )
    wanted = Requirement(made.stdout.strip()).specifier
    assert taken in wanted
    assert refused not in wanted


def test_images_say_what_they_were_built_from() -> None:
    runtime = " ".join(stages()["runtime"])
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in runtime
    assert "ENV SAESERVE_REVISION=${REVISION}" in runtime
    for image in BUILT:
        assert {"VERSION", "REVISION"} <= set(COMPOSE["services"][image]["build"]["args"])


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
