"""The driver with a cell that the library does not have: it asks the record and knows no cell by name.

probe.c has the cell; the judge is the same mathematics in NumPy, and its central differences.
"""

import compiled
import numpy as np
import pytest
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

from lstmc._kernels.binding import core
from lstmc.reference import sigmoid

cffi = pytest.importorskip("cffi")

if not compiled.POSSIBLE:
    pytest.skip("there is no source tree, or no compiler", allow_module_level=True)

GATES, BIASES, SAVED = 3, 4, 4


BEST, *OTHERS = core.instruction_sets()


@pytest.fixture(
    scope="module", params=[BEST, *(pytest.param(isa, marks=pytest.mark.slow) for isa in OTHERS)]
)
def probe(request, tmp_path_factory):
    """Return cffi's handle, and probe.c with the driver and the team, for float64 and an instruction set."""
    sources = [compiled.KERNEL_TESTS / "probe.c", *compiled.TEAM]
    path = compiled.compile_library(tmp_path_factory.mktemp("probe"), sources, request.param, 64)
    ffi = cffi.FFI()
    ffi.cdef(compiled.declarations())
    ffi.cdef("""
        size_t probe_forward_plan_size(int layers);
        size_t probe_backward_plan_size(void);
        ptrdiff_t probe_plan_forward(void *plan, const lstmc_forward *call);
        ptrdiff_t probe_plan_backward(void *plan, const lstmc_backward *call);
        void probe_run_forward(const void *plan, const lstmc_forward *call);
        void probe_run_backward(const void *plan, const lstmc_backward *call);
        ptrdiff_t probe_packed_size(const lstmc_forward_layer *layer);
        int probe_pack(void *packed, const lstmc_forward_layer *layer);
    """)
    return ffi, ffi.dlopen(path)


def draw(sizes):
    """Return the arrays of a problem of two layers by name; no state and no gradient is zero."""
    steps, batch, inputs, hidden = sizes
    generator = np.random.default_rng(seed_of("probe", *sizes))

    def normal(*shape):
        return 0.5 * generator.standard_normal(shape)

    problem = {"x": normal(steps, batch, inputs), "dy": normal(steps, batch, hidden)}
    for k in range(2):
        features = hidden if k else inputs
        problem |= {
            f"weight_ih_{k}": normal(GATES * hidden, features) / np.sqrt(features),
            f"weight_hh_{k}": normal(GATES * hidden, hidden) / np.sqrt(hidden),
            f"bias_{k}": normal(BIASES * hidden),
            f"h0_{k}": normal(batch, hidden),
            f"dh_n_{k}": normal(batch, hidden),
        }
    return problem


def by_numpy(problem):
    """Return y and the final states of both layers."""
    x, last = problem["x"], []
    for k in range(2):
        w, q, bias, h = (problem[f"{n}_{k}"] for n in ("weight_ih", "weight_hh", "bias", "h0"))
        hidden, y = h.shape[1], []
        for x_t in x:
            sums = np.split(x_t @ w.T + bias[: GATES * hidden], GATES, axis=1)
            recurrent = np.split(h @ q.T, GATES, axis=1)
            recurrent[2] = recurrent[2] + bias[GATES * hidden :]
            r, z = sigmoid(sums[0] + recurrent[0]), sigmoid(sums[1] + recurrent[1])
            n = np.tanh(sums[2] + r * recurrent[2])
            h = (1 - z) * n + z * h
            y.append(h)
        x = np.array(y)
        last.append(h)
    return x, last


def loss(problem):
    y, last = by_numpy(problem)
    return np.sum(y * problem["dy"]) + sum(
        np.sum(h * problem[f"dh_n_{k}"]) for k, h in enumerate(last)
    )


class Run:
    """A call of the driver over a problem: its arrays by name."""

    def __init__(self, probe, problem, threads):
        self.ffi, self.library = probe
        self.problem, self.threads, self.arrays = problem, threads, {}
        self.steps, self.batch, self.inputs = problem["x"].shape
        self.hidden = problem["dy"].shape[2]

    def array(self, name, shape, value=np.nan):
        """Make an array on a 64-byte boundary and return its address."""
        memory = np.empty(int(np.prod(shape)) + 8)
        start = -memory.ctypes.data % 64 // 8
        self.arrays[name] = memory[start : start + int(np.prod(shape))].reshape(shape)
        self.arrays[name][...] = value
        return self.ffi.cast("void *", self.arrays[name].ctypes.data)

    def given(self, name):
        return self.array(name, self.problem[name].shape, self.problem[name])

    def room(self, size):
        return self.array("room", -(-size // 8), 0)

    def call(self, kind, layers):
        call = self.ffi.new(f"lstmc_{kind} *")
        call.layers, call.num_layers, call.cell = layers, 2, 0
        call.steps, call.batch, call.threads = self.steps, self.batch, self.threads
        self.layers = layers  # cffi keeps nothing alive that a pointer in a struct points to
        return call

    def forward_layers(self, saves):
        layers, state = self.ffi.new("lstmc_forward_layer[2]"), (self.batch, self.hidden)
        for k in range(2):
            for name in ("weight_ih", "weight_hh", "bias", "h0"):
                setattr(layers[k], name, self.given(f"{name}_{k}"))
            layers[k].h_n = self.array(f"h_n_{k}", state)
            layers[k].inputs, layers[k].hidden = self.hidden if k else self.inputs, self.hidden
            layers[k].outputs = self.hidden
            if saves:
                layers[k].h = self.array(f"h_{k}", (self.steps + 1, *state))
                layers[k].gates = self.array(
                    f"saved_{k}", (self.steps, self.batch, SAVED * self.hidden)
                )
        return layers

    def forward(self, saves=True):
        call = self.call("forward", self.forward_layers(saves))
        call.x = self.given("x")
        call.y = self.array("y", (self.steps, self.batch, self.hidden))
        plan = self.array("plan", self.library.probe_forward_plan_size(2), 0)
        call.scratch = self.array("scratch", self.library.probe_plan_forward(plan, call) // 8)
        self.library.probe_run_forward(plan, call)
        return self.arrays["y"].copy()

    def forward_in_place(self):
        """Run forward, saving, with h_n where h0 is; return y, and slot 0 of what each layer saved."""
        layers = self.forward_layers(True)
        for k in range(2):
            layers[k].h_n = layers[k].h0
        call = self.call("forward", layers)
        call.x = self.given("x")
        call.y = self.array("y", (self.steps, self.batch, self.hidden))
        plan = self.array("plan", self.library.probe_forward_plan_size(2), 0)
        call.scratch = self.array("scratch", self.library.probe_plan_forward(plan, call) // 8)
        self.library.probe_run_forward(plan, call)
        return self.arrays["y"], [self.arrays[f"h_{k}"][0] for k in range(2)]

    def step_by_step(self):
        """Return y of a loop of steps on packed weights, each layer's state its own."""
        layers, packed = self.forward_layers(False), []
        for k in range(2):
            size = self.library.probe_packed_size(layers + k) // 8
            packed.append(self.array(f"packed_{k}", size))
            assert self.library.probe_pack(packed[k], layers + k) == 0
            layers[k].packed, layers[k].h_n = packed[k], layers[k].h0
        call = self.call("forward", layers)
        call.steps = 1
        plan = self.array("plan", self.library.probe_forward_plan_size(2), 0)
        call.scratch = self.array("scratch", self.library.probe_plan_forward(plan, call) // 8)
        y = []
        for t in range(self.steps):
            call.x = self.array("x_t", (self.batch, self.inputs), self.problem["x"][t])
            call.y = self.array("y_t", (self.batch, self.hidden))
            self.library.probe_run_forward(plan, call)
            y.append(self.arrays["y_t"].copy())
        return np.array(y)

    def backward(self):
        layers, ffi = self.ffi.new("lstmc_backward_layer[2]"), self.ffi
        for k in range(2):
            for name in ("weight_ih", "weight_hh", "bias"):
                at = self.array(f"d_{name}_{k}", self.problem[f"{name}_{k}"].shape, 0)
                setattr(layers[k], f"d{name}", at)
            for name in ("weight_ih", "weight_hh"):
                setattr(layers[k], name, ffi.cast("void *", self.arrays[f"{name}_{k}"].ctypes.data))
            layers[k].h = ffi.cast("void *", self.arrays[f"h_{k}"].ctypes.data)
            layers[k].gates = ffi.cast("void *", self.arrays[f"saved_{k}"].ctypes.data)
            layers[k].dh_n = self.given(f"dh_n_{k}")
            layers[k].dh0 = self.array(f"d_h0_{k}", (self.batch, self.hidden))
            layers[k].inputs, layers[k].hidden = self.hidden if k else self.inputs, self.hidden
            layers[k].outputs = self.hidden
        call = self.call("backward", layers)
        call.x, call.dy = self.given("x"), self.given("dy")
        call.dx = self.array("d_x", self.problem["x"].shape)
        plan = self.array("plan", self.library.probe_backward_plan_size(), 0)
        call.scratch = self.array("scratch", self.library.probe_plan_backward(plan, call) // 8)
        self.library.probe_run_backward(plan, call)
        return {name: a.copy() for name, a in self.arrays.items() if name.startswith("d_")}


# T, B, I, H on either side of every vector (2, 4 and 8 numbers) and panel; the last two are worth two
# threads, of which the first shares out units and the second rows.
SIZES = [(3, 2, 5, 1), (4, 3, 2, 3), (3, 2, 3, 4), (4, 5, 7, 9), (3, 3, 4, 12), (3, 4, 9, 17), (5, 2, 6, 33),
         (9, 1, 20, 203), (6, 20, 40, 50)]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_forward_and_backward_are_those_of_numpy(probe, sizes):
    problem = draw(sizes)
    run = Run(probe, problem, threads=1)
    y, last = by_numpy(problem)
    assert_close(run.forward(), y, 1e-12, "y")  # sums of some hundred terms, a few steps deep
    for k in range(2):
        assert_close(run.arrays[f"h_n_{k}"], last[k], 1e-12, f"h_n_{k}")
    gradients = run.backward()
    generator = np.random.default_rng(seed_of("directions", *sizes))
    for name, gradient in gradients.items():
        array = problem[name.removeprefix("d_")]
        if array.size <= 60:
            expected = numerical_gradient(lambda a, n=name[2:]: loss(problem | {n: a}), array)
            assert_close(gradient, expected, 1e-7, name)
        for _ in range(3):
            direction = generator.standard_normal(array.shape)
            direction *= 1e-5 / np.linalg.norm(direction)
            above, below = (loss(problem | {name[2:]: array + s * direction}) for s in (1, -1))
            error = (above - below) / 2 - np.sum(gradient * direction)
            assert abs(error) <= 1e-7 * 1e-5 * np.linalg.norm(gradient), name


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_threads_steps_and_what_is_saved_change_no_bit(probe, sizes):
    problem = draw(sizes)
    one, two = Run(probe, problem, 1), Run(probe, problem, 2)
    y = one.forward()
    assert_same_bits(two.forward(), y)
    assert_same_bits(two.backward(), one.backward())
    for threads in (1, 2):
        assert_same_bits(Run(probe, problem, threads).forward(saves=False), y)
        assert_same_bits(Run(probe, problem, threads).step_by_step(), y)


def test_the_final_state_may_take_the_place_of_the_first(probe):
    problem = draw(SIZES[3])
    y, first = Run(probe, problem, 1).forward_in_place()
    assert_same_bits(y, Run(probe, problem, 1).forward())
    assert_same_bits(first, [problem["h0_0"], problem["h0_1"]])
