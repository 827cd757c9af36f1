import pytest

from tfmoe.analysis.machine import available_memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """A function that writes files under a root folder and returns the folder."""

    def machine(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return machine


# 3 GiB of memory and 1 GiB of swap.
MEMINFO = f"MemTotal: {9 * 2**20} kB\nMemAvailable: {3 * 2**20} kB\nSwapFree: {2**20} kB\n"


def test_memory_of_the_machine(machine):
    assert available_memory(machine({"proc/meminfo": MEMINFO})) == 4 * GIB


@pytest.mark.parametrize("inner", ["max", str(3 * GIB)])
def test_nested_control_groups(machine, inner):
    root = machine(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": f"{inner}\n",
            "sys/fs/cgroup/a/b/memory.current": "0\n",
            "sys/fs/cgroup/a/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GIB // 4}\nactive_file 0\n",
        }
    )
    assert available_memory(root) == 2 * GIB - GIB + GIB // 4


def test_control_groups_of_version_1(machine):
    root = machine(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:devices:/\n4:memory:/box\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "0\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {GIB // 2}\n",
        }
    )
    assert available_memory(root) == 2 * GIB - GIB + GIB // 2


def test_none_without_any_information(tmp_path):
    assert available_memory(tmp_path) is None


def test_this_machine():
    assert 2**20 < available_memory() < 2**50
