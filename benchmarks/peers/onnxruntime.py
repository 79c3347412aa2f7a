"""ONNX Runtime: one LSTM, GRU or RNN node a layer, weights as initialisers; inference only."""

import itertools
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from . import Side, Turns

NOT_PLAIN = ()


class Cell(NamedTuple):
    """A cell's operator, the order of its row blocks there (of our blocks), its states and attributes."""

    operator: str
    order: tuple
    states: tuple
    attributes: dict


CELLS = {
    "lstm": Cell("LSTM", (0, 3, 1, 2), ("h", "c"), {}),  # i, o, f, c, which is our g
    "gru": Cell("GRU", (1, 0, 2), ("h",), {"linear_before_reset": 1}),  # z, r, h, which is our n
    "rnn": Cell("RNN", (0,), ("h",), {}),
}


def _reordered(array, cell):
    """Return the rows in ONNX's order of gates, with the axis of directions that it has first."""
    order = CELLS[cell].order
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[i] for i in order])[None]


def _model(w, problem):
    """Write the model: x (T, B, I) and a state (1, B, H) for each layer in, y and the states out."""
    cell, nodes, initialisers, source = CELLS[w.cell], [], [], "x"
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [w.steps, w.batch, w.inputs])]
    outputs = [value("y", TensorProto.FLOAT, [w.steps, w.batch, w.hidden])]
    axes = numpy_helper.from_array(np.array([1]), "directions")
    for k in range(w.layers):
        rows = len(problem.weights[f"weight_ih_l{k}"])
        bias, own = np.split(problem.weights[f"bias_l{k}"], [rows])
        of_h = np.concatenate([np.zeros(rows - len(own), own.dtype), own])  # ONNX adds the two
        arrays = {
            f"W{k}": _reordered(problem.weights[f"weight_ih_l{k}"], w.cell),
            f"R{k}": _reordered(problem.weights[f"weight_hh_l{k}"], w.cell),
            f"B{k}": np.concatenate([_reordered(b, w.cell) for b in (bias, of_h)], axis=1),
        }
        initialisers += [numpy_helper.from_array(a, name) for name, a in arrays.items()]
        before = [f"{name}{k}" for name in cell.states]
        after = [f"{name}_n{k}" for name in cell.states]
        shape = [1, w.batch, w.hidden]
        inputs += [value(name, TensorProto.FLOAT, shape) for name in before]
        outputs += [value(name, TensorProto.FLOAT, shape) for name in after]
        target = "y" if k == w.layers - 1 else f"y{k}"
        nodes.append(
            helper.make_node(
                cell.operator,
                [source, *arrays, "", *before],
                [f"{target}_d", *after],
                hidden_size=w.hidden,
                **cell.attributes,
            )
        )
        nodes.append(helper.make_node("Squeeze", [f"{target}_d", "directions"], [target]))
        source = target
    graph = helper.make_graph(nodes, "layers", inputs, outputs, [*initialisers, axes])
    opsets = [helper.make_opsetid("", 14)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _session(w, problem, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return onnxruntime.InferenceSession(
        _model(w, problem), options, providers=["CPUExecutionProvider"]
    )


def _value(array):
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _states(w):
    """Return the names of all states, with a place for what they end in, and zeros for them."""
    names = [f"{name}%s{k}" for k in range(w.layers) for name in CELLS[w.cell].states]
    return names, [np.zeros((1, w.batch, w.hidden), np.float32) for _ in names]


def _stacked(w, states):
    """Return h (L, B, H) and, of an LSTM, c, from the states of all layers."""
    count = len(CELLS[w.cell].states)
    return [np.concatenate(states[i::count]) for i in range(count)]


def _binding(session, x, y, names, before, after):
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    for name, read, written in zip(names, before, after):
        binding.bind_ortvalue_input(name % "", read)
        binding.bind_ortvalue_output(name % "_n", written)
    return binding


def _bound(w, problem, session):
    """Bind buffers: there and back with each set of input.

    Returns
    -------
    bindings : list
        Each with the states that it writes.
    y : OrtValue
    """
    names, _ = _states(w)
    y = _value(np.zeros((w.steps, w.batch, w.hidden), np.float32))
    # A value lies in the memory of its array: each needs one of its own.
    here, there = ([_value(a) for a in _states(w)[1]] for _ in range(2))
    inputs = [_value(x.reshape(w.steps, w.batch, w.inputs)) for (x, *_) in problem.sets]
    inputs *= 1 + len(inputs) % 2  # an even number, so that there follows here everywhere
    return [
        (_binding(session, x, y, names, *pair), pair[1])
        for x, pair in zip(inputs, itertools.cycle([(here, there), (there, here)]))
    ], y


def step(w, problem, setting):
    """Two ways: bound buffers, the quickest there is, and run() with arrays, the usual one."""
    if w.dtype != "float32":
        return {}  # its kernels are of float32 alone
    session = _session(w, problem, setting.threads)
    bindings, y_value = _bound(w, problem, session)
    bound, last = Turns(bindings), None

    def run_bound(n):
        nonlocal last
        for binding, last in bound.take(n):  # noqa: B007 the answers need the last
            session.run_with_iobinding(binding)

    def bound_answers():
        return (y_value.numpy()[0], *_stacked(w, [value.numpy() for value in last]))

    names, state = _states(w)
    read, written = [name % "" for name in names], ["y", *(name % "_n" for name in names)]
    fed, y = Turns([x[None] for (x,) in problem.sets]), None

    def run_fed(n):
        nonlocal y, state
        for x in fed.take(n):
            y, *state = session.run(written, {"x": x, **dict(zip(read, state))})

    return {
        "onnxruntime": Side(run_bound, bound_answers),
        "onnxruntime run": Side(run_fed, lambda: (y[0], *_stacked(w, state))),
    }


def forward(w, problem, setting):
    if w.dtype != "float32":
        return {}
    session = _session(w, problem, setting.threads)
    bindings, y = _bound(w, problem, session)
    turns = Turns([binding for binding, _ in bindings[::2]])  # from zeros, which are never written

    def run(n):
        for binding in turns.take(n):
            session.run_with_iobinding(binding)

    return {"onnxruntime": Side(run, lambda: (y.numpy(),))}
