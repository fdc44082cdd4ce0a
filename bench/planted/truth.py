"""Rows whose true features are known: Zipf frequencies, a forest, correlations, magnitudes.

A model of activations in the manner of SynthSAEBench (arXiv 2602.14687), drawn so that every
frequency is exact. Features are ranked by frequency. Roots and free features fire by a Gaussian
copula with low-rank factors, so that some of them tend to fire together. A child fires only when
its parent does, and of the children of one parent at most one. A row is
offset + Σ magnitude · direction over the firing features.

Every draw is keyed by (seed, block, purpose): any row can be had without the rows before it, and
nothing is stored. Shape suffixes: B rows, D dimensions, G features, U roots and free features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from bench.planted.forest import Forest, grow
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.core.ops.draws import generator
from saeserve.core.ops.sparse import SparseRows
from saeserve.errors import SpecError

BLOCK_ROWS = 1024
LEAST_MAGNITUDE = 0.1
"""Magnitudes are cut from below here, so that a feature that fires is never zero."""
_CACHED_BLOCKS = 8


@dataclass(frozen=True)
class GroundTruthSpec:
    """What is planted; everything follows from these and `seed`."""

    d: int = 256
    features: int = 2048
    seed: int = 0
    highest_probability: float = 0.25
    lowest_probability: float = 5e-4
    zipf_exponent: float = 0.5
    roots: int = 64
    branching: int = 4
    depth: int = 2
    """Levels below a root."""
    child_share: float = 0.8
    """At most this share of a parent's firings has a child firing with it."""
    correlation_rank: int = 25
    correlation: float = 0.25
    """Share of the copula's variance that comes from the common factors."""
    mean_magnitudes: tuple[float, float] = (5.0, 4.0)
    """Mean magnitude of the most and of the least frequent feature; linear in the rank between."""
    magnitude_deviation: float = 0.5
    """Deviations are |N(m, m)| of this m, one for each feature."""
    offset: float = 0.5
    """Length of what every row has in common."""

    def __post_init__(self) -> None:
        """Raise SpecError for what cannot be drawn."""
        low, high = self.lowest_probability, self.highest_probability
        if not 0 < low <= high < 1:
            raise SpecError("lowest_probability", f"0 < {low} <= {high} < 1 does not hold")
        if not 0 <= self.correlation < 1 or not 0 <= self.child_share <= 1:
            raise SpecError("correlation", "correlation and child_share are shares of 1")
        if min(self.d, self.features, self.branching, self.correlation_rank) < 1:
            raise SpecError("features", "d, features, branching and correlation_rank start at 1")

    def probabilities(self) -> Tensor:
        """float64 [G], falling: a Zipf law stretched to run from the highest to the lowest."""
        ranks = torch.arange(1, self.features + 1, dtype=torch.float64)
        zipf_G = ranks**-self.zipf_exponent
        if self.features == 1 or zipf_G[0] == zipf_G[-1]:
            return torch.full_like(zipf_G, self.highest_probability)
        share_G = (zipf_G - zipf_G[-1]) / (zipf_G[0] - zipf_G[-1])
        spread = self.highest_probability - self.lowest_probability
        return self.lowest_probability + spread * share_G


@dataclass(frozen=True)
class TrueRows:
    """Rows [B, d] in float32 and the magnitudes of the features that make them up."""

    x_BD: Tensor
    features: SparseRows


class GroundTruth:
    """The planted features and the rows drawn from them."""

    def __init__(self, spec: GroundTruthSpec) -> None:
        """Raises SpecError where frequencies leave no room for the forest."""
        self.spec = spec
        self.probability_G = spec.probabilities()
        self.forest: Forest = grow(spec, self.probability_G)

    @cached_property
    def directions(self) -> Tensor:
        """Unit directions, uniform on the sphere, float32 [G, d]."""
        shape = (self.spec.features, self.spec.d)
        drawn_GD = torch.randn(shape, generator=self._draws("directions"), dtype=torch.float64)
        return (drawn_GD / drawn_GD.square().sum(1, keepdim=True).sqrt()).float()

    @cached_property
    def offset(self) -> Tensor:
        """What every row has in common, float32 [d]."""
        drawn_D = torch.randn(self.spec.d, generator=self._draws("offset"), dtype=torch.float64)
        return (self.spec.offset * drawn_D / drawn_D.square().sum().sqrt()).float()

    @property
    def l0(self) -> float:
        """Expected number of features that fire in a row."""
        return float(self.probability_G.sum())

    def block(self, index: int, split: str = "train") -> TrueRows:
        """Rows BLOCK_ROWS · index and on of a split; a pure function of (spec, index, split)."""
        draws = self._draws(f"rows.{split}", index)
        firing_N = self._firing(draws)
        feature_N = firing_N % self.spec.features
        noise_N = torch.randn(firing_N.numel(), generator=draws)
        mean_G, deviation_G = self._magnitudes
        magnitude_N = mean_G[feature_N] + deviation_G[feature_N] * noise_N
        row_N = firing_N // self.spec.features
        features = SparseRows(
            offsets=_offsets(row_N),
            latents=feature_N,
            values=magnitude_N.clamp_min(LEAST_MAGNITUDE),
            d_sae=self.spec.features,
        )
        return TrueRows(sparse.decode(features, self.directions) + self.offset, features)

    def _firing(self, draws: torch.Generator) -> Tensor:
        """row · G + feature of all that fires in a block, ascending, int64 [N]."""
        loading_UR, own, level_U = self._copula
        factor_BR = torch.randn(BLOCK_ROWS, loading_UR.shape[1], generator=draws)
        score_BU = torch.randn(BLOCK_ROWS, loading_UR.shape[0], generator=draws).mul_(own)
        places = torch.addmm(score_BU, factor_BR, loading_UR.T).gt_(level_U).nonzero()
        row_N, feature_N = places[:, 0], self.forest.top_U[places[:, 1]]
        fired = [row_N * self.spec.features + feature_N]
        for _level in range(self.spec.depth):
            row_N, feature_N = self._children(row_N, feature_N, draws)
            fired.append(row_N * self.spec.features + feature_N)
        return torch.cat(fired).sort().values

    def _children(
        self, row_N: Tensor, feature_N: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The child, where there is one, that fires with each firing feature."""
        place_N = torch.rand(feature_N.numel(), generator=draws)
        edge_NC = self.forest.edges_GC[feature_N]
        slot_N = (place_N[:, None] >= edge_NC).sum(1)
        some_N = slot_N < edge_NC.shape[1]
        return row_N[some_N], self.forest.children_GC[feature_N[some_N], slot_N[some_N]]

    @cached_property
    def _copula(self) -> tuple[Tensor, float, Tensor]:
        """(loadings [U, R] of length √correlation, deviation of the own part, levels [U])."""
        shape = (self.forest.top_U.numel(), self.spec.correlation_rank)
        drawn_UR = torch.randn(shape, generator=self._draws("factors"), dtype=torch.float64)
        length_U1 = drawn_UR.square().sum(1, keepdim=True).sqrt()
        loading_UR = math.sqrt(self.spec.correlation) * drawn_UR / length_U1
        # The level that a standard normal exceeds with the feature's probability.
        level_U = math.sqrt(2) * torch.erfinv(1 - 2 * self.probability_G[self.forest.top_U])
        return loading_UR.float(), math.sqrt(1 - self.spec.correlation), level_U.float()

    @cached_property
    def _magnitudes(self) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of every feature's magnitude, float32 [G]."""
        spec = self.spec
        drawn_G = torch.randn(spec.features, generator=self._draws("deviations"))
        deviation_G = (spec.magnitude_deviation * (1 + drawn_G)).abs()
        return torch.linspace(*spec.mean_magnitudes, spec.features), deviation_G

    def _draws(self, purpose: str, index: int = 0) -> torch.Generator:
        return generator(self.spec.seed, index, f"ground_truth.{purpose}")


class GroundTruthSource:
    """An ActivationSource of `rows` rows that are drawn when they are asked for.

    After `rows` rows the same rows come again, in the same order.
    """

    def __init__(self, truth: GroundTruth, rows: int, split: str = "train") -> None:
        """Raises SpecError where `rows` are not whole blocks."""
        if rows < 1 or rows % BLOCK_ROWS:
            remedy = f"ask for a multiple of {BLOCK_ROWS}"
            raise SpecError("rows", f"{rows} rows are not whole blocks", remedy=remedy)
        self.truth = truth
        self._rows = rows
        self._split = split
        self._block = lru_cache(_CACHED_BLOCKS)(self._draw)

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.truth.spec.d

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        return self._rows

    def batch(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the endless stream, float32 [size, d]."""
        x_BD = torch.empty((size, self.d))
        filled = 0
        while filled < size:
            index, offset = divmod((position + filled) % self.rows, BLOCK_ROWS)
            part_ND = self._block(index)[offset : offset + size - filled]
            x_BD[filled : filled + len(part_ND)] = part_ND
            filled += len(part_ND)
        return x_BD

    def sample(self, n: int, seed: int) -> Tensor:
        """min(n, rows) distinct rows, in whole blocks spread over the epoch, float32 [., d]."""
        blocks = self.rows // BLOCK_ROWS
        wanted = math.ceil(min(n, self.rows) / BLOCK_ROWS)
        draws = generator(seed, 0, "ground_truth.sample")
        chosen = torch.randperm(blocks, generator=draws)[:wanted].numpy()
        return torch.cat([self._block(int(index)) for index in chosen])[: min(n, self.rows)]

    def _draw(self, index: int) -> Tensor:
        return self.truth.block(index, self._split).x_BD


def _offsets(row_N: Tensor) -> Tensor:
    counts_B = torch.bincount(row_N, minlength=BLOCK_ROWS)
    return torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])
