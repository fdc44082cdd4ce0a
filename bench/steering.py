"""Whether steering features does what their logit weights say, on prompts held out of training.

    python -m bench.steering --store .saeserve/demo/store --roots '{"smollm2": DIR}' \
        --dataset demo-smollm2 --model demo-topk [--features 50] [--prompts 10] [--out FILE]

Features are drawn by a hash of the model's digest from those that fire on at least 1e-4 of the
tokens of its newest bundle (`saeserve submit collect` makes one). A prompt is the beginning of a
held-out sequence. Each feature is added to at every position but BOS, by its largest activation in
the bundle times a strength. What counts is the probability, after the prompt, of the feature's top
tokens: those ten whose logits its decoder row raises most. Against it stand the prompt as it is,
and a random direction of the same norm, drawn for each feature and added to the same rows.

Reported for each strength: prompts (of all) on which the probability rose, in the median feature;
the share of features where it rose on at least 9 in 10; and the share of features whose mean gain
in log-probability is above that of the random direction.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from saeserve.core.export.format import load_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.features.values import FeatureFilter, FeatureList
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.harvest.heldout import heldout_sequences
from saeserve.harvest.language_model import LanguageModel, edited
from saeserve.harvest.places import Place
from saeserve.worker.runners.language_models import site_of

TOP_TOKENS = 10
PROMPT_TOKENS = 16
LEAST_DENSITY = 1e-4
STRENGTHS = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Bench:
    """A model, its bundle, and the language model and prompts that it is steered in."""

    model: InferenceModel
    digest: str
    bundle: FeatureBundle
    language_model: LanguageModel
    place: Place
    first: int
    """Position of the first row that is steered: 1 behind BOS, else 0."""
    prompts: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def clean(self) -> Tensor:
        """Log-probabilities after each prompt as it is."""
        return _log_p(self, [torch.zeros(self.model.config.d_in)])


@dataclass(frozen=True)
class Gains:
    """Per prompt, what the log-probability of the top tokens gains, in nats."""

    feature: int
    strength: float
    steered: tuple[float, ...]
    random: tuple[float, ...]

    @property
    def rose(self) -> int:
        """Prompts on which the probability rose."""
        return sum(gain > 0 for gain in self.steered)

    @property
    def beats_random(self) -> bool:
        """In the mean of all prompts."""
        return statistics.mean(self.steered) > statistics.mean(self.random)


def main() -> None:
    """Print a line for each strength; write every gain where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--roots", type=json.loads, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", default="1")
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = _open(args)
    features = drawn(bench, args.features)
    found = [gains for feature in features for gains in _measure(bench, feature)]
    for strength in STRENGTHS:
        _show([gains for gains in found if gains.strength == strength])
    if args.out:
        args.out.write_text(json.dumps([asdict(gains) for gains in found], indent=1) + "\n")


def drawn(bench: Bench, count: int) -> list[int]:
    """Features in the order of a hash of the model and their number."""
    where = FeatureFilter(min_density=LEAST_DENSITY)
    firing = [line.feature for page in _pages(bench.bundle, where) for line in page.features]

    def key(feature: int) -> bytes:
        return hashlib.sha256(f"{bench.digest}/{feature}".encode()).digest()

    return sorted(firing, key=key)[:count]


def _pages(bundle: FeatureBundle, where: FeatureFilter) -> Iterator[FeatureList]:
    offset = 0
    while (page := bundle.list_features("feature", where=where, offset=offset)).features:
        yield page
        offset += len(page.features)


def _open(args: argparse.Namespace) -> Bench:
    folder = args.store / "models" / args.model / "versions" / args.version
    weights = next(folder.glob("*.safetensors"))
    bundles = (args.store / "features" / args.model / args.version).iterdir()
    dataset = args.store / "datasets" / args.dataset
    manifest = DatasetManifest.model_validate_json((dataset / "manifest.json").read_text())
    known, tokenization = manifest.language_model, manifest.tokenization
    assert known is not None, "the data set was not harvested"
    assert tokenization is not None
    root, _, rest = known.path.partition(":")
    language_model = LanguageModel.load(
        Path(args.roots[root]) / rest, known.gguf_file, torch.device("cpu"), "float32"
    )
    model = load_model(folder)
    source = next(each for each in manifest.sources if each.name == model.config.inputs[0].name)
    bos = tokenization.bos_token_id is not None
    return Bench(
        model,
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        FeatureBundle.open(max(bundles, key=lambda each: each.stat().st_mtime)),
        language_model,
        language_model.place(site_of(source)),
        int(bos),
        tuple(_prompts(dataset, manifest, args.prompts)),
    )


def _prompts(dataset: Path, manifest: DatasetManifest, count: int) -> Iterator[tuple[int, ...]]:
    """Beginnings of sequences that are spread over the held-out documents."""
    rows = [
        [int(token) for token in row[:PROMPT_TOKENS]]
        for batch in heldout_sequences(dataset, manifest, max_tokens=0, batch=64)
        for row in batch
        if int((row >= 0).sum()) >= PROMPT_TOKENS
    ]
    for row in rows[:: max(1, len(rows) // count)][:count]:
        yield tuple(row)


def _measure(bench: Bench, feature: int) -> Iterator[Gains]:
    """All strengths of the feature and of the random direction, in one pass."""
    known = bench.bundle.feature(feature)
    top_K = torch.tensor([token.token for token in known.logits_up[:TOP_TOKENS]])
    row_D = bench.model.W_dec[feature] * known.summary.max
    random_D = torch.randn(row_D.shape, generator=torch.Generator().manual_seed(feature))
    random_D = random_D * (row_D.square().sum() / random_D.square().sum()).sqrt()
    moves = [strength * each_D for strength in STRENGTHS for each_D in (row_D, random_D)]
    gains_MS = _top(_log_p(bench, moves), top_K) - _top(bench.clean, top_K)
    for number, strength in enumerate(STRENGTHS):
        steered_S, random_S = (tuple(map(float, each_S)) for each_S in gains_MS[2 * number :][:2])
        yield Gains(feature, strength, steered_S, random_S)


def _top(log_p_MSV: Tensor, top_K: Tensor) -> Tensor:
    """Log of the probability of all top tokens together, [M, S]."""
    return torch.logsumexp(log_p_MSV[:, :, top_K], dim=-1)


@torch.no_grad()
def _log_p(bench: Bench, moves: Sequence[Tensor]) -> Tensor:
    """Log-probabilities [M, S, V] after each prompt, for each move of the rows but BOS's."""
    ids_ST = torch.tensor(bench.prompts).repeat(len(moves), 1)
    delta_STD = torch.stack(list(moves)).repeat_interleave(len(bench.prompts), 0)[:, None, :]

    def put(x_STD: Tensor) -> Tensor:
        moved_STD = x_STD + delta_STD.to(x_STD)
        moved_STD[:, : bench.first] = x_STD[:, : bench.first]
        return moved_STD

    with edited([(bench.place, put)], ids_ST.shape):
        output = bench.language_model.model(input_ids=ids_ST, use_cache=False)
    log_p_NV = torch.log_softmax(output.logits[:, -1].double(), dim=-1)
    return log_p_NV.reshape(len(moves), len(bench.prompts), -1)


def _show(found: Sequence[Gains]) -> None:
    prompts = len(found[0].steered)
    rose = [gains.rose for gains in found]
    print(
        f"strength {found[0].strength}: top tokens rose on {statistics.median(rose):g} of "
        f"{prompts} prompts in the median feature, on 9 in 10 in "
        f"{statistics.mean(10 * each >= 9 * prompts for each in rose):.2f} of {len(found)}; gain "
        f"{statistics.median(statistics.mean(gains.steered) for gains in found):+.2f} nats "
        f"(random direction {statistics.median(statistics.mean(g.random) for g in found):+.2f}), "
        f"above the random one in {statistics.mean(g.beats_random for g in found):.2f}"
    )


if __name__ == "__main__":
    main()
