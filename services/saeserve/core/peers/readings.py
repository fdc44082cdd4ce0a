"""What a file leaves open, and which of its readings an import takes."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.core.specs.run_warning import RunWarning

READ_TWO_WAYS = "READ_TWO_WAYS"
KIND_NOT_STATED = "KIND_NOT_STATED"


@dataclass(frozen=True)
class Readings:
    """Two readings of one file, between which releases of its library, or its libraries, differ.

    `taken` is how the import computes the model, `other` how somebody else does or would.
    """

    cause: str
    taken: str
    other: str

    def to_json(self) -> dict[str, object]:
        """The entry in the lineage."""
        return {"cause": self.cause, "taken": self.taken, "other": self.other}

    def warning(self) -> RunWarning:
        """The job's warning."""
        return RunWarning(
            code=READ_TWO_WAYS,
            message=f"{self.cause}: read as {self.taken}; the other reading is {self.other}",
        )


@dataclass(frozen=True)
class Unstated:
    """Why a file does not say whether it is a transcoder.

    Where `refused`, it is imported only when the caller names the target; elsewhere it is read as
    an autoencoder, with a warning.
    """

    why: str
    refused: bool = False

    def warning(self) -> RunWarning:
        """The job's warning where the file is read as an autoencoder."""
        return RunWarning(
            code=KIND_NOT_STATED,
            message=f"{self.why}: read as an autoencoder; name the target for a transcoder",
        )
