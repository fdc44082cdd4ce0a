"""How a harvest's settings become a tokenization, and what the manifest says of it."""

from __future__ import annotations

from saeserve.core.formats.manifest import TokenizationEntry
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.harvest.row_rule import RowRule
from saeserve.harvest.sequences import Tokenization
from saeserve.harvest.tokenizer import Tokenizer


def tokenization_of(spec: HarvestSpec, tokenizer: Tokenizer, context_length: int) -> Tokenization:
    """The tokenization that `spec` asks for, in contexts of `context_length` tokens.

    Raises SpecError where the tokenizer does not have the tokens that it needs.
    """
    special = tokenizer.special_ids() if spec.special_token_rows == "drop" else ()
    return Tokenization(
        tokenizer,
        context_length,
        tokenizer.bos(spec.bos),
        tokenizer.eos() if spec.packing != "none" else None,
        RowRule(special, spec.position_start, spec.position_stop),
    )


def tokenization_entry(spec: HarvestSpec, found: Tokenization) -> TokenizationEntry:
    """What a data set's manifest says of it."""
    return TokenizationEntry(
        context_length=found.context_length,
        bos="none" if found.bos_token_id is None else "prepend",
        bos_token_id=found.bos_token_id,
        eos_token_id=found.eos_token_id,
        packing=None if spec.packing == "none" else spec.packing,
        special_token_ids=found.rule.special_ids or None,
        position_start=found.rule.start or None,
        position_stop=found.rule.stop,
    )
