"""Who may call what: every method, without a token, with a bad one, and in the name of another."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from tests.fakes.access import Tokens
from tests.fakes.control_server import Control, run_to_the_end, train_spec
from tests.fakes.every_call import Method, every_method, outcome
from tests.fakes.inference_server import in_thread, settings_of
from tests.fakes.real_stack import until
from tests.fakes.valkey import Valkey
from typer.testing import CliRunner

from saeserve.cli.__main__ import app
from saeserve.client import Access, Client
from saeserve.client.errors import OverloadedError, UnauthenticatedError
from saeserve.client.values import Job
from saeserve.inference import bundle_servicer, servicer
from saeserve.platform.auth.rules import Scope
from saeserve.platform.auth.tokens import Limits
from saeserve.v1 import dataset_service_pb2 as data
from saeserve.v1 import job_service_pb2 as jobs
from saeserve.v1 import model_service_pb2 as models
from saeserve.v1 import transfer_service_pb2 as files

METHODS = every_method()
BY_NAME = {method.name: method for method in METHODS}


@dataclass(frozen=True)
class Site:
    """Servers that ask for tokens, with things of alice's."""

    control: Control
    channels: dict[str, grpc.Channel]
    tokens: Tokens
    job: str
    upload: str

    def channel(self, method: Method) -> grpc.Channel:
        return self.channels.get(method.service, self.control.channel)

    def outcome(self, method: Method, token: str = "", *requests: Message) -> str:
        return outcome(method, self.channel(method), token, *requests)


@pytest.fixture(scope="module")
def site(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("access")
    control = Control(folder, valkey, auth="tokens")
    control.start()
    try:
        settings = settings_of(control.settings.store).model_copy(update={"auth": "tokens"})
        with (
            in_thread(settings) as parts,
            grpc.insecure_channel(parts.server.bound) as inference,
        ):
            yield furnished(control, {"InferenceService": inference, "FeatureService": inference})
    finally:
        control.stop()


def furnished(control: Control, channels: dict[str, grpc.Channel]) -> Site:
    tokens = Tokens(control.store)
    control.ready()
    assert control.server is not None
    activations = control.folder / "mine.npy"
    np.save(activations, np.ones((4, 2), np.float32))
    with Client(control.server.bound, access=Access(token=tokens.make())) as alice:
        job = alice.jobs.submit(train_spec_as_job()).id
        run_to_the_end(control, job)
        alice.datasets.upload("mine", activations)
        upload = alice.transfers.upload({"mine.npy": activations})
    return Site(control, channels, tokens, job, upload)


def train_spec_as_job() -> Any:  # noqa: ANN401 - a message
    return train_spec()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_stranger_gets_nothing(site: Site, method: Method) -> None:
    found = {reason: site.outcome(method, text) for reason, text in site.tokens.bad().items()}
    assert found == {reason: f"UNAUTHENTICATED {reason.split()[0]}" for reason in found}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_token_of_other_scopes_gets_nothing(site: Site, method: Method) -> None:
    refused = {scope: site.outcome(method, site.tokens.make(scope)) for scope in Scope}
    assert refused[Scope.ADMIN] != "PERMISSION_DENIED SCOPE_MISSING"
    let_in = [scope for scope, found in refused.items() if "SCOPE_MISSING" not in found]
    assert set(let_in) <= {Scope.ADMIN, *scopes_of(method)}


def scopes_of(method: Method) -> set[Scope]:
    """As documented: inference by encode, what the explorer shows of features by read too, changes
    by submit, the store by admin, the rest by read."""
    looks = method.service == "FeatureService" or method.name.endswith("MatchFeatures")
    if looks or method.service == "InferenceService":
        return {Scope.ENCODE} | ({Scope.READ} if looks else set())
    if method.service == "StoreService":
        return set()
    reads = method.name.partition("/")[2].startswith(("Get", "List", "Watch", "Download"))
    return {Scope.READ} if reads and not method.name.endswith("GetUpload") else {Scope.SUBMIT}


Request = Callable[[Site], list[Message]]
NOT_THERE, NOT_OWNER = "NOT_FOUND JOB_NOT_FOUND", "PERMISSION_DENIED NOT_OWNER"
NO_UPLOAD = "NOT_FOUND UPLOAD_NOT_FOUND"

FOREIGN: dict[str, tuple[Request, str]] = {
    "JobService/SubmitJob": (
        lambda site: [jobs.SubmitJobRequest(spec=train_spec())],
        NOT_OWNER,
    ),
    "JobService/GetJob": (lambda site: [jobs.GetJobRequest(id=site.job)], NOT_THERE),
    "JobService/ListJobs": (
        lambda site: [jobs.ListJobsRequest(filter=jobs.JobFilter(owner="alice"))],
        NOT_OWNER,
    ),
    "JobService/CancelJob": (lambda site: [jobs.CancelJobRequest(id=site.job)], NOT_THERE),
    "JobService/DeleteJob": (lambda site: [jobs.DeleteJobRequest(id=site.job)], NOT_THERE),
    "JobService/WatchJob": (lambda site: [jobs.WatchJobRequest(id=site.job)], NOT_THERE),
    "DatasetService/UploadDataset": (lambda site: upload_of("mine"), NOT_OWNER),
    "DatasetService/GetUpload": (
        lambda site: [data.GetUploadRequest(dataset="mine", file_name="mine.npy")],
        NOT_OWNER,
    ),
    "DatasetService/RegisterDataset": (
        lambda site: [data.RegisterDatasetRequest(dataset="mine", files=["files:x.npy"])],
        NOT_OWNER,
    ),
    "DatasetService/DeleteDataset": (
        lambda site: [data.DeleteDatasetRequest(name="mine", force=True)],
        NOT_OWNER,
    ),
    "ModelService/DeleteModel": (
        lambda site: [models.DeleteModelRequest(model="sae@1", force=True)],
        NOT_OWNER,
    ),
    "ModelService/SetAlias": (
        lambda site: [models.SetAliasRequest(name="sae", alias="prod", version=1)],
        NOT_OWNER,
    ),
    "ModelService/DeleteAlias": (
        lambda site: [models.DeleteAliasRequest(name="sae", alias="prod")],
        NOT_OWNER,
    ),
    "TransferService/ListFiles": (
        lambda site: [files.ListFilesRequest(resource=f"jobs/{site.job}/logs")],
        NOT_THERE,
    ),
    "TransferService/DownloadFile": (
        lambda site: [files.DownloadFileRequest(resource=f"jobs/{site.job}/logs", name="1")],
        NOT_THERE,
    ),
    "TransferService/UploadFile": (
        lambda site: [
            files.UploadFileRequest(
                header=files.UploadFileHeader(upload=site.upload, name="mine.npy")
            )
        ],
        NO_UPLOAD,
    ),
    "TransferService/DeleteUpload": (
        lambda site: [files.DeleteUploadRequest(upload=site.upload)],
        NO_UPLOAD,
    ),
}
# Data sets and models are read by whoever has the scope; an upload that is announced is the
# caller's own; the store as a whole is the administrators', and what a deployment
# offers is told to all.
SHARED = {
    "DatasetService/GetDataset",
    "DatasetService/ListDatasets",
    "ModelService/GetModel",
    "ModelService/ListModels",
    *(f"InferenceService/{method}" for method in servicer.METHODS),
    *(f"FeatureService/{method}" for method in bundle_servicer.METHODS),
    "TransferService/CreateUpload",
    "ServerService/ListPresets",
    "ServerService/ListWorkers",
    "StoreService/CollectGarbage",
}


def upload_of(dataset: str) -> list[Message]:
    content = b"not alice's"
    digest = hashlib.sha256(content).hexdigest()
    header = data.UploadHeader(
        dataset=dataset, file_name="x.npy", size_bytes=len(content), sha256=digest
    )
    chunk = data.UploadChunk(offset=0, data=content, crc32=zlib.crc32(content))
    return [data.UploadDatasetRequest(header=header), data.UploadDatasetRequest(chunk=chunk)]


def test_each_method_is_tried_by_a_foreign_owner_or_shared() -> None:
    assert set(FOREIGN) | SHARED == set(BY_NAME)
    assert not set(FOREIGN) & SHARED


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_owner_neither_sees_nor_changes(site: Site, name: str) -> None:
    request, expected = FOREIGN[name]
    bob = site.tokens.make(owner="bob")
    assert site.outcome(BY_NAME[name], bob, *request(site)) == expected


READ_BACK = ("JobService/GetJob", "JobService/WatchJob", "TransferService/ListFiles")


@pytest.mark.parametrize("name", READ_BACK)
@pytest.mark.parametrize(("owner", "scopes"), [("alice", ()), ("root", (Scope.ADMIN,))])
def test_the_owner_and_an_administrator_see(
    site: Site, name: str, owner: str, scopes: tuple[Scope, ...]
) -> None:
    request, _ = FOREIGN[name]
    token = site.tokens.make(*scopes, owner=owner)
    assert site.outcome(BY_NAME[name], token, *request(site)) == "OK"


def test_a_foreign_job_is_told_like_one_that_never_was(site: Site) -> None:
    bob = Access(token=site.tokens.make(owner="bob"))
    never = "j-00000000000000000000"
    texts: list[str] = []
    assert site.control.server is not None
    with Client(site.control.server.bound, access=bob) as client:
        for job in (site.job, never):
            with pytest.raises(Exception, match="there is no job") as caught:
                client.jobs.get(job)
            texts.append(str(caught.value).replace(job, "JOB"))
    assert texts[0] == texts[1]


def test_a_listing_holds_the_callers_own_jobs(site: Site) -> None:
    def ids(*scopes: Scope, owner: str) -> list[str]:
        assert site.control.server is not None
        access = Access(token=site.tokens.make(*scopes, owner=owner))
        with Client(site.control.server.bound, access=access) as client:
            return [job.id for job in client.jobs.list()]

    assert ids(owner="alice") == ids(Scope.ADMIN, owner="root") == [site.job]
    assert ids(owner="bob") == []


def test_nobody_submits_in_the_name_or_on_the_jobs_of_another(site: Site) -> None:
    submit = BY_NAME["JobService/SubmitJob"]
    bob = site.tokens.make(owner="bob")
    spec = train_spec(model="bobs")
    named = jobs.SubmitJobRequest(spec=spec, owner="alice")
    waiting = jobs.SubmitJobRequest(spec=spec, waits_for=[site.job])
    assert site.outcome(submit, bob, named) == NOT_OWNER
    assert site.outcome(submit, bob, waiting) == NOT_THERE


def test_the_same_files_are_another_upload_for_another_owner(site: Site) -> None:
    activations = site.control.folder / "mine.npy"
    assert site.control.server is not None
    access = Access(token=site.tokens.make(owner="bob"))
    with Client(site.control.server.bound, access=access) as bob:
        assert bob.transfers.upload({"mine.npy": activations}) != site.upload


def test_a_job_imports_no_upload_of_another_owner(site: Site) -> None:
    assert site.control.server is not None
    access = Access(token=site.tokens.make(owner="bob"))
    spec = {
        "import_model": {"model": "taken", "path": f"{site.upload}/mine.npy", "format": "saelens"}
    }
    with (
        Client(site.control.server.bound, access=access) as bob,
        pytest.raises(Exception, match="uploads that no job imports expire"),
    ):
        bob.jobs.submit(spec)


def test_changes_of_jobs_and_data_are_audited(site: Site) -> None:
    day = site.control.store.path("audit")
    written = [json.loads(line) for file in day.iterdir() for line in file.read_text().splitlines()]
    alice = [line for line in written if line["owner"] == "alice" and line["code"] == "OK"]
    what = {line["method"].partition(".v1.")[2]: line["what"] for line in alice}
    assert what["JobService/SubmitJob"].items() >= {"kind": "train", "model": "sae"}.items()
    assert what["JobService/SubmitJob"]["job"] == site.job
    assert what["DatasetService/UploadDataset"]["dataset"] == "mine"
    assert what["TransferService/CreateUpload"] == {"upload": site.upload}
    assert what["TransferService/UploadFile"]["upload"] == site.upload


def test_health_needs_no_token_and_reflection_any(site: Site) -> None:
    channel: Any = site.control.channel
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=30)
    reflect = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    with pytest.raises(grpc.RpcError, match="with a token only"):
        list(reflect(iter([b""]), timeout=30))
    bearer = [("authorization", f"Bearer {site.tokens.make(Scope.ENCODE)}")]
    assert list(reflect(iter([b""]), metadata=bearer, timeout=30))


def test_a_token_that_is_revoked_while_it_is_used_ends_within_seconds(site: Site) -> None:
    method, token = BY_NAME["JobService/ListJobs"], site.tokens.make()
    assert site.outcome(method, token) == "OK"
    site.tokens.revoke(token)
    limit = time.monotonic() + 30
    while (found := site.outcome(method, token)) == "OK":
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert found == "UNAUTHENTICATED TOKEN_REVOKED"


def test_the_operators_commands_make_and_revoke_a_token_beside_a_running_server(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `docker compose exec control saeserve token …`: where the store is, without a restart."""
    monkeypatch.setenv("SAESERVE_STORE", str(site.control.store.root))

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["token", *words], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout.strip()

    method = BY_NAME["ModelService/ListModels"]
    token = said("create", "--scope", "read", "--owner", "dave")
    assert site.outcome(method, token) == "OK"
    said("revoke", token.split("_")[1])
    until(lambda: site.outcome(method, token) == "UNAUTHENTICATED TOKEN_REVOKED")


def test_a_watch_ends_when_its_token_is_revoked_and_goes_on_with_a_new_one(
    site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    first, second = site.tokens.make(), site.tokens.make()
    file.write_text(first + "\n")
    assert site.control.server is not None
    with Client(site.control.server.bound, access=Access(token_file=file)) as client:
        job = client.jobs.submit(train_spec(model="watched")).id
        watch = client.jobs.watch(job)
        assert isinstance(next(watch), Job)
        file.write_text(second + "\n")
        site.tokens.revoke(first)
        # A stream that is opened anew shows the job first; this one would show events alone.
        again = next(update for update in watch if isinstance(update, Job))
        assert not again.done
        client.jobs.cancel(job)
        *_, last = watch
        assert isinstance(last, Job)
        assert last.state == "CANCELLED"


def test_a_watch_ends_with_its_token(site: Site) -> None:
    token = site.tokens.make()
    assert site.control.server is not None
    with Client(site.control.server.bound, access=Access(token=token)) as client:
        job = client.jobs.submit(train_spec(model="watched")).id
        watch = client.jobs.watch(job)
        assert isinstance(next(watch), Job)
        site.tokens.revoke(token)
        with pytest.raises(UnauthenticatedError, match="was revoked"):
            list(watch)


def test_the_sdk_waits_as_long_as_a_limited_token_has_to(site: Site) -> None:
    token = site.tokens.make(limits=Limits(calls_per_second=2))
    method = BY_NAME["JobService/GetJob"]
    request = jobs.GetJobRequest(id=site.job)
    found = {site.outcome(method, token, request) for _ in range(12)}
    assert found == {"OK", "RESOURCE_EXHAUSTED RATE_LIMITED"}
    assert site.control.server is not None
    with Client(site.control.server.bound, access=Access(token=token)) as client:
        assert [client.jobs.get(site.job).id for _ in range(3)] == [site.job] * 3


def test_an_upload_beyond_the_quota_is_refused_and_not_tried_again(site: Site) -> None:
    token = site.tokens.make(owner="carol", limits=Limits(upload_bytes=10))
    assert site.control.server is not None
    with Client(site.control.server.bound, access=Access(token=token)) as carol:
        file = site.control.folder / "mine.npy"
        uploads: list[Callable[[], object]] = [
            lambda: carol.datasets.upload("carols", file),
            lambda: carol.transfers.upload({"a": file}),
        ]
        for upload in uploads:
            with pytest.raises(OverloadedError) as caught:
                upload()
            assert caught.value.reason == "QUOTA_EXCEEDED"
