"""Labels of a finished pass: patterns from its examples, chosen and scored on held-out rows.

Shape suffixes: M examples, W the tokens around each, D documents of the data set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saeserve.core.features.heldout import Heldout, Moved
from saeserve.core.features.schema import GAP, LabelsEntry
from saeserve.core.features.state import Collected
from saeserve.core.features.writer import RankedRows
from saeserve.core.labels.label import DEFINITION, Labels, make_labels
from saeserve.core.labels.proposing import Proposals, join, propose
from saeserve.core.labels.text import Text

CHUNK = 4096
"""Features whose examples are looked at together."""
_AROUND = np.arange(-2, 2)
"""What patterns see of a row: two tokens before it, and the next."""
_ROW = 2
"""The row's own place among these."""


def label_features(
    collected: Collected,
    tokens: npt.NDArray[np.int32],
    sequences: npt.NDArray[np.int64],
    logits: RankedRows | None,
    heldout: Heldout,
    moved: Moved,
) -> Labels:
    """Labels of all features of which the pass keeps an example on a training row; `tokens` and
    `sequences` as in `schema`."""
    documents = heldout.source.dataset.manifest.documents
    trained_D = np.array([entry.split == "train" for entry in documents])
    examples = Examples(collected, tokens, sequences, trained_D)
    parts: list[Proposals] = []
    for start in range(0, collected.settings.d_sae, CHUNK):
        moved()
        parts.append(examples.propose(start))
    proposals = join(parts, None if logits is None else logits.ids[:, 0])
    halves = heldout.texts(0, moved), heldout.texts(1, moved)
    return make_labels(proposals, collected.settings.d_sae, *halves)


def entry_of(labels: Labels, heldout: Heldout) -> LabelsEntry:
    """What the manifest says of labels."""
    return LabelsEntry(
        definition=DEFINITION,
        seed=heldout.seed,
        by=heldout.by,
        chosen_rows=labels.chosen_rows,
        scored_rows=labels.scored.rows,
        features=int(np.count_nonzero(labels.best_F >= 0)),
    )


class Examples:
    """Examples of a pass that lie on training rows: held-out rows have no part in what is
    proposed."""

    def __init__(
        self,
        collected: Collected,
        tokens: npt.NDArray[np.int32],
        sequences: npt.NDArray[np.int64],
        trained_D: npt.NDArray[np.bool_],
    ) -> None:
        self._collected = collected
        self._tokens = tokens
        self._bounds = np.append(sequences[:, 0], len(tokens))
        self._trained = trained_D[sequences[:, 1]]

    def propose(self, start: int) -> Proposals:
        """Patterns of the features from `start` on, CHUNK at most."""
        place_CS = self._collected.position_FS[start : start + CHUNK]
        feature_M, slot_M = np.nonzero(place_CS >= 0)
        place_M = place_CS[feature_M, slot_M]
        top_M = slot_M < self._collected.settings.top
        # A firing may be kept twice: it counts once, as one of the top if it is among them.
        order = np.lexsort((~top_M, place_M, feature_M))
        pairs = np.stack([feature_M[order], place_M[order]])
        new = np.ones(len(order), np.bool_)
        new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(0)
        first = order[new]
        sequence_M = np.searchsorted(self._bounds, place_M[first], "right") - 1
        kept = first[self._trained[sequence_M]]
        text = self._text(start + feature_M[kept], place_M[kept])
        return propose(text, top_M[kept])

    def _text(self, feature_M: npt.NDArray[np.int64], place_M: npt.NDArray[np.int64]) -> Text:
        """Each example with the tokens around it, as a sequence of its own."""
        sequence_M = np.searchsorted(self._bounds, place_M, "right") - 1
        place_MW = place_M[:, None] + _AROUND
        inside_MW = place_MW >= self._bounds[sequence_M][:, None]
        inside_MW &= place_MW < self._bounds[sequence_M + 1][:, None]
        token_MW = np.where(
            inside_MW, self._tokens[np.clip(place_MW, 0, len(self._tokens) - 1)], GAP
        )
        inside_MW &= token_MW != GAP
        # Behind a gap, what comes next is not known to be near.
        inside_MW[:, 0] &= inside_MW[:, 1]
        number_M = np.arange(len(place_M))
        return Text(
            np.where(inside_MW, token_MW, 0).astype(np.int64).reshape(-1),
            np.where(inside_MW, number_M[:, None], -1).reshape(-1),
            number_M * len(_AROUND) + _ROW,
            number_M,
            feature_M,
        )
