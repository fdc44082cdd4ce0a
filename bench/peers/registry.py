"""The peers by name; a library is imported when it is asked for, and no other with it."""

from __future__ import annotations

from collections.abc import Callable

from bench.peers.setting import PeerRun, PeerSetting


def _saelens(setting: PeerSetting) -> PeerRun:
    from bench.peers.saelens import SaeLensRun

    return SaeLensRun(setting)


def _dictionary_learning(setting: PeerSetting) -> PeerRun:
    from bench.peers.dictionary_learning import DictionaryLearningRun

    return DictionaryLearningRun(setting)


def _sparsify(setting: PeerSetting) -> PeerRun:
    from bench.peers.sparsify import SparsifyRun

    return SparsifyRun(setting)


PEERS: dict[str, Callable[[PeerSetting], PeerRun]] = {
    "SAELens": _saelens,
    "dictionary_learning": _dictionary_learning,
}
"""Peers that train TopK, BatchTopK and Matryoshka."""
TOPK_PEERS = PEERS | {"sparsify": _sparsify}
"""The same and sparsify, which trains TopK alone."""
