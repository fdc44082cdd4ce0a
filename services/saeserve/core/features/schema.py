"""The form of a feature bundle on disk.

A bundle is a folder of three files, written once and never changed:

`features.sqlite`: one SQLite database, opened read-only. Its `user_version` is SCHEMA_VERSION.

    meta            key, value       one row, 'manifest': BundleManifest as JSON, written last; a
                                     database without it was not finished
    features        feature          number of the latent, 0 .. d_sae - 1; every latent has a row
                    count            firings
                    density          count / rows of the pass
                    max              largest magnitude; 0 where it never fired
                    mean             of the activations where it fires; 0 where it never fired
                    sum1 .. sum4     sums of a, a², a³, a⁴ over its firings
    pages           feature
                    histogram        u32 [64] firings by magnitude: bin i holds
                                     [2^(low + i/4), 2^(low + (i+1)/4)), low from the manifest;
                                     the first and last bin also hold what is below and above
                    examples         where it fires: see `packing.pack_examples`
                    logits           tokens whose logits it moves most: i32 [2, n] token ids, f32
                                     [2, n] amounts; row 0 up, row 1 down; NULL without logits
                    neighbours       latents of largest decoder cosine, largest first, itself left
                                     out: u32 [n] latents, f32 [n] cosines; NULL without
    vocabulary      token            id
                    text             as the tokenizer writes it
                    plain            `text` without white space around it, case folded
                    count            rows of the pass on this token
    token_features  token, rank      rank 0 fires most on this token
                    feature, score   score: largest activation on the token over the latent's own
                                     scale, times the rarity weight (see `weights` in `tokens`)
    labels          feature          a latent that has a label: the best of those that were made
                    label            what it fires on, in words
                    source           how it was made: top_tokens, promoted or patterns
                    matched          scored rows with one of its patterns
                    fired            scored rows on which the latent fires
                    hits             scored rows with both: precision is hits / matched, recall
                                     hits / fired
                    patterns         u64 [n], all of its patterns: see `core.labels.text`
    other_labels    feature, source  what the other ways made; columns as in `labels`
    label_index     label            FTS5 over labels.label (rowid is the feature)

    Indexes: features by density and by max; vocabulary by plain; token_features by feature.
    The three tables of labels are empty where the manifest says nothing of labels.

`tokens.npy`: int32 [tokens], the tokens of all sequences of the pass, one sequence after the
other; -1 stands for one or more tokens of a sequence that are not rows of the data set.

`sequences.npy`: int64 [sequences, 3]: where the sequence begins in `tokens.npy`, its document and
its number in the data set. A sequence ends where the next begins.

Integers and floats in blobs are little-endian.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saeserve.core.specs.base import Spec

SCHEMA_VERSION = 2
APPLICATION_ID = 0x5AE5EF
"""SQLite's application_id of a bundle."""
DATABASE_FILE = "features.sqlite"
TOKEN_FILE = "tokens.npy"
SEQUENCE_FILE = "sequences.npy"
BUNDLE_FILES = (DATABASE_FILE, TOKEN_FILE, SEQUENCE_FILE)
GAP = -1
"""Stands in the token file for tokens that are not rows."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE features (
    feature INTEGER PRIMARY KEY, count INTEGER NOT NULL, density REAL NOT NULL, max REAL NOT NULL,
    mean REAL NOT NULL, sum1 REAL NOT NULL, sum2 REAL NOT NULL, sum3 REAL NOT NULL,
    sum4 REAL NOT NULL);
CREATE TABLE pages (
    feature INTEGER PRIMARY KEY, histogram BLOB NOT NULL, examples BLOB NOT NULL, logits BLOB,
    neighbours BLOB);
CREATE TABLE vocabulary (
    token INTEGER PRIMARY KEY, text TEXT NOT NULL, plain TEXT NOT NULL, count INTEGER NOT NULL);
CREATE TABLE token_features (
    token INTEGER NOT NULL, rank INTEGER NOT NULL, feature INTEGER NOT NULL, score REAL NOT NULL,
    PRIMARY KEY (token, rank)) WITHOUT ROWID;
CREATE TABLE labels (
    feature INTEGER PRIMARY KEY, label TEXT NOT NULL, source TEXT NOT NULL,
    matched INTEGER NOT NULL, fired INTEGER NOT NULL, hits INTEGER NOT NULL,
    patterns BLOB NOT NULL);
CREATE TABLE other_labels (
    feature INTEGER NOT NULL, label TEXT NOT NULL, source TEXT NOT NULL,
    matched INTEGER NOT NULL, fired INTEGER NOT NULL, hits INTEGER NOT NULL,
    patterns BLOB NOT NULL, PRIMARY KEY (feature, source)) WITHOUT ROWID;
CREATE VIRTUAL TABLE label_index USING fts5(label, content='labels', content_rowid='feature');
"""
INDEXES = """
CREATE INDEX by_density ON features (density, feature, max);
CREATE INDEX by_max ON features (max, feature, density);
CREATE INDEX by_plain ON vocabulary (plain);
CREATE INDEX by_feature ON token_features (feature);
"""


class LabelsEntry(Spec):
    """How labels were made. Rows are held-out rows of the data set that were encoded."""

    definition: str
    """`DEFINITION` of `core.labels.label`."""
    seed: int = Field(ge=0)
    """Decides which half a document belongs to."""
    by: Literal["document", "sequence"]
    """What halves are made of: sequences where one document alone is held out."""
    chosen_rows: int = Field(ge=0)
    """Rows on which patterns were chosen."""
    scored_rows: int = Field(ge=0)
    """Rows of the other half, on which labels were scored."""
    features: int = Field(ge=0)
    """Latents that have a label."""


class BundleManifest(Spec):
    """What a bundle was made of, and how."""

    format_version: int = SCHEMA_VERSION
    model: str = ""
    """Reference of the model version, name@version."""
    model_sha256: str = ""
    dataset: str = ""
    dataset_sha256: str = ""
    source: str = ""
    """Source of the data set that the model's input is."""
    language_model: str = ""
    hook: str = ""
    job: str = ""
    d_sae: int = Field(ge=1)
    rows: int = Field(ge=0)
    """Rows that were encoded: the denominator of every density."""
    left_out: int = Field(default=0, ge=0)
    """Rows of massive norm that were not."""
    tokens: int = Field(ge=0)
    """Length of the token file, gaps included."""
    sequences: int = Field(ge=0)
    seed: int = 0
    lowest_exponent: int
    """The histogram begins at 2^lowest_exponent, four bins an octave."""
    top: int
    uniform: int
    intervals: int
    per_interval: int
    window: int
    entries: int
    """Sizes: see `state.CollectSettings`."""
    logits: str | None = None
    """The convention of the logit columns; None where there are none."""
    neighbours: int = 0
    """Neighbours a latent; 0 for none."""
    labels: LabelsEntry | None = None
    """None where there are no labels."""
