"""The share of the CPU that Linux's control groups leave to this process: containers are limited by it."""

import os  # not pathlib, which costs `import lstmc` several milliseconds

__all__ = ["cpu_quota"]


def cpu_quota(root="/"):
    """Return how many cores' worth of time this process may use, or None where nothing limits it.

    A group is held to its own quota and to those of all groups around it: the least counts. Both versions
    of control groups are read (``cpu.max``; ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``).

    Parameters
    ----------
    root : path
        Where ``proc`` and ``sys`` are.
    """
    try:
        return min(quotas(os.fspath(root)), default=None)
    except (OSError, ValueError):  # no such files, or none that one can read
        return None


def text_of(folder, name):
    """Return the text of a file in a folder."""
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()


def quotas(root):
    """Yield the quotas that hold for this process, in cores."""
    paths = {}  # of the group of this process, by controller; version 2 has one for all
    for line in text_of(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in text_of(root, "proc/self/mountinfo").splitlines():
        place, _, form = line.partition(" - ")
        top, mount = place.split()[3:5]
        kind, _, options = form.split(maxsplit=2)
        if kind == "cgroup2" and "" in paths:
            yield from quotas_of(root, mount, top, paths[""], version_2)
        elif kind == "cgroup" and "cpu" in options.split(",") and "cpu" in paths:
            yield from quotas_of(root, mount, top, paths["cpu"], version_1)


def quotas_of(root, mount, top, path, read):
    """Yield the quotas of a group and of those around it, as far as they are mounted.

    ``top`` is the group that is mounted at ``mount``. A container may see there its own group alone, while
    its path is still told from the host's root.
    """
    group, top = ([part for part in folder.split("/") if part] for folder in (path, top))
    inside = group[len(top) :] if group[: len(top)] == top else []
    mount = os.path.join(root, mount.lstrip("/"))
    for depth in range(len(inside), -1, -1):
        try:
            quota, period = read(os.path.join(mount, *inside[:depth]))
            if int(quota) > 0 and int(period) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError):
            pass  # no such file, or "max"


def version_1(folder):
    """Return the microseconds of CPU time (-1: no limit) in how many of real time, by version 1."""
    return [text_of(folder, f"cpu.cfs_{name}_us") for name in ("quota", "period")]


def version_2(folder):
    """Return the microseconds of CPU time ("max": no limit) in how many of real time, by version 2."""
    return text_of(folder, "cpu.max").split()
