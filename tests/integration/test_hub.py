"""Models to the Hub and from there, by the command line, on a Hub of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from tests.fakes.hub import Hub, running_hub
from tests.fakes.real_stack import RealStack, free_port, until
from tests.fakes.small_model import small_model

from saeserve.cli.hub.pulling import Source, pull
from saeserve.cli.hub.pushing import Pushed, Wanted, push
from saeserve.cli.stack import child_environment
from saeserve.client.errors import (
    AlreadyExistsError,
    ClientError,
    DataLossError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnavailableError,
)
from saeserve.core.export.format import load_model, save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.core.peers.registry import export_model

# How huggingface_hub sends large files without Xet; it warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

COMMAND = [sys.executable, "-m", "saeserve.cli"]
TOKEN, REPO = "hf_alice_token", "alice/my-sae"
NAMES = {"config.json", "model.safetensors", "manifest.json", "README.md"}
CARD = b"---\ntags: [sparse-autoencoder]\n---\n\n# sae\n\n## Use\n\nas it is\n"


class Desk:
    """Somebody's machine: a deployment and a Hub in reach, the Hub's token in a file."""

    def __init__(self, stack: RealStack, hub: Hub, here: Path) -> None:
        self.stack, self.hub, self.here = stack, hub, here
        self.api = HfApi(endpoint=hub.endpoint, token=TOKEN)
        (here / "token").write_text(f"{TOKEN}\n")
        self.environment = child_environment(
            {
                "SAESERVE_CONTROL_ADDRESS": stack.control_address,
                "SAESERVE_STORE": str(here / "no-store"),
                "SAESERVE_RUN": str(here / "no-run"),
            }
        ) | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(here / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`saeserve models words…`, running."""
        return subprocess.Popen(
            [*COMMAND, "models", *words],
            env=self.environment,
            cwd=self.here,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> str:
        """What the command prints; it must succeed."""
        output, told, status = self.ended(*words)
        assert status == 0, told
        return output

    def refused(self, *words: str) -> str:
        """What the command says that fails: a line, and the token nowhere."""
        output, told, status = self.ended(*words)
        assert status == 1, output
        assert "Traceback" not in told
        return told

    def ended(self, *words: str) -> tuple[str, str, int]:
        process = self.start(*words)
        output, told = process.communicate(timeout=300)
        assert TOKEN not in output + told
        return output, told, process.returncode

    def pushed(self, repo: str = REPO, format: str = "saeserve", **more: Any) -> Pushed:  # noqa: ANN401
        """A push by this process."""
        resource = self.stack.client.models.get("sae").resource
        return push(self.stack.client, self.api, Wanted(resource, format, repo, **more))

    def pull(self, repo: str, name: str, **more: str) -> dict[str, Any]:
        """What a pull by this process leaves to be imported."""
        return pull(self.stack.client, self.api, Source(repo, **more), name)

    def uploads(self) -> set[str]:
        """Names of what lies there to be imported."""
        return {path.name for path in self.stack.store.path("uploads").glob("*")}

    def files(self) -> dict[str, bytes]:
        """Those of the model `sae`."""
        folder = self.stack.models.resolve("sae").folder
        return {name: (folder / name).read_bytes() for name in NAMES}

    def push(self, *more: str) -> list[str]:
        return ["hub-push", "sae", REPO, "--token-file", "token", *more]


@pytest.fixture(scope="module")
def published(stack: RealStack) -> RealStack:
    """A stack with a model `sae`."""
    folder = stack.folder / "made"
    save_model(small_model(TopKActivation(k=4)), folder)
    (folder / "README.md").write_bytes(CARD)
    stack.models.publish("sae", "j-1", 0, folder)
    return stack


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def desk(
    published: RealStack, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[Desk]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield Desk(published, hub, tmp_path)
    for version in published.models.list():
        if version.name != "sae":
            published.models.delete_version(version.resource, lambda _: [], force=True)


def test_a_model_goes_out_in_one_commit_and_comes_back(desk: Desk) -> None:
    done = json.loads(desk.run(*desk.push("--json")))
    repo = desk.hub.repos[REPO]
    assert repo.private
    assert done["commit"] == repo.branches["main"]
    assert len(repo.commits) == 2  # The Hub's own first one, and ours.
    stored = desk.stack.models.resolve("sae").folder
    assert set(repo.files) == {*NAMES, ".gitattributes"}
    assert all(repo.files[name] == (stored / name).read_bytes() for name in NAMES)
    desk.run("hub-pull", REPO, "--model", "back", "--token-file", "token", "--watch")
    came = desk.stack.models.resolve("back")
    assert (came.folder / "model.safetensors").read_bytes() == repo.files["model.safetensors"]
    assert came.config.inputs == desk.stack.models.resolve("sae").config.inputs
    with pytest.raises(AlreadyExistsError, match="there is a model back already"):
        desk.pull(REPO, "back")
    desk.pushed()
    assert len(repo.commits) == 2, "nothing has changed"


def test_a_killed_push_leaves_no_commit_and_its_repetition_makes_one(desk: Desk) -> None:
    desk.hub.waits["POST /api/models/alice/my-sae/commit"] = threading.Event()
    process = desk.start(*desk.push())
    until(lambda: any("/commit/" in line for line in desk.hub.requests), what="the commit")
    process.kill()
    process.communicate()
    repo = desk.hub.repos[REPO]
    assert set(repo.files) == {".gitattributes"}
    # The request that was under way is answered by none.
    desk.hub.waits.clear()
    desk.hub.requests.clear()
    desk.pushed()
    assert len(repo.commits) == 2
    assert "model.safetensors" in repo.files
    assert not [line for line in desk.hub.requests if line.startswith("PUT")], "sent once"


def test_a_command_that_is_refused_ends_with_a_line(desk: Desk) -> None:
    (desk.here / "token").write_text("hf_nobody_token")
    told = desk.refused(*desk.push())
    assert told.startswith("HUB_TOKEN_REFUSED: ")
    assert "hf_nobody_token" not in told


def test_an_export_goes_out_public_to_a_branch(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="is not exported as saelens"):
        desk.pushed(format="saelens")
    assert desk.hub.repos == {}
    made = desk.stack.store.path("exports/sae/1/saelens")
    export_model(load_model(desk.stack.models.resolve("sae").folder), "saelens", made)
    (made / "README.md").write_bytes(CARD)
    desk.pushed(format="saelens", public=True, branch="v1")
    repo = desk.hub.repos[REPO]
    assert not repo.private
    files = repo.commits[repo.branches["v1"]]
    assert set(files) == {".gitattributes", "cfg.json", "sae_weights.safetensors", "README.md"}
    assert set(repo.files) == {".gitattributes"}
    found = desk.pull(REPO, "theirs", revision="v1")
    assert found["format"] == "saelens"
    arrived = desk.stack.store.path(found["path"].partition("/model/")[0]).rglob("*.*")
    assert {"cfg.json", "sae_weights.safetensors"} <= {path.name for path in arrived}
    with pytest.raises(NotFoundError, match="no such revision"):
        desk.pull(REPO, "x", revision="v9")


def test_where_a_push_would_be_wrong_nothing_is_committed(desk: Desk) -> None:
    desk.hub.add("bob/open", {"x": b""})
    with pytest.raises(PermissionDeniedError, match="may not do this with bob/open"):
        desk.pushed(repo="bob/open", public=True)
    with pytest.raises(PermissionDeniedError, match="No rights in that namespace"):
        desk.pushed(repo="bob/new")
    desk.hub.add(REPO, {"x": b""})
    with pytest.raises(PreconditionError, match="add --public"):
        desk.pushed()
    desk.hub.add(REPO, {"cfg.json": b"{}", "sae.safetensors": b""}, private=True)
    with pytest.raises(PreconditionError, match="holds a model in the format sparsify"):
        desk.pushed()
    assert [len(repo.commits) for repo in desk.hub.repos.values()] == [1, 1]


@pytest.mark.parametrize(
    ("line", "status", "kind"),
    [
        ("POST /api/models/alice/my-sae/commit", 500, UnavailableError),
        ("PUT /lfs", 403, PermissionDeniedError),
    ],
)
def test_what_the_hub_fails_at_is_done_by_the_next_call(
    desk: Desk, line: str, status: int, kind: type[ClientError]
) -> None:
    desk.hub.answers[line] = status
    with pytest.raises(kind):
        desk.pushed()
    assert set(desk.hub.repos[REPO].files) == {".gitattributes"}
    desk.pushed()
    assert set(desk.hub.repos[REPO].files) == {*NAMES, ".gitattributes"}
    assert len(desk.hub.repos[REPO].commits) == 2


def test_what_cannot_be_pulled_is_refused_before_it_is_fetched(desk: Desk) -> None:
    before = desk.uploads()

    def refusal(kind: type[ClientError]) -> str:
        with pytest.raises(kind) as raised:
            desk.pull("bob/sae", "x")
        return str(raised.value)

    assert "no repository bob/sae that it shows" in refusal(NotFoundError)
    desk.hub.add("bob/sae", desk.files(), private=True)
    assert "no repository bob/sae that it shows" in refusal(NotFoundError)
    desk.hub.add("bob/sae", desk.files(), gated=True)
    assert "bob/sae is gated" in refusal(PermissionDeniedError)
    language_model = {"config.json": b"{}", "model.safetensors": b""}
    desk.hub.add("bob/sae", language_model | {"layer_1/params.npz": b""})
    desk.hub.requests.clear()
    nothing = refusal(PreconditionError)
    assert "bob/sae holds no SAE" in nothing
    assert "--path: layer_1" in nothing
    assert not [line for line in desk.hub.requests if "/resolve/" in line]
    desk.api.endpoint = f"http://127.0.0.1:{free_port()}"
    assert "cannot be reached" in refusal(UnavailableError)
    assert desk.uploads() == before


def test_bytes_other_than_they_should_be_are_not_taken(desk: Desk) -> None:
    other = desk.files()["model.safetensors"][:-1] + b"\x07"
    desk.hub.add("bob/sae", desk.files())
    desk.hub.served["model.safetensors"] = other
    with pytest.raises(DataLossError, match="that the Hub says"):
        desk.pull("bob/sae", "x")
    desk.hub.served.clear()
    assert desk.pull("bob/sae", "x")["format"] == "saeserve"
    desk.hub.add("bob/sae", desk.files() | {"model.safetensors": other})
    with pytest.raises(DataLossError, match=r"that its manifest.json says"):
        desk.pull("bob/sae", "x")
    desk.hub.add("bob/sae", desk.files() | {"README.md": b"my own words"})
    assert desk.pull("bob/sae", "x")["format"] == "saeserve"


def test_a_release_keeps_the_names_that_say_what_it_is_of(desk: Desk) -> None:
    files = {f"layer_8/average_l0_71/{name}": b"" for name in ("params.npz", "other.npz")}
    desk.hub.add("bob/gemma-scope-2b-pt-transcoders", files)
    with pytest.raises(PreconditionError, match="layer_8/average_l0_71"):
        desk.pull("bob/gemma-scope-2b-pt-transcoders", "x")
    found = desk.pull("bob/gemma-scope-2b-pt-transcoders", "x", folder="layer_8/average_l0_71")
    upload, path = found["path"].split("/model/")
    assert path == "gemma-scope-2b-pt-transcoders/layer_8/average_l0_71"
    arrived = {each.name for each in desk.stack.store.path(upload).rglob("*.npz")}
    assert arrived == {"params.npz"}
