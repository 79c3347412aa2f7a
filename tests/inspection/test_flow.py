"""Tests of gradient_flow, and of what backward hands out for it.

The judge is a network in plain NumPy over complex numbers, written below: whatever it holds, at any
step, can be moved by a tiny imaginary amount, and the imaginary part of the loss is then the
derivative, exact but for rounding (Squire & Trapp 1998). Others are central differences over the rest
of a sequence, PyTorch and closed forms. Where the demand is equal bits, two ways of the library are
compared; what they compute is judged elsewhere in the file.
"""

import math
from functools import partial

import numpy as np
import pytest
from cases import CELLS, cell_of
from flow_cases import (
    BATCH,
    FEATURES,
    FORMS,
    HIDDEN,
    PARTS,
    STEPS,
    TOLERANCE,
    Case,
    make_case,
    norms,
)
from own_layers import Bare, Halve
from stacks import (
    as_state,
    as_type,
    batch_first,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    seed_of,
)
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc

# As good as central differences are; support.py says how good.
DIFFERENCE_TOLERANCE = 1e-7

WEIGHTS = ["weight_ih", "weight_hh", "bias"]  # of the usual cells


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
        r = np.swapaxes(weight("weight_hh", t), -1, -2)
        bias = weight("bias", t) if layer.bias else 0
        beside = [weight(kind, t) for kind in cell_of(layer).weights[3:]]
        h, c = cell_of(layer).moved_step(from_x, r, bias, h, c, partial(moved, t=t), *beside)
        h = h + moved("dh", t)
        ys.append(h + moved("dh_above", t))
        h = h + moved("dh_later", t)
    return ys


def naive(layer, xs, state, trace, nudge, name=""):
    """Run a network: xs and what is returned are lists over time. With a trace, its masks drop."""
    if isinstance(layer, lstmc.Sequential):
        for i, one in enumerate(layer.layers):
            layer_trace = trace.layers[i] if trace else None
            xs = naive(one, xs, state[i], layer_trace, nudge, f"{name}{i}.")
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
    """Return every step's share of the loss: (..., T)."""
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
    """Return a state of one unbatched sequence as that of a batch of one row."""
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
    for actual, (name, layer, k) in zip(flow.layers, stacks, strict=True):
        cell, hidden = cell_of(layer), layer.hidden_size
        assert actual.cell == cell.kind
        exact = {}
        for part in PARTS if cell.has_c else ["dh", "dh_above", "dh_later", "dx"]:
            features = cell.units(part[1], hidden)
            if part == "dx":
                features = layer.parameters()[f"weight_ih_l{k}"][1]
            exact[part] = slopes(case, name, part, (rows, features), trace)
            wanted = exact[part].sum(-1)
            assert_close(getattr(actual.gradients, part), wanted, tolerance, f"{name} {part}")
            assert_close(getattr(actual, part), norms(wanted), tolerance, f"{name} |{part}|")
        if not cell.has_c:
            assert actual.dc is actual.dc_through_h is actual.dc_later is None
            assert actual.gradients.dc is actual.gradients.dc_through_h is None
        for kind in [kind for kind in cell.weights if layer.bias or kind != "bias"]:
            shape = layer.parameters()[f"{kind}_l{k}"]
            shape = shape if len(shape) == 2 else (1, *shape)  # so that it is added to every row
            wanted = norms(slopes(case, name, kind, shape, trace).sum(-1))
            assert_close(actual.weights[kind], wanted, tolerance, f"{name} {kind}")
        first = {
            part: slopes(case, name, f"{part}0", (rows, cell.units(part, hidden)), trace, steps=1)
            for part in cell.states
        }
        wanted = naive_reach(exact, first, at)
        assert_close(actual.reach.norms, wanted, tolerance, f"{name} reach")


def naive_reach(exact, first, at):
    """Return the norms by distance: h and c together; of several steps each relative to its own at k = 1."""
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
    case.net = batch_first(case.net)
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
    expected = list(dict.fromkeys(int(s) % STEPS for s in np.atleast_1d(at)))
    check_flow(case, case.flow(at=at, arrays=True), at=expected)


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
    """Without anything to predict: the same in every call, full, and followed as any other."""
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
                actual = getattr(layer.gradients, part)[t]
                assert_close(actual, exact[k], DIFFERENCE_TOLERANCE, f"{part}, step {t}, l{k}")
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
    expected = np.hypot(*norms_of(losses[7], [first_h, first_c]))
    assert_close(layer.reach.norms[-1], expected, TOLERANCE[dtype], "at the initial state")
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
        of_h = CELLS[cell].dsums_of_h(dgates, trace.layers[k].gates)
        operands = CELLS[cell].operands(h[:-1], trace.layers[k].gates)
        blocks = np.split(of_h, len(operands), axis=-1)
        of_r = [np.einsum("tbg,tbi->tgi", *pair) for pair in zip(blocks, operands, strict=True)]
        of_w = np.einsum("tbg,tbi->tgi", dgates, below)
        for kind, added in (("weight_ih", of_w), ("weight_hh", np.concatenate(of_r, axis=1))):
            assert_close(layer.weights[kind], norms(added), TOLERANCE[dtype], kind)
            assert_close(net.grad(f"{kind}_l{k}"), added.sum(0), TOLERANCE[dtype], kind)
        own = of_h[..., of_h.shape[-1] - CELLS[cell].own_biases * hidden :]
        vectors = {"bias": np.concatenate([dgates, own], axis=-1).sum(1)} | beside_weights(
            CELLS[cell], problem, k, trace.layers[k], layer.gradients
        )
        for kind, added in vectors.items():
            assert_close(layer.weights[kind], norms(added), TOLERANCE[dtype], kind)
            assert_close(net.grad(f"{kind}_l{k}"), added.sum(0), TOLERANCE[dtype], kind)


def beside_weights(cell, problem, k, trace, gradients):
    """Return what each step adds to a projection and to peepholes, where there are any."""
    added = {}
    if "weight_hr" in cell.weights:
        m = trace.gates["o"] * np.tanh(trace.c.astype(np.float64))
        added["weight_hr"] = np.einsum("tbp,tbh->tph", gradients.dh, m)
    if "peephole" in cell.weights:
        before = np.concatenate([problem["c0"][k][None], trace.c[:-1]]).astype(np.float64)
        blocks = dict(zip(cell.gates, np.split(gradients.dgates, len(cell.gates), axis=-1)))
        of = {name: trace.c if name == "o" else before for name in cell.sigmoids}
        added["peephole"] = np.concatenate([(blocks[n] * c).sum(1) for n, c in of.items()], axis=1)
    return added
