"""Memory limits, from /proc and /sys as different kernels and containers show them."""

from __future__ import annotations

from pathlib import Path

from saeserve.platform.memory import free_bytes, limit_bytes

GIB = 2**30


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def host(root: Path, groups: str = "0::/", **more: object) -> Path:
    """16 GiB, of which 10 are available."""
    meminfo = f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {10 * 2**20} kB"
    write(root, {"proc/meminfo": meminfo, "proc/self/cgroup": groups})
    return write(root, {f"sys/fs/cgroup/{name}": value for name, value in more.items()})


def test_a_host_without_limits(tmp_path: Path) -> None:
    root = host(tmp_path)
    assert (limit_bytes(root), free_bytes(root)) == (16 * GIB, 10 * GIB)


def test_version_2_counts_the_tightest_group_above(tmp_path: Path) -> None:
    root = host(
        tmp_path,
        "0::/pod/box",
        **{
            "pod/box/memory.max": "max",
            "pod/memory.max": 4 * GIB,
            "pod/memory.current": 3 * GIB,
            "pod/memory.stat": f"anon 7\ninactive_file {GIB}",
            "memory.max": 8 * GIB,
        },
    )
    assert (limit_bytes(root), free_bytes(root)) == (4 * GIB, 2 * GIB)


def test_version_1_counts_its_own_controller(tmp_path: Path) -> None:
    root = host(
        tmp_path,
        "5:cpu:/a\n4:memory:/box\n0::/",
        **{
            "memory/box/memory.limit_in_bytes": 2 * GIB,
            "memory/box/memory.usage_in_bytes": GIB,
            "memory/box/memory.stat": "inactive_file 9\ntotal_inactive_file 0",
            "memory/memory.limit_in_bytes": 2**63 - 4096,
        },
    )
    assert (limit_bytes(root), free_bytes(root)) == (2 * GIB, GIB)


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    groups = "0::/kubepods/pod1/box1"
    root = host(tmp_path, groups, **{"memory.max": GIB, "memory.current": 0})
    assert limit_bytes(root) == GIB


def test_a_limit_above_the_host_is_none(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/box", **{"box/memory.max": 64 * GIB, "box/memory.current": 0})
    assert (limit_bytes(root), free_bytes(root)) == (16 * GIB, 10 * GIB)


def test_without_proc_the_machine_is_asked(tmp_path: Path) -> None:
    assert limit_bytes(tmp_path) == free_bytes(tmp_path) > 0
