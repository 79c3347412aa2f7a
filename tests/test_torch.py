"""Live comparison with PyTorch over many random shapes; runs wherever torch imports.

The golden files hold a few such cases for machines without it. What is asked of any two right
systems: 1e-10 of the largest element in float64, and 1e-5 in float32.
"""

import numpy as np
import pytest
from cases import CELLS, IN_TORCH, ONE_OF_EACH_KIND
from stacks import (
    arriving_state,
    as_state,
    as_type,
    first_state,
    make_layer,
    parts_of,
    random_problem,
    reference_solution,
    seed_of,
    solution,
    suffixes_of,
)
from support import assert_close

import lstmc

torch = pytest.importorskip("torch")
rnn_utils = torch.nn.utils.rnn

# It has other code for these, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(array):
    return torch.from_numpy(array.copy()).requires_grad_()


def torch_solution(problem):
    """Run PyTorch's module on a problem; return what comes out by golden key.

    Its second bias gets a part of ours, so that it takes part. Rows that end are a packed sequence, which has
    no rows without a step.
    """
    cell, layers = CELLS[problem["cell"]], problem["num_layers"]
    name, own = cell.torch
    options = {"num_layers": layers, "dtype": getattr(torch, problem["x"].dtype.name), **own}
    options["bidirectional"] = problem.get("directions", 1) == 2
    sizes = problem["x"].shape[-1], problem[f"{cell.states[-1]}0"].shape[-1]
    own = {key: value for key, value in cell.of(sizes[1]).items() if key == "proj_size"}
    matrices = [weight for weight in cell.weights if weight != "bias"]
    module = getattr(torch.nn, name)(*sizes, **options, **own)
    with torch.no_grad():
        for end in suffixes_of(problem):
            for kind in matrices:
                getattr(module, f"{kind}_{end}").copy_(tensor(problem[f"{kind}_{end}"]))
            bias = tensor(problem[f"bias_{end}"])
            both = bias.shape[0] - 2 * cell.own_biases * sizes[1]  # rows with one bias of ours
            own = (
                bias[both:].split(cell.own_biases * sizes[1])
                if cell.own_biases
                else (bias[:0],) * 2
            )
            for kind, share, rest in zip(("bias_ih", "bias_hh"), (0.25, 0.75), own):
                getattr(module, f"{kind}_{end}").copy_(torch.cat([bias[:both] * share, rest]))
    x, names = tensor(problem["x"]), cell.states
    first = [tensor(problem[f"{name}0"]) for name in names]
    read = x
    if "lengths" in problem:
        lengths = torch.from_numpy(problem["lengths"])
        read = rnn_utils.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, last = module(read, as_state(first))
    if "lengths" in problem:
        y, _ = rnn_utils.pad_packed_sequence(y, total_length=len(x))
    last = parts_of(last)
    arriving = [problem["dy"], *(problem[f"d{name}_n"] for name in names)]
    torch.autograd.backward([y, *last], [torch.from_numpy(a.copy()) for a in arriving])
    result = {"y": y, "dx": x.grad}
    for name, initial, final in zip(names, first, last, strict=True):
        result |= {f"{name}_n": final, f"d{name}0": initial.grad}
    for end in suffixes_of(problem):
        result |= {f"d_{w}_{end}": getattr(module, f"{w}_{end}").grad for w in matrices}
        second = getattr(module, f"bias_hh_{end}").grad
        own = second[len(second) - cell.own_biases * sizes[1] :]
        result[f"d_bias_{end}"] = torch.cat([getattr(module, f"bias_ih_{end}").grad, own])
    return {key: value.detach().numpy() for key, value in result.items()}


def random_sizes(number):
    """Return T, B, I, H and L."""
    generator = np.random.default_rng(seed_of("sizes", number))
    sizes = [int(generator.integers(1, end)) for end in (13, 20, 80, 80)]
    return *sizes, int(generator.integers(1, 4))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", IN_TORCH)
def test_the_reference(cell, layers, directions, packed):
    """Before anything else is judged by it; hidden units on either side of an even number of them."""
    problem = random_problem(cell, 5, 4, 7, 5 + layers, layers, directions)
    if packed:
        problem["lengths"] = np.array([2, 5, 1, 4])
    actual, expected = reference_solution(problem), torch_solution(problem)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, 1e-12, name)


@pytest.mark.parametrize("number", range(40))
@pytest.mark.parametrize("cell", IN_TORCH)
def test_recurrent_layers(dtype, cell, number):
    sizes = random_sizes(number)
    print(f"T, B, I, H, L = {sizes}")
    problem = as_type(random_problem(cell, *sizes), dtype)
    actual, expected = solution(problem), torch_solution(problem)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, TOLERANCE[dtype], name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("cell", IN_TORCH)
def test_packed_sequences_and_both_directions(dtype, cell, number, directions, packed):
    sizes = random_sizes(number)
    print(f"T, B, I, H, L = {sizes}")
    problem = random_problem(cell, *sizes, directions)
    if packed:
        generator = np.random.default_rng(seed_of("lengths", number))
        problem["lengths"] = generator.integers(1, sizes[0] + 1, sizes[1])
    problem = as_type(problem, dtype)
    actual, expected = solution(problem), torch_solution(problem)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value, TOLERANCE[dtype], name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_dropout_between_layers(dtype, variational, directions, packed, number):
    """PyTorch's layers one by one, with the masks that our trace shows in between."""
    steps, batch, inputs, hidden, _ = random_sizes(number)
    layers, p = 3, 0.3
    problem = random_problem("lstm", steps, batch, inputs, hidden, layers, directions)
    if packed:
        generator = np.random.default_rng(seed_of("lengths", number))
        problem["lengths"] = generator.integers(1, steps + 1, batch)
    problem = as_type(problem, dtype)
    layer = make_layer(problem, dropout=p, variational=variational)
    y, last, trace = layer.forward(
        problem["x"], first_state(problem), lengths=problem.get("lengths")
    )
    dx, dstate = layer.backward(problem["dy"], trace, arriving_state(problem))

    read = x = tensor(problem["x"])
    first, final, modules = [tensor(problem[f"{name}0"]) for name in "hc"], [], []
    for k in range(layers):
        features = inputs if k == 0 else directions * hidden
        module = torch.nn.LSTM(features, hidden, bidirectional=directions == 2, dtype=x.dtype)
        ends = ("", "_reverse")[:directions]
        with torch.no_grad():
            for end in ends:
                for kind in ("weight_ih", "weight_hh"):
                    weight = torch.from_numpy(problem[f"{kind}_l{k}{end}"])
                    getattr(module, f"{kind}_l0{end}").copy_(weight)
                bias = torch.from_numpy(problem[f"bias_l{k}{end}"])
                getattr(module, f"bias_ih_l0{end}").copy_(bias)
                getattr(module, f"bias_hh_l0{end}").zero_()
        modules += [(module, f"l{k}{end}", f"l0{end}") for end in ends]
        if packed:
            lengths = torch.from_numpy(problem["lengths"])
            read = rnn_utils.pack_padded_sequence(read, lengths, enforce_sorted=False)
        part = slice(k * directions, (k + 1) * directions)
        read, state = module(read, tuple(one[part] for one in first))
        if packed:
            read, _ = rnn_utils.pad_packed_sequence(read, total_length=steps)
        final.append(state)
        if k < layers - 1:
            read = read * torch.from_numpy(trace.masks[k].astype(dtype)) / (1 - p)
    final = [torch.cat(part) for part in zip(*final, strict=True)]
    arriving = [problem["dy"], *(problem[f"d{name}_n"] for name in "hc")]
    torch.autograd.backward([read, *final], [torch.from_numpy(a.copy()) for a in arriving])

    pairs = {"y": (y, read), "dx": (dx, x.grad)}
    for i, name in enumerate("hc"):
        pairs |= {f"{name}_n": (last[i], final[i]), f"d{name}0": (dstate[i], first[i].grad)}
    for module, ours, theirs in modules:
        for kind, name in (("weight_ih",) * 2, ("weight_hh",) * 2, ("bias", "bias_ih")):
            pairs[f"{kind}_{ours}"] = (
                layer.grad(f"{kind}_{ours}"), getattr(module, f"{name}_{theirs}").grad,
            )  # fmt: skip
    for name, (actual, expected) in pairs.items():
        assert_close(actual, expected.detach().numpy(), TOLERANCE[dtype], name)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", IN_TORCH)
def test_resets_are_sequences_of_their_own(dtype, cell, directions):
    """One row that is cut in pieces is as many rows of PyTorch's as there are pieces."""
    steps, cuts = 9, [0, 4, 5, 9]
    whole = as_type(random_problem(cell, steps, 1, 5, 7, 2, directions), dtype)
    resets = np.zeros((steps, 1), bool)
    resets[cuts[1:-1]] = True
    lengths = np.diff(cuts)
    pieces = {"lengths": lengths}
    for key in ("x", "dy"):
        pieces[key] = np.zeros((lengths.max(), 3, whole[key].shape[2]), dtype)
        for i, length in enumerate(lengths):
            pieces[key][:length, i] = whole[key][cuts[i] : cuts[i] + length, 0]
    for name in CELLS[cell].states:
        for key, forward, reverse in ((f"{name}0", 0, 2), (f"d{name}_n", 2, 0)):
            pieces[key] = np.zeros((len(whole[key]), 3, whole[key].shape[2]), dtype)
            pieces[key][::directions, forward] = whole[key][::directions, 0]
            if directions == 2:
                pieces[key][1::2, reverse] = whole[key][1::2, 0]
    expected, actual = torch_solution(whole | pieces), solution(whole | {"resets": resets})
    for key in ("y", "dx"):
        for i, length in enumerate(lengths):
            piece = actual[key][cuts[i] : cuts[i] + length, 0]
            assert_close(piece, expected[key][:length, i], TOLERANCE[dtype], key)
    for name in CELLS[cell].states:
        for key, forward, reverse in ((f"d{name}0", 0, 2), (f"{name}_n", 2, 0)):
            for d, row in enumerate((forward, reverse)[:directions]):
                part = actual[key][d::directions, 0]
                assert_close(part, expected[key][d::directions, row], TOLERANCE[dtype], key)
    for key, value in expected.items():
        if key.startswith("d_"):
            assert_close(actual[key], value, TOLERANCE[dtype], key)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", ONE_OF_EACH_KIND)
def test_a_large_layer(isa, dtype, cell, threads):
    problem = as_type(random_problem(cell, 20, 20, 200, 200, 2), dtype)
    actual = solution(problem, make_layer(problem), num_threads=threads)
    for name, value in torch_solution(problem).items():
        assert_close(actual[name], value, TOLERANCE[dtype], name)


@pytest.mark.parametrize("classes", [1, 7, 33, 1000])
def test_cross_entropy(isa, dtype, classes):
    generator = np.random.default_rng(seed_of("cross entropy", classes))
    logits = (3 * generator.standard_normal((6, 4, classes))).astype(dtype)
    targets = generator.integers(classes, size=(6, 4))
    targets[1, 2] = targets[5, 0] = -100
    theirs = tensor(logits)
    loss = torch.nn.functional.cross_entropy(
        theirs.reshape(-1, classes), torch.from_numpy(targets).reshape(-1), ignore_index=-100
    )
    loss.backward()
    actual, dlogits = lstmc.softmax_cross_entropy(logits, targets, ignore_index=-100)
    # Relative to 1 where a single class makes all of it zero.
    assert abs(actual - loss.item()) <= TOLERANCE[dtype] * max(1.0, loss.item())
    assert np.abs(dlogits - theirs.grad.numpy()).max() <= TOLERANCE[dtype] / 22  # a row's share


def test_squared_error(isa, dtype):
    generator = np.random.default_rng(seed_of("squared error"))
    y, target = (generator.standard_normal((5, 3, 7)).astype(dtype) for _ in range(2))
    theirs = tensor(y)
    loss = torch.nn.functional.mse_loss(theirs, torch.from_numpy(target))
    loss.backward()
    actual, dy = lstmc.squared_error(y, target)
    assert_close(actual, loss.item(), TOLERANCE[dtype])
    assert_close(dy, theirs.grad.numpy(), TOLERANCE[dtype])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("delta", [0.3, 1.0, 4.0])
def test_huber(isa, dtype, delta, masked):
    generator = np.random.default_rng(seed_of("huber", delta))
    y, target = (2 * generator.standard_normal((2, 7, 5, 9))).astype(dtype)
    judge(lstmc.huber, torch.nn.functional.huber_loss, y, target, masked, delta=delta)


@pytest.mark.parametrize("masked", [False, True])
def test_binary_cross_entropy(isa, dtype, masked):
    generator = np.random.default_rng(seed_of("binary cross entropy"))
    logits = (10 * generator.standard_normal((7, 5, 9))).astype(dtype)
    targets = generator.choice([0, 1, 0.25], (7, 5, 9)).astype(dtype)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    judge(lstmc.binary_cross_entropy, theirs, logits, targets, masked)


def test_masked_squared_error(isa, dtype):
    generator = np.random.default_rng(seed_of("masked squared error"))
    y, target = generator.standard_normal((2, 7, 5, 9)).astype(dtype)
    judge(lstmc.squared_error, torch.nn.functional.mse_loss, y, target, True)


def judge(ours, theirs, y, target, masked, **options):
    """Compare a loss of (T, B, K) with PyTorch's of the elements that count, which are picked there."""
    counts, more = torch.ones(y.shape, dtype=torch.bool), {}
    if masked:
        lengths = np.array([3, 7, 0, 1, 6])
        mask = np.random.default_rng(1).random(y.shape) < 0.7
        counts = torch.from_numpy(mask & (np.arange(7)[:, None] < lengths)[..., None])
        more = {"lengths": lengths, "mask": mask}
    tensor_of_y = tensor(y)
    loss = theirs(tensor_of_y[counts], torch.from_numpy(target)[counts], **options)
    loss.backward()
    actual, dy = ours(y, target, **options, **more)
    assert_close(actual, loss.item(), TOLERANCE[y.dtype])
    assert_close(dy, tensor_of_y.grad.numpy(), TOLERANCE[y.dtype])


@pytest.mark.parametrize("batch_first", [False, True])
def test_cross_entropy_within_lengths(isa, dtype, batch_first):
    """PyTorch has an ignored index alone: what is beyond a length gets it."""
    generator = np.random.default_rng(seed_of("cross entropy within lengths"))
    logits, targets = generator.standard_normal((7, 5, 9)).astype(dtype), np.arange(35) % 9
    targets = targets.reshape(7, 5)
    lengths = np.array([3, 7, 0, 1, 6])
    ignored = np.where(np.arange(7)[:, None] < lengths, targets, -100)
    theirs = tensor(logits)
    loss = torch.nn.functional.cross_entropy(
        theirs.reshape(-1, 9), torch.from_numpy(ignored).reshape(-1)
    )
    loss.backward()
    if batch_first:
        logits, targets = logits.swapaxes(0, 1), targets.T
    actual, dlogits = lstmc.softmax_cross_entropy(
        logits, targets, lengths=lengths, batch_first=batch_first
    )
    assert_close(actual, loss.item(), TOLERANCE[dtype])
    dlogits = dlogits.swapaxes(0, 1) if batch_first else dlogits
    assert_close(dlogits, theirs.grad.numpy(), TOLERANCE[dtype])


OPTIMISERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.2}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "momentum": 0.5, "weight_decay": 0.1}),
]


class Flat:
    """A network as optimisers see one."""

    def __init__(self, params):
        self.params, self.grads = params, np.zeros_like(params)


@pytest.mark.parametrize(("name", "options"), OPTIMISERS, ids=str)
def test_optimisers(isa, dtype, name, options):
    """With the same defaults, the rate changed on the way, and gradients clipped."""
    generator = np.random.default_rng(seed_of("optimisers", name))
    net = Flat(generator.standard_normal(33).astype(dtype))
    theirs = tensor(net.params)
    optimiser = getattr(lstmc, name)(net, **options)
    twin = getattr(torch.optim, name)([theirs], **options)
    for step in range(10):
        net.grads[...] = generator.standard_normal(33) * 3.0**-step
        theirs.grad = torch.from_numpy(net.grads.copy())
        norm = torch.nn.utils.clip_grad_norm_([theirs], 2.0)
        assert_close(lstmc.clip_grad_norm(net, 2.0), norm.item(), 1e-6)  # theirs is of the type
        # It adds 1e-6 to the norm it divides by.
        assert_close(net.grads, theirs.grad.numpy(), 1e-6)
        theirs.grad.copy_(torch.from_numpy(net.grads))
        if step == 5:
            optimiser.lr /= 2
            twin.param_groups[0]["lr"] /= 2
        optimiser.step()
        twin.step()
    assert_close(net.params, theirs.detach().numpy(), TOLERANCE[dtype])


@pytest.mark.parametrize("limit", [0.3, 2.0])
def test_clipping_by_value(isa, dtype, limit):
    net = Flat(np.zeros(33, dtype))
    net.grads[...] = 2 * np.random.default_rng(seed_of("clipped", limit)).standard_normal(33)
    net.grads[[0, 20]] = np.nan, np.inf
    theirs = tensor(net.params)
    theirs.grad = torch.from_numpy(net.grads.copy())
    torch.nn.utils.clip_grad_value_([theirs], limit)
    lstmc.clip_grad_value(net, limit)
    np.testing.assert_array_equal(net.grads, theirs.grad.numpy())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Tanh", {}), ("ReLU", {}), ("Sigmoid", {}), ("Softmax", {}), ("ELU", {}), ("ELU", {"alpha": 0.3}),
        ("LeakyReLU", {}), ("LeakyReLU", {"negative_slope": 0.2}),
    ],
    ids=str,
)  # fmt: skip
def test_activations(isa, dtype, name, options):
    """With the same names of options, and the same defaults; at 0 too."""
    rng = np.random.default_rng(seed_of("activations", name))
    x, dy = (3 * rng.standard_normal((4, 3, 17)).astype(dtype) for _ in range(2))
    x[0, 0, :3] = 0
    ours = lstmc.Activation({"LeakyReLU": "leaky_relu"}.get(name, name.lower()), **options)
    theirs, given = (
        getattr(torch.nn, name)(**options, **({"dim": -1} if name == "Softmax" else {})),
        tensor(x),
    )
    y, _, trace = ours.forward(x)
    expected = theirs(given)
    expected.backward(torch.from_numpy(dy))
    assert_close(y, expected.detach().numpy(), TOLERANCE[dtype])
    assert_close(ours.backward(dy, trace)[0], given.grad.numpy(), TOLERANCE[dtype])
