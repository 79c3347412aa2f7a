"""Breaks the kernels in about a hundred ways, one at a time, and asks that a test fails for each.

    python tests/mutants.py [--jobs N] [--only WORD] [--sample N [--seed S]] [--timeout SECONDS]

A mutant is one line of the C or CUDA sources changed in a copy of the tree, built for the best
instruction set of this machine (those of a GPU run emulated), and put to the quick kernel tests.
It prints a line for each; the exit code is 1 if a mutant survives, or if the line of any mutant,
drawn or not, is no longer in the source exactly once. A sample holds some of each folder: C,
binding and GPU; with the seed that it prints it can be drawn again. It needs a compiler and what
the tests need. Deliberately not a test: pytest does not collect it.
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

ROOT = Path(__file__).resolve().parents[1]
KERNELS = Path("src/lstmc/_kernels")
TESTS = ["recurrent/test_recurrent", "recurrent/test_recurrent_inputs", "recurrent/test_recurrent_steppers",
         "recurrent/test_recurrent_traces", "recurrent/test_recurrent_records",
         "recurrent/test_recurrent_errors", "recurrent/test_network_steppers", "test_layers",
         "test_losses", "test_optim", "kernels/test_binding", "kernels/test_c_api",
         "kernels/test_c_api_bounds", "kernels/test_packing", "kernels/test_driver", "kernels/test_team",
         "test_network",
         "inspection/test_jacobians", "inspection/test_jacobians_spectrum", "inspection/test_flow",
         "inspection/test_flow_reach", "inspection/test_flow_calls"]  # fmt: skip
# What is likely to see a change of a file first; the others follow.
FIRST = {"c/flat.h": ["test_losses", "test_optim", "test_layers"], "c/linear.h": ["test_layers"],
         "c/optimisers.h": ["test_optim"],
         "c/vmath.h": ["kernels/test_c_api"], "c/dispatch.c": ["kernels/test_c_api"],
         "binding/steppers.pxi": ["recurrent/test_recurrent_inputs", "recurrent/test_recurrent_errors",
                              "recurrent/test_recurrent_steppers"],
         "binding/checks.pxi": ["kernels/test_binding"],
         "c/team.c": ["kernels/test_team", "recurrent/test_recurrent_inputs"],
         "c/team.h": ["kernels/test_team"], "c/team/threads.c": ["kernels/test_team"],
         "cuda/flat.cu": ["cuda/test_device_losses"]}  # fmt: skip
# Of files whose names begin with cuda, which need no build.
GPU_TESTS = ["cuda/test_cuda", "cuda/test_ways", "cuda/test_device_layers",
             "cuda/test_device_losses", "cuda/test_device_training",
             "cuda/test_device_inspection"]  # fmt: skip

# name, file, what is there, what takes its place
MUTANTS = [
    # The cells
    ("LSTM: gates i and f swapped", "c/cells/lstm.h",
     "u->c = f * u->c + i * g;",
     "u->c = i * u->c + f * g;"),
    ("LSTM: h without tanh", "c/cells/lstm.h",
     "u->h = o * v_tanh(u->c);",
     "u->h = o * u->c;"),
    ("LSTM: df from c, not c before", "c/cells/lstm.h",
     "d_f = d_c * u->c_before;",
     "d_f = d_c * u->c;"),
    ("LSTM: derivative of g as of a sigmoid", "c/cells/lstm.h", "d_g * (1 - g * g)",
     "d_g * (g * (1 - g))"),
    ("LSTM: dc not carried", "c/cells/lstm.h",
     "u->dc = d_c * f;",
     "u->dc = d_c - d_c;"),
    ("LSTM: dc from later steps ignored", "c/cells/lstm.h",
     "d_c = u->dc + (u->dh",
     "d_c = (u->dh"),
    ("RNN: derivative of tanh", "c/cells/rnn.h",
     "u->dh * (1 - u->h * u->h);",
     "u->dh * (1 - u->h);"),
    ("RNN: slope of relu at 0", "c/cells/rnn.h",
     "(ivec)(u->h > 0)",
     "(ivec)(u->h >= 0)"),
    ("RNN: relu drops NaN", "c/cells/rnn.h",
     "choose((ivec)(u->sums[0] < 0), (vec){0}, u->sums[0])",
     "choose((ivec)(u->sums[0] > 0), u->sums[0], (vec){0})"),
    # What is laid down before a call
    ("plan: a layer's states over its weights", "c/forward.h",
     "plan->places[l].states = cursor;", "plan->places[l].states = 0;"),
    ("plan: scratch of the widest layer forgotten", "c/forward.h",
     "most = max_of(most, cursor);", "most = cursor;"),
    ("plan: a chunk of h that is read while it is written", "c/forward.h",
     "saves || call->num_layers == 1 ? 1 : 2", "1"),
    ("plan: an unknown cell is the last one", "c/cells/list.h",
     "number < CELLS ? cells[number] : NULL", "number < CELLS ? cells[number] : cells[CELLS - 1]"),
    ("forward: sums of R alone start from what was there", "c/forward.h",
     "rows, columns, hidden, !cell->apart);", "rows, columns, hidden, 1);"),
    ("forward: R's own bias dropped", "c/cells/pointwise.h",
     "u.recurrent[g] += load(bias + (g + OWN) * width);", "(void)bias;"),
    ("forward: a member's sums begin within a panel", "c/forward.h",
     "mine.first *= together;", "mine.first *= 1;"),
    ("backward: what h carries on by itself is lost", "c/backward.h",
     "columns, sums, plan->cell->carries_h);", "columns, sums, 0);"),
    ("backward: dR from the sums of W", "c/backward.h",
     "(weights + 1, 1, d.recurrent,", "(weights + 1, 1, d.input,"),
    ("packing: groups of three sums begin at a panel", "c/gemm.h",
     "vector % gates * VL + j", "v % gates * VL + j"),
    # The driver, forward
    ("forward: bias dropped", "c/cells/pointwise.h",
     "load(sums[g] + row_sums) + load(bias + g * width)",
     "load(sums[g] + row_sums)"),
    ("forward: recurrent product overwrites", "c/forward.h",
     "rows, columns, hidden, !cell->apart);",
     "rows, columns, hidden, 0);"),
    ("forward: a step reads its own h", "c/forward.h",
     "step.h - state",
     "step.h"),
    ("forward: c0 instead of the carried c", "c/forward.h",
     "t ? step.c - at->c_step : layer->c0;",
     "t > 1 ? step.c - at->c_step : layer->c0;"),
    ("forward: h0 not saved", "c/forward.h",
     "memcpy((real *)layer->h + offset, (const real *)layer->h0 + offset, size);",
     "(void)0;"),
    ("forward: c_n is that of the first step", "c/forward.h",
     "at.c + (steps - 1) * at.c_step;",
     "at.c;"),
    ("forward: a chunk reads the wrong end of the last", "c/forward.h",
     "at->h + (work->plan->chunk - 1) * state",
     "at->h"),
    ("forward: gates stored a row off", "c/cells/pointwise.h",
     "store_n(saved + s * step->hidden, u.saved[s], n);",
     "store_n(saved + (s ^ 1) * step->hidden, u.saved[s], n);"),
    ("packing: bias of the first layer's panels only", "c/forward.h",
     "layer->bias, 1, hidden, cell->biases, first, last);",
     "layer->bias, 1, hidden, cell->biases, first, min_of(last, 1));"),
    # The driver, backward
    ("backward: off by one in time", "c/backward.h",
     "for (ptrdiff_t t = t1 - 1; t >= t0; t--)",
     "for (ptrdiff_t t = t1 - 1; t > t0; t--)"),
    ("backward: dh_n ignored", "c/backward.h",
     "if (layer->dh_n)",
     "if (0)"),
    ("backward: dy only at the last step", "c/backward.h",
     "step.dy = at->dy ? at->dy + t * arriving : NULL;",
     "step.dy = at->dy ? at->dy + (work->call->steps - 1) * arriving : NULL;"),
    ("backward: c before is c", "c/cells/pointwise.h",
     "load_n(step->c - step->state + there, n)",
     "load_n(step->c + there, n)"),
    ("backward: dR from h, not h before", "c/backward.h",
     "(const real *)layer->h + before * hidden, hidden}",
     "(const real *)layer->h + (before + work->call->batch) * hidden, hidden}"),
    ("backward: no dbias", "c/backward.h",
     "NAME(add_rows)(layer->dbias,",
     "if (0) NAME(add_rows)(layer->dbias,"),
    ("backward: a lower layer reads its h before", "c/backward.h",
     "(const real *)below->h + call->batch * below->hidden",
     "(const real *)below->h"),
    ("backward: dh is handed out with dy in it", "c/cells/pointwise.h",
     "store_n(step->dh_later + here, u.dh, n);",
     "store_n(step->dh_later + here, step->dy ? u.dh + load_n(step->dy + here, n) : u.dh, n);"),
    ("backward: dc is handed out a step off", "c/backward.h",
     "layer->dc ? (real *)layer->dc + t * arriving : NULL;",
     "layer->dc ? (real *)layer->dc + (t ? t - 1 : 0) * arriving : NULL;"),
    ("backward: repeated rows read another's states", "c/cells/pointwise.h",
     "step->repeat == 1 ? row : row / step->repeat",
     "step->repeat == 1 ? row : row % (step->batch / step->repeat)"),
    ("backward: dx handed out does not go on down", "c/backward.h",
     "dy = at.dx;",
     "dy = work->scratch + work->plan->between;"),
    # The matrix product
    ("product: last column missing", "c/gemm.h",
     "columns % VL == 0 ? VL : columns % VL;",
     "columns % VL == 0 ? VL : columns % VL - (columns % VL > 1);"),
    ("product: chain dropped between blocks", "c/gemm.h",
     "const int more = accumulate || k0 > 0;", "const int more = accumulate;"),
    ("product: last term missing", "c/gemm.h", "for (ptrdiff_t i = 0; i < k; i++) {\n        UNROLL",
     "for (ptrdiff_t i = 0; i < k - (k > 8); i++) {\n        UNROLL"),
    ("micro-kernel: five rows read the fourth twice", "c/gemm.h", "vec left = splat(a[m * a_row]);",
     "vec left = splat(a[(rows == 5 && m == 4 ? 3 : m) * a_row]);"),
    ("micro-kernel: several panels read the first", "c/gemm.h",
     "left * *(const vec *)(b + AT(b_panel, v))",
     "left * *(const vec *)(b + AT(v < 8 ? b_panel : 0, v))"),
    ("packing: the last unit dropped", "c/gemm.h",
     "gate < gates && unit < units ?", "gate < gates && unit < units - (units % VL > 1) ?"),
    ("weight gradient: rows of a block cut short", "c/gemm.h",
     "const ptrdiff_t width = min_of(STRIP, to - column);",
     "const ptrdiff_t width = min_of(STRIP - VL, to - column);"),
    ("transpose: halves of a vector not exchanged", "c/real.h",
     "#define LOWER(s, j) ((j) & (s) ? VL + (j) : ((j) + (s)) % VL)",
     "#define LOWER(s, j) ((j) & (s) ? VL + (j) : ((j) + (s == 2 ? 1 : s)) % VL)"),
    ("sums of rows start at zero", "c/gemm.h", "vec sum = load_n(sums + from, n);",
     "vec sum = {0};"),
    ("backward: the input of a chunk is that of the first", "c/backward.h",
     "{layer->dweight_ih, at->x + before * inputs, inputs}",
     "{layer->dweight_ih, at->x, inputs}"),
    # Threads
    ("threads: a share one short", "c/team.h", "*to = n * (member->rank + 1) / member->size;",
     "*to = n * (member->rank + 1) / member->size - (member->size > 1 && !member->rank && n > 8);"),
    ("threads: denormals not flushed", "c/team.c", "before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO",
     "before"),
    ("threads: control register not restored", "c/team.c", "    restore(before);\n",
     "    (void)before;\n"),
    ("threads: a forked child waits for its parent's", "c/team/threads.c", "    idle = NULL;\n", ""),
    ("threads: sleepers are not woken", "c/team.c", "wake(&word->value);", "(void)0;"),
    ("threads: a thread refused ends the team", "c/team/threads.c", "    if (error)\n",
     "    if (error) abort();\n    if (error)\n"),
    # Flat arrays
    ("softmax: without the largest", "c/flat.h", "v_exp(load_n(logits + i, n) - top)",
     "v_exp(load_n(logits + i, n))"),
    ("softmax: the largest misses the rest of a vector", "c/flat.h",
     "top = logits[i] > top ? logits[i] : top;",
     "top = top;"),
    ("cross entropy: mean over all rows", "c/flat.h", "counted += targets[row] != ignored;",
     "counted += 1;"),
    ("squares: a chain not added", "c/flat.h", "for (int j = 0; j < CHAINS; j++)",
     "for (int j = 1; j < CHAINS; j++)"),
    ("norm: squares as they are", "c/flat.h", "work.scale = ldexp(1, -exponent);", "(void)0;"),
    ("Adam: a mean of squares is infinite", "c/optimisers.h",
     "adam_part(w, p, d, i, n, 1);", "adam_part(w, p, d, i, n, 0);"),
    ("SGD: Nesterov as plain momentum", "c/optimisers.h",
     "d = w->nesterov ? w->momentum * velocity + d : velocity;",
     "d = velocity;"),
    ("Adam: no correction of v", "c/optimisers.h", "(real)sqrt(1 - pow(beta2, step))", "(real)1"),
    ("AdamW: decay not decoupled", "c/optimisers.h", "(real)(decoupled ? 0 : weight_decay)",
     "(real)(weight_decay)"),
    ("embedding: the first column alone", "c/flat.h",
     "share_vectors(member, w->columns, &from, &to);",
     "share_vectors(member, w->columns - (w->columns > 1), &from, &to);"),
    ("linear: bias of the first panel alone", "c/linear.h",
     "for (ptrdiff_t i = column; i < column + columns; i += VL)",
     "for (ptrdiff_t i = column; i < min_of(column + columns, PANEL); i += VL)"),
    # What guards against stale weights, and the functions
    ("fingerprint: ignores the tail", "c/flat.h", "memcpy(word, p, size);", "(void)p;"),
    ("fingerprint: signs undo each other", "c/flat.h", "return lane ^ lane >> 15;",
     "return lane;"),
    ("tanh: not odd", "c/vmath.h", "| ((ivec)x & sign)", "| ((ivec)(x + (real)1e-30) & sign)"),
    ("exp: NaN is clamped", "c/real.h", "X86(max)(splat(limit), x)", "X86(max)(x, splat(limit))"),
    ("stepper: refresh takes the first weights again", "binding/steppers.pxi",
     "        self.weights = weights\n        self.inputs",
     "        self.weights = list(layers).copy\n        self.inputs"),
    ("stepper: undo leaves c", "binding/steppers.pxi", "layer.c0 = layer.c_n", "pass"),
    ("binding: an element may be missing", "binding/checks.pxi", "(size == count or",
     "(size + 1 >= count or"),
    # Those of a GPU
    ("GPU LSTM: gates i and f swapped", "cuda/lstm.cu", "*c = f * *c + i * g;", "*c = i * *c + f * g;"),
    ("GPU LSTM: df from c, not c before", "cuda/lstm.cu", "d_f = d_c * c_before;", "d_f = d_c * c;"),
    ("GPU LSTM: dc not carried", "cuda/lstm.cu", "*dc = d_c * f;", "*dc = d_c - d_c;"),
    ("GPU RNN: slope of relu at 0", "cuda/rnn.cu", "h > 0 ? dh", "h >= 0 ? dh"),
    ("GPU steps: bias dropped", "cuda/sequence.cuh", " + recurrent[k] + call.bias[k * hidden + u];",
     " + recurrent[k];"),
    ("GPU steps: c0 instead of the carried c", "cuda/sequence.cuh",
     "c = t ? call.c[(t - 1) * call.c_step + i] : call.c0[i];", "c = call.c0[i];"),
    ("GPU steps: dy ignored", "cuda/sequence.cuh", "s.dy + dh, s.gates", "dh, s.gates"),
    ("GPU steps: repeat ignored", "cuda/sequence.cuh", "t * rows + (int)b / call.repeat",
     "t * rows + (int)b"),
    ("GPU one step: y not written", "cuda/sequence.cuh", "if (y)\n            y[i] = out;", ""),
    ("GPU persistent: a barrier left out", "cuda/persistent.cuh",
     "__syncthreads();\n        if (part < PARTS) {", "if (part < PARTS) {"),
    ("GPU persistent: weights in shared memory ignored", "cuda/persistent.cuh",
     "for (int t = 0; t < ALL_TERMS - IN_REGISTERS; t += 4)",
     "for (int t = 4; t < ALL_TERMS - IN_REGISTERS; t += 4)"),
    ("GPU persistent: the first part ignored", "cuda/persistent.cuh", "for (int p = 0; p < PARTS; p++)",
     "for (int p = 1; p < PARTS; p++)"),
    ("GPU cooperative: blocks do not wait", "cuda/cooperative.cuh",
     "wait_for_blocks(arrived + row_block, (unsigned)(t + 1) * unit_blocks);", "__syncthreads();"),
    ("GPU cooperative: blocks do not wait on the way back", "cuda/cooperative.cuh",
     "wait_for_blocks(arrived + row_block, (unsigned)(steps - t) * unit_blocks);", "__syncthreads();"),
    ("GPU cooperative: one turn of what is exchanged", "cuda/cooperative.cuh", "(t & 1) * gridDim.x * room",
     "0 * gridDim.x * room"),
    ("GPU cooperative: a barrier left out", "cuda/cooperative.cuh",
     "__syncthreads(); /* the chunk before has been used */", ""),
    ("GPU cooperative: parts ignored", "cuda/cooperative.cuh",
     "for (int part = 0; part < a.parts; part++)", "for (int part = 1; part < a.parts; part++)"),
    ("GPU softmax: overflows", "cuda/flat.cu", "largest = block_most(largest, room);", "largest = 0;"),
    ("GPU cross entropy: mean over all rows", "cuda/flat.cu",
     "counted += targets[row] != ignored;", "counted += 1;"),
    ("GPU embedding: a token's first row alone", "cuda/flat.cu",
     "is_tokens = k + j < rows", "is_tokens = j == 0 && k + j < rows"),
    ("GPU Adam: no correction of v", "cuda/flat.cu", " / (real)root_of_correction", ""),
    ("GPU clip: always", "cuda/flat.cu", "isfinite(*norm) && *norm > most", "isfinite(*norm)"),
    ("GPU dropout: a round too few", "cuda/flat.cu", "round < 10", "round < 9"),
    ("GPU sums of rows: the first part alone", "cuda/flat.cu",
     "for (index_t row = 0; row < count; row++)", "for (index_t row = 0; row < 1; row++)"),
    ("GPU dropout: not scaled", "cuda/flat.cu", "x[i] * (real)factor", "x[i]"),
    ("GPU fingerprint: places do not count", "cuda/flat.cu", "(i + 1) * 0x9e3779b97f4a7c15ull + ", ""),
    ("GPU sums of rows: the last ones dropped", "cuda/flat.cu",
     "row < rows && row < from + many", "row + 1 < rows && row < from + many"),
    ("GPU graph: that of other weights", "cuda/ways/graph.py", "run.weight_hh.data.ptr, ", ""),
    ("GPU products: nothing added", "cuda/products.py", "_ONE if add else _ZERO", "_ZERO"),
    ("GPU stepper: h does not move on", "cuda/stepper.py", "self._h, self._h_after = self._h_after, self._h",
     "pass"),
]  # fmt: skip


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
            status, output = (0, "") if gpu else self.build()
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
    chosen = [mutant for mutant in MUTANTS if arguments.only in mutant[0]]
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
