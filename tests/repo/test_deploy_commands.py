"""What the pages tell an operator to type names services, files and variables that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.repo.deploy_files import COMPOSE, ROOT, SETTINGS
from tests.repo.pages import blocks, existing, lines
from tests.repo.test_commands import problem

from saeserve.client.settings import ClientEnvironment
from saeserve.platform.setting_names import FIELDS, PREFIX

EVERY_PAGE = pytest.mark.parametrize("page", existing(), ids=lambda page: page.name)
SERVICES = COMPOSE["services"]
PROFILES = {name for each in SERVICES.values() for name in each.get("profiles", ())}
# Options of docker compose that are followed by a value, before and after the command.
VALUED = {"--profile", "-f", "--tail", "--scale"}
EXAMPLE = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
OF_MAKE = {"COMPOSE", "PYTHON"}
OURS = {PREFIX + name.upper() for name in FIELDS}


def shown(page: Path) -> list[str]:
    """Command lines in blocks and in running text."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    inline = [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]
    return [*(line for block in blocks(page) for line in lines(block)), *inline]


def compose_commands(page: Path) -> list[list[str]]:
    """Words behind `docker compose`."""
    found = [re.match(r"docker compose (\S.*)$", line) for line in shown(page)]
    return [shlex.split(each[1]) for each in found if each]


def wrong_in(words: list[str]) -> Iterator[str]:
    """What of a compose command is not there."""
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if plain[:1] in (["run"], ["exec"]) and len(plain) > 1:
            plain.append(word)
            continue
        value = next(rest) if word in VALUED else ""
        if word == "--profile" and value not in PROFILES:
            yield f"profile {value}"
        if word == "-f" and not (ROOT / value).exists():
            yield f"file {value}"
        if word == "--scale" and value.partition("=")[0] not in SERVICES:
            yield f"service {value}"
        if not word.startswith("-"):
            plain.append(word)
    yield from wrong_service(plain)


def wrong_service(plain: list[str]) -> Iterator[str]:
    """`plain`: command, service and what it is given, without options."""
    command, *rest = plain
    if command not in {"up", "down", "ps", "logs", "run", "exec", "build"}:
        yield f"command {command}"
    if command in {"run", "exec"}:
        service, *given = rest
        if service not in SERVICES:
            yield f"service {service}"
        # The client's image begins with the command itself.
        ours = given if service == "client" else given[1:]
        if service == "client" or given[:1] == ["saeserve"]:
            yield from filter(None, [problem(ours)])


@EVERY_PAGE
def test_compose_commands_name_what_there_is(page: Path) -> None:
    found = {" ".join(words): [*wrong_in(words)] for words in compose_commands(page)}
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


def test_the_readme_shows_compose_commands() -> None:
    assert len(compose_commands(ROOT / "README.md")) > 4


@pytest.mark.parametrize(
    "line",
    [
        *("exec controll saeserve token ls", "run --rm client jobs lss", "--profile graf up"),
        *("up --scale workers=2", "exec control saeserve token creat", "-f gpu.yml up", "upp"),
    ],
)
def test_what_is_not_there_is_noticed(line: str) -> None:
    assert [*wrong_in(line.split())]


@EVERY_PAGE
def test_variables_that_are_set_are_read_by_somebody(page: Path) -> None:
    named = {
        name for line in shown(page) for name in re.findall(r"(?:^|(?<=\s))([A-Z][A-Z_]+)=", line)
    }
    outside = {"OMP_WAIT_POLICY", "GLIBC_TUNABLES"}
    assert named - EXAMPLE - OF_MAKE - OURS - outside == set()


@EVERY_PAGE
def test_files_of_a_deployment_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"deploy/[\w./-]*\w", page.read_text()))
    kubectl = {"deploy/control"}
    assert [each for each in named - kubectl if not (ROOT / each).exists()] == []


@EVERY_PAGE
def test_ports_are_those_of_the_services(page: Path) -> None:
    published = {
        port.rpartition(":")[2] for each in SERVICES.values() for port in each.get("ports", ())
    }
    metrics = {
        str(field.default).rpartition(":")[2]
        for model in SETTINGS.values()
        for name, field in model.model_fields.items()
        if name.endswith("_address")
    }
    known = published | metrics | {ClientEnvironment.control_address.rpartition(":")[2]}
    named = set(
        re.findall(r"(?:127\.0\.0\.1|localhost|host|inference|control):(\d{4,5})", page.read_text())
    )
    assert named - known == set()
