"""Mutants of composites, of tied weights, and of the check of features."""

# name, file, what is there, what takes its place
MUTANTS = [
    ("composite: x is saved without a copy", "../network/calls.py",
     "frozen(value.copy() if is_x else value)", "frozen(value)"),
    ("composite: a layer is given the state of another layer", "../network/calls.py",
     "self._before[i], *times)", "self._before[-1 - i], *times)"),
    ("composite: padding comes out of dx", "../network/composite.py",
     'dx = layout.leave("dx", dx)', "pass"),
    ("composite: one without batch_first", "../network/composite.py",
     "    _batch_first = False\n", ""),
    ("composite: records in the order of backward", "../passes.py",
     "return [records[layer] for _, layer, _ in recurrent_layers(net)]",
     "return list(records.values())[::-1]"),
    ("ties: a gradient of its own", "../network/ties.py",
     'grads[f"{to}.weight"])', 'grads[f"{to}.weight"].copy())'),
    ("ties: lost when parameters move", "../network/composite.py",
     "        tie(self._layers, params, grads)\n", ""),
    ("ties: a fingerprint without the weight", "../layers/linear.py",
     "fingerprint([self._params.flat, *tied])", "fingerprint([self._params.flat])"),
    ("ties: a layer after it", "../network/ties.py", "if to >= i:", "if to > i:"),
    ("features: a layer that passes on hides those before it", "../network/order.py",
     'if gives != "same":', "if True:"),
    ("features: of a network that passes on", "../network/order.py",
     "given = (reads or given) if", "given = reads if"),
    ("features: a projection gives H", "../recurrent/options.py",
     "self._num_directions * self._features_of_h", "self._num_directions * self._hidden_size"),
]  # fmt: skip
