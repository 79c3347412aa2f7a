"""Tests of gradient_flow, and of what backward hands out for it.

The judge is a network in plain NumPy over complex numbers, written below: whatever it holds, at any
step, can be moved by a tiny imaginary amount, and the imaginary part of the loss is then the
derivative, exact but for rounding (Squire & Trapp 1998). Others are central differences over the rest
of a sequence, PyTorch and closed forms. Where the demand is equal bits, two ways of the library are
compared; what they compute is judged elsewhere in the file.
"""

import copy
import json
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from cases import CELLS, ONE_OF_EACH_KIND, cell_of
from own_layers import Bare, Halve, Scale
from stacks import (
    arriving_state,
    as_state,
    as_type,
    draw_state,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    seed_of,
)
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc
from lstmc import Reach

# Of the largest element. Sums of some tens of terms and a few steps, each rounded at 6e-8 or 1e-16;
# the judge rounds at 1e-16 only.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

# As good as central differences are; support.py says how good.
DIFFERENCE_TOLERANCE = 1e-7

STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 4, 2, 3, 5, 6
FORMS = ["time first", "batch first", "unbatched"]
PARTS = ["dh", "dh_above", "dh_later", "dc", "dc_through_h", "dc_later", "dx"]
WEIGHTS = ["weight_ih", "weight_hh", "bias"]


# --------------------------------------------------------------------------------------------------
# Networks and what they are given
# --------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A network, what it reads, and where its loss comes from: targets, or dy."""

    net: object
    x: np.ndarray
    state: object
    targets: object = None
    dy: object = None
    form: str = "time first"

    @property
    def layer(self):
        return getattr(self.net, "net", self.net)

    def time_first(self, a):
        """Give an array of a sequence as (T, B, ...)."""
        if self.form == "unbatched":
            return a[:, None]
        return a.swapaxes(0, 1) if self.form == "batch first" else a

    def flow(self, **options):
        return lstmc.gradient_flow(
            self.net, self.x, self.targets, self.state, **{"dy": self.dy, **options}
        )


def draw_states(layer, rows, rng):
    """Return a random state of any layer, in its own form; rows: (B,), () of one sequence."""
    if isinstance(layer, lstmc.Sequential):
        return tuple(draw_states(one, rows, rng) for one in layer.layers)
    return draw_state(layer, rows, rng) if cell_of(layer) else None


def make_case(name, cell, layers, dtype, form="time first"):
    """Draw a case. Its gradients are of the order of 1 and all its states differ from zero."""
    rng = np.random.default_rng(seed_of(name, cell, layers, form))
    in_order = {"time first": (STEPS, BATCH), "batch first": (BATCH, STEPS), "unbatched": (STEPS,)}
    order = in_order[form]
    own = {"dtype": dtype, "rng": rng}
    turned = {"batch_first": form == "batch first"}
    recurrent = CELLS[cell].make(FEATURES, HIDDEN, layers, **turned, **own)
    if name == "bare":
        net = recurrent
    elif name == "tokens":
        net = lstmc.Sequential(
            lstmc.Embedding(CLASSES, FEATURES, **own),
            lstmc.Dropout(0.4, rng=1),
            recurrent,
            lstmc.Dropout(0.4, rng=2),
            lstmc.Linear(HIDDEN, CLASSES, **own),
        )
    elif name == "nested":
        above = lstmc.RNN(HIDDEN, 2, **turned, **own)
        net = lstmc.Sequential(
            lstmc.Linear(FEATURES, FEATURES, **own),
            lstmc.Sequential(lstmc.Dropout(0.3, rng=3), recurrent),
            lstmc.Sequential(above, lstmc.Linear(2, CLASSES, **own)),
        )
    elif name == "own layers":
        net = lstmc.Sequential(Scale(FEATURES, dtype), recurrent, Scale(HIDDEN, dtype))
    elif name == "layers of no class":
        net = lstmc.Sequential(Bare(FEATURES, dtype), recurrent, Bare(HIDDEN, dtype))
    elif name == "no trace":
        net = lstmc.Sequential(recurrent, Halve())
    else:
        vocabulary = lstmc.Vocabulary(list("abcdef"), "char")
        net = lstmc.LanguageModel(
            vocabulary, CELLS[cell].kind, layers, HIDDEN, FEATURES, 0.4, dtype, rng
        )
    layer = getattr(net, "net", net)
    state = draw_states(layer, order[:-1] if form == "unbatched" else (BATCH,), rng)
    if name in ("tokens", "model"):
        x, targets = rng.integers(CLASSES, size=(2, *order))
        return Case(net, x, state, targets=targets, form=form)
    x = rng.standard_normal((*order, FEATURES)).astype(dtype)
    if name == "nested":
        targets = 3 * rng.standard_normal((*order, CLASSES)).astype(dtype)
        return Case(net, x, state, targets=targets, form=form)
    dy = rng.standard_normal((*order, HIDDEN)).astype(dtype)
    return Case(net, x, state, dy=dy, form=form)


# --------------------------------------------------------------------------------------------------
# The judge
# --------------------------------------------------------------------------------------------------

TINY = 1e-30  # its square is far below what rounding leaves of anything


def naive_layer(layer, k, name, xs, first, nudge):
    """Run one recurrent layer of a stack, in the plainest NumPy.

    xs is a list over time of (..., B, I). nudge gives, by (name, what), what is added at each step:
    to h or c where it is made, to what only the layer above sees of h (dh_above), to what only the
    next step sees (dh_later, dc_later), to the c that h is made of (dc_through_h), to x and to the
    weights.
    """

    def moved(what, t):
        return nudge.get((name, what), {}).get(t, 0)

    def weight(kind, t):
        return layer[f"{kind}_l{k}"].astype(complex) + moved(kind, t)

    h = first[0] + moved("h0", 0)
    c = first[-1] + moved("c0", 0)
    ys = []
    for t, x in enumerate(xs):
        from_x = (x + moved("dx", t)) @ np.swapaxes(weight("weight_ih", t), -1, -2)
        from_h = h @ np.swapaxes(weight("weight_hh", t), -1, -2)
        bias = weight("bias", t) if layer.bias else 0
        h, c = cell_of(layer).moved_step(from_x, from_h, bias, h, c, partial(moved, t=t))
        h = h + moved("dh", t)
        ys.append(h + moved("dh_above", t))
        h = h + moved("dh_later", t)
    return ys


def naive(layer, xs, state, trace, nudge, name=""):
    """Run a network: xs and what is returned are lists over time. With a trace, its masks drop."""
    if isinstance(layer, lstmc.Sequential):
        for i, one in enumerate(layer.layers):
            kept = trace.layers[i] if trace else None
            xs = naive(one, xs, state[i], kept, nudge, f"{name}{i}.")
        return xs
    if cell_of(layer):
        for k in range(layer.num_layers):
            first = [part[k] for part in parts_of(state)]
            xs = naive_layer(layer, k, f"{name}l{k}", xs, first, nudge)
        return xs
    if isinstance(layer, lstmc.Embedding):
        return [layer["weight"].astype(complex)[x] for x in xs]
    if isinstance(layer, lstmc.Linear):
        return [x @ layer["weight"].T.astype(complex) + layer["bias"] for x in xs]
    if isinstance(layer, lstmc.Dropout):
        return [x * m / (1 - layer.p) for x, m in zip(xs, trace.mask, strict=True)] if trace else xs
    if isinstance(layer, Halve):
        return [x / 2 for x in xs]
    return [x + layer.shift if isinstance(layer, Bare) else x * layer["factor"] for x in xs]


def naive_losses(case, nudge, trace=None):
    """Give every step's share of the loss: (..., T)."""
    state = case.state
    if case.form == "unbatched":
        state = with_rows(state)
    ys = naive(case.layer, list(case.time_first(case.x)), state, trace, nudge)
    if case.dy is not None:
        shares = [(y * dy).sum((-1, -2)) for y, dy in zip(ys, case.time_first(case.dy))]
    elif case.targets.dtype.kind == "i":
        shares = [cross_entropy(y, ids) for y, ids in zip(ys, case.time_first(case.targets))]
    else:
        targets = case.time_first(case.targets)
        shares = [((y - a) ** 2).sum((-1, -2)) / targets.size for y, a in zip(ys, targets)]
    return np.stack(np.broadcast_arrays(*shares), axis=-1)


def cross_entropy(y, ids):
    largest = y.real.max(-1, keepdims=True)
    log_sum = np.log(np.exp(y - largest).sum(-1)) + largest[..., 0]
    chosen = y[..., np.arange(len(ids)), ids]
    return (log_sum - chosen).sum(-1) / (len(ids) * STEPS)


def with_rows(state):
    """Give a state of one unbatched sequence as that of a batch of one row."""
    if isinstance(state, tuple):
        return tuple(with_rows(part) for part in state)
    return None if state is None else state[:, None]


def slopes(case, name, what, shape, trace=None, steps=STEPS):
    """Differentiate every step's loss by something at every step: (steps, *shape, T)."""
    n = math.prod(shape)
    nudge = np.zeros((steps, steps, n, *shape), complex)
    for t in range(steps):
        nudge[t, t] = 1j * TINY * np.eye(n).reshape(n, *shape)
    at_steps = dict(enumerate(nudge.reshape(steps, steps * n, *shape)))
    losses = naive_losses(case, {(name, what): at_steps}, trace)
    return losses.imag.reshape(steps, *shape, STEPS) / TINY


def norms(a):
    """Give the norm over all but the first axis."""
    return np.sqrt((np.asarray(a, np.float64) ** 2).reshape(len(a), -1).sum(1))


def recurrent_of(layer, name=""):
    """Walk through the layers of all stacks: name, recurrent layer and number in its stack."""
    if cell_of(layer):
        for k in range(layer.num_layers):
            yield f"{name}l{k}", layer, k
    for i, one in enumerate(getattr(layer, "layers", ())):
        yield from recurrent_of(one, f"{name}{i}.")


def check_flow(case, flow, trace=None, at=(STEPS - 1,)):
    """Assert that all of a flow is what the judge says. The flow holds its arrays."""
    dtype = case.layer.dtype
    tolerance = TOLERANCE[dtype]
    if flow.loss is not None:
        expected = float(naive_losses(case, {}, trace).sum().real)
        assert abs(flow.loss - expected) <= tolerance * abs(expected)
    rows = 1 if case.form == "unbatched" else BATCH
    assert (flow.steps, flow.batch, flow.at) == (STEPS, rows, list(at))
    stacks = list(recurrent_of(case.layer))
    assert [layer.name for layer in flow.layers] == [name for name, _, _ in stacks]
    for found, (name, layer, k) in zip(flow.layers, stacks, strict=True):
        cell, hidden = cell_of(layer), layer.hidden_size
        assert found.cell == cell.kind
        exact = {}
        for part in PARTS if cell.has_c else ["dh", "dh_above", "dh_later", "dx"]:
            features = layer.parameters()[f"weight_ih_l{k}"][1] if part == "dx" else hidden
            exact[part] = slopes(case, name, part, (rows, features), trace)
            wanted = exact[part].sum(-1)
            assert_close(getattr(found.gradients, part), wanted, tolerance, f"{name} {part}")
            assert_close(getattr(found, part), norms(wanted), tolerance, f"{name} |{part}|")
        if not cell.has_c:
            assert found.dc is found.dc_through_h is found.dc_later is None
            assert found.gradients.dc is found.gradients.dc_through_h is None
        for kind in WEIGHTS if layer.bias else WEIGHTS[:2]:
            shape = layer.parameters()[f"{kind}_l{k}"]
            shape = shape if len(shape) == 2 else (1, *shape)  # so that it is added to every row
            wanted = norms(slopes(case, name, kind, shape, trace).sum(-1))
            assert_close(found.weights[kind], wanted, tolerance, f"{name} {kind}")
        first = {
            part: slopes(case, name, f"{part}0", (rows, hidden), trace, steps=1)
            for part in cell.states
        }
        wanted = naive_reach(exact, first, at)
        assert_close(found.reach.norms, wanted, tolerance, f"{name} reach")


def naive_reach(exact, first, at):
    """Give the norms by distance: h and c together; of several steps each relative to its own at k = 1."""
    alone = []
    for s in at:
        now = [exact["dh"], exact["dc_later"]] if "dc_later" in exact else [exact["dh"]]
        squares = [sum((a[s - k, ..., s] ** 2).sum() for a in now) for k in range(s + 1)]
        squares.append(sum((a[0, ..., s] ** 2).sum() for a in first.values()))
        alone.append(squares)
    size = np.mean([squares[1] for squares in alone])
    longest = range(max(map(len, alone)))
    shares = [[s[k] / s[1] for s in alone if k < len(s)] for k in longest]
    return np.sqrt([size * np.mean(share) for share in shares])


# --------------------------------------------------------------------------------------------------
# The flow against the judge
# --------------------------------------------------------------------------------------------------

EVERY_NET = [
    *(("bare", cell, layers) for cell in CELLS for layers in (1, 2)),
    *((name, "lstm", 2) for name in ("tokens", "nested", "own layers", "model")),
    *((name, "rnn_relu", 1) for name in ("tokens", "nested", "own layers")),
    *((name, "lstm", 1) for name in ("layers of no class", "no trace")),
    ("model", "rnn_tanh", 2),
]


@pytest.mark.parametrize(("name", "cell", "layers"), EVERY_NET)
def test_all_of_a_flow(dtype, name, cell, layers):
    """Dropout layers drop nothing where the flow runs the network itself."""
    case = make_case(name, cell, layers, dtype)
    check_flow(case, case.flow(arrays=True))


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize(
    ("name", "cell", "layers"),
    [("bare", "lstm", 2), ("bare", "rnn_tanh", 1), ("tokens", "lstm", 1), ("nested", "lstm", 2)],
)
def test_forms_of_a_sequence(form, name, cell, layers):
    case = make_case(name, cell, layers, np.float64, form)
    check_flow(case, case.flow(arrays=True))


def test_an_unbatched_sequence_in_a_batch_first_layer(dtype):
    case = make_case("bare", "lstm", 2, dtype, "unbatched")
    case.net.batch_first = True
    check_flow(case, case.flow(arrays=True))


def test_a_layer_without_bias():
    case = make_case("bare", "lstm", 2, np.float64)
    case.net = lstmc.LSTM(FEATURES, HIDDEN, 2, bias=False, dtype=np.float64, rng=1)
    flow = case.flow(arrays=True)
    check_flow(case, flow)
    assert all(set(layer.weights) == {"weight_ih", "weight_hh"} for layer in flow.layers)


@pytest.mark.parametrize(
    ("name", "cell", "layers"), [("tokens", "lstm", 1), ("nested", "rnn_tanh", 2), ("model", "lstm", 2)]
)  # fmt: skip
def test_a_trace_of_training_keeps_its_dropout(dtype, name, cell, layers):
    case = make_case(name, cell, layers, dtype)
    y, _, trace = case.layer.forward(case.x, case.state)
    loss = lstmc.softmax_cross_entropy if name != "nested" else lstmc.squared_error
    _, dy = loss(y, case.targets)
    flow = lstmc.gradient_flow(case.net, trace=trace, dy=dy, arrays=True)
    assert flow.loss is None
    check_flow(case, flow, trace)
    undropped = case.flow().layers[0].dh
    assert np.abs(flow.layers[0].dh - undropped).max() > 0.01 * undropped.max()


@pytest.mark.parametrize("at", [2, -1, -3, [0, 2], [-1, 1, 0], [2, 2], np.array([3, 1])], ids=str)
@pytest.mark.parametrize(
    ("name", "cell", "layers"), [("bare", "lstm", 2), ("tokens", "rnn_tanh", 1)]
)
def test_the_steps_whose_loss_is_followed(at, name, cell, layers):
    """One, counted from either end, or the root of the mean square over several."""
    case = make_case(name, cell, layers, np.float64)
    wanted = list(dict.fromkeys(int(s) % STEPS for s in np.atleast_1d(at)))
    check_flow(case, case.flow(at=at, arrays=True), at=wanted)


def test_what_the_loss_may_be(dtype):
    """Numbers, a function, the gradient itself and that of a trace are followed alike."""
    case = make_case("bare", "lstm", 1, dtype)
    net, x, state, target = case.net, case.x, case.state, case.dy
    y, _, trace = net.forward(x, state)
    dy = (2 * (y.astype(np.float64) - target) / y.size).astype(dtype)
    loss = float(np.mean((y.astype(np.float64) - target) ** 2))
    flows = {
        "numbers": lstmc.gradient_flow(net, x, target, state),
        "a function": lstmc.gradient_flow(net, x, lambda got: (np.float32(2.5), 0 * got + dy), state),
        "dy": lstmc.gradient_flow(net, x, None, state, dy=dy),
        "a trace": lstmc.gradient_flow(net, trace=trace, dy=dy),
    }  # fmt: skip
    expected = Case(net, x, state, targets=target)
    for name, flow in flows.items():
        wanted = {"numbers": loss, "a function": 2.5}.get(name)
        assert flow.loss is None if wanted is None else abs(flow.loss - wanted) <= 1e-6 * wanted
        assert flow.layers[0].gradients is None
        exact = slopes(expected, "l0", "dh", (BATCH, HIDDEN)).sum(-1)
        assert_close(flow.layers[0].dh, norms(exact), TOLERANCE[dtype], name)


@pytest.mark.parametrize("name", ["bare", "nested"])
def test_a_random_gradient(dtype, name):
    """Without anything to foresee: the same in every call, full, and followed as any other."""
    case = make_case(name, "lstm", 2, dtype)
    case.targets = case.dy = None
    flow, again = case.flow(arrays=True), case.flow(arrays=True)
    assert flow.loss is None
    for one, other in zip(flow.layers, again.layers, strict=True):
        assert_same_bits(one.gradients.dgates, other.gradients.dgates)
    if name == "bare":
        case.dy = np.asarray(flow.layers[-1].gradients.dh_above)
        assert np.all(case.dy != 0)
        assert 0.5 < case.dy.std() < 2
        check_flow(case, flow)
    else:
        assert all(np.all(layer.dh > 0) for layer in flow.layers)


def test_only_what_was_asked_for():
    case = make_case("bare", "lstm", 2, np.float32)
    whole, less = case.flow(arrays=True), case.flow(weights=False)
    for full, layer in zip(whole.layers, less.layers, strict=True):
        assert layer.weights == {}
        assert layer.gradients is None
        assert_same_bits(layer.dh, full.dh)
        assert_same_bits(layer.reach.norms, full.reach.norms)


# --------------------------------------------------------------------------------------------------
# The flow against other judges
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_what_later_steps_send_back(cell, layers):
    """The derivative of the loss of the rest of the sequence by the state that the rest starts from."""
    case = make_case("bare", cell, layers, np.float64)
    net, x, dy = case.net, case.x, case.dy
    flow = case.flow(arrays=True)
    state = parts_of(case.state)
    for t in range(STEPS - 1):
        state = parts_of(net(x[t : t + 1], as_state(state))[1])
        for i, part in enumerate(["dh_later", "dc_later"][: len(state)]):

            def rest(value, i=i, t=t, state=tuple(state)):
                start = [value if j == i else a for j, a in enumerate(state)]
                return float((net(x[t + 1 :], as_state(start))[0] * dy[t + 1 :]).sum())

            exact = numerical_gradient(rest, state[i])
            for k, layer in enumerate(flow.layers):
                found = getattr(layer.gradients, part)[t]
                assert_close(found, exact[k], DIFFERENCE_TOLERANCE, f"{part}, step {t}, l{k}")
    last = [(layer.gradients.dh_later, layer.gradients.dc_later) for layer in flow.layers]
    assert all(not a[-1].any() for pair in last for a in pair if a is not None)


def test_against_pytorch(dtype):
    """A longer sequence: the gradients that autograd keeps at h and c of every step."""
    torch = pytest.importorskip("torch")
    steps, batch, inputs, hidden = 12, 3, 7, 9
    rng = np.random.default_rng(seed_of("pytorch"))
    net = lstmc.LSTM(inputs, hidden, dtype=dtype, rng=rng)
    x, h0, c0 = (
        rng.standard_normal(shape).astype(dtype)
        for shape in ((steps, batch, inputs), (1, batch, hidden), (1, batch, hidden))
    )
    targets = rng.integers(hidden, size=(steps, batch))
    flow = lstmc.gradient_flow(net, x, targets, (h0, c0), at=7)

    def tensor(a):
        return torch.from_numpy(np.array(a, np.float64)).requires_grad_()

    def norms_of(loss, tensors):
        gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
        return [0.0 if g is None else float(g.norm()) for g in gradients]

    weights = [tensor(net[f"{kind}_l0"]) for kind in WEIGHTS]
    xs, first_h, first_c = [tensor(a) for a in x], tensor(h0[0]), tensor(c0[0])
    h, c = first_h, first_c
    hs, cs, losses = [], [], []
    for t in range(steps):
        z = xs[t] @ weights[0].T + h @ weights[1].T + weights[2]
        i, f, g, o = z.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        hs.append(h)
        cs.append(c)
        loss = torch.nn.functional.cross_entropy(h, torch.from_numpy(targets[t]), reduction="sum")
        losses.append(loss / (steps * batch))
    total, layer = sum(losses), flow.layers[0]
    assert abs(flow.loss - total.item()) <= 1e-6 * flow.loss
    for part, tensors in (("dh", hs), ("dc", cs), ("dx", xs)):
        assert_close(getattr(layer, part), norms_of(total, tensors), TOLERANCE[dtype], part)
    wanted = np.hypot(*norms_of(losses[7], [first_h, first_c]))
    assert_close(layer.reach.norms[-1], wanted, TOLERANCE[dtype], "at the initial state")
    assert len(layer.reach.norms) == 9


@pytest.mark.parametrize("cell", CELLS)
def test_what_each_step_adds_to_the_weights(dtype, cell):
    """More rows and units than the judge can hold: dW_t written out, and its sum over t backward's."""
    steps, batch, inputs, hidden = 9, 7, 11, 17
    problem = as_type(random_problem(cell, steps, batch, inputs, hidden, 2), dtype)
    net = make_layer(problem)
    _, _, trace = net.forward(problem["x"], first_state(problem))
    net.zero_grad()
    net.backward(problem["dy"], trace)
    flow = lstmc.gradient_flow(net, trace=trace, dy=problem["dy"], arrays=True)
    for k, layer in enumerate(flow.layers):
        dgates = layer.gradients.dgates.astype(np.float64)
        h = np.concatenate([problem["h0"][k][None], trace.layers[k].h]).astype(np.float64)
        below = trace.layers[k - 1].h if k else problem["x"]
        for kind, fed in (("weight_ih", below), ("weight_hh", h[:-1])):
            added = np.einsum("tbg,tbi->tgi", dgates, fed)
            assert_close(layer.weights[kind], norms(added), TOLERANCE[dtype], kind)
            assert_close(net.grad(f"{kind}_l{k}"), added.sum(0), TOLERANCE[dtype], kind)
        added = dgates.sum(1)
        assert_close(layer.weights["bias"], norms(added), TOLERANCE[dtype], "bias")
        assert_close(net.grad(f"bias_l{k}"), added.sum(0), TOLERANCE[dtype], "bias")


# --------------------------------------------------------------------------------------------------
# How far back: closed forms
# --------------------------------------------------------------------------------------------------


def linear_flow(factor, steps=10, hidden=3, dtype=np.float64, **options):
    """Follow an RNN that multiplies its state by a factor: the gradient is dy factor^k, k steps back."""
    net = lstmc.RNN(2, hidden, nonlinearity="identity", dtype=dtype, rng=1)
    net["weight_hh_l0"][...] = factor * np.eye(hidden)
    rng = np.random.default_rng(seed_of("linear", steps, hidden))
    x = rng.standard_normal((steps, BATCH, 2)).astype(dtype)
    dy = rng.standard_normal((steps, BATCH, hidden)).astype(dtype)
    return lstmc.gradient_flow(net, x, dy=dy, **options), dy


@pytest.mark.parametrize("factor", [0.5, 0.9, -0.8, 1.0, 1.25])
@pytest.mark.parametrize("at", [-1, 4, [9, 5]], ids=str)
def test_a_geometric_decay(dtype, factor, at):
    flow, dy = linear_flow(factor, at=at, dtype=dtype)
    chosen = [s % 10 for s in np.atleast_1d(at)]
    reach = flow.layers[0].reach
    sizes = [np.linalg.norm(dy[s].astype(np.float64)) for s in chosen]
    size = math.sqrt(np.mean(np.square(sizes)))
    wanted = [abs(factor) ** k * size for k in range(max(chosen) + 2)]
    assert_close(reach.norms, wanted, TOLERANCE[dtype])
    # Each norm is off by TOLERANCE at most, and the line's slope by no more than that.
    assert abs(reach.rate - math.log(abs(factor))) <= TOLERANCE[dtype]
    assert reach.fit > 1 - 1e-6
    assert abs(reach.kept - abs(factor) ** max(chosen)) <= 1e-4 * reach.kept
    if abs(factor) < 1:
        half_life = math.log(2) / -math.log(abs(factor))
        assert abs(reach.half_life - half_life) <= 1e-3 * half_life
    elif factor > 1:
        assert reach.half_life == math.inf


@pytest.mark.parametrize(
    ("factor", "verdict", "turn"),
    # 0.5^7 < 0.01 <= 0.5^6 after the first step back; 2^7 > 100 >= 2^6
    [(0.5, "vanishing", 8), (2.0, "exploding", 8), (-2.0, "exploding", 8), (0.7, "healthy", None),
     (1.6, "healthy", None), (1.0, "healthy", None), (1e-3, "vanishing", 2)],
)  # fmt: skip
def test_verdicts(dtype, factor, verdict, turn):
    flow, _ = linear_flow(factor, dtype=dtype)
    reach = flow.layers[0].reach
    assert (reach.verdict, reach.turn, flow.verdict) == (verdict, turn, verdict)
    first_line, sentence = str(flow).splitlines()[:2]
    assert first_line.endswith(verdict)
    assert f"l0: {verdict}" in sentence
    assert (f"from {turn} steps back on, state {10 - turn}" in sentence) if turn else True


def test_no_gradient_at_all():
    net = make_case("tokens", "lstm", 1, np.float32).net
    net["4.weight"][...] = 0
    flow = lstmc.gradient_flow(net, np.zeros((3, 2), np.int64), np.zeros((3, 2), np.int64))
    reach = flow.layers[0].reach
    assert (reach.verdict, reach.turn, flow.verdict) == ("none", None, "none")
    assert math.isnan(reach.kept)
    assert math.isnan(reach.half_life)
    assert "no gradient of the loss at step 2 arrives" in str(flow)


def test_a_gradient_that_ends_at_once():
    """Nothing is left one step back already: this vanishes, from there on."""
    flow, _ = linear_flow(0.0, steps=5)
    reach = flow.layers[0].reach
    assert reach.norms[0] > 0
    assert not reach.norms[1:].any()
    assert (reach.verdict, reach.turn) == ("vanishing", 1)
    assert "nan" not in str(flow)


def test_a_gradient_that_overflows():
    """1e30 a step is beyond float32 after two."""
    flow, _ = linear_flow(1e30, steps=6, dtype=np.float32)
    reach = flow.layers[0].reach
    assert np.isfinite(reach.norms[:2]).all()
    assert not np.isfinite(reach.norms[2:]).any()
    assert (reach.verdict, reach.turn, flow.verdict) == ("exploding", 2, "exploding")
    assert reach.kept > 1 or math.isnan(reach.kept)
    numbers = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert numbers["layers"][0]["reach"]["norms"][2:] == [None] * 5


def test_a_gradient_that_overflows_in_words():
    """Of one that grew beyond all numbers, nothing "is left"."""
    flow, _ = linear_flow(1e30, steps=6, dtype=np.float32)
    assert "l0: exploding" in str(flow)
    assert "is left" not in str(flow)


@pytest.mark.parametrize(
    ("norms", "verdict", "turn"),
    [
        ([5, 1, 0.5, 0.02, 0.009], "vanishing", 4),
        ([5, 1, 0.001, 0.5, 0.009, 0.001], "vanishing", 4),
        ([1, 1, 100], "healthy", None),
        ([1, 1, 0.01], "healthy", None),
        ([1, 1, 101, 50, 102], "exploding", 4),
        ([1, 1, 2, math.inf, math.inf], "exploding", 3),
        ([1, 1, 2, math.nan], "exploding", 3),
        ([1, math.inf, math.inf], "exploding", 1),
        ([1, math.inf, math.nan, math.nan], "exploding", 1),
        ([1, 0.5], "healthy", None),
        ([0, 0, 0], "none", None),
    ],
    ids=str,
)
def test_verdicts_of_given_norms(norms, verdict, turn):
    """Judged from one step back on, at the farthest state; a turn is after the last step within."""
    reach = Reach(np.array(norms, float), math.nan, math.nan)
    assert (reach.verdict, reach.turn) == (verdict, turn)


@pytest.mark.parametrize("steps", [1, 2])
def test_two_points_have_no_rate(steps):
    """The state itself is none of the points of the line."""
    flow, _ = linear_flow(0.5, steps=steps)
    reach = flow.layers[0].reach
    assert len(reach.norms) == steps + 1
    assert all(math.isnan(a) for a in (reach.rate, reach.fit, reach.half_life))
    assert abs(reach.kept - 0.5 ** (steps - 1)) < 1e-12


def test_the_fit_of_a_line():
    """The rate and R squared are those of NumPy's least squares, without the state itself."""
    case = make_case("bare", "rnn_tanh", 2, np.float64)
    for layer in case.flow().layers:
        k, y = np.arange(1, STEPS + 1), np.log(layer.reach.norms[1:])
        slope, _ = np.polyfit(k, y, 1)
        fit = np.corrcoef(k, y)[0, 1] ** 2
        # polyfit solves by singular values: both round at 1e-16 times some tens.
        assert abs(layer.reach.rate - slope) <= 1e-12
        assert abs(layer.reach.fit - fit) <= 1e-12


def test_the_worst_layer_is_the_verdict():
    """One layer explodes, and the one above it forgets."""
    below = lstmc.RNN(2, 3, nonlinearity="identity", rng=1)
    above = lstmc.RNN(3, 4, nonlinearity="identity", rng=2)
    below["weight_hh_l0"][...] = 3 * np.eye(3)
    above["weight_hh_l0"][...] = 0.25 * np.eye(4)
    net = lstmc.Sequential(below, above)
    flow = lstmc.gradient_flow(net, np.ones((9, 2, 2), np.float32))
    assert [layer.reach.verdict for layer in flow.layers] == ["exploding", "vanishing"]
    assert flow.verdict == "exploding"
    assert "0.l0: exploding" in str(flow)
    assert "1.l0: vanishing" in str(flow)


# --------------------------------------------------------------------------------------------------
# Nothing is changed
# --------------------------------------------------------------------------------------------------


def snapshot(case, trace=None):
    """Copy everything that a flow may read: bytes of arrays, and the states of generators."""

    def arrays_of(value):
        if isinstance(value, np.ndarray):
            yield value.copy()
        elif isinstance(value, (tuple, list)):
            for one in value:
                yield from arrays_of(one)

    def kept(one):
        if one is None:
            return
        for value in vars(one).values():
            yield from arrays_of(value)
            for part in value if isinstance(value, (tuple, list)) else ():
                if hasattr(part, "__dict__"):
                    yield from kept(part)

    def generators(layer):
        if isinstance(layer, lstmc.Dropout):
            yield copy.deepcopy(layer.rng.bit_generator.state)
        for one in getattr(layer, "layers", ()):
            yield from generators(one)

    layer = case.layer
    given = (layer.params, layer.grads, case.x, case.state, case.targets, case.dy)
    return [*arrays_of(given), *kept(trace)], list(generators(layer))


@pytest.mark.parametrize("with_trace", [False, True], ids=["x", "a trace"])
@pytest.mark.parametrize(
    "name", ["bare", "tokens", "nested", "own layers", "layers of no class", "model"]
)
def test_the_network_is_left_as_it_was(dtype, name, with_trace):
    case = make_case(name, "lstm", 2, dtype)
    rng = np.random.default_rng(seed_of("gradients"))
    case.layer.grads[...] = rng.standard_normal(case.layer.grads.shape)
    trace = None
    if with_trace:
        y, _, trace = case.layer.forward(case.x, case.state)
        case.dy = rng.standard_normal(y.shape).astype(dtype)
    arrays, generators = snapshot(case, trace)
    assert len(arrays) > (9 if with_trace else 4)
    if with_trace:
        flow = lstmc.gradient_flow(case.net, trace=trace, dy=case.dy, at=[0, -1], arrays=True)
    else:
        flow = case.flow(at=[0, -1], arrays=True)
    str(flow), flow.to_dict()
    after, generators_after = snapshot(case, trace)
    assert_same_bits(after, arrays)
    assert generators_after == generators
    if with_trace:  # the trace is good for backward, as if nothing had happened
        case.layer.backward(case.dy, trace)


def test_threads_change_no_bit(dtype):
    rng = np.random.default_rng(seed_of("threads"))
    net = lstmc.Sequential(
        lstmc.Embedding(50, 40, dtype=dtype, rng=rng),
        lstmc.LSTM(40, 48, 2, dtype=dtype, rng=rng),
        lstmc.Linear(48, 50, dtype=dtype, rng=rng),
    )
    x, targets = rng.integers(50, size=(2, 20, 16))
    one, two = (
        lstmc.gradient_flow(net, x, targets, num_threads=n, arrays=True, at=[3, -1]) for n in (1, 2)
    )
    assert one.loss == two.loss
    for a, b in zip(one.layers, two.layers, strict=True):
        for part in PARTS:
            assert_same_bits(getattr(a, part), getattr(b, part), part)
            assert_same_bits(getattr(a.gradients, part), getattr(b.gradients, part), part)
        assert_same_bits(a.weights, b.weights)
        assert_same_bits(a.reach.norms, b.reach.norms)


# --------------------------------------------------------------------------------------------------
# Words and numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), [("tokens", "lstm"), ("nested", "rnn_relu")])
@pytest.mark.parametrize("at", [None, [0, 3]], ids=str)
def test_to_dict(name, cell, at):
    case = make_case(name, cell, 2, np.float32)
    flow = case.flow(at=at)
    numbers = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert numbers["loss"] == flow.loss
    assert (numbers["steps"], numbers["batch"]) == (STEPS, BATCH)
    assert (numbers["at"], numbers["verdict"]) == (at or [STEPS - 1], flow.verdict)
    assert len(numbers["layers"]) == len(flow.layers)
    for written, layer in zip(numbers["layers"], flow.layers, strict=True):
        assert (written["name"], written["cell"]) == (layer.name, layer.cell)
        for part in PARTS:
            value = getattr(layer, part)
            assert written[part] == (None if value is None else value.tolist())
        assert written["weights"] == {kind: a.tolist() for kind, a in layer.weights.items()}
        reach = written["reach"]
        assert reach["norms"] == layer.reach.norms.tolist()
        for key in ("rate", "fit", "half_life", "kept", "verdict", "turn"):
            value = getattr(layer.reach, key)
            infinite = isinstance(value, float) and not math.isfinite(value)
            assert reach[key] == (None if infinite else value)


def test_a_flow_in_words():
    flow, _ = linear_flow(0.5, steps=10)
    lines = str(flow).splitlines()
    assert lines[0] == "gradient flow over 10 steps, 2 rows: vanishing"
    assert lines[1].startswith("  l0: vanishing, 0.002 of the gradient is left 10 steps back")
    assert "it halves every 1 steps (R2 1.00)" in lines[1]
    table = {int(line.split()[0]): line.split()[1] for line in lines[4:]}
    assert list(table) == [0, 1, 2, 4, 8, 10]
    assert table == {k: f"{flow.layers[0].reach.norms[k]:.2e}" for k in table}
    flow, _ = linear_flow(2.0, steps=10, at=[9, 3])
    assert "it doubles every" in str(flow)
    assert "of the loss at steps 9, 3" in str(flow)
    case = make_case("tokens", "lstm", 2, np.float64)
    assert f"loss {case.flow().loss:.4g}" in str(case.flow())
    assert all(name in str(case.flow()) for name in ("2.l0", "2.l1"))


# --------------------------------------------------------------------------------------------------
# What backward hands out
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("need_grads", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_backward_that_records(isa, cell, layers, form, need_grads):
    """dx, dstate and the gradients are bit for bit those of a backward that records nothing."""
    case = make_case("bare", cell, layers, np.float32, form)
    net, rng = case.net, np.random.default_rng(seed_of("record"))
    before = rng.standard_normal(net.grads.shape).astype(np.float32)
    _, state, trace = net.forward(case.x, case.state)
    dstate = as_state([rng.standard_normal(a.shape).astype(np.float32) for a in parts_of(state)])
    net.grads[...] = before
    expected = net.backward(case.dy, trace, dstate)
    grads = net.grads.copy()

    net.grads[...] = before
    records = ["what was there"]
    found = net.backward(case.dy, trace, dstate, need_grads=need_grads, record=records)
    assert_same_bits(parts_of(found[1]), parts_of(expected[1]))
    assert_same_bits(found[0], expected[0])
    assert_same_bits(net.grads, grads if need_grads else before)
    assert records[0] == "what was there"
    assert len(records) == 1 + layers

    top = records[-1]
    rows = 1 if form == "unbatched" else BATCH
    assert top.dh_above.shape == (STEPS, rows, HIDDEN)
    assert_same_bits(
        np.ascontiguousarray(top.dh_above), np.ascontiguousarray(case.time_first(case.dy))
    )
    for k, one in enumerate(records[1:]):
        assert_same_bits(one.dh, one.dh_above + one.dh_later)
        # What arrives through the final state is what the last step sends on to itself.
        arriving = [a[k].reshape(rows, HIDDEN) for a in parts_of(dstate)]
        assert_same_bits(one.dh_later[-1], arriving[0])
        if CELLS[cell].has_c:
            assert_same_bits(one.dc_later[-1], arriving[1])
        if k:
            assert_same_bits(one.dx, records[k].dh_above)
    kept = [copy.deepcopy([one.dh_above, one.dh_later, one.dgates]) for one in records[1:]]
    for _ in range(3):  # later calls do not write into what was handed out
        net.backward(case.dy + 1, net.forward(case.x + 1)[2], record=[])
    case.dy[...] = 0
    for one, arrays in zip(records[1:], kept, strict=True):
        assert_same_bits([one.dh_above, one.dh_later, one.dgates], arrays)


@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_backward_without_gradients(isa, dtype, cell):
    """Of more units and rows than a vector, without recording; with and without dx."""
    problem = as_type(random_problem(cell, 6, 5, 19, 33, 2), dtype)
    net = make_layer(problem)
    _, _, trace = net.forward(problem["x"], first_state(problem))
    net.grads[...] = 3
    before = net.grads.copy()
    given = problem["dy"], trace, arriving_state(problem)
    dx, dstate = net.backward(*given, need_grads=False)
    none, again = net.backward(*given, need_grads=False, need_dx=False)
    assert none is None
    assert_same_bits(net.grads, before)
    expected_dx, expected = net.backward(*given)
    assert_same_bits(dx, expected_dx)
    for found in (dstate, again):
        assert_same_bits(parts_of(found), parts_of(expected))
    assert np.any(net.grads != before)


def test_dy_may_be_none_while_recording():
    net = lstmc.LSTM(FEATURES, HIDDEN, rng=1)
    x = np.ones((STEPS, BATCH, FEATURES), np.float32)
    dstate = tuple(np.ones((1, BATCH, HIDDEN), np.float32) for _ in range(2))
    records = []
    net.backward(None, net.forward(x)[2], dstate, record=records)
    assert not records[0].dh_above.any()
    assert records[0].dh_above.shape == (STEPS, BATCH, HIDDEN)
    assert records[0].dh_later.all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_dx", [True, False])
def test_a_linear_layer_without_gradients(isa, dtype, bias, need_dx):
    net = lstmc.Linear(19, 33, bias=bias, dtype=dtype, rng=1)
    rng = np.random.default_rng(seed_of("linear layer"))
    x, dy = (rng.standard_normal((4, 5, n)).astype(dtype) for n in (19, 33))
    _, _, trace = net.forward(x)
    net.grads[...] = 3
    before = net.grads.copy()
    dx, _ = net.backward(dy, trace, need_grads=False, need_dx=need_dx)
    assert_same_bits(net.grads, before)
    expected, _ = net.backward(dy, trace)
    assert dx is None if not need_dx else dx.tobytes() == expected.tobytes()
    added = np.einsum("tbo,tbi->oi", dy.astype(np.float64), x)
    assert_close(net.grad("weight"), 3 + added, TOLERANCE[dtype])


def test_recording_can_not_consume():
    net = lstmc.LSTM(FEATURES, HIDDEN, rng=1)
    y, _, trace = net.forward(np.ones((STEPS, BATCH, FEATURES), np.float32))
    records = []
    with pytest.raises(ValueError, match="record reads the trace: it can not go with consume"):
        net.backward(y, trace, consume=True, record=records)
    assert records == []
    assert not net.grads.any()
    net.backward(y, trace, record=records)  # the trace is as good as before
    assert len(records) == 1


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


def wrong(**options):
    """Follow the flow of an LSTM on what is good but for what is given."""
    net = options.pop("net", lstmc.LSTM(2, 3, rng=0))
    return lstmc.gradient_flow(net, **{"x": np.ones((4, 2, 2), np.float32), **options})


Y = np.ones((4, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"net": lstmc.Linear(2, 3)}, ValueError, r"a recurrent layer \(RNN or LSTM\), got a Linear"),
        ({"net": lstmc.Sequential(lstmc.Linear(2, 3))}, ValueError, "got a Sequential without one"),
        ({"net": 5}, ValueError, "net must have a recurrent layer .* got a int"),
        ({"x": None}, ValueError, "x must be given, or the trace of a forward call"),
        ({"targets": Y, "dy": Y}, ValueError, "targets and dy exclude each other"),
        ({"x": np.ones((4, 2, 2))}, TypeError, "x must be float32, got float64"),
        ({"x": np.ones((4, 2, 5), np.float32)}, ValueError, r"x must be \(T, B, 2\)"),
        ({"x": [[1.0, 2.0]]}, TypeError, "x must be"),
        ({"x": np.ones((0, 2, 2), np.float32)}, ValueError, "x must have at least one step and one row"),
        ({"state": np.ones((1, 2, 3), np.float32)}, TypeError, r"state must be None or the tuple \(h, c\)"),
        ({"dy": Y[:3]}, ValueError, r"dy must be \(4, 2, 3\), got \(3, 2, 3\)"),
        ({"dy": Y.astype(float)}, TypeError, "dy must be float32, got float64"),
        ({"targets": Y[:3]}, ValueError, "target must be"),
        ({"targets": np.full((4, 2), 3)}, ValueError, "targets"),
        ({"targets": Y * np.nan}, ValueError, r"the loss is nan: .* lstmc.find_nonfinite\(\) names"),
        ({"targets": lambda y: (math.inf, y)}, ValueError, "the loss is inf"),
        ({"at": 4}, ValueError, r"at must be steps in \[0, 4\), or negative .* got 4"),
        ({"at": -5}, ValueError, "got -5"),
        ({"at": []}, ValueError, "at must name at least one step, got none"),
        ({"at": [0, 4]}, ValueError, r"got \[0, 4\]"),
        ({"at": 1.0}, ValueError, "got 1.0"),
        ({"at": True}, ValueError, "got True"),
        ({"at": "last"}, ValueError, "got 'last'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        wrong(**options)


def test_errors_of_a_trace():
    net, other = lstmc.LSTM(2, 3, rng=0), lstmc.LSTM(2, 3, rng=1)
    x = np.ones((4, 2, 2), np.float32)
    y, _, trace = net.forward(x)
    for options in ({"x": x}, {"targets": y}, {"state": (y[:1], y[:1])}):
        with pytest.raises(ValueError, match="x, targets and state must not be given"):
            lstmc.gradient_flow(net, trace=trace, dy=y, **options)
    with pytest.raises(ValueError, match="dy must be given with a trace"):
        lstmc.gradient_flow(net, trace=trace)
    with pytest.raises(ValueError, match=r"trace must come from this layer's forward\(\)"):
        lstmc.gradient_flow(other, trace=trace, dy=y)
    with pytest.raises(TypeError, match=r"trace must come from forward\(\), got ndarray"):
        lstmc.gradient_flow(net, trace=y, dy=y)
    with pytest.raises(ValueError, match=r"dy must be \(4, 2, 3\)"):
        lstmc.gradient_flow(net, trace=trace, dy=y[:, :1])
    net.backward(y, trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed by an earlier backward"):
        lstmc.gradient_flow(net, trace=trace, dy=y)
    y, _, trace = net.forward(x)
    net["bias_l0"][0] += 1
    with pytest.raises(ValueError, match="the weights have changed since forward"):
        lstmc.gradient_flow(net, trace=trace, dy=y)


def test_a_consumed_trace_of_a_network():
    case = make_case("tokens", "lstm", 2, np.float32)
    y, _, trace = case.net.forward(case.x)
    case.net.backward(y, trace, consume=True)
    with pytest.raises(ValueError, match="trace was consumed"):
        lstmc.gradient_flow(case.net, trace=trace, dy=y)


def test_a_trace_of_another_network():
    case, other = (make_case("tokens", "lstm", 2, np.float32) for _ in range(2))
    y, _, trace = other.net.forward(case.x)
    with pytest.raises(ValueError, match="got one of another Sequential"):
        lstmc.gradient_flow(case.net, trace=trace, dy=y)
    with pytest.raises(ValueError, match="got one of another LSTM"):
        lstmc.gradient_flow(case.net, trace=trace.layers[2], dy=y)


def test_a_failure_leaves_the_network_alone():
    """A layer of a user's own that raises on the way back, after it wrote its gradient."""

    class Raises(Scale):
        def backward(self, dy, trace, dstate=None):
            super().backward(dy, trace, dstate)
            raise ArithmeticError("here")

    net = lstmc.Sequential(lstmc.LSTM(2, 3, rng=0), Raises(3))
    net.grads[...] = 2
    before = net.params.copy(), net.grads.copy()
    with pytest.raises(ArithmeticError, match="here"):
        lstmc.gradient_flow(net, np.ones((4, 2, 2), np.float32))
    assert_same_bits((net.params, net.grads), before)


# --------------------------------------------------------------------------------------------------
# What is not a gradient that explodes or vanishes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["the weight weight_hh_l0", "x", "dy"])
def test_what_is_not_finite_is_refused_by_name(what):
    net = lstmc.LSTM(2, 3, rng=0)
    x, dy = np.ones((5, 1, 2), np.float32), np.ones((5, 1, 3), np.float32)
    array = {"x": x, "dy": dy}.get(what, net["weight_hh_l0"])
    array[(0,) * array.ndim] = np.nan
    with pytest.raises(ValueError, match=f"{what} is not finite: there is no gradient to follow"):
        lstmc.gradient_flow(net, x, dy=dy)


def test_a_large_loss_that_ends_sooner_leaves_no_cliff():
    net = lstmc.LSTM(2, 6, rng=0)
    net["bias_l0"][6:12] = 6  # forget gates that keep
    x = np.random.default_rng(3).standard_normal((60, 2, 2)).astype(np.float32)
    dy = np.random.default_rng(4).standard_normal((60, 2, 6)).astype(np.float32)
    dy[10] *= 1e4
    for at in (10, 59, [10, 59]):
        assert lstmc.gradient_flow(net, x, dy=dy, at=at).verdict == "healthy"


def test_a_gradient_that_neither_shrinks_nor_grows():
    net = lstmc.RNN(2, 3, nonlinearity="identity", dtype=np.float64, rng=0)
    net["weight_hh_l0"][...] = np.eye(3)
    text = str(lstmc.gradient_flow(net, np.ones((30, 2, 2))))
    assert "it neither shrinks nor grows" in text
    assert "doubles" not in text


def test_options_are_given_to_layers_that_take_them():
    class Own:
        def forward(self, x, state=None, training=True):
            return 2 * x, state, None

        def backward(self, dy, trace, dstate=None, need_grads=True):
            assert not need_grads
            return 2 * dy, dstate

    net = lstmc.Sequential(lstmc.LSTM(2, 3, rng=0), Own())
    plain = lstmc.gradient_flow(
        net.layers[0], np.ones((5, 1, 2), np.float32), dy=np.ones((5, 1, 3), "f")
    )
    own = lstmc.gradient_flow(net, np.ones((5, 1, 2), np.float32), dy=np.ones((5, 1, 3), "f"))
    assert np.allclose(own.layers[0].dh, 2 * plain.layers[0].dh, rtol=1e-6)


@pytest.mark.parametrize("record", [True, (), "list"])
def test_a_record_that_is_no_list_is_refused_before_anything_is_added(record):
    net = lstmc.LSTM(2, 3, rng=0)
    y, _, trace = net.forward(np.ones((5, 1, 2), np.float32))
    with pytest.raises(TypeError, match="record must be a list, got"):
        net.backward(y, trace, record=record)
    assert not net.grads.any()
