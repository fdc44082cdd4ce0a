"""Models out to other libraries' files and back, as jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes import peers
from tests.fakes.workshop import Workshop

from saeserve.core.export.format import load_model
from saeserve.worker.order import ExitCode
from saeserve.worker.runners import admission


@pytest.fixture
def foreign(shop: Workshop, tmp_path: Path) -> Workshop:
    """A SAELens folder below the root `r`, with rows and what SAELens makes of them."""
    root = tmp_path / "root"
    peers.write_saelens(root / "sae", peers.weights())
    w = {name: value.double() for name, value in peers.weights().items()}
    x_BD = peers.rows().double()
    h_BF = (x_BD - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    f_BF = h_BF.relu() * (h_BF > w["threshold"])
    np.save(root / "x.npy", x_BD.numpy())
    np.save(root / "features.npy", f_BF.numpy())
    np.save(root / "wrong.npy", (f_BF @ w["W_dec"]).numpy())
    shop.roots = {"r": root}
    return shop


def job(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    return {"model": "theirs", "path": "r:sae", "format": "saelens", **changes}


def test_an_import_is_published_with_its_conventions(foreign: Workshop) -> None:
    reference = {"activations": "r:x.npy", "features": "r:features.npy"}
    assert foreign.submit("i-1", "import_model", job(reference=reference)) is ExitCode.FINISHED
    output = foreign.output("i-1")
    assert output.model == "models/theirs/versions/1"
    assert output.metrics["reference_rows"] == 64
    assert output.metrics["reference_features"] < 1e-5
    lineage = foreign.model("theirs").config.lineage
    assert (lineage.job, lineage.source) == ("i-1", "resid_post.8")
    conventions: Any = lineage.spec["conventions"]
    assert conventions["b_dec"] == "subtracted from the input; folded into b_enc"


def test_a_reference_that_does_not_agree_publishes_nothing(foreign: Workshop) -> None:
    reference = {"activations": "r:x.npy", "reconstruction": "r:wrong.npy"}
    assert foreign.submit("i-1", "import_model", job(reference=reference)) is ExitCode.FAILED
    failure = foreign.failure("i-1")
    assert failure.code == "DATA_MISMATCH"
    assert "reconstruction[" in failure.message
    assert foreign.models.list() == []


@pytest.mark.parametrize(("limit", "free", "retryable"), [(50, 50, False), (900, 50, True)])
def test_a_file_that_unfolds_beyond_the_memory_is_not_unfolded(
    shop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    free: int,
    retryable: bool,
) -> None:
    """A tenth of a megabyte that declares some forty; limits in MiB."""
    bomb(tmp_path / "bomb" / "params.npz")
    assert (tmp_path / "bomb" / "params.npz").stat().st_size < 200_000
    shop.roots = {"r": tmp_path}
    monkeypatch.setattr(admission, "limit_bytes", lambda: limit * 2**20)
    monkeypatch.setattr(admission, "free_bytes", lambda: free * 2**20)

    def unfold(*_: object) -> None:
        raise AssertionError("the file was unfolded")

    monkeypatch.setattr("saeserve.core.peers.arrays._read", unfold)
    shop.submit("i-1", "import_model", job(path="r:bomb", format="gemma_scope"))
    failure = shop.failure("i-1")
    assert (failure.code, failure.retryable) == ("INSUFFICIENT_MEMORY", retryable)


def bomb(path: Path, d: int = 64, d_sae: int = 80_000) -> None:
    """A Gemma Scope file of zeros, compressed."""
    path.parent.mkdir()
    zeros = {"W_enc": (d, d_sae), "W_dec": (d_sae, d), "b_enc": (d_sae,), "b_dec": (d,)}
    shapes = {**zeros, "threshold": (d_sae,)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType] - any name is allowed


def test_an_attempt_after_the_commit_answers_the_same(foreign: Workshop) -> None:
    foreign.submit("i-1", "import_model", job())
    first = foreign.output("i-1")
    foreign.bench.ledger.store.remove("jobs/i-1/result.json")
    assert foreign.run("i-1") is ExitCode.FINISHED
    assert foreign.output("i-1") == first
    assert len(foreign.models.list()) == 1


def test_links_out_of_the_root_are_not_followed(foreign: Workshop, tmp_path: Path) -> None:
    outside = tmp_path / "cfg.json"
    file = foreign.roots["r"] / "sae" / "cfg.json"
    file.rename(outside)
    file.symlink_to(outside)
    assert foreign.submit("i-1", "import_model", job()) is ExitCode.FAILED
    assert foreign.failure("i-1").code == "PATH_ESCAPES_ROOT"


def test_pickled_code_fails_the_job_by_name(foreign: Workshop) -> None:
    torch.save(torch.nn.Linear(2, 2), foreign.roots["r"] / "model.pt")
    spec = job(path="r:model.pt", format="openai")
    assert foreign.submit("i-1", "import_model", spec) is ExitCode.FAILED
    failure = foreign.failure("i-1")
    assert (failure.code, failure.retryable) == ("BAD_FORMAT", False)
    assert foreign.models.list() == []


def test_a_trained_model_goes_out_and_comes_back(shop: Workshop) -> None:
    shop.planted()
    shop.train("j-1")
    wanted = {"model": "m", "format": "saelens"}
    assert shop.submit("x-1", "export_model", wanted) is ExitCode.FINISHED
    assert shop.output("x-1").exported == "exports/m/1/saelens"
    store = shop.bench.ledger.store
    assert store.names("exports/m/1") == ["saelens"]
    files = ["README.md", "cfg.json", "sae_weights.safetensors"]
    assert store.names("exports/m/1/saelens") == files
    shop.roots = {"store": store.root}
    back = {"model": "again", "path": "store:exports/m/1/saelens", "format": "saelens"}
    assert shop.submit("i-1", "import_model", back) is ExitCode.FINISHED
    ours, again = (load_model(shop.model(name).folder) for name in ("m", "again"))
    assert torch.allclose(ours.W_enc, again.W_enc, atol=1e-6)
    assert torch.allclose(ours.b_dec, again.b_dec)
    assert again.config.lineage.source == shop.model("m").config.lineage.source


def test_exporting_again_adds_nothing(shop: Workshop) -> None:
    shop.planted()
    shop.train("j-1")
    wanted = {"model": "m@1", "format": "sparsify"}
    shop.submit("x-1", "export_model", wanted)
    store = shop.bench.ledger.store
    before = (store.path("exports/m/1/sparsify") / "cfg.json").stat().st_mtime_ns
    assert shop.submit("x-2", "export_model", wanted) is ExitCode.FINISHED
    assert shop.output("x-2") == shop.output("x-1")
    assert (store.path("exports/m/1/sparsify") / "cfg.json").stat().st_mtime_ns == before


def test_a_format_that_cannot_hold_the_model_leaves_nothing(shop: Workshop) -> None:
    shop.planted()
    shop.train("j-1", topk=None, jumprelu={})
    assert shop.submit("x-1", "export_model", {"model": "m", "format": "sparsify"}) is (
        ExitCode.FAILED
    )
    failure = shop.failure("x-1")
    assert failure.code == "BAD_FORMAT"
    assert "the sparsify format cannot hold this model: activation is" in failure.message
    assert shop.bench.ledger.store.names("exports/m/1") == []


def sparsify_run(run: Path, config: dict[str, Any], run_config: dict[str, Any]) -> None:
    """A run's folder with one hook's model."""
    w = peers.weights()
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    peers.write_safetensors(
        run / "layers.5.mlp" / "sae.safetensors",
        {**tensors, "W_dec": w["W_dec"], "b_dec": w["b_dec"]},
    )
    config = {"d_in": peers.D, "expansion_factor": 3, "k": peers.K, **config}
    (run / "layers.5.mlp" / "cfg.json").write_text(json.dumps(config))
    (run / "config.json").write_text(json.dumps({"sae": {}, **run_config}))


def test_what_a_file_leaves_open_is_said_at_import(shop: Workshop, tmp_path: Path) -> None:
    """The folder's name and the run's config above are found through the root; both readings of
    the file are a warning of the job, of its output and of the model."""
    sparsify_run(tmp_path / "root" / "run", {"transcode": True}, {"model": "m"})
    shop.roots = {"r": tmp_path / "root"}
    spec = job(path="r:run/layers.5.mlp", format="sparsify")
    assert shop.submit("i-1", "import_model", spec) is ExitCode.FINISHED
    found = shop.model("theirs").config
    assert [found.inputs[0].name, found.outputs[0].name] == ["mlp_in.5", "mlp_out.5"]
    assert found.lineage.spec["run_config"] == {"sae": {}, "model": "m"}
    (warning,) = shop.output("i-1").warnings
    assert warning.code == "READ_TWO_WAYS"
    assert warning.message == found.lineage.warnings[0].message


def test_a_target_can_be_named(foreign: Workshop) -> None:
    arrays = {name: value.numpy() for name, value in peers.weights().items()}
    np.savez(foreign.roots["r"] / "params.npz", **arrays)  # pyright: ignore[reportArgumentType] - any name is allowed
    names = {"source": "mlp_in.3", "target": "mlp_out.3"}
    spec = job(path="r:params.npz", format="gemma_scope", **names)
    assert foreign.submit("i-1", "import_model", spec) is ExitCode.FINISHED
    config = foreign.model("theirs").config
    assert {"source": config.inputs[0].name, "target": config.outputs[0].name} == names


def test_the_run_s_config_is_found_in_an_upload(shop: Workshop) -> None:
    upload = f"uploads/u-{'0' * 24}"
    folder = shop.bench.ledger.store.path(f"{upload}/files/model/run")
    sparsify_run(folder, {"multi_topk": False, "skip_connection": False}, {"transcode": True})
    spec = job(path=f"{upload}/model/run/layers.5.mlp", format="sparsify")
    assert shop.submit("i-1", "import_model", spec) is ExitCode.FINISHED
    found = shop.model("theirs").config
    assert [found.inputs[0].name, found.outputs[0].name] == ["mlp_in.5", "mlp_out.5"]
