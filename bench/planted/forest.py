"""The forest over planted features: who may fire only together with whom.

Grown from the most frequent feature to the rarest, so that a child is never more frequent than its
parent's firings allow; hence every feature's frequency can be kept exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saeserve.core.ops.draws import generator

NONE = -1


class ForestSpec(Protocol):
    """What a forest is grown from; see GroundTruthSpec for each."""

    @property
    def seed(self) -> int:
        """Key of every draw."""
        ...

    @property
    def roots(self) -> int:
        """Number of trees."""
        ...

    @property
    def branching(self) -> int:
        """Children of a parent, at most."""
        ...

    @property
    def depth(self) -> int:
        """Levels below a root."""
        ...

    @property
    def child_share(self) -> float:
        """Share of a parent's firings with which children may fire."""
        ...


@dataclass(frozen=True)
class Forest:
    """Parents and children among G features."""

    parent_G: Tensor
    """int64 [G]: the parent's feature number, NONE for roots and free features."""
    top_U: Tensor
    """int64 [U]: roots and free features, ascending."""
    children_GC: Tensor
    """int64 [G, branching]: feature numbers, NONE in empty places."""
    edges_GC: Tensor
    """float32 [G, branching]: running sums of P(child | parent); a uniform draw u selects the
    first child whose edge exceeds u, and none beyond the last."""


@dataclass
class _Node:
    """A feature that may still get children."""

    feature: int
    level: int
    left: float
    """Probability that its further children may use."""
    children: list[int]


def grow(spec: ForestSpec, probability_G: Tensor) -> Forest:
    """Place features by falling `probability_G`: below a parent, as a root, or free.

    A tree with all its places filled holds Σ branching^level features; the share of features that
    seek a place is what those trees need. A parent is drawn among those whose next even share of
    what is left of `child_share` · P(parent) is large enough, so a place left empty can always
    be filled by a rarer feature.
    """
    features = probability_G.numel()
    places = spec.roots * sum(spec.branching**level for level in range(spec.depth + 1))
    draws = generator(spec.seed, 0, "ground_truth.forest")
    seeking_G = torch.rand(features, generator=draws).lt(places / features).numpy()
    choice_G = torch.rand(features, generator=draws).numpy()
    growing: list[_Node] = []
    roots = 0
    for feature, probability in enumerate(probability_G.numpy().tolist()):
        if not seeking_G[feature]:
            continue
        parents = [node for node in growing if _fits(node, probability, spec.branching)]
        if parents:
            parent = parents[int(choice_G[feature] * len(parents))]
            parent.children.append(feature)
            parent.left -= probability
            level = parent.level + 1
        elif roots < spec.roots:
            roots, level = roots + 1, 0
        else:
            continue
        if level < spec.depth:
            growing.append(_Node(feature, level, spec.child_share * probability, []))
    return _forest(growing, probability_G, spec.branching)


def _fits(node: _Node, probability: float, branching: int) -> bool:
    open_places = branching - len(node.children)
    return open_places > 0 and probability <= node.left / open_places


def _forest(nodes: list[_Node], probability_G: Tensor, branching: int) -> Forest:
    features = probability_G.numel()
    parent_G = torch.full((features,), NONE)
    children_GC = torch.full((features, branching), NONE)
    share_GC = torch.zeros((features, branching), dtype=torch.float64)
    for node in nodes:
        found = torch.tensor(node.children, dtype=torch.int64)
        parent_G[found] = node.feature
        children_GC[node.feature, : found.numel()] = found
        share_GC[node.feature, : found.numel()] = probability_G[found] / probability_G[node.feature]
    return Forest(
        parent_G=parent_G,
        top_U=(parent_G == NONE).nonzero().flatten(),
        children_GC=children_GC,
        edges_GC=share_GC.cumsum(1).float(),
    )
