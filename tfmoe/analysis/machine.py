"""The memory of the machine that this process runs on."""

import os
import pathlib
import sys

if sys.platform != "win32":
    import resource

# The file caches, which the kernel can reclaim, by the version of control groups.
CACHES = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}


def available_memory(root: str | os.PathLike = "/") -> int | None:
    """Bytes that this process can still allocate.

    This is the minimum of the machine's available memory, the memory left in the process's control
    groups (a container's limit), and the memory left under the process's own limit.

    Args:
        root: the folder that contains `proc` and `sys`.

    Returns:
        A number of bytes, or `None` if the system does not provide any of these values.
    """
    root = pathlib.Path(root)
    limits = [*_left_on_machine(root), *_left_in_groups(root), *_left_to_process(root)]
    return max(0, min(limits)) if limits else None


def _left_on_machine(root):
    kilobytes = _read_values(root / "proc/meminfo")
    if "MemAvailable:" in kilobytes:
        yield 1024 * (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0))


def _left_in_groups(root):
    """The memory left in each control group of this process, of version 1 or 2."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        top = root / "sys/fs/cgroup" / ("memory" if version == 1 else "")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _left_in_group(folder, version)


def _left_in_group(folder, version):
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    limit, used = ("".join(_lines(folder / f"memory.{name}")) for name in names)
    if limit.isdigit() and used.isdigit():
        statistics = _read_values(folder / "memory.stat")
        yield int(limit) - int(used) + sum(statistics.get(name, 0) for name in CACHES[version])


def _left_to_process(root):
    if sys.platform == "win32":
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - 1024 * _read_values(root / "proc/self/status").get("VmSize:", 0)


def _read_values(path):
    """`{first word: second word}` of the lines of a file whose second word is a number."""
    lines = (line.split() for line in _lines(path))
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _lines(path):
    """The lines of a file; empty if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
