"""What the machine is, and of which versions everything is; for reports."""

import os
import platform
import re
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
CPUS = Path("/sys/devices/system/cpu")
PACKAGES = ("lstmc", "numpy", "torch", "onnxruntime", "jax")


def describe():
    """Return a dict of lines: the processor, the system, versions."""
    info, cores = text_of("/proc/cpuinfo"), sorted(os.sched_getaffinity(0))
    lines = {"cpu": platform.processor() or platform.machine()}
    if model := re.search(r"^model name\s*:\s*(.*)$", info, re.M):
        family = re.findall(r"^(?:cpu family|model)\s*:\s*(\d+)$", info, re.M)[:2]
        lines["cpu"] = f"{model[1]} (family {family[0]}, model {family[1]})"
    lines["cores"] = f"{os.cpu_count()}, of which this run may use {len(cores)}"
    lines["caches"] = ", ".join(f"{n} {size >> 10} KiB" for n, size in cache_sizes(cores[:1]))
    lines["system"] = system()
    if name := commit():
        lines["commit"] = name
    versions = {name: version(name) for name in PACKAGES}
    lines["versions"] = ", ".join(f"{n} {v}" for n, v in versions.items() if v)
    lines["date"] = time.strftime("%Y-%m-%d")
    return lines


def system():
    """Name the operating system and Python."""
    return f"{platform.system()} {platform.release()}, Python {platform.python_version()}"


def commit():
    """Name the commit of these sources; empty where that is not known."""
    return output_of("git", "-C", str(HERE), "describe", "--always", "--dirty")


def version(package):
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def output_of(*command):
    """Return what a command prints; nothing where it is missing or fails."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def text_of(path):
    return Path(path).read_text().strip()


def cache_sizes(cores):
    """List (name, bytes) of the data caches that these cores have together."""
    sizes = {}
    for number in cores:
        for index in sorted((CPUS / f"cpu{number}" / "cache").glob("index*")):
            if text_of(index / "type") != "Instruction":
                key = f"L{text_of(index / 'level')}", text_of(index / "shared_cpu_list")
                sizes[key] = int(text_of(index / "size").removesuffix("K")) << 10
    names = dict.fromkeys(name for name, _ in sizes)
    return [(n, sum(size for (m, _), size in sizes.items() if m == n)) for n in names]
