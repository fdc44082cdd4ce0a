"""What each method of a service asks of its caller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a token is for. `admin` includes the others, and what belongs to other owners."""

    SUBMIT = "submit"
    """Make and change: jobs, data sets, aliases, uploads; one's own only."""
    READ = "read"
    """Look: one's own jobs and their files, every data set and every model."""
    ENCODE = "encode"
    """The inference service, and what features fire on."""
    ADMIN = "admin"


@dataclass(frozen=True)
class Rule:
    """Any one of `scopes` lets a call in. `changes`: the call changes something, and is audited;
    `open`: it asks for no token."""

    scopes: frozenset[Scope]
    changes: bool = False
    open: bool = False


READ = Rule(frozenset({Scope.READ}))
CHANGE = Rule(frozenset({Scope.SUBMIT}), changes=True)
SUBMIT = Rule(frozenset({Scope.SUBMIT}))
ENCODE = Rule(frozenset({Scope.ENCODE}))
LOOK = Rule(frozenset({Scope.READ, Scope.ENCODE}))
"""What is known of a model, for whoever may look at it or use it."""
ADMINISTER = Rule(frozenset({Scope.ADMIN}), changes=True)
ANY_TOKEN = Rule(frozenset(Scope))
OPEN = Rule(frozenset(), open=True)
