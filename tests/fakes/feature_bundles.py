"""Bundles of random features, of any size, for tests and benches of what reads them.

    folder = make_bundle(tmp_path / "bundle", d_sae=1000)
    with FeatureBundle.open(folder) as bundle: ...

Every tenth feature is dead; `make_bundle(labels=[label_of(3, "months")])` labels features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeserve.core.features import schema
from saeserve.core.features.state import Collected, CollectSettings, new_state
from saeserve.core.features.writer import BundleExtras, RankedRows, write_database, write_tokens
from saeserve.core.labels.choosing import Method
from saeserve.core.labels.label import Label
from saeserve.core.labels.text import Kind, key_of

SEQUENCE = 64
VOCABULARY = 500
NEIGHBOURS = 16
LOGITS = 10


def make_bundle(
    folder: Path,
    d_sae: int = 200,
    *,
    sequences: int = 50,
    seed: int = 0,
    logits: bool = True,
    labels: Sequence[Label] = (),
    **manifest: object,
) -> Path:
    """Write a bundle of `d_sae` random features into `folder`, which is made; return it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    settings = CollectSettings(d_sae, VOCABULARY, seed=seed)
    tokens = rng.integers(0, VOCABULARY, sequences * SEQUENCE).astype(np.int32)
    collected = random_state(settings, tokens, rng)
    write_tokens(folder, tokens, _sequences(sequences))
    ranked = _neighbours(d_sae, rng), _logits(d_sae, rng, logits)
    extras = BundleExtras(token_texts(), *ranked, labels)
    stated = manifest_of(settings, len(tokens), sequences, logits=logits, **manifest)
    write_database(folder / schema.DATABASE_FILE, stated, collected, extras)
    return folder


def manifest_of(
    settings: CollectSettings, tokens: int, sequences: int, *, logits: bool = False, **more: object
) -> schema.BundleManifest:
    """A manifest that fits a state and its tokens."""
    names = ("seed", "lowest_exponent", "top", "uniform", "intervals", "per_interval")
    sizes = {name: getattr(settings, name) for name in (*names, "window", "entries", "d_sae")}
    stated = {
        "model": "sae@1",
        "dataset": "text",
        "source": "x",
        "rows": tokens,
        "neighbours": NEIGHBOURS,
        "logits": "W_dec @ W_U" if logits else None,
    }
    stated |= {"tokens": tokens, "sequences": sequences}
    return schema.BundleManifest.model_validate(sizes | stated | more)


def random_state(
    settings: CollectSettings, tokens: npt.NDArray[np.int32], rng: np.random.Generator
) -> Collected:
    """A state as if each feature but every tenth had fired at random places."""
    state = new_state(settings)
    alive = np.arange(settings.d_sae) % 10 != 9
    count = rng.integers(60, 5000, settings.d_sae) * alive
    state.count_F[:] = count
    state.max_F[:] = alive * rng.uniform(16, 31, settings.d_sae)
    # The mean activation is near 1: a unit of power p is 2^-bits · 2^(p · lowest_exponent).
    state.moment_low_FP[:, 0] = count * np.uint64(2 ** (32 - settings.lowest_exponent))
    state.histogram_FB[:, 30] = count
    _random_examples(state, tokens, alive, rng)
    state.token_count_V[:] = np.bincount(tokens, minlength=settings.vocabulary)
    shape = state.token_feature_VR.shape
    state.token_feature_VR[:] = rng.integers(0, settings.d_sae, shape)
    state.token_score_VR[:] = rng.random(shape, np.float32)
    return state


def label_of(
    feature: int,
    words: str,
    *,
    method: Method = Method.PATTERNS,
    counts: tuple[int, int, int] = (50, 60, 45),
    best: bool = True,
) -> Label:
    """A label of the token 5; `counts` are rows that match, rows that fire, and rows with both."""
    return Label(feature, method, words, (key_of(Kind.TOKEN, 0, 5),), *counts, best)


def token_texts() -> dict[int, str]:
    """Texts of all tokens: every fourth is a word with a space before it."""
    return {i: f" Word{i}" if i % 4 == 0 else f"part{i}" for i in range(VOCABULARY)}


def _random_examples(
    state: Collected,
    tokens: npt.NDArray[np.int32],
    alive: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    shape = state.position_FS.shape
    place = rng.integers(0, len(tokens), shape)
    state.position_FS[:] = np.where(alive[:, None], place, -1)
    state.value_FS[:] = rng.uniform(8, 16, shape)
    in_sequence = place % SEQUENCE
    window = state.settings.window
    state.left_FS[:] = np.minimum(in_sequence, window)
    state.right_FS[:] = np.minimum(SEQUENCE - 1 - in_sequence, window)
    state.used_FS[:] = 2
    # The firing itself, and one on the next or the previous token.
    state.offset_FSE[:, :, 1] = np.where(in_sequence == SEQUENCE - 1, -1, 1)
    state.activation_FSE[:, :, 0] = state.value_FS
    state.activation_FSE[:, :, 1] = 1.0


def _sequences(count: int) -> npt.NDArray[np.int64]:
    number = np.arange(count)
    return np.stack([number * SEQUENCE, number // 2, number], axis=1)


def _neighbours(d_sae: int, rng: np.random.Generator) -> RankedRows:
    ids = rng.integers(0, d_sae, (d_sae, NEIGHBOURS)).astype(np.int32)
    cosines = -np.sort(-rng.random((d_sae, NEIGHBOURS), np.float32), axis=1)
    return RankedRows(ids, cosines)


def _logits(d_sae: int, rng: np.random.Generator, wanted: bool) -> RankedRows | None:
    if not wanted:
        return None
    ids = rng.integers(0, VOCABULARY, (d_sae, 2, LOGITS)).astype(np.int32)
    amounts = -np.sort(-rng.random((d_sae, 2, LOGITS), np.float32), axis=2)
    amounts[:, 1] *= -1
    return RankedRows(ids, amounts)
