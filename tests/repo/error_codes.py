"""The stable words of errors and warnings, read from the code: `make errors` writes ERRORS.md."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from saeserve.client.errors import ClientError
from saeserve.core.specs.run_warning import RunWarning
from saeserve.core.training.events import Warned
from saeserve.errors import Overloaded, SaeError, ServiceError, StartupError
from saeserve.jobs.record import Failure
from saeserve.jobs.record import JobWarning as RecordedWarning
from saeserve.platform.status import CODES

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "services"
PAGE = ROOT / "ERRORS.md"
HEAD = """# Errors and warnings

Made from the code by `make errors`. A program switches on the word, which is stable; messages say
what was wrong, where, and what to do, and may change. In gRPC the word is `ErrorInfo.reason` of
google.rpc's details, in the SDK `ClientError.reason`, of a job `error.code` (`JobError`), of a
warning `code` (`JobWarning`). What stands in braces is filled in.

| word | where | for example |
|---|---|---|
"""
WORD = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
LONGEST = 130
WARNING_ROOMS = ("core/planning/before_run.py", "core/specs/closing.py")
"""Modules that yield warnings as pairs of a word and a message."""


_SAID = {
    "BAD_SPEC": "a field of the job spec that does not fit the API",
    "BAD_TLS_FILE": "a certificate or key that cannot be read",
    "INDEX_UNAVAILABLE": "Redis or Valkey is out of reach, or refuses commands",
    "LOCAL_FILE_NOT_FOUND": "a file or folder to upload is not there",
    "MODEL_NOT_FOUND": "there is no such model or version",
    "NOTHING_HELD_OUT": "the model is published without FVU and L0, and is judged on training rows",
    "OOM_GPU": "the job process ran out of the device's memory",
    "OOM_HOST": "the job process ran out of the host's memory",
    "QUEUE_FULL": "a bounded queue is full; RetryInfo says when to call again",
}
"""Of words whose message is put together elsewhere."""


@dataclass(frozen=True)
class Use:
    """One place where a word is given: to whom it is told, and in what words."""

    word: str
    where: str
    example: str


def uses() -> list[Use]:
    """Every use in the services, in the order of the files; calls of functions that make one
    error of one word last."""
    files = sorted(SERVICES.rglob("*.py"))
    modules = [_Module(file) for file in files if "/v1/" not in str(file)]
    found = [*_without_word(), *(use for module in modules for use in module.uses())]
    makers = {name: use for module in modules for name, use in module.makers()}
    return [*found, *(use for module in modules for use in module.calls_of(makers))]


def table(found: list[Use]) -> dict[str, tuple[str, str]]:
    """Of each word, where it is told and the first example of its message."""
    words: dict[str, tuple[str, str]] = {}
    for word in sorted({use.word for use in found}):
        own = [use for use in found if use.word == word]
        example = next((use.example for use in own if use.example), "")
        words[word] = (", ".join(sorted({use.where for use in own})), _SAID.get(word, example))
    return words


def page() -> str:
    """The page as it should be."""
    rows = (f"| `{word}` | {where} | {text} |" for word, (where, text) in table(uses()).items())
    return HEAD + "\n".join(rows) + "\n"


class _Module:
    def __init__(self, file: Path) -> None:
        self.tree = ast.parse(file.read_text())
        self.path = str(file.relative_to(SERVICES / "saeserve"))
        self.name = ".".join(file.relative_to(SERVICES).with_suffix("").parts)
        self.owner: dict[ast.AST, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                self.owner |= {child: node.name for child in ast.walk(node)}

    def uses(self) -> Iterator[Use]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield from self._of_call(node)
            elif isinstance(node, ast.ClassDef):
                yield from self._of_class(node)
            elif isinstance(node, ast.FunctionDef):
                yield from self._of_default(node)
            elif isinstance(node, ast.Yield) and self.path in WARNING_ROOMS:
                yield from self._of_pair(node)

    def makers(self) -> Iterator[tuple[str, Use]]:
        """Functions that return the error of one word, whose message is an argument; the names of
        private ones count in this module alone."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
                made = node.body[-1].value
                for use in self._of_call(made) if isinstance(made, ast.Call) else ():
                    if not use.example:
                        yield self._known_as(node.name), use

    def calls_of(self, makers: dict[str, Use]) -> Iterator[Use]:
        """Calls of `makers` from this module, with their messages as examples."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (
                use := makers.get(self._known_as(ast.unparse(node.func)))
            ):
                text = next((text for each in node.args if (text := self._told(each))), "")
                yield Use(use.word, use.where, text)

    def _known_as(self, name: str) -> str:
        return f"{self.path}:{name}" if name.startswith("_") else name

    def _of_call(self, call: ast.Call) -> Iterator[Use]:
        keywords = {each.arg: each.value for each in call.keywords}
        texts = [*call.args, *([keywords["message"]] if "message" in keywords else [])]
        example = next((text for each in texts if WORD.sub("", text := self._told(each))), "")
        given = [keywords.get("reason"), keywords.get("code")]
        named = [word for each in given for word in self._words(each)]
        listed = self._listed(call)
        # Only then is the module imported: some need what is not installed everywhere.
        where = self._where(call.func) if named or listed else ""
        for word in named + (listed if where == "warning" else []):
            if where:
                yield Use(word, where, example)

    def _listed(self, call: ast.Call) -> list[str]:
        """Words among the arguments of what may be a warning: `report.warning` or a class."""
        args = call.args if self._warns(call.func) else []
        if ast.unparse(call.func)[:1].isupper():
            args = [each for each in call.args if not isinstance(each, ast.Name)]
        return [word for each in args for word in self._words(each)]

    def _of_class(self, node: ast.ClassDef) -> Iterator[Use]:
        for each in node.body:
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "code":
                for word in self._words(each.value):
                    yield Use(
                        word,
                        self._named(node.name),
                        (ast.get_docstring(node) or "").partition("\n")[0],
                    )

    def _of_default(self, node: ast.FunctionDef) -> Iterator[Use]:
        for argument, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            where = self._named(self.owner.get(node, "")) if argument.arg == "reason" else ""
            for word in self._words(value) if where else []:
                yield Use(word, where, "")

    def _of_pair(self, node: ast.Yield) -> Iterator[Use]:
        if isinstance(node.value, ast.Tuple):
            first, text = node.value.elts
            for word in self._words(first):
                yield Use(word, "warning", self._told(text))

    def _told(self, node: ast.expr) -> str:
        """The text of an expression; of a variable, what was last assigned above."""
        if isinstance(node, ast.Name):
            above = [
                each
                for each in ast.walk(self.tree)
                if isinstance(each, ast.Assign)
                and each.lineno < node.lineno
                and ast.unparse(each.targets[0]) == node.id
            ]
            return _text(max(above, key=lambda each: each.lineno).value) if above else ""
        return _text(node)

    def _words(self, value: ast.expr | None) -> list[str]:
        """The word that an expression is, or those that it chooses from; constants by name too."""
        if isinstance(value, ast.IfExp):
            return [*self._words(value.body), *self._words(value.orelse)]
        known: object = None
        if isinstance(value, ast.Name) and value.id.isupper():
            known = getattr(importlib.import_module(self.name), value.id, None)
        elif (
            isinstance(value, ast.Attribute)
            and isinstance(value.value, ast.Name)
            and value.value.id[0].isupper()
        ):
            # The word of an error's class, as in `NoSpaceError.code`.
            kind = getattr(importlib.import_module(self.name), value.value.id, None)
            known = kind.__dict__.get(value.attr) if inspect.isclass(kind) else None
        elif isinstance(value, ast.Constant):
            known = value.value
        return [known] if isinstance(known, str) and WORD.fullmatch(known) else []

    def _warns(self, called: ast.expr) -> bool:
        return ast.unparse(called).endswith("report.warning")

    def _where(self, called: ast.expr) -> str:
        text = ast.unparse(called)
        if self._warns(called):
            return "warning"
        return self._named(self.owner.get(called, "") if text.startswith("super()") else text)

    def _named(self, name: str) -> str:
        """Where an error of the class `name` (or one that the function `name` makes) is told."""
        module: ModuleType = importlib.import_module(self.name)
        made = getattr(module, name, None)
        if inspect.isfunction(made):
            returned = inspect.signature(made).return_annotation
            made = getattr(module, str(returned), None) or getattr(
                importlib.import_module(made.__module__), str(returned), None
            )
        return _kind(made) if inspect.isclass(made) else ""


def _without_word() -> Iterator[Use]:
    """Errors that name no word of their own have their kind's."""
    for made in ServiceError.__subclasses__():
        if made is not StartupError and made is not Overloaded:
            yield Use(
                made.kind.upper(), CODES[made.kind].name, (made.__doc__ or "").partition("\n")[0]
            )


def _kind(made: type) -> str:
    if issubclass(made, StartupError):
        return "start of a service"
    if issubclass(made, ServiceError):
        return CODES[made.kind].name
    for base, where in _TOLD.items():
        if issubclass(made, base):
            return where
    return ""


_TOLD: dict[type, str] = {
    ClientError: "SDK, command line",
    SaeError: "job",
    Failure: "job",
    RunWarning: "warning",
    Warned: "warning",
    RecordedWarning: "warning",
}


def _text(node: ast.expr) -> str:
    """A string of the source as a person reads it; empty for what is not one."""
    if isinstance(node, ast.Constant):
        told = node.value if isinstance(node.value, str) else ""
    elif isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{…}" for part in node.values)
        told = "".join(str(part) for part in parts)
    else:
        return ""
    told = told.replace("|", "\\|").replace("\n", " ")
    return told if len(told) <= LONGEST else told[: LONGEST - 1].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    PAGE.write_text(page())
