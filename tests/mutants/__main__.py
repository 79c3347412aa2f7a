"""Breaks the kernels in more than a hundred ways, one at a time, and asks that a test fails for each.

    python tests/mutants [--jobs N] [--only WORD] [--sample N [--seed S]] [--timeout SECONDS]

A mutant is one line of the C, Cython, CUDA or Python sources changed in a copy of the tree, built for the
best instruction set of this machine (those of a GPU run emulated), and put to the quick kernel
tests. The lists are beside this file, one for each folder of the kernels. It prints a line for each;
the exit code is 1 if a mutant survives, or if the line of any mutant, drawn or not, is no longer in
the source exactly once. A sample holds some of each list; with the seed that it prints it can be
drawn again. It needs a compiler and what the tests need. Deliberately not a test: pytest does not
collect it.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread

from binding import MUTANTS as OF_BINDING
from gpu import MUTANTS as OF_GPU
from kernels import MUTANTS as OF_KERNELS
from layers import MUTANTS as OF_LAYERS
from network import MUTANTS as OF_NETWORK
from recurrent import MUTANTS as OF_RECURRENT
from variants import MUTANTS as OF_VARIANTS

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path("src/lstmc/_kernels")
TESTS = ["recurrent/test_recurrent", "recurrent/test_recurrent_inputs", "recurrent/test_recurrent_steppers",
         "recurrent/test_recurrent_traces", "recurrent/test_recurrent_records",
         "recurrent/test_recurrent_errors", "recurrent/test_network_steppers", "recurrent/test_time",
         "recurrent/test_time_bits", "recurrent/test_time_traces", "recurrent/test_time_errors",
         "recurrent/options/test_initial_state", "recurrent/options/test_dropout", "recurrent/test_variants",
         "layers/test_layers", "layers/test_activations", "layers/test_dropout",
         "test_losses", "test_losses_masks", "test_optim", "test_clipping", "kernels/test_binding",
         "kernels/test_binding_rows", "kernels/test_c_api", "kernels/test_c_api_bounds",
         "kernels/test_packing", "kernels/test_driver", "kernels/test_team",
         "network/test_network", "network/test_time", "network/test_last",
         "network/test_composite", "network/test_composite_copies", "network/test_ties",
         "network/test_features",
         "inspection/test_jacobians", "inspection/test_jacobians_spectrum", "inspection/test_flow",
         "inspection/test_flow_reach", "inspection/test_flow_calls"]  # fmt: skip
# What is likely to see a change of a file first; the others follow.
FIRST = {"c/flat.h": ["test_losses", "test_losses_masks", "test_clipping", "layers/test_layers"],
         "c/flat/activations.h": ["layers/test_activations", "kernels/test_c_api"],
         "c/cells/lstm.h": ["recurrent/test_variants"],
         "c/cells/lstm_variant.h": ["recurrent/test_variants"],
         "c/gradients.h": ["recurrent/test_variants"],
         "c/cells/packed.h": ["recurrent/test_variants", "kernels/test_c_api_bounds"],
         "c/plan.h": ["recurrent/test_variants", "kernels/test_c_api_bounds", "kernels/test_c_api"],
         "binding/recurrent.pxi": ["kernels/test_binding_rows", "kernels/test_binding"],
         "c/rows.h": ["layers/test_layers", "recurrent/test_time"],
         "c/linear.h": ["layers/test_layers"], "c/flat/optimisers.h": ["test_optim", "test_clipping"],
         "c/vmath.h": ["kernels/test_c_api"], "c/dispatch.c": ["kernels/test_c_api"],
         "binding/steppers.pxi": ["recurrent/test_recurrent_inputs", "recurrent/test_recurrent_errors",
                              "recurrent/test_recurrent_steppers"],
         "binding/checks.pxi": ["kernels/test_binding"],
         "c/team.c": ["kernels/test_team", "recurrent/test_recurrent_inputs"],
         "c/team.h": ["kernels/test_team"], "c/team/threads.c": ["kernels/test_team"],
         "../network/composite.py": ["network/test_ties", "network/test_composite_copies"],
         "../network/calls.py": ["network/test_composite"], "../passes.py": ["network/test_composite_copies"],
         "../network/ties.py": ["network/test_ties"], "../layers/linear.py": ["network/test_ties"],
         "../network/order.py": ["network/test_features"],
         "../recurrent/options.py": ["network/test_features"],
         "../layers/dropout.py": ["layers/test_dropout"],
         "../recurrent/sequences.py": ["recurrent/test_time_errors", "recurrent/test_time",
                                        "recurrent/options/test_initial_state"],
         "../recurrent/run.py": ["recurrent/test_time", "recurrent/test_time_traces",
                                  "recurrent/options/test_dropout"],
         "../recurrent/windows.py": ["inspection/test_jacobians"],
         "cuda/flat.cu": ["cuda/test_device_losses"]}  # fmt: skip
# Of files whose names begin with cuda, which need no build, nor does Python.
GPU_TESTS = ["cuda/test_cuda", "cuda/test_ways", "cuda/test_device_layers",
             "cuda/test_device_losses", "cuda/test_device_training",
             "cuda/test_device_inspection"]  # fmt: skip
MUTANTS = (OF_KERNELS + OF_VARIANTS + OF_LAYERS + OF_NETWORK + OF_BINDING + OF_RECURRENT
           + OF_GPU)  # fmt: skip


def run(command, folder, environment, timeout):
    """Return the exit status (None after the time limit) and what was printed."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return None, process.communicate()[0]
        return process.returncode, output


class Copy:
    """A copy of the tree with a build of its own."""

    def __init__(self, folder, timeout):
        self.folder = Path(folder)
        self.timeouts = {False: timeout, True: timeout}  # seconds, by whether tests are of a GPU
        skipped = shutil.ignore_patterns("*.so", "__pycache__", "core.c")
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=skipped)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, self.folder)
        self.environment = {
            **os.environ, "PYTHONPATH": f"{self.folder}/src", "LSTMC_CFLAGS": "-O1",
            "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip

    def build(self):
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        return run(command, self.folder, self.environment, 600)

    def test(self, first=(), gpu=False):
        names = dict.fromkeys([*first, *(GPU_TESTS if gpu else TESTS)])  # each once
        tests = [f"tests/{name}.py" for name in names]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
        options += ["-k", "not compile"] if gpu else []
        command = [sys.executable, "-m", "pytest", *options, *tests]
        return run(command, self.folder, self.environment, self.timeouts[gpu])

    def judge(self, file, old, new):
        """Return what became of a mutant; the first word says whether it is as it should be."""
        path = self.folder / KERNELS / file
        source = path.read_text()
        path.write_text(source.replace(old, new))
        try:
            gpu = file.startswith("cuda")
            status, output = (0, "") if gpu or file.endswith(".py") else self.build()
            if status != 0:
                return f"NO BUILD: {output.strip().splitlines()[-1]}"
            status, output = self.test(FIRST.get(file, ()), gpu)
        finally:
            path.write_text(source)
        if status is None:
            return "killed: the tests hang"
        if status == 0:
            return "SURVIVES"
        if status < 0:
            return f"killed: signal {-status}"
        failed = [line for line in output.splitlines() if line.startswith("FAILED")]
        if status != 1 or not failed:
            return f"NO TEST: {output.strip().splitlines()[-1]}"
        return "killed: " + failed[0].split("::", 1)[1].split(" ")[0]


def work(copy, mutants, results, lock):
    while True:
        try:
            name, *change = mutants.get_nowait()
        except Empty:
            return
        start = time.monotonic()
        result = copy.judge(*change)
        with lock:
            results[name] = result
            print(f"{name}: {result} ({time.monotonic() - start:.0f} s)", flush=True)


def prepare(copies):
    """Build every copy for the best instruction set of this machine; unchanged, all must be well."""
    ask = "from lstmc._kernels.binding import core; print(core.instruction_sets()[0])"
    first = copies[0]
    print("building the unchanged sources and timing their tests, some minutes", flush=True)
    status, output = first.build()  # for all instruction sets
    if status == 0:
        status, output = run([sys.executable, "-c", ask], first.folder, first.environment, 60)
        best = output.strip()
    for copy in copies:
        if status == 0:
            copy.environment["LSTMC_BUILD_ISAS"] = best
            status, output = copy.build()
    for gpu in (False, True):
        if status == 0:
            least, first.timeouts[gpu] = first.timeouts[gpu], 600
            start = time.monotonic()
            status, output = first.test(gpu=gpu)
            # On a busy machine a mutant must not pass for killed because its tests are slow.
            limit = max(least, 3 * (time.monotonic() - start))
            for copy in copies:
                copy.timeouts[gpu] = limit
    if status != 0:
        why = "take too long" if status is None else "fail"
        sys.exit(f"{output}\nthe sources {why} before any change")


def refuse_lost():
    """Stop if the line of any mutant, chosen or not, is not in its file exactly once."""
    lost = []
    for name, file, old, _ in MUTANTS:
        count = (ROOT / KERNELS / file).read_text().count(old)
        if count != 1:
            lost.append(f"{name}: LOST: its line is {count} times in {file}")
    if lost:
        sys.exit("\n".join(lost))


def draw(mutants, size, seed):
    """Return a random sample in the order of the list: one of each folder, then any of the rest."""
    rng = random.Random(seed)
    by_folder = {}
    for mutant in mutants:
        by_folder.setdefault(mutant[1].split("/")[0], []).append(mutant)
    first = [rng.choice(folder) for folder in by_folder.values()]
    rest = [mutant for mutant in mutants if mutant not in first]
    rng.shuffle(first)
    rng.shuffle(rest)
    drawn = (first + rest)[:size]
    return [mutant for mutant in mutants if mutant in drawn]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=2, help="copies that work at once")
    parser.add_argument("--only", default="", help="mutants whose name holds this")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many, drawn at random")
    parser.add_argument("--seed", type=int, help="of the sample; by default a fresh one")
    parser.add_argument("--timeout", type=float, default=120,
                        help="seconds for the tests of one, or 3 times what they take unchanged")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.sample is None and arguments.seed is not None:
        parser.error("--seed needs --sample")
    if arguments.sample is not None and arguments.sample < 1:
        parser.error(f"--sample must be 1 or more, got {arguments.sample}")
    refuse_lost()
    chosen = [mutant for mutant in MUTANTS if arguments.only.lower() in mutant[0].lower()]
    if not chosen:
        parser.error(f"--only {arguments.only}: no mutant has this in its name")
    if arguments.sample:
        seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
        chosen = draw(chosen, arguments.sample, seed)
        print(f"{len(chosen)} of {len(MUTANTS)} mutants, drawn with --seed {seed}", flush=True)
    start, results, lock, waiting = time.monotonic(), {}, Lock(), Queue()
    for mutant in chosen:
        waiting.put(mutant)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Copy(f"{folder}/{i}", arguments.timeout) for i in range(arguments.jobs)]
        prepare(copies)
        threads = [Thread(target=work, args=(copy, waiting, results, lock)) for copy in copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    bad = [name for name, result in results.items() if not result.startswith("killed")]
    seconds = time.monotonic() - start
    print(f"{len(results) - len(bad)} of {len(chosen)} killed in {seconds:.0f} s")
    sys.exit(bool(bad) or len(results) < len(chosen))


if __name__ == "__main__":
    main()
