"""Calls the public face with anything at all, in a process of its own: none of it may end the process.

    python tests/fuzz/face.py --examples 100 --seed 1 --log FILE

An example makes a layer or a network, and goes through some actions with it: calls with arguments that are
nearly right, calls with anything, attributes that are set, views and traces that are tampered with.
Python's errors are right answers; a SystemError is not, nor is a byte written beside an array or into one
that is read-only. The log holds the last example, call by call, for when the process does not live to tell.
"""

import argparse
import faulthandler
import inspect
import io
import reprlib
import sys
import warnings
from functools import partial
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies as st
from values import KINDS, Memory, close_array, junk

import lstmc

T, B, I, H, V = 3, 2, 3, 4, 5  # noqa: E741 what is nearly right is nearly of these sizes
MOST_BYTES = 4 << 30  # of the process: a size out of all proportion is to be a MemoryError
LAYERS = ("lstm", "rnn", "gru", "linear", "embedding", "dropout", "activation", "last", "network", "tied",
          "beside")  # fmt: skip
# What is not called: reports, which lstmc alone makes, and what changes the whole process.
LEFT_OUT = {
    "GateReport", "GradientFlow", "GradientReport", "JacobianSpectrum", "LayerFlow", "LayerGates",
    "NonFinite", "Reach", "TensorCheck", "Write", "set_num_threads", "set_matmul_precision",
}  # fmt: skip


class Flat:
    """A network as optimisers know it: two flat arrays."""

    def __init__(self, params, grads):
        self.params, self.grads = params, grads


class Beside(lstmc.Composite):
    """Two layers that read the same, and whose outputs are added."""

    def compute(self, x, call):
        return call(0, x) + call(1, x)

    def differentiate(self, dy, call):
        return call(0, dy) + call(1, dy)


class Example:
    """One example: what it has made so far, and what it can do next."""

    def __init__(self, draw, log):
        self.draw, self.log, self.memory = draw, log, Memory()
        self.dtype = draw(st.sampled_from(("f4", "f8")))
        self.net = self.make_net()
        self.trace = self.stepper = None
        self.y = self.memory.array(self.dtype, (T, B, self.features), "C")

    # -- arguments ---------------------------------------------------------------------------------

    def choose(self, *options):
        return self.draw(st.sampled_from(options))

    def odd(self):
        """Return whether to pass anything at all in the place of what fits."""
        return self.draw(st.integers(0, 5)) == 0

    def junk(self):
        return junk(self.draw, self.memory)

    def floats(self, *shape):
        """Return floats like those that fit: their own, or ones that lie in the layer's own memory."""
        if self.odd():
            return self.junk()
        if self.odd():
            flat = self.choose(self.net.params, self.net.grads)
            size = int(np.prod(shape))
            if flat.size >= size:
                return flat[:size].reshape(shape)
        return close_array(self.draw, self.memory, self.dtype, shape)

    def tokens(self, *shape):
        return self.junk() if self.odd() else close_array(self.draw, self.memory, "i8", shape)

    def x(self, *shape):
        return self.tokens(*shape) if self.kind in ("embedding", "tied") else self.floats(*shape, I)

    def time(self):
        """Return lengths and resets, each of them or not; a network does not take them."""
        if self.kind not in ("lstm", "rnn", "gru"):
            return {}
        lengths = self.choose(
            None, T, np.arange(B), close_array(self.draw, self.memory, "i8", (B,), T)
        )
        resets = self.choose(None, close_array(self.draw, self.memory, "?", (T, B)))
        return {
            "lengths": self.junk() if self.odd() else lengths,
            "resets": self.junk() if self.odd() else resets,
        }

    def state(self):
        layers = getattr(self.net, "layers", (self.net,))
        own = [getattr(x, "num_layers", 0) * getattr(x, "num_directions", 0) for x in layers]
        one, two = (self.floats(max(own) or 1, B, units) for units in (self.units, H))
        if len(layers) > 1:
            parts = [(one, two) if count else None for count in own]
            return self.choose(None, tuple(parts), parts[:2])
        return self.choose(None, one, (one, two), [one, two])

    def lengths(self):
        lengths = close_array(self.draw, self.memory, self.choose("i8", "i4"), (B,), T)
        return self.choose(None, lengths, self.junk() if self.odd() else lengths)

    def mask(self):
        shape = self.choose((T, B), (T, B, V))
        mask = close_array(self.draw, self.memory, "?", shape)
        return self.choose(None, mask, self.junk() if self.odd() else mask)

    def threads(self):
        return self.junk() if self.odd() else self.choose(None, 1, 2, 3)

    def flag(self):
        return self.junk() if self.odd() else self.draw(st.booleans())

    # -- what is looked at ---------------------------------------------------------------------------

    def recurrent_options(self, kind):
        """Return what a recurrent layer may have, which may not go together; of an LSTM sets self.units."""
        flag = partial(self.draw, st.booleans())
        options = {name: flag() for name in ("bias", "bidirectional", "learn_initial_state")}
        options["grad_clip"] = self.choose(None, 0.1)
        if flag():
            options |= {"num_layers": 2, "dropout": 0.5, "variational": flag()}
        if kind == "rnn":
            return options | {"nonlinearity": self.choose("tanh", "relu")}
        if kind == "gru":
            return options | {"reset_after": flag()}
        options |= {"peephole": flag(), "coupled": flag(), "clip": self.choose(None, 0.5)}
        options["proj_size"] = self.choose(0, 1, H - 1)
        self.units = options["proj_size"] or H
        return options

    def make_net(self):
        options = {"dtype": np.dtype(self.dtype), "rng": 1}
        self.kind = self.choose(*LAYERS)
        self.features = I if self.kind in ("dropout", "activation", "last") else H
        self.units = H
        if self.kind in ("lstm", "rnn", "gru"):
            make = {"lstm": lstmc.LSTM, "rnn": lstmc.RNN, "gru": lstmc.GRU}[self.kind]
            options |= self.recurrent_options(self.kind)
            self.features = self.units * (1 + options["bidirectional"])
            return make(I, H, **options)
        if self.kind == "linear":
            return lstmc.Linear(I, H, **options)
        if self.kind == "embedding":
            return lstmc.Embedding(V, H, **options)
        if self.kind == "dropout":
            return lstmc.Dropout(0.5, rng=1, variational=self.draw(st.booleans()))
        if self.kind == "activation":
            return lstmc.Activation(self.choose("tanh", "softmax", "elu"))
        if self.kind == "last":
            return lstmc.Last()
        mine = options | self.recurrent_options("lstm") | {"bidirectional": False}
        self.features = self.units if self.kind == "beside" else V
        if self.kind == "beside":
            return Beside(lstmc.LSTM(I, H, **mine), lstmc.Linear(I, self.units, **options))
        if self.kind == "tied":
            return lstmc.Sequential(
                lstmc.Embedding(V, self.units, **options),
                lstmc.LSTM(self.units, H, **mine),
                lstmc.Linear(self.units, V, tied_to="0", **options),
            )
        return lstmc.Sequential(
            lstmc.Dropout(0.5, rng=1),
            lstmc.LSTM(I, H, **mine),
            *([lstmc.Last()] if self.draw(st.booleans()) else []),
            lstmc.Linear(self.units, V, **options),
            batch_first=self.draw(st.booleans()),
        )

    # -- actions -------------------------------------------------------------------------------------

    def forward(self):
        result = self.call(
            self.net.forward, x=self.x(T, B), state=self.state(), training=True, **self.time()
        )
        if result is not None:
            self.y, _, self.trace = result

    def infer(self):
        self.call(self.net, x=self.x(T, B), state=self.state(), **self.time())

    def backward(self):
        if self.trace is None or self.odd():
            self.forward()
        self.call(
            self.net.backward,
            dy=self.choose(None, self.floats(T, B, self.features)),
            trace=self.trace,
            dstate=self.state(),
            record=self.choose(None, []),
        )

    def step(self):
        if self.stepper is None or self.odd():
            self.stepper = self.call(self.net.stepper, batch=B)
        stepper = self.stepper
        if stepper is None:
            return
        for _ in range(2):
            out = self.floats(B, self.features) if self.draw(st.booleans()) else None
            self.call(stepper, x=self.x(B), out=out)
        which = self.choose("state", "state is read", "reset", "refresh", "undo")
        if which == "state":
            self.attempt(setattr, stepper, "state", self.state())
        elif which == "state is read":
            self.attempt(getattr, stepper, "state")
        elif hasattr(stepper, which):
            masks = {"mask": close_array(self.draw, self.memory, "?", (B,))}
            self.call(getattr(stepper, which), **(masks if which == "reset" else {}))

    def call_method(self):
        """Call any method of what there is, with anything."""
        traces = [self.trace, getattr(self.trace, "sequences", None)]
        holders = [self.net, *getattr(self.net, "layers", ()), *traces, self.stepper]
        holder = holders[self.choose(*range(len(holders)))]
        names = [name for name in dir(holder) if not name.startswith("_")]
        methods = [name for name in names if callable(getattr(holder, name, None))]
        if methods:
            method = getattr(holder, self.draw(st.sampled_from(methods)))
            count = self.draw(st.integers(0, 3))
            self.attempt(
                method, *(self.choose(self.junk(), self.trace, "weight") for _ in range(count))
            )

    def set_attribute(self):
        target = self.choose(self.net, *getattr(self.net, "layers", ()))
        names = [name for name in dir(target) if not name.startswith("_")]
        name = self.draw(st.sampled_from([n for n in names if n not in ("kernels", "turns")]))
        if not callable(getattr(target, name, None)):
            self.attempt(setattr, target, name, self.junk())

    def tamper(self):
        """Change the form of a view that the layer hands out, or an array or attribute of the trace."""
        names = list(self.net.parameters())
        views = [self.net.params, self.net.grads]
        if names:
            name = self.draw(st.sampled_from(names))
            views += [self.net[name], self.net.grad(name)]
        traces = [self.trace, *(getattr(self.trace, "layers", None) or ())]
        traces.append(getattr(self.trace, "sequences", None))
        traces = [trace for trace in traces if hasattr(trace, "__dict__")]
        for trace in traces:
            views += [a for a in vars(trace).values() if isinstance(a, np.ndarray)]
        view = views[self.choose(*range(len(views)))]
        which = self.choose("shape", "dtype", "writeable", "values", "trace")
        if which == "shape":
            shape = self.choose((1, -1), (-1,), (-1, 1), (1, 1, -1))
            self.attempt(setattr, view, "shape", shape)
        elif which == "dtype":
            self.attempt(
                setattr, view, "dtype", np.dtype(self.choose("f4", "f8", "i4", "u1", "i8"))
            )
        elif which == "writeable":
            self.attempt(view.setflags, write=self.draw(st.booleans()))
        elif which == "values":
            self.attempt(view.fill, self.choose(0, -1, 7, 2**40, float("nan")))
        elif traces:
            trace = traces[self.choose(*range(len(traces)))]
            self.attempt(
                setattr, trace, self.draw(st.sampled_from(sorted(vars(trace)))), self.junk()
            )

    def optimise(self):
        size = self.choose(3, 8, 65)
        net = self.choose(self.net, Flat(self.floats(size), self.floats(size)))
        kind = self.choose(lstmc.SGD, lstmc.Adam, lstmc.AdamW, lstmc.RMSprop)
        momentum = {} if issubclass(kind, lstmc.Adam) else {"momentum": self.choose(0.0, 0.5)}
        optimiser = self.call(kind, net=net, lr=0.1, **momentum)
        if optimiser is None:
            return
        if isinstance(net, Flat) and self.draw(st.booleans()):
            net.grads = self.floats(size)
        names = [name for name in vars(optimiser) if name != "net"]
        if self.odd():
            name = self.draw(st.sampled_from(names))
            self.attempt(setattr, optimiser, name.removeprefix("_"), self.junk())
        self.call(optimiser.step)
        self.call(lstmc.clip_grad_norm, net=net, max_norm=1e-3)
        self.call(lstmc.clip_grad_value, net=net, limit=1e-3)

    def lose(self):
        logits = self.floats(T, B, V)
        targets, out = self.tokens(T, B), self.choose(None, logits, self.floats(T, B, V))
        if self.odd():  # targets in the memory of out
            memory = self.memory.array("i8", (T, B * V), "C", 1)
            out = memory.view("f4").reshape(-1)[: T * B * V].reshape(T, B, V)
            targets = memory.reshape(-1)[: T * B].reshape(T, B)
            logits = self.choose(out, self.memory.array("f4", (T, B, V), "C"))
        counts = {"lengths": self.lengths(), "mask": self.mask()}
        self.call(lstmc.softmax_cross_entropy, logits=logits, targets=targets, out=out, **counts)
        self.call(lstmc.squared_error, y=logits, target=self.floats(T, B, V), **counts)
        self.call(lstmc.huber, y=logits, target=self.floats(T, B, V), **counts)
        shares = self.floats(T, B, V)
        self.call(lstmc.binary_cross_entropy, logits=logits, targets=shares, **counts)

    def call_any(self):
        """Call anything that is public, with what its names suggest."""
        name = self.draw(st.sampled_from(sorted(set(lstmc.__all__) - LEFT_OUT)))
        if name == "show_config":
            self.call(lstmc.show_config, file=io.StringIO())
            return
        fits = {
            "net": self.net, "layer": self.net, "model": self.net, "x": self.x(T, B),
            "targets": self.tokens(T, B), "dy": self.floats(T, B, self.features), "trace": self.trace,
            "state": self.state(), **self.time(),
            "input_size": I, "hidden_size": H, "in_features": I, "out_features": H,
            "num_embeddings": V, "embedding_dim": H, "lr": 0.1, "steps": T, "batch": B, "loss": "mean",
            "y": self.y, "target": self.y, "logits": self.y, "max_norm": 1.0, "t": 1, "t0": 0, "t1": 2,
            "tokens": ["a", "b"], "unit": "char", "factor": 0.5, "k": 2, "delta": 1.0,
        }  # fmt: skip
        function = getattr(lstmc, name)
        if name == "Sequential":
            layers = [self.choose(self.net, lstmc.Linear(I, H, dtype=self.dtype), self.junk())]
            result = self.attempt(
                function, *layers, self.junk() if self.odd() else lstmc.LSTM(H, 2)
            )
        else:
            result = self.call(function, **fits)
        if isinstance(result, lstmc.Layer):
            self.attempt(result, self.x(T, B))
        if isinstance(result, lstmc.Trainer):
            self.attempt(result.fit, self.tokens(40), progress=False)

    # -- calls ---------------------------------------------------------------------------------------

    def call(self, function, **fits):
        """Call a function with what fits, but perhaps for one argument, and perhaps with more options."""
        arguments = dict(fits)
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            parameters = {}
        if parameters:
            arguments = {name: value for name, value in fits.items() if name in parameters}
        options = [name for name in parameters if name not in fits and name not in ("self", "path")]
        for name in options:
            if self.draw(st.integers(0, 3)) == 0:
                arguments[name] = self.option(name)
        if arguments and self.odd():
            arguments[self.draw(st.sampled_from(sorted(arguments)))] = self.junk()
        return self.attempt(function, **arguments)

    def option(self, name):
        if name == "num_threads":
            return self.threads()
        if name in ("lengths", "mask"):
            return self.lengths() if name == "lengths" else self.mask()
        if name == "device":
            return self.choose("cpu", "cpu", "cuda", 3)
        if name == "dtype":
            return self.choose(*KINDS, None, "?", object)
        if name == "lengths":
            return self.tokens(B)
        if name == "resets":
            return close_array(self.draw, self.memory, "?", (T, B))
        return self.flag()

    def attempt(self, function, *arguments, **options):
        """Call a function; return None if it raises one of Python's errors."""
        name = getattr(function, "__qualname__", type(function).__name__)
        passed = [reprlib.repr(a) for a in arguments]
        passed += [f"{key}={describe(value)}" for key, value in options.items()]
        print(f"{name}({', '.join(passed)})", file=self.log, flush=True)
        try:
            return function(*arguments, **options)
        except (AssertionError, SystemError):
            raise
        except Exception as error:
            print(f"    {type(error).__name__}: {error}", file=self.log, flush=True)
            return None

    def run(self):
        actions = (
            self.forward, self.infer, self.backward, self.step, self.set_attribute,
            self.call_method, self.tamper, self.optimise, self.lose, self.call_any,
        )  # fmt: skip
        for _ in range(self.draw(st.integers(1, 8))):
            self.choose(*actions)()
        self.memory.check()


def describe(value):
    if isinstance(value, np.ndarray):
        return f"<{type(value).__name__} {value.dtype} {value.shape} {value.strides}>"
    return reprlib.repr(value)


def limit_memory():
    """Make a request for too much memory fail. The address sanitizer has a limit of its own."""
    maps = Path("/proc/self/maps")
    if maps.exists() and "libasan" not in maps.read_text():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", default="/dev/null")
    options = parser.parse_args()
    faulthandler.enable()
    limit_memory()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    lstmc.set_num_threads(2)
    count = 0

    @hypothesis.seed(options.seed)
    @hypothesis.settings(
        max_examples=options.examples,
        database=None,
        verbosity=hypothesis.Verbosity.quiet,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(st.data())
    def search(data):
        nonlocal count
        count += 1
        with open(options.log, "w") as log:
            Example(data.draw, log).run()

    search()
    print(f"{count} examples, seed {options.seed}", file=sys.stderr)


if __name__ == "__main__":
    main()
