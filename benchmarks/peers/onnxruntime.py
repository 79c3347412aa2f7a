"""ONNX Runtime: one LSTM or RNN node a layer, weights as initialisers; inference only."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# ONNX has the gates in the order i, o, f, c (our g).
ORDER = {"lstm": (0, 3, 1, 2), "rnn": (0,)}


def _reordered(array, cell):
    """Give the rows in ONNX's gate order, with the axis of directions that it has first."""
    parts = np.split(array, len(ORDER[cell]))
    return np.concatenate([parts[i] for i in ORDER[cell]])[None]


def _names(w):
    return ("h", "c") if w.cell == "lstm" else ("h",)


def _model(w, problem):
    """Write the model: x (T, B, I) and a state (1, B, H) for each layer in, y and the states out."""
    nodes, initialisers, source = [], [], "x"
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [w.steps, w.batch, w.inputs])]
    outputs = [value("y", TensorProto.FLOAT, [w.steps, w.batch, w.hidden])]
    axes = numpy_helper.from_array(np.array([1]), "directions")
    for k in range(w.layers):
        bias = _reordered(problem.weights[f"bias_l{k}"], w.cell)
        arrays = {
            f"W{k}": _reordered(problem.weights[f"weight_ih_l{k}"], w.cell),
            f"R{k}": _reordered(problem.weights[f"weight_hh_l{k}"], w.cell),
            f"B{k}": np.concatenate([bias, np.zeros_like(bias)], axis=1),  # ONNX adds the two
        }
        initialisers += [numpy_helper.from_array(a, name) for name, a in arrays.items()]
        given = [f"{name}{k}" for name in _names(w)]
        left = [f"{name}_n{k}" for name in _names(w)]
        shape = [1, w.batch, w.hidden]
        inputs += [value(name, TensorProto.FLOAT, shape) for name in given]
        outputs += [value(name, TensorProto.FLOAT, shape) for name in left]
        target = "y" if k == w.layers - 1 else f"y{k}"
        nodes.append(
            helper.make_node(
                w.cell.upper(),
                [source, *arrays, "", *given],
                [f"{target}_d", *left],
                hidden_size=w.hidden,
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
    shape = (1, w.batch, w.hidden)
    names = [f"{name}%s{k}" for k in range(w.layers) for name in _names(w)]
    return names, [np.zeros(shape, np.float32) for _ in names]


def _binding(session, x, y, names, before, after):
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    for name, given, left in zip(names, before, after):
        binding.bind_ortvalue_input(name % "", given)
        binding.bind_ortvalue_output(name % "_n", left)
    return binding


def _bound(w, problem, session):
    """Give bindings from one set of buffers to another and back, and the value of y."""
    names, _ = _states(w)
    x = _value(problem.x)
    y = _value(np.zeros((w.steps, w.batch, w.hidden), np.float32))
    # A value lies in the memory of its array: each needs one of its own.
    here, there = ([_value(a) for a in _states(w)[1]] for _ in range(2))
    there_and_back = ((here, there), (there, here))
    return [_binding(session, x, y, names, *pair) for pair in there_and_back], y


def step(w, problem, threads):
    """Two ways: bound buffers, the quickest there is, and run() with arrays, the usual one."""
    if w.dtype != "float32":
        return {}  # its kernels are of float32 alone
    session = _session(w, problem, threads)
    bindings, y_value = _bound(w, problem, session)
    turn = 0

    def run_bound(n):
        nonlocal turn
        for _ in range(n):
            session.run_with_iobinding(bindings[turn])
            turn = 1 - turn
        return (y_value.numpy()[0],)

    names, state = _states(w)
    given, left = [name % "" for name in names], ["y", *(name % "_n" for name in names)]

    def run_fed(n):
        nonlocal state
        for _ in range(n):
            y, *state = session.run(left, {"x": problem.x, **dict(zip(given, state))})
        return (y[0],)

    return {"onnxruntime": run_bound, "onnxruntime run": run_fed}


def forward(w, problem, threads):
    if w.dtype != "float32":
        return {}
    session = _session(w, problem, threads)
    bindings, y_value = _bound(w, problem, session)

    def run(n):
        for _ in range(n):
            session.run_with_iobinding(bindings[0])
        return (y_value.numpy(),)

    return {"onnxruntime": run}
