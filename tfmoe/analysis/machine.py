"""The memory of the machine that this process runs on."""

import pathlib
import sys

if sys.platform != "win32":
    import resource

# What files in memory take, which gives way; by the version of control groups.
CACHES = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}


def available_memory(root="/"):
    """Bytes that this process can still take: the least of what the machine, its control groups
    (a container's limit) and the process's own limit leave.

    Args:
        root: the folder that `proc` and `sys` are in.

    Returns:
        An integer, or `None` where the system does not say.
    """
    root = pathlib.Path(root)
    found = [*_of_machine(root), *_of_groups(root), *_of_process(root)]
    return max(0, min(found)) if found else None


def _of_machine(root):
    numbers = _numbers(root / "proc/meminfo")
    if "MemAvailable:" in numbers:
        yield 1024 * (numbers["MemAvailable:"] + numbers.get("SwapFree:", 0))


def _of_groups(root):
    """What each control group around this process leaves, of both versions of control groups."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        top = root / "sys/fs/cgroup" / ("memory" if version == 1 else "")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _of_group(folder, version)


def _of_group(folder, version):
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    limit, used = ("".join(_lines(folder / f"memory.{name}")) for name in names)
    if limit.isdigit() and used.isdigit():
        caches = _numbers(folder / "memory.stat")
        yield int(limit) - int(used) + sum(caches.get(name, 0) for name in CACHES[version])


def _of_process(root):
    if sys.platform == "win32":
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - 1024 * _numbers(root / "proc/self/status").get("VmSize:", 0)


def _numbers(path):
    """`{first word: second word}` of the lines of a file whose second word is a number."""
    words = (line.split() for line in _lines(path))
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _lines(path):
    """The lines of a file; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
