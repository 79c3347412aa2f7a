"""How many threads a process uses by default: affinity, quotas of control groups, the environment."""

import os
import re
import subprocess
import sys

import pytest

from lstmc._kernels import environment
from lstmc._kernels.cgroups import cpu_quota


def system(root, groups, mounts, files):
    """Write what a Linux system would say of control groups, under a folder."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


ROOT_DISK = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
VERSION_2 = ROOT_DISK + "31 22 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
VERSION_1 = (
    ROOT_DISK
    + "31 22 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    + "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    + "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)
CPU = "sys/fs/cgroup/cpu,cpuacct"
DOCKER = "/docker/0a1b"

SYSTEMS = {
    "version 2": (
        "0::/a.slice/b.service\n", VERSION_2,
        {"sys/fs/cgroup/a.slice/b.service/cpu.max": "150000 100000"}, 1.5,
    ),
    "version 2, without a limit": (
        "0::/a.slice\n", VERSION_2, {"sys/fs/cgroup/a.slice/cpu.max": "max 100000"}, None,
    ),
    "version 2, the group around it has less": (
        "0::/a.slice/b.service\n", VERSION_2,
        {"sys/fs/cgroup/a.slice/cpu.max": "50000 100000",
         "sys/fs/cgroup/a.slice/b.service/cpu.max": "300000 100000"}, 0.5,
    ),
    "version 2, in a container": ("0::/\n", VERSION_2, {"sys/fs/cgroup/cpu.max": "200000 50000"}, 4),
    "version 2, another's group has less": (
        "0::/a.slice\n", VERSION_2,
        {"sys/fs/cgroup/a.slice/cpu.max": "200000 100000",
         "sys/fs/cgroup/b.slice/cpu.max": "10000 100000"}, 2,
    ),
    "version 1": (
        "4:memory:/m\n3:cpu,cpuacct:/x/y\n1:name=systemd:/z\n", VERSION_1,
        {f"{CPU}/x/y/cpu.cfs_quota_us": "250000", f"{CPU}/x/y/cpu.cfs_period_us": "100000"}, 2.5,
    ),
    "version 1, without a limit": (
        "3:cpu,cpuacct:/\n", VERSION_1,
        {f"{CPU}/cpu.cfs_quota_us": "-1", f"{CPU}/cpu.cfs_period_us": "100000"}, None,
    ),
    "version 1, in a container that is told the path of its host": (
        f"3:cpu,cpuacct:{DOCKER}/inner\n", VERSION_1.replace("0:30 /", f"0:30 {DOCKER}"),
        {f"{CPU}/inner/cpu.cfs_quota_us": "-1", f"{CPU}/inner/cpu.cfs_period_us": "100000",
         f"{CPU}/cpu.cfs_quota_us": "100000", f"{CPU}/cpu.cfs_period_us": "100000"}, 1,
    ),
    "version 1 limits, version 2 is there too": (
        "3:cpu,cpuacct:/x\n0::/\n",
        VERSION_1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        {f"{CPU}/x/cpu.cfs_quota_us": "100000", f"{CPU}/x/cpu.cfs_period_us": "50000"}, 2,
    ),
    "neither": ("", ROOT_DISK, {}, None),
    "what nobody can read": ("0:/\n", "rubbish\n", {}, None),
    "a quota that is none": ("0::/\n", VERSION_2, {"sys/fs/cgroup/cpu.max": "0 0"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_quota_of_control_groups(name, tmp_path):
    groups, mounts, files, expected = SYSTEMS[name]
    assert cpu_quota(system(tmp_path, groups, mounts, files)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets how many cores the machine has, how many are allowed, and the quota."""

    def set_up(cores, allowed=None, quota=None, **variables):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _: range(allowed or cores), raising=False
        )
        monkeypatch.setattr(environment, "cpu_quota", lambda: quota)
        for name in ("OMP_NUM_THREADS", "LSTMC_NUM_THREADS"):
            monkeypatch.setenv(name, variables.get(name, ""))

    return set_up


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (8, "the machine")),
        ({"allowed": 3}, (3, "affinity")),
        ({"quota": 2.0}, (2, "a cgroup's CPU quota of 2")),
        ({"quota": 0.5}, (1, "a cgroup's CPU quota of 0.5")),
        ({"quota": 2.5}, (3, "a cgroup's CPU quota of 2.5")),
        ({"quota": 16.0}, (8, "the machine")),
        ({"allowed": 2, "quota": 4.0}, (2, "affinity")),
        ({"allowed": 4, "quota": 2.0}, (2, "a cgroup's CPU quota of 2")),
        ({"quota": 2.0, "OMP_NUM_THREADS": "5"}, (5, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": " 3, 2"}, (3, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "0"}, (8, "the machine")),
        ({"OMP_NUM_THREADS": "9" * 5000}, (8, "the machine")),
        ({"OMP_NUM_THREADS": "many", "allowed": 7}, (7, "affinity")),
        ({"OMP_NUM_THREADS": "5", "LSTMC_NUM_THREADS": "6"}, (6, "LSTMC_NUM_THREADS")),
    ],
)
def test_what_decides_the_number_of_threads(machine, settings, expected):
    """Each overrides those before it: the machine, affinity, quota, OMP_NUM_THREADS, LSTMC_NUM_THREADS."""
    machine(8, **settings)
    assert environment.default_threads() == expected


CONFIG = """
import os, sys
if sys.argv[1] != "None":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import lstmc
if sys.argv[2] != "None":
    lstmc.set_num_threads(int(sys.argv[2]))
if sys.argv[3] != "None" and (child := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
lstmc.show_config()
"""


def config(pin=None, set_to=None, fork=None, **environment):
    """Return the lines on threads and cores that a fresh process shows of its configuration."""
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", CONFIG, str(pin), str(set_to), str(fork)],
        capture_output=True, text=True, check=True, env={**clean, **environment},
    )  # fmt: skip
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    return shown["threads"], shown["cores"]


def test_the_configuration_says_what_decided():
    cores, why = environment.usable_cores()
    assert config() == (f"{cores} (decided by {why})", f"{cores} (decided by {why})")
    one = {"OMP_NUM_THREADS": "1"}
    assert config(**one)[0] == "1 (decided by OMP_NUM_THREADS)"
    assert config(**one, LSTMC_NUM_THREADS="3")[0] == "3 (decided by LSTMC_NUM_THREADS)"
    assert config(**one, set_to=4)[0] == "4 (decided by set_num_threads)"
    assert config(**one)[1] == f"{cores} (decided by {why})"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
@pytest.mark.skipif(os.cpu_count() == 1, reason="there is one core")
def test_affinity_decides_where_nothing_else_does():
    assert config(pin=1) == ("1 (decided by affinity)",) * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_says_that_it_is_one():
    shown = config(set_to=2, fork=1, LSTMC_NUM_THREADS="2")[0]
    assert shown == "1 (decided by the fork that began this process)"
