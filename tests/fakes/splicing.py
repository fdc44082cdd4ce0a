"""One splice at a time, for tests that look at single passes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saeserve.core.evaluation.arms import Begun, Nats, Replace
from saeserve.core.specs.sites import SiteSpec
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.row_rule import EVERY_ROW, RowRule
from saeserve.harvest.splice import Between, Splicer


@dataclass(frozen=True)
class Splice:
    """Passes of a language model with what stands at `sites` replaced."""

    model: LanguageModel
    sites: SiteSpec | Between
    bos: bool = True
    rule: RowRule = EVERY_ROW

    def begin(self, tokens_ST: Tensor) -> Begun:
        """The clean pass."""
        return Splicer(self.model, [self.sites], self.bos, self.rule).begin(tokens_ST)[0]

    def run(self, tokens_ST: Tensor, replace: Replace) -> Nats:
        """A spliced pass."""
        return self.begin(tokens_ST).run(replace)

    def __call__(self, tokens_ST: Tensor, replace: Replace | None) -> Tensor:
        """Cross-entropy of a spliced pass, or of the clean one."""
        begun = self.begin(tokens_ST)
        return begun.clean_P if replace is None else begun.run(replace).ce_P
