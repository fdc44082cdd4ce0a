"""Compiled loops take torch's number of threads and leave it as it is; what numba keeps of them is
as new as their sources."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from saeserve.core.kernels import compiled

SCRIPT = """
import numba, torch
from saeserve.core.ops.adam import AdamSettings, Moments
from saeserve.core.ops.update import Optimizer, update_
torch.set_num_threads(1)
params = {"W": torch.ones(4, 3)}
optimizer = Optimizer(AdamSettings(0.9, 0.999, 1e-8), 1.0, 0.1)
update_(params, {"W": torch.ones(4, 3)}, Moments.zeros(params), frozenset(), optimizer, 0)
print(torch.get_num_threads(), numba.get_num_threads())
"""


def test_the_first_kernel_of_a_process_does_not_change_the_number_of_threads() -> None:
    """numba's pool starts with all cores, and with the OpenMP that torch uses too."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["1", "1"], "")


def test_the_key_of_kept_machine_code_covers_the_whole_room(tmp_path: Path) -> None:
    folder = tmp_path / "room"
    (folder / "family").mkdir(parents=True)
    (folder / "shared.py").write_text("A = 1\n")
    (folder / "family" / "kernel.py").write_text("B = 1\n")
    seen = {compiled.digest_of(folder)}
    (folder / "family" / "kernel.py").write_text("B = 2\n")
    seen.add(compiled.digest_of(folder))
    (folder / "shared.py").write_text("A = 2\n")
    seen.add(compiled.digest_of(folder))
    (folder / "shared.py").rename(folder / "renamed.py")
    seen.add(compiled.digest_of(folder))
    assert len(seen) == 4
    digests = [compiled.digest_of(room) for room in compiled.ROOMS]
    assert vars(compiled)["_SOURCES"] == "".join(digests)


def test_kernels_are_written_in_their_room_alone() -> None:
    """Others would be kept by a key that knows nothing of their own room's helpers."""
    core = Path(compiled.__file__).parents[1]
    makers = re.compile(r"^@(kernel|helper|intrinsic)\b", re.MULTILINE)
    outside = [
        str(path.relative_to(core))
        for path in core.rglob("*.py")
        if not set(compiled.ROOMS) & set(path.parents) and makers.search(path.read_text())
    ]
    assert outside == []


def test_machine_code_is_made_anew_when_any_source_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba alone looks at the file of the function, not at those of what is inlined into it."""
    file = tmp_path / "some_kernel.py"
    file.write_text("def double(x):\n    return 2 * x\n")
    spec = util.spec_from_file_location("some_kernel", file)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # kept code names its function's module
    spec.loader.exec_module(module)

    def compiles() -> bool:
        gc.collect()  # what is loaded must not need the function that was compiled
        made: Any = compiled.helper(module.double)
        assert made(3.0) == 6.0
        return bool(sum(made.stats.cache_misses.values()))

    assert compiles()
    assert not compiles()
    monkeypatch.setattr(compiled, "_SOURCES", "of another state of the files")
    assert compiles()
    assert not compiles()
