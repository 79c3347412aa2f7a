"""Makes the golden files beside it: what PyTorch, an independent system, computes in float64.

    python tests/golden/make_golden.py            (needs numpy and torch; takes a second)

The tests read the files and never run this, so they do not need PyTorch. It is deliberately not a
test: it asserts nothing about lstmc and does not import it.

Each recurrent file `<cell>_<layers>.npz` holds
    cell, num_layers, torch_version
    x (T, B, I), h0 (L, B, H), for an LSTM c0; h0, y and the like have P units with projection
    weight_ih_l0, weight_hh_l0, bias_l0, ... with PyTorch's names and gate order (i, f, g, o; r, z, n),
        but one bias: the sum of PyTorch's two; for a GRU r and z's sums, n's first, n's second
    y (T, B, H), h_n (L, B, H), for an LSTM c_n
    dy, dh_n, dc_n: random gradients of a loss with respect to y, h_n and c_n, all in force at once
    dx, dh0, dc0, d_weight_ih_l0, d_weight_hh_l0, d_bias_l0, ...: the gradients of that loss

`softmax_cross_entropy.npz` holds logits (..., V), targets (...), ignore_index, loss, dlogits and
torch_version.

All numbers that go in are drawn by NumPy from a seed, so a new PyTorch may change only roundings.
"""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent

# By cell: PyTorch's module, its options, and the names of what its state holds.
MODULES = {
    "lstm": (torch.nn.LSTM, {}, ("h", "c")),
    "lstm_projected": (torch.nn.LSTM, {"proj_size": lambda hidden: hidden // 2}, ("h", "c")),
    "gru": (torch.nn.GRU, {}, ("h",)),
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}, ("h",)),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}, ("h",)),
}

# No two of T, B, I, H and the number of layers are equal in a case, so a swapped axis cannot pass;
# most H are a vector width, 8 or 16, or one less or one more.
# name: (seed, T, B, I, H)
RECURRENT_CASES = {
    "lstm_1": (11, 5, 3, 7, 17),
    "lstm_2": (12, 4, 3, 5, 9),
    "lstm_3": (13, 5, 2, 4, 7),
    "lstm_projected_2": (62, 4, 3, 5, 9),
    "gru_1": (51, 5, 3, 7, 17),
    "gru_2": (52, 4, 3, 5, 9),
    "gru_3": (53, 5, 2, 4, 7),
    "rnn_tanh_1": (21, 4, 3, 5, 17),
    "rnn_tanh_2": (22, 5, 3, 7, 15),
    "rnn_tanh_3": (23, 5, 4, 9, 7),
    "rnn_relu_1": (31, 7, 2, 3, 16),
    "rnn_relu_2": (32, 3, 5, 8, 9),
    "rnn_relu_3": (33, 4, 2, 5, 8),
}


def make_module(name, input_size, hidden_size):
    """Return the cell's name, the number of layers, and the PyTorch module of a case."""
    cell, _, layers = name.rpartition("_")
    kind, options, _ = MODULES[cell]
    options = {k: v(hidden_size) if callable(v) else v for k, v in options.items()}
    options = {"num_layers": int(layers), "dtype": torch.float64, **options}
    return cell, int(layers), kind(input_size, hidden_size, **options)


def random_tensor(generator, *shape, scale=1.0):
    """Draw multiples of 1/128: float32 holds them exactly too, and they compress well."""
    values = np.round(128 * scale * generator.standard_normal(shape)) / 128
    return torch.from_numpy(values).requires_grad_()


def fill_parameters(module, generator, hidden_size):
    """Draw every parameter, wider than PyTorch would, so that the gates leave their linear part.

    The two biases of a layer are drawn apart, so that their sum is neither of them.
    """
    scale = 1.5 / np.sqrt(hidden_size)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(random_tensor(generator, *parameter.shape, scale=scale))


def weights_and_gradients(module, num_layers):
    """Return the weights by name and, under d_ and the same name, their gradients."""
    arrays = {}
    for layer in range(num_layers):
        for kind in ("weight_ih", "weight_hh", *(["weight_hr"] if module.proj_size else [])):
            parameter = getattr(module, f"{kind}_l{layer}")
            arrays[f"{kind}_l{layer}"] = parameter
            arrays[f"d_{kind}_l{layer}"] = parameter.grad
        biases = [getattr(module, f"{kind}_l{layer}") for kind in ("bias_ih", "bias_hh")]
        own = len(biases[0]) // 3 if isinstance(module, torch.nn.GRU) else 0  # of n, by themselves
        both = len(biases[0]) - own
        # Each has the gradient that their sum has, up to the order in which PyTorch adds.
        grads = [bias.grad[:both] for bias in biases]
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
        apart = [biases[0][both:], biases[1][both:]]
        arrays[f"bias_l{layer}"] = torch.cat([biases[0][:both] + biases[1][:both], *apart])
        apart = [bias.grad[both:] for bias in biases]
        arrays[f"d_bias_l{layer}"] = torch.cat([grads[0], *apart])
    return arrays


def make_recurrent(name, seed, steps, batch, input_size, hidden_size):
    generator = np.random.default_rng(seed)
    cell, layers, module = make_module(name, input_size, hidden_size)
    fill_parameters(module, generator, hidden_size)
    _, _, state_names = MODULES[cell]

    x = random_tensor(generator, steps, batch, input_size)
    widths = {"h": module.proj_size or hidden_size, "c": hidden_size}
    first = [random_tensor(generator, layers, batch, widths[state]) for state in state_names]
    y, last = module(x, tuple(first) if len(first) > 1 else first[0])
    last = last if len(first) > 1 else (last,)
    dy = random_tensor(generator, *y.shape)
    dlast = [random_tensor(generator, *state.shape) for state in last]
    torch.autograd.backward([y, *last], [dy, *dlast])

    arrays = {"x": x, "y": y, "dy": dy, "dx": x.grad, **weights_and_gradients(module, layers)}
    for state_name, initial, final, dfinal in zip(state_names, first, last, dlast, strict=True):
        arrays[f"{state_name}0"] = initial
        arrays[f"{state_name}_n"] = final
        arrays[f"d{state_name}_n"] = dfinal
        arrays[f"d{state_name}0"] = initial.grad
    save(name, arrays, cell=cell, num_layers=layers)


def make_softmax_cross_entropy(name, seed, steps, batch, classes):
    ignore_index = -1
    generator = np.random.default_rng(seed)
    logits = random_tensor(generator, steps, batch, classes, scale=3.0)
    targets = torch.from_numpy(generator.integers(classes, size=(steps, batch)))
    targets[0, 1] = targets[2, 0] = targets[2, 2] = ignore_index
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, classes), targets.reshape(-1), ignore_index=ignore_index
    )
    loss.backward()
    arrays = {"logits": logits, "targets": targets, "loss": loss, "dlogits": logits.grad}
    save(name, arrays, ignore_index=ignore_index)


def save(name, tensors, **facts):
    arrays = {key: tensor.detach().numpy() for key, tensor in tensors.items()}
    torch_version = str(torch.__version__)
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, **facts, torch_version=torch_version, **arrays)
    print(f"{path.name:28} {path.stat().st_size:7,} bytes")


def main():
    torch.set_num_threads(1)
    for name, case in RECURRENT_CASES.items():
        make_recurrent(name, *case)
    make_softmax_cross_entropy("softmax_cross_entropy", seed=41, steps=4, batch=3, classes=6)


if __name__ == "__main__":
    main()
