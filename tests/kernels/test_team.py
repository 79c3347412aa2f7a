"""The team of threads: its barrier, forks, threads that the system refuses, what it does between calls."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import compiled
import numpy as np
import pytest
from support import assert_same_bits

import lstmc
from lstmc._kernels.binding import core

OWN_THREADS = core.team_kind() == "plain threads"
needs_own_threads = pytest.mark.skipif(
    not OWN_THREADS, reason="OpenMP's threads are its own affair"
)
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="there is no /proc here"
)

PROBLEM = """
import ctypes, os, signal, sys, time, numpy as np, lstmc
from lstmc._kernels.binding import core

core.crowd_teams(True)
lstm = lstmc.LSTM(60, 128, rng=1)
x = np.random.default_rng(2).standard_normal((20, 16, 60), np.float32)

def run(threads):
    y, _, trace = lstm.forward(x, num_threads=threads)
    dx, _ = lstm.backward(y, trace, num_threads=threads)
    return y.tobytes() + dx.tobytes()

def tasks():
    return set(os.listdir("/proc/self/task"))

def switches(task):
    status = open(f"/proc/self/task/{task}/status").read()
    return status.partition("voluntary_ctxt_switches:")[2].split()[0]
"""


def run(code, *arguments, **environment):
    """Run PROBLEM and then this code in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROBLEM + code, *arguments],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def problem():
    """Return a layer and an input that are worth more than one thread."""
    x = np.random.default_rng(2).standard_normal((20, 16, 60), np.float32)
    return lstmc.LSTM(60, 128, rng=1), x


# --------------------------------------------------------------------------------------------------
# The barrier
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(), ("-DLSTMC_NO_FUTEX",)], ids=["futex", "condition"])
def team(request, tmp_path_factory):
    """Return the function of team.c, with the way to sleep that the system has and with the other."""
    if not compiled.POSSIBLE:
        pytest.skip("there is no source tree, or no compiler")
    library = tmp_path_factory.mktemp("team") / "team.so"
    sources = [compiled.KERNEL_TESTS / "team.c", *compiled.TEAM]
    command = [compiled.COMPILER, "-std=c11", "-O2", "-pthread", "-fPIC",
               "-shared", f"-I{compiled.KERNELS}", *request.param, *sources, "-o", library]  # fmt: skip
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.lstmc_team_crowd(1)
    return loaded.run_team


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_no_member_passes_a_barrier_alone(team, threads):
    for _ in range(20):
        assert team(threads, 100, 0) == threads


@pytest.mark.parametrize("threads", [2, 5])
def test_members_that_fell_asleep_are_woken(team, threads):
    """A member that waits for three milliseconds sleeps; so do, between teams, those of the one before."""
    for _ in range(4):
        assert team(threads, 10, 3000) == threads
        time.sleep(0.01)


def test_teams_run_beside_one_another(team):
    """Threads that call at the same time have teams of their own: none waits for another's."""
    sizes = []
    callers = [
        threading.Thread(target=lambda: sizes.extend(team(3, 50, 0) for _ in range(20)))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sizes == [3] * 80


def test_calls_made_at_once_have_the_bits_of_one():
    layer, x = problem()
    expected = layer.forward(x, num_threads=1)[0]
    results = []
    callers = [
        threading.Thread(
            target=lambda: results.extend(layer.forward(x, num_threads=2)[0] for _ in range(10))
        )
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 30
    for y in results:
        assert_same_bits(y, expected)


# --------------------------------------------------------------------------------------------------
# Forks
# --------------------------------------------------------------------------------------------------

FORKING = """
if sys.argv[1] == "lstmc":
    run(2)
elif sys.argv[1] != "nobody":  # the path of another library
    assert ctypes.CDLL(sys.argv[1]).count_threads() == 2
before = run(1)
lstmc.set_num_threads(2)

def in_a_child(generations):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs ends
        if lstmc.get_num_threads() != 1:
            os._exit(2)
        if not all(run(threads) == before for threads in (1, 2, 2)):
            os._exit(3)
        os._exit(in_a_child(generations - 1) if generations > 1 else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(in_a_child(2), in_a_child(1), lstmc.get_num_threads(), run(2) == before)
"""

OTHER_LIBRARY = """
int count_threads(void)
{
    int threads = 0;
    #pragma omp parallel num_threads(2) reduction(+:threads)
    threads += 1;
    return threads;
}
"""


def library_with_openmp(folder):
    """Return the path of a library that is not lstmc's and starts threads of OpenMP."""
    if compiled.COMPILER is None:
        pytest.skip("there is no compiler")
    source, library = folder / "other.c", folder / "other.so"
    source.write_text(OTHER_LIBRARY)
    command = [compiled.COMPILER, "-fopenmp", "-fPIC", "-shared", source, "-o", library]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("the compiler has no OpenMP")
    return str(library)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("who", ["nobody", "lstmc", "another library"])
def test_a_forked_child_is_right_whoever_started_threads(who, tmp_path):
    """It begins with one thread, may have more, and forks in turn; the parent goes on as before."""
    arguments = library_with_openmp(tmp_path) if who == "another library" else who
    assert run(FORKING, arguments) == "0 0 2 True"


# --------------------------------------------------------------------------------------------------
# What the system gives
# --------------------------------------------------------------------------------------------------

REFUSED = """
import resource
x = np.repeat(x, 8, axis=1)  # rows for all threads
expected = run(1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 64 * 2**20  # some stacks of threads, not sixty-four
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(all(run(64) == expected for _ in range(3)), 1 < len(tasks()) < 40)
"""


@needs_own_threads
@needs_proc
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="its memory is all of it")
def test_a_team_goes_on_with_the_threads_that_the_system_gives():
    assert run(REFUSED, OPENBLAS_NUM_THREADS="1") == "True True"


BETWEEN_CALLS = """
before = tasks()
run(3)
started = tasks() - before
time.sleep(0.1)
states = {open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[0] for task in started}
status = [open(f"/proc/self/task/{task}/status").read() for task in started]
blocked = [int(text.partition("SigBlk:")[2].split()[0], 16) for text in status]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
    assert all(mask >> number - 1 & 1 for mask in blocked)
assert not any(mask >> signal.SIGSEGV - 1 & 1 for mask in blocked)
run(3)
print(len(started), *states, tasks() - before == started)
"""


@needs_own_threads
@needs_proc
def test_between_calls_threads_sleep_and_take_no_signals():
    """Signals are for Python's own threads, faults for whom they happen to. The next call takes the same."""
    assert run(BETWEEN_CALLS) == "2 S True"


def affinities():
    """Return the cores that each thread of this process may run on."""
    return {int(task): os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity here")
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_may_run_where_they_might_before(threads):
    """A member that finds its core taken moves, and is then as free as it was; more members than cores."""
    layer, x = problem()
    expected, _, _ = layer.forward(x, num_threads=1)
    before = os.sched_getaffinity(0)
    for _ in range(10):
        time.sleep(0.005)  # asleep, the others wake where the scheduler puts them
        assert_same_bits(layer.forward(x, num_threads=threads)[0], expected)
        assert set(map(frozenset, affinities().values())) == {frozenset(before)}


CROWDED = """
x = np.repeat(x, 8, axis=1)  # rows for all threads
core.crowd_teams(False)
cores = os.sched_getaffinity(0)
expected, before = run(1), tasks()
print(run(8) == expected, len(tasks() - before) == min(len(cores), 8) - 1)
core.crowd_teams(True)
print(run(8) == expected, len(tasks() - before) == 7)
core.crowd_teams(False)
os.sched_setaffinity(0, {min(cores)})
time.sleep(0.05)
asleep = {task: switches(task) for task in tasks() - before}
print(run(8) == expected, all(switches(task) == n for task, n in asleep.items()))
"""


@needs_own_threads
@needs_proc
def test_a_team_is_not_larger_than_the_cores_at_hand():
    """Members that share a core would wait for one another at every barrier: the others are left asleep."""
    assert run(CROWDED).split() == ["True"] * 6


FOLLOWING = """
run(2)
before = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(before)})
run(2)
(worker,) = {int(task) for task in tasks() if int(task) != os.getpid()}
print(os.sched_getaffinity(worker) == {min(before)})
os.sched_setaffinity(0, before)
run(2)
print(os.sched_getaffinity(worker) == before)
"""


@needs_own_threads
@needs_proc
def test_a_team_runs_where_its_caller_may():
    assert run(FOLLOWING, OPENBLAS_NUM_THREADS="1").split() == ["True", "True"]
