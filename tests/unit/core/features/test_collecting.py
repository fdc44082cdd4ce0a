"""One pass: compiled and plain forms agree, and neither order nor cuts change what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.feature_codes import Codes, block_of, cut, random_sequences

from saeserve.core.features import loops, reference
from saeserve.core.features.blocks import Block
from saeserve.core.features.canonical import in_order, slots_of
from saeserve.core.features.keys import keys_of
from saeserve.core.features.merging import best_features, merge
from saeserve.core.features.state import (
    Collected,
    CollectSettings,
    lowest_exponent_for,
    new_state,
    state_bytes,
)
from saeserve.errors import DataError, DataMismatchError

SMALL = CollectSettings(
    7, 11, seed=3, lowest_exponent=-4, top=3, uniform=3, intervals=3, per_interval=2, window=4,
    entries=3, token_features=3,
)  # fmt: skip
WEIGHTS = np.asarray([1, 0.5, 2, 1, 1, 0.25, 3], np.float32)
Form = Callable[[Collected, Block, npt.NDArray[np.float32]], None]
FORMS: tuple[Form, ...] = (loops.add_block, reference.add_block)


def collected(form: Form, blocks: Sequence[Block], sizes: CollectSettings = SMALL) -> Collected:
    state = new_state(sizes)
    for block in blocks:
        block.check(sizes)
        form(state, block.without_zeros(), WEIGHTS)
    return state


def bits(state: Collected) -> dict[str, bytes]:
    """Every array of a state, its examples and token lists in their order."""
    sizes = state.settings
    slots = in_order(slots_of(state, 0, sizes.d_sae), sizes)
    feature, score = best_features(
        state.token_feature_VR, state.token_score_VR, sizes.token_features
    )
    plain = {n: a.tobytes() for n, a in state.arrays().items() if "S" not in n and "R" not in n}
    plain |= {f"slots {i}": array.tobytes() for i, array in enumerate(slots.arrays)}
    return plain | {"feature": feature.tobytes(), "score": score.tobytes()}


codes = st.builds(
    random_sequences,
    st.integers(0, 2**31),
    sequences=st.integers(1, 6),
    longest=st.integers(1, 20),
    firing=st.sampled_from([0.05, 0.4, 0.9]),
    signed=st.booleans(),
    coarse=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(codes, st.randoms(use_true_random=False))
def test_the_state_does_not_depend_on_form_order_and_cuts(
    sequences: list[Codes], random: Random
) -> None:
    whole = bits(collected(loops.add_block, [block_of(sequences)]))
    assert bits(collected(reference.add_block, [block_of(sequences)])) == whole
    shuffled = cut(sequences, random)
    for form in FORMS:
        assert bits(collected(form, shuffled)) == whole
    shards = [collected(random.choice(FORMS), [block]) for block in shuffled]
    first, *others = shards
    for other in others:
        merge(first, other)
    assert bits(first) == whole


def test_the_figures_are_those_of_the_codes() -> None:
    sequences = random_sequences(5, sequences=8, longest=30, firing=0.5, signed=True)
    state = collected(loops.add_block, [block_of(sequences)])
    for feature in range(SMALL.d_sae):
        values = [v for s in sequences for row in s.codes for f, v in row if f == feature]
        assert state.count_F[feature] == len(values)
        assert state.max_F[feature] == max(map(abs, values))
        exact = [float(sum(Fraction(v) ** p for v in values)) for p in (1, 2, 3, 4)]
        assert state.moments()[feature] == pytest.approx(exact, rel=1e-9, abs=1e-6)
        counts, _ = np.histogram(np.abs(values), 2.0 ** (np.arange(65) / 4 - 4))
        assert state.histogram_FB[feature].tolist() == counts.tolist()


def test_the_top_are_the_largest_of_each_sequence() -> None:
    sequences = random_sequences(6, sequences=9, longest=30, firing=0.5)
    state = collected(loops.add_block, [block_of(sequences)])
    ordered = in_order(slots_of(state, 0, SMALL.d_sae), SMALL)
    for feature in range(SMALL.d_sae):
        best = [
            max((v for row in s.codes for f, v in row if f == feature), default=0.0)
            for s in sequences
        ]
        found = ordered.value_CS[feature, : SMALL.top].tolist()
        assert found == sorted(best, reverse=True)[: SMALL.top]


def test_the_uniform_examples_are_those_of_smallest_key() -> None:
    sequences = random_sequences(7, sequences=9, longest=30, firing=0.3)
    state = collected(loops.add_block, [block_of(sequences)])
    ordered = in_order(slots_of(state, 0, SMALL.d_sae), SMALL)
    fired = [
        np.asarray([s.start + t for s in sequences for t, row in enumerate(s.codes)
                    if any(f == feature for f, _ in row)])
        for feature in range(SMALL.d_sae)
    ]  # fmt: skip
    for feature, places in enumerate(fired):
        keys = keys_of(SMALL.seed, np.asarray(feature), places)
        drawn = ordered.position_CS[feature, SMALL.top : SMALL.first_interval].tolist()
        assert drawn == places[np.argsort(keys)][: SMALL.uniform].tolist()


def test_a_window_holds_every_firing_between_its_ends() -> None:
    sequences = random_sequences(8, sequences=6, longest=25, firing=0.35)
    state = collected(loops.add_block, [block_of(sequences)])
    by_place = {s.start + t: dict(row) for s in sequences for t, row in enumerate(s.codes)}
    narrowed = 0
    for feature, slot in zip(*np.nonzero(state.position_FS >= 0), strict=True):
        place = int(state.position_FS[feature, slot])
        left, right = int(state.left_FS[feature, slot]), int(state.right_FS[feature, slot])
        used = int(state.used_FS[feature, slot])
        stored = dict(
            zip(
                state.offset_FSE[feature, slot, :used].tolist(),
                state.activation_FSE[feature, slot, :used].tolist(),
                strict=True,
            )
        )
        (sequence,) = (s for s in sequences if s.start <= place < s.start + len(s.codes))
        assert sequence.start <= place - left
        assert place + right < sequence.start + len(sequence.codes)
        expected = {
            offset: by_place[place + offset][feature]
            for offset in range(-left, right + 1)
            if feature in by_place[place + offset]
        }
        assert stored == expected
        narrowed += left + right < 2 * SMALL.window
    assert narrowed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**20])
def test_a_code_that_cannot_be_counted_is_refused(bad: float) -> None:
    block = block_of(random_sequences(1, sequences=2, longest=9, firing=0.9))
    block.value_N[5] = bad
    with pytest.raises(DataError, match=f"feature {block.latent_N[5]} has the activation"):
        block.check(SMALL)


def test_states_of_other_settings_are_not_merged() -> None:
    with pytest.raises(DataMismatchError, match="other settings"):
        merge(new_state(SMALL), new_state(CollectSettings(7, 11, seed=4)))


def test_the_memory_of_a_state_is_known_before() -> None:
    padding = 7 * SMALL.slots * 2  # of windows with 3 entries
    assert state_bytes(SMALL) == new_state(SMALL).size_bytes + padding


@pytest.mark.parametrize("largest", [0.03, 1.0, 7.9, 8.0, 5000.0])
def test_the_histogram_reaches_above_the_known_maximum(largest: float) -> None:
    low = lowest_exponent_for(largest)
    assert 2.0 ** (low + 14) <= 2 * largest
    assert largest < 2.0 ** (low + 15)
    assert lowest_exponent_for(0.0) == CollectSettings(1).lowest_exponent
