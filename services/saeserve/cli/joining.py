"""One command out of two functions: the first makes a job spec, the second does something with it.

So `submit` and `plan` have the same flags for a kind of job, written once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from saeserve.cli.specs import Tree


def joined(make: Callable[..., Tree], use: Callable[..., None]) -> Callable[..., None]:
    """A function with the parameters of `make`, then those of `use` but its first, which takes the
    spec. Its documentation is that of `make`."""
    first, *others = inspect.signature(use, eval_str=True).parameters.values()
    own = inspect.signature(make, eval_str=True).parameters

    def command(**given: Any) -> None:  # noqa: ANN401 - flags of any type
        spec = make(**{name: given.pop(name) for name in own})
        use(spec, **given)

    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own.values(), *others)
    ]
    hints = get_type_hints(use, include_extras=True) | get_type_hints(make, include_extras=True)
    del hints[first.name]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = hints
    command.__doc__ = make.__doc__
    return command
