"""CPU limits, from /proc and /sys as different kernels and containers show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.inference.settings import InferenceSettings
from saeserve.platform import processors as module
from saeserve.platform.processors import processors, quota
from saeserve.worker.settings import WorkerSettings

HOST = 64


@pytest.fixture(autouse=True)
def _large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_runnable", lambda: HOST)


def host(root: Path, groups: str, **files: str) -> Path:
    """A host's or container's files: `groups` is /proc/self/cgroup, `files` lie below /sys."""
    written = {"proc/self/cgroup": groups}
    written |= {f"sys/fs/cgroup/{name}": value for name, value in files.items()}
    for name, content in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def version_1(root: Path, quota_us: str, period_us: str = "100000", mounted: str = "cpu") -> Path:
    files = {"cpu.cfs_quota_us": quota_us, "cpu.cfs_period_us": period_us}
    return host(root, "4:cpu,cpuacct:/", **{f"{mounted}/{name}": files[name] for name in files})


def test_a_host_without_limits(tmp_path: Path) -> None:
    assert quota(tmp_path) == 0
    assert processors(tmp_path) == HOST


@pytest.mark.parametrize(
    ("limit", "threads"),
    [
        ("400000 100000", 4),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("30000 10000", 3),
        ("max 100000", 0),
        ("6400000 100000", 0),
        ("9900000 100000", 0),
        ("", 0),
    ],
)
def test_version_2(tmp_path: Path, limit: str, threads: int) -> None:
    root = host(tmp_path, "0::/", **{"cpu.max": limit})
    assert quota(root) == threads
    assert processors(root) == (threads or HOST)


def test_version_2_counts_the_tightest_group_above(tmp_path: Path) -> None:
    files = {"pod/box/cpu.max": "800000 100000", "pod/cpu.max": "200000 100000"}
    assert quota(host(tmp_path, "0::/pod/box", **files)) == 2


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_version_1_counts_its_own_controller(tmp_path: Path, mounted: str) -> None:
    assert quota(version_1(tmp_path, "300000", mounted=mounted)) == 3


def test_version_1_says_no_limit_by_a_negative_number(tmp_path: Path) -> None:
    assert quota(version_1(tmp_path, "-1")) == 0


def test_a_container_whose_group_has_the_hosts_name(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/kubepods/pod1/box1", **{"cpu.max": "100000 100000"})
    assert quota(root) == 1


@pytest.mark.parametrize(("asked", "limit", "threads"), [(0, 2, 2), (0, 0, 0), (7, 2, 7)])
def test_threads_follow_the_limit_unless_they_are_set(
    monkeypatch: pytest.MonkeyPatch, asked: int, limit: int, threads: int
) -> None:
    for name in ("saeserve.worker.settings", "saeserve.inference.settings"):
        monkeypatch.setattr(f"{name}.quota", lambda: limit)
    assert WorkerSettings(torch_threads=asked).threads == threads
    assert InferenceSettings(inference_threads=asked).threads == threads
