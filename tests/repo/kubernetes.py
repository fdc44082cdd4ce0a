"""`python -m tests.repo.kubernetes`: renders deploy/kubernetes in all its forms and validates each.

Both overlays alone, with each component, and with all components that go together. Kinds of
Kubernetes are validated strictly; custom resources against the schemas kept beside the manifests.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parents[2] / "deploy/kubernetes"
OVERLAYS = ("dev", "prod")
NEEDS = {"keda-gpu": ("gpu",)}
"""Components that only work together with others."""
VERSION = "1.33"
"""Of Kubernetes: the oldest that is still maintained."""

Tree = dict[str, Any]
# Neither has types that hold under strict checks.
_kubernetes = cast(Any, importlib.import_module("kubernetes_validate"))
_jsonschema = cast(Any, importlib.import_module("jsonschema"))


def components() -> list[str]:
    """Names of all components."""
    return sorted(path.parent.name for path in ROOT.glob("components/*/kustomization.yaml"))


def forms() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Overlay and the components that are added to it."""
    for overlay in OVERLAYS:
        included = load(f"overlays/{overlay}/kustomization.yaml").get("components", [])
        free = [name for name in components() if f"../../components/{name}" not in included]
        yield overlay, ()
        yield from ((overlay, (*NEEDS.get(name, ()), name)) for name in free)
        yield overlay, tuple(free)


def load(path: str) -> Tree:
    """One YAML document below deploy/kubernetes."""
    return cast(Tree, yaml.safe_load((ROOT / path).read_text()))


def rendered(overlay: str, added: Sequence[str] = ()) -> list[Tree]:
    """What `kubectl kustomize` makes of an overlay to whose `components` more are added."""
    written = load(f"overlays/{overlay}/kustomization.yaml")
    with tempfile.TemporaryDirectory() as folder:
        to = f"{os.path.relpath(ROOT, Path(folder).resolve())}/overlays/{overlay}"
        # kustomize takes single files from below its own folder alone.
        files = [each for each in written["resources"] if each.endswith(".yaml")]
        for each in files:
            shutil.copy(ROOT / "overlays" / overlay / each, folder)
        folders = [f"{to}/{each}" for each in written["resources"] if each not in files]
        more = [f"../../components/{name}" for name in added]
        kustomization = written | {
            "resources": [*files, *folders],
            "components": [f"{to}/{each}" for each in (*written.get("components", ()), *more)],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        done = subprocess.run(
            ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{overlay} with {', '.join(added) or 'nothing'}: {done.stderr}")
    return [cast(Tree, each) for each in yaml.safe_load_all(done.stdout)]


def faults(resource: Tree) -> Iterator[str]:
    """What is wrong with a rendered resource, in words."""
    name = f"{resource['kind']}/{resource['metadata']['name']}"
    schema = ROOT / f"schemas/{resource['kind'].lower()}.json"
    if schema.exists():
        found = _jsonschema.Draft202012Validator(json.loads(schema.read_text())).iter_errors(
            resource
        )
        yield from (f"{name}: {'.'.join(map(str, e.absolute_path))}: {e.message}" for e in found)
        return
    try:
        _kubernetes.validate(resource, VERSION, strict=True)
    except _kubernetes.ValidationError as error:
        yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"


def main() -> int:
    """Print one line for each form; exit code 1 where one is wrong."""
    if shutil.which("kubectl") is None:
        sys.stdout.write("kubectl is not on PATH: deploy/kubernetes was not rendered\n")
        return 0
    wrong = 0
    for overlay, added in forms():
        resources = rendered(overlay, added)
        found = [fault for each in resources for fault in faults(each)]
        wrong += len(found)
        what = f"{overlay} + {', '.join(added)}" if added else overlay
        sys.stdout.write(f"{what}: {len(resources)} resources, {len(found)} faults\n")
        sys.stdout.writelines(f"  {fault}\n" for fault in found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
