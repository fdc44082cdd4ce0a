"""What no suite over all architectures does with the toy: the API, a plan, files, encode, figures.

Run by `test_toy_architecture` in a copy of the repository that has the toy.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tests.fakes.training import D, F, FolderSink, run_all, tiny_setup, tiny_spec

from saeserve.control.converters.specs import spec_message, to_plain
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.evaluation.reconstruction import evaluate_reconstruction
from saeserve.core.export.fold import fold
from saeserve.core.export.format import load_model, save_model
from saeserve.core.formats.model import Lineage
from saeserve.core.planning.plan import plan_training
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.specs.field_sources import sources_of_training
from saeserve.core.specs.jobs import JobSpec
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.trainer import Trainer

ASKED: dict[str, object] = {
    "dataset": "acts",
    "model": "sae",
    "d_sae": 512,
    "tokens": 1_000_000,
    "toy": {},
}
DATA = TrainingData(d=64, train_rows=50_000, heldout_rows=5_000, shard_rows=16_384)


def test_a_job_for_it_survives_the_api() -> None:
    message = spec_message({"train": ASKED})
    assert message.train.WhichOneof("architecture") == "toy"
    spec = JobSpec.parse(to_plain(message), "spec")
    assert spec.train is not None
    assert spec.train.architecture.name == "toy"


def test_it_is_resolved_explained_and_planned() -> None:
    asked = TrainSpec.parse(ASKED, "train")
    spec = resolve(asked, DATA.d, "x")
    assert spec.target_l0 is not None
    reasons = {each.field: each.reason for each in sources_of_training(ASKED, [spec])}
    assert reasons["toy.k_aux"]
    plan = plan_training(asked, spec, DATA)
    assert plan.parameters == 2 * 64 * 512 + 512 + 64
    assert plan.memory is not None


def test_its_export_is_saved_loaded_encodes_and_is_evaluated(tmp_path: Path) -> None:
    setup = tiny_setup(tiny_spec("toy"))
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(tmp_path / "checkpoints"))
    preprocessing = setup.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    lineage = Lineage(spec=setup.spec.to_json())
    model = fold(
        trainer.form(), preprocessing, architecture="toy", source="planted", lineage=lineage
    )
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    x_BD = setup.source.batch(2**20, 64)
    features_BF = loaded.encode_dense(x_BD)
    assert torch.equal(features_BF, model.encode_dense(x_BD))
    assert features_BF.shape == (64, F)
    assert loaded.config.d_in == D
    report = evaluate_reconstruction(loaded, [x_BD])
    assert 0 < report.fvu < 1
