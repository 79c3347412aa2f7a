"""Holds the kernels for ARM (aarch64, NEON) to the reference, without a machine that has them.

    python tests/kernels/neon.py [--native]

Builds the kernels and neon.c with a cross compiler, with the flags of setup.py, and runs them in
an emulator on cases whose results are those of lstmc.reference in float64. It prints the largest
error of each case; the exit code is not 0 if one is beyond its tolerance, which neon.c states.
--native builds for this machine and runs there, with all of its instruction sets: so neon.c itself
can be tried. Deliberately not a test: pytest does not collect it. It needs lstmc installed.

That an emulator ran it says that the results are right, not that threads keep to ARM's weaker order
of memory: on x86-64 the emulator's is stronger.
"""

import argparse
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lstmc import reference
from lstmc.cells import CELLS as RECORDS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # as pytest has it by its settings

from cases import CELLS  # noqa: E402
from compiled import KERNEL_TESTS, KERNELS, TEAM, from_setup  # noqa: E402
from stacks import random_problem, reference_solution, reference_states, seed_of  # noqa: E402

COMPILER = "aarch64-linux-gnu-gcc"
# The oldest processor, so that nothing newer passes; and where the cross compiler's libraries are.
EMULATOR = ["qemu-aarch64", "-cpu", "cortex-a53", "-L", "/usr/aarch64-linux-gnu"]
LIMIT = 900  # seconds for all cases, which take about one minute of a free core
MISSING = """{} is not there, and this needs it. On Debian or Ubuntu:
    apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"""

# T, B, I, H and layers. The widths lie on either side of NEON's (2 and 4), of a panel's (8 and 16) and
# of several; the batches, of the micro-kernel's 6 rows, of which 1 and 2 take several panels at
# once. An LSTM of the last three is large enough for two threads: the first of them shares out
# units, the others rows. The second has more steps than a chunk of time, the last sums of more terms
# than a block.
SIZES = [(3, 2, 5, 3, 1), (4, 3, 17, 7, 3), (4, 7, 3, 16, 2), (3, 5, 9, 33, 2), (4, 1, 7, 65, 1),
         (7, 2, 33, 129, 1), (20, 16, 9, 65, 2), (3, 16, 2050, 17, 1)]  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Cases: what goes in and what must come out, by the names that neon.c looks for
# --------------------------------------------------------------------------------------------------


def recurrent(cell, *sizes):
    row, inputs = CELLS[cell], random_problem(cell, *sizes)
    expected = {  # neon.c adds gradients of parameters to ones
        name: value + name.startswith("d_") for name, value in reference_solution(inputs).items()
    }
    for k, (_, *saved) in enumerate(reference_states(inputs)):
        # What a cell saves beside its gates may lie between them: of such cells the states alone.
        names = row.saved if row.has_c else row.states if row.saved_beside else row.saved
        names = [name for name in names if name != "inside"]
        expected |= {f"{name}_l{k}": value for name, value in zip(names, saved)}
    inputs = {key: value for key, value in inputs.items() if key not in ("cell", "num_layers")}
    numbers = [*sizes, row.units("h", sizes[3]), row.options.get("clip", 0)]
    return numbers, inputs, expected


def drawn(name, *sizes):
    """Return a function that draws arrays of numbers that float32 holds exactly too."""
    generator = np.random.default_rng(seed_of(name, *sizes))
    return lambda *shape: np.round(1024 * generator.standard_normal(shape)) / 1024


def linear(rows, inputs, outputs):
    draw = drawn("linear", rows, inputs, outputs)
    given = {"x": draw(rows, inputs), "weight": draw(outputs, inputs), "bias": draw(outputs),
             "dy": draw(rows, outputs)}  # fmt: skip
    dx, dweight, dbias = reference.linear_backward(given["dy"], given["x"], given["weight"])
    y = reference.linear_forward(given["x"], given["weight"], given["bias"])
    expected = {"y": y, "dx": dx, "d_weight": 1 + dweight, "d_bias": 1 + dbias}
    return [rows, inputs, outputs], given, expected


def adam(n):
    draw = drawn("adam", n)
    inputs = {"params": draw(n), "grads": draw(n), "m": draw(n), "v": np.abs(draw(n)) + 0.5}
    settings = [3, 0.01, 0.9, 0.99, 1e-3, 0.1]  # step, lr, betas, eps, weight decay
    new = reference.adam(**inputs, step=settings[0], lr=settings[1], beta1=settings[2],
                         beta2=settings[3], eps=settings[4], weight_decay=settings[5])  # fmt: skip
    return [n, *settings], inputs, dict(zip(("new_params", "new_m", "new_v"), new, strict=True))


def losses(rows, columns):
    draw = drawn("losses", rows, columns)
    logits, targets = 4 * draw(rows, columns), np.arange(rows) * 7 % columns
    targets[1] = -1  # ignored
    loss, dlogits = reference.softmax_cross_entropy(logits, targets)
    expected = {"cross_entropy": loss, "dlogits": dlogits, "norm": np.sqrt(np.sum(logits**2))}
    shares, mask = np.abs(draw(rows, columns)) % 1, draw(rows, columns) > -0.5
    for name, of, options in (
        ("squared", reference.squared_error, {}), ("huber", reference.huber, {"delta": 0.5}),
        ("binary", reference.binary_cross_entropy, {}),
    ):  # fmt: skip
        key = "squared_error" if name == "squared" else name
        expected[key], expected[f"d_{name}"] = of(logits, shares, mask=mask, **options)
    inputs = {"logits": logits, "targets": targets, "shares": shares, "mask": mask}
    return [rows, columns], inputs, expected


def functions(n):
    x = np.round(np.linspace(-12, 12, n) * 1024) / 1024
    expected = {"exp": np.exp(x / 4), "tanh": np.tanh(x), "sigmoid": reference.sigmoid(x)}
    expected["log1p"] = np.log1p(np.abs(x) / 12)
    dy = drawn("functions", n)(n)
    for name, gradient in (("tanh", "dtanh"), ("sigmoid", "dsigmoid"), ("relu", "drelu"),
                           ("elu", "delu"), ("leaky_relu", "dleaky")):  # fmt: skip
        options = {"function": name, "alpha": 0.5, "negative_slope": 0.5}
        expected[name] = reference.activation_forward(x, **options)
        expected[gradient] = reference.activation_backward(dy, x, **options)
    inputs = {"x": x, "x_over_4": x / 4, "x_within_1": np.abs(x) / 12, "dy": dy}
    return [n], inputs, expected


def cases():
    """Return the name of each case, its numbers, and its arrays by name."""
    for sizes in SIZES:
        for cell in CELLS:
            steps, batch, inputs, hidden, layers = sizes
            kernels = cell.removesuffix("_projected")
            assert kernels in RECORDS
            projected = " projected" if kernels != cell else ""
            name = f"{kernels}{projected} T{steps} B{batch} I{inputs} H{hidden}, {layers} layers"
            yield name, *recurrent(cell, *sizes)
    for case in (linear, 2, 5, 7), (linear, 13, 17, 33), (linear, 65, 66, 67), (adam, 4099), \
                (losses, 5, 3), (losses, 9, 1003), (functions, 1027):  # fmt: skip
        yield " ".join([case[0].__name__, *map(str, case[1:])]), *case[0](*case[1:])


def write_case(path, name, numbers, inputs, expected):
    with open(path, "wb") as file:
        records = [(name, numbers, 0)]
        records += [(key, value, 0) for key, value in inputs.items()]
        records += [(key, value, 1) for key, value in expected.items()]
        for key, value, is_expected in records:
            values = np.asarray(value, "<f8")
            assert np.isfinite(values).all(), key
            file.write(struct.pack("<80sqq", key.encode(), is_expected, values.size))
            file.write(values.tobytes())


# --------------------------------------------------------------------------------------------------
# Building and running
# --------------------------------------------------------------------------------------------------


def build(folder, compiler, machine):
    """Compile the kernels as setup.py does, link them with neon.c, and return the program."""
    isas, flags = from_setup("INSTRUCTION_SETS")[machine], from_setup("FLAGS")
    flags = [*flags, f"-I{KERNELS}"]
    jobs = [*((source.stem, source, ["-pthread"]) for source in TEAM),
            ("dispatch", KERNELS / "dispatch.c", [f"-DLSTMC_HAVE_{isa}" for isa in isas]),
            ("neon", KERNEL_TESTS / "neon.c", ["-Wall", "-Wextra"])]  # fmt: skip
    jobs += [
        (f"{isa}-{bits}", KERNELS / "kernels.c",
         [*march, f"-DLSTMC_REAL={bits}", f"-DLSTMC_ISA_NAME={isa}"])
        for isa, march in isas.items() for bits in (32, 64)
    ]  # fmt: skip

    def compile_one(job):
        target, source, more = job
        command = [*compiler, *flags, *more, "-c", source, "-o", folder / f"{target}.o"]
        subprocess.run(command, check=True)
        return folder / f"{target}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, jobs))
    program = folder / "neon"
    subprocess.run([*compiler, "-pthread", *objects, "-lm", "-o", program], check=True)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--native", action="store_true", help="build for this machine, run on it")
    native = parser.parse_args().native
    compiler = os.environ.get("CC", "gcc").split() if native else [COMPILER]
    emulator = [] if native else EMULATOR
    machine = platform.machine() if native else "aarch64"
    for tool in (compiler[0], *emulator[:1]):
        if shutil.which(tool) is None:
            sys.exit(MISSING.format(tool))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), []
        for number, case in enumerate(cases()):
            files.append(folder / f"{number}.case")
            write_case(files[-1], *case)
        program = build(folder, compiler, machine)
        built = time.monotonic()
        print(f"built for {machine} in {built - start:.0f} s", flush=True)
        try:
            status = subprocess.run([*emulator, program, *files], timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            sys.exit(f"FAILED: it hangs after the last line above; ended after {LIMIT} s")
    result = f"FAILED, exit code {status}" if status else "all right"
    print(f"{len(files)} cases: {result}, in {time.monotonic() - built:.0f} s")
    sys.exit(status)


if __name__ == "__main__":
    main()
