"""A transcoder of an MLP, from text to sparsify: harvested at `mlp_in` and `mlp_out` of a language
model, trained, exported, loaded by the real library, and spliced at its own sites."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.fakes.tiny_models import CPU, WORDS, listed, save_model, tiny_llama
from tests.interop.compare import Functions, Outcome, compare
from tests.interop.libraries import sparsify
from torch import Tensor, nn

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.preprocess import SideBySide, fit_side_by_side
from saeserve.core.data.source import ShardSource
from saeserve.core.evaluation.arms import Begun
from saeserve.core.evaluation.loss_recovered import Baselines, Recovering, ablations, recover
from saeserve.core.evaluation.splice_metrics import splice_figures
from saeserve.core.export.fold import Side, fold_between
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage
from saeserve.core.formats.train_sources import layout_of
from saeserve.core.peers.registry import export_model
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import TrainingEvent
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer
from saeserve.harvest.events import HarvestFinished
from saeserve.harvest.heldout import heldout_sequences
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.layout import decoder_layers
from saeserve.harvest.run import run_harvest
from saeserve.harvest.splice import Between, Splicer

LAYER = 1
READS, WRITES = (SiteSpec(hook=hook, layer=LAYER) for hook in ("mlp_in", "mlp_out"))
DOCUMENTS, WORDS_EACH, FIRST_WORD = 300, 24, 2
LEAST_RECOVERED = 0.5
"""Of the loss that zeros in the place of the MLP cost; rows that do not belong together, or another
site's, recover less than nothing."""


@dataclass(frozen=True)
class Harvested:
    """A language model and the rows that were taken at both sites of one of its MLPs."""

    language_model: LanguageModel
    dataset: ShardedDataset

    def heldout(self) -> Tensor:
        """Rows [B, d_in + d_out] that no training saw."""
        names = (READS.source, WRITES.source)
        parts = self.dataset.heldout(names, norm_cut=0.0, max_rows=0, batch=1024)
        return torch.cat([rows.x_BD.float() for rows in parts])

    def sequences(self) -> Iterator[Tensor]:
        """Held-out tokens [S, T]."""
        made = self.dataset
        return heldout_sequences(made.folder, made.manifest, max_tokens=0, batch=8)

    def begun(self) -> Iterator[list[Begun]]:
        """Clean passes, with the place of the MLP to put something else in."""
        splicer = Splicer(self.language_model, [Between((READS,), (WRITES,))], bos=True)
        return (splicer.begin(tokens_ST) for tokens_ST in self.sequences())

    def mlp(self, x_BD: Tensor) -> Tensor:
        """The MLP itself, of rows [B, d_in]."""
        return decoder_layers(self.language_model.model)[LAYER].get_submodule("mlp")(x_BD)


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Rows compared as everywhere, then what a forward pass with the transcoder in it costs."""
    harvested = harvest(folder)
    for form, skip in {"": False, ", skip": True}.items():
        name = f"transcoder of an MLP, harvested and trained{form}"
        ours = trained(harvested, skip=skip)
        target = folder / f"exported{form}"
        export_model(ours, "sparsify", target)
        theirs = sparsify(target)
        both = Functions(ours.encode_dense, ours.reconstruct), theirs
        x_BD = harvested.heldout()[:, : ours.config.d_in]
        yield Outcome("harvest", "sparsify", name, *compare(*both, x_BD))
        yield Outcome("splice", "sparsify", name, *spliced(harvested, ours, theirs.reconstruct))


def harvest(folder: Path) -> Harvested:
    """Both sites in one harvest of what the model itself says: whatever is put in the place of one
    of its MLPs makes it predict that worse."""
    for name in ("model", "rows"):
        (folder / name).mkdir(parents=True)
    made = tiny_llama()
    (folder / "text.txt").write_text("\n".join(said_by(made)))
    save_model(made, folder / "model")
    spec = {
        "dataset": "mlp",
        "language_model": {"path": "root:model"},
        "texts": [{"path": "root:text.txt", "format": "lines"}],
        "sites": [{"hook": site.hook, "layer": site.layer} for site in (READS, WRITES)],
        "context_length": 32,
        "dtype": "float32",
        "compute_dtype": "float32",
        "heldout_fraction": 0.2,
        "device": "cpu",
    }
    *_, last = run_harvest(
        HarvestSpec.parse(spec, "harvest"),
        lambda path: folder / path.removeprefix("root:"),
        folder / "rows",
        lambda: False,
    )
    if not isinstance(last, HarvestFinished):
        raise TypeError(f"the harvest ended with {last}")
    (folder / "rows" / "manifest.json").write_bytes(last.manifest.to_bytes())
    model = LanguageModel.load(folder / "model", None, CPU, "float32")
    return Harvested(model, ShardedDataset.open(folder / "rows"))


def said_by(model: nn.Module) -> list[str]:
    """Documents sampled from it, a line each."""
    draws = torch.Generator().manual_seed(0)
    tokens_ST = torch.zeros(DOCUMENTS, 1, dtype=torch.int64)  # BOS
    for _ in range(WORDS_EACH):
        with torch.no_grad():
            logits_SV = model(input_ids=tokens_ST).logits[
                :, -1, FIRST_WORD : FIRST_WORD + len(WORDS)
            ]
        drawn_S1 = torch.multinomial(logits_SV.softmax(dim=1), 1, generator=draws)
        tokens_ST = torch.cat([tokens_ST, drawn_S1 + FIRST_WORD], dim=1)
    documents: list[list[int]] = listed(tokens_ST[:, 1:] - FIRST_WORD)
    return [" ".join(WORDS[word] for word in document) for document in documents]


def trained(harvested: Harvested, *, skip: bool) -> InferenceModel:
    """A TopK transcoder, as a train job makes one."""
    dataset = harvested.dataset
    fields: dict[str, Any] = {
        "dataset": dataset.manifest.name,
        "model": "mlp",
        "source": READS.source,
        "target_source": WRITES.source,
        "skip_connection": skip,
        "topk": {"k": 8},
        "d_sae": 128,
        "tokens": 600 * 128,
        "batch_size": 128,
        "optimizer": {"lr": 3e-3},
        "encoder_dtype": "float32",
    }
    wanted = TrainSpec.parse(fields, "train")
    layout = layout_of(wanted, dataset.manifest, lambda name, _: dataset.source(name))
    spec = layout.resolve(wanted)
    cut, window = spec.preprocess.norm_cut, spec.preprocess.window_shards
    source = ShardSource(dataset, layout.names, norm_cut=cut, seed=1, window_shards=window)
    widths = [entry.d for entry in layout.columns]
    preprocessing = fit_side_by_side(source, widths, spec.preprocess)
    dims = Dimensions(layout.d_in, layout.d_out, spec.d_sae, layout.target_widths)
    trainer = Trainer.start(TrainingSetup(spec, dims, source, preprocessing, CPU))
    # Without checkpoints: those name the release that wrote them, and none is installed here.
    events = itertools.chain(trainer.opening(), _steps(trainer))
    deque(events, maxlen=0)
    read, written = (SideBySide((part,)) for part in preprocessing.parts)
    return fold_between(
        trainer.form(),
        Side((READS.source,), read),
        Side((WRITES.source,), written),
        architecture=spec.architecture.name,
        lineage=Lineage(),
    )


def _steps(trainer: Trainer) -> Iterator[TrainingEvent]:
    while trainer.step < trainer.steps:
        yield from trainer.advance()


def spliced(
    harvested: Harvested, ours: InferenceModel, theirs: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """How far the loss recovered by the library's model is from that of ours, and that of the MLP
    itself from 1."""
    figures = recovered(harvested, ours)
    recovers = figures["loss_recovered_zero"]
    if not recovers > LEAST_RECOVERED:
        raise ValueError(f"the transcoder recovers only {recovers:.3f}")
    lost = figures["ce_zero"] - figures["ce_clean"]
    found = [
        (figures["ce_zero"] - cross_entropy(harvested, stand_in)) / lost
        for stand_in in (theirs, harvested.mlp)
    ]
    return abs(found[0] - recovers), abs(found[1] - 1)


def recovered(harvested: Harvested, model: InferenceModel) -> dict[str, float]:
    """The figures that an evaluate job gives."""
    mean_D = harvested.heldout()[:, model.config.d_in :].mean(0)
    own = Recovering(model, Baselines(ablations(model, mean_D), {}), massive_above=float("inf"))
    with torch.no_grad():
        recover([own], harvested.begun())
    return splice_figures(own.tables)


def cross_entropy(harvested: Harvested, stand_in: Callable[[Tensor], Tensor]) -> float:
    """In nats a predicted token, with `stand_in` of the rows read in the place of the MLP."""
    d_in = harvested.language_model.width(READS)

    def replace(columns_NC: Tensor) -> Tensor:
        return stand_in(columns_NC[:, :d_in])

    with torch.no_grad():
        parts = [begun.run(replace).ce_P for (begun,) in harvested.begun()]
    return float(torch.cat(parts).double().mean())
