"""Watching a network learn: a few numbers per layer now and then, and where the first NaN came from."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from .._kernels.devices import host
from ..files import RecordFile
from ..layer import check_size
from ..passes import recurrent_layers, run, run_back
from .inputs import check_trace, loss_at, real_part, real_steps, recurrent_network
from .reach import ends_of, norms_of_rows, norms_over_time, only_at, reach_of
from .reports import place_text, plain

__all__ = ["NonFinite", "Watch", "find_nonfinite"]


@dataclass
class NonFinite:
    """Where a number that is not finite appeared first.

    Attributes
    ----------
    what : str
        "a weight", "x", "a state", "the output", "the gradient of the loss at the output" or "a gradient".
    layer : str
        The recurrent layer, as "1.l0", or the name of the weight.
    step, row : int or None
        Where in the sequence and the batch.
    """

    what: str
    layer: str = ""
    step: int | None = None
    row: int | None = None

    def __str__(self):
        text = f"{self.what} is not finite"
        if self.layer:
            text += f": {place_text(self.layer)}"
        return text if self.step is None else f"{text}, at step {self.step}, row {self.row}"


def find_nonfinite(net, x=None, targets=None, state=None, *, lengths=None, resets=None, trace=None,
                   dy=None):  # fmt: skip
    """Find the first number that is not finite: in the weights, the input, a state, or on the way back.

    Parameters
    ----------
    net : recurrent layer, network or LanguageModel
    x, targets, state, lengths, resets : optional
        As for ``gradient_flow``.
    trace, dy : instead of these
        From the network's forward; without `dy` only the way forward is searched.

    Returns
    -------
    NonFinite or None
        The weights are searched first; then the input and the states, by step and from the input up; then the
        output and the gradients at the states, from the last step and the output down.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, the trace is another network's, or the network has no recurrent layer.
    """
    net = recurrent_network(net)
    if targets is not None and dy is not None:
        raise ValueError("targets and dy exclude each other: both say what the loss is")
    if trace is None and x is None:
        raise ValueError("x must be given, or the trace of a forward call")
    if trace is not None:
        check_trace(net, trace, x, targets, state, lengths, resets)
    for name in net.parameters():
        if not np.isfinite(net[name]).all():
            return NonFinite("a weight", name)
    if trace is None:
        with np.errstate(all="ignore"):
            y, _, trace = run(net, x, state, lengths=lengths, resets=resets)
            place = _in_states(net, trace)
            if place:
                return place
            if not np.isfinite(y).all():
                return NonFinite("the output")
            if targets is None and dy is None:
                return None
            if dy is None:
                dy = loss_at(y, targets, real=real_steps(net, trace))[1]
    else:
        place = _in_states(net, trace)
        if place or dy is None:
            return place
    dy = real_part(net, dy, trace)
    if not np.isfinite(dy).all():
        return NonFinite("the gradient of the loss at the output")
    return _in_gradients(net, trace, dy)


def _first(array, backwards=False):
    """Return (step, row) of the first element (T, B, .) that is not finite, or None."""
    bad = host(~np.isfinite(array).all(2))
    steps = np.flatnonzero(bad.any(1))
    if not len(steps):
        return None
    step = steps[-1 if backwards else 0]
    return int(step), int(np.flatnonzero(bad[step])[0])


def _in_states(net, trace):
    places = []  # (order, what and where)
    turned = _turns(net)
    for i, (name, layer, part) in enumerate(recurrent_layers(net, trace)):
        arrays = [(0, "x", f"of {place_text(name)}" if name else "", part.x, False)]
        for number, one in enumerate(part.layers):
            place = (
                1 + number // layer.num_directions,
                "a state",
                f"{name}{layer.part_name(number)}",
            )
            backwards = number % layer.num_directions == 1
            arrays += [
                (*place, one.on_grid(one.states(a)), backwards)
                for a in (one.all_h, one.all_c)
                if a is not None
            ]
        for order, (above, what, where, array, backwards) in enumerate(arrays):
            at = _first(array, backwards)
            if at:
                step = part.steps - at[0] if backwards else at[0]
                when = (i, above, step, order) if turned else (step, i, order)
                places.append((when, NonFinite(what, where, *at)))
    return min(places, key=lambda place: place[0])[1] if places else None


def _turns(net):
    """Return whether a layer reads whole sequences before the next one begins, as of two directions."""
    return any(layer.bidirectional for _, layer, _ in recurrent_layers(net))


def _in_gradients(net, trace, dy):
    places, turned = [], _turns(net)
    layers = recurrent_layers(net, trace)
    for i, ((name, layer, part), record) in enumerate(zip(layers, run_back(net, dy, trace))):
        for number, gradients in enumerate(record.stack):
            above, reverse = divmod(number, layer.num_directions)
            with np.errstate(all="ignore"):
                arrays = gradients.dgates, gradients.dh
            for array in arrays:
                at = _first(array, backwards=not reverse)
                if at:
                    where = NonFinite("a gradient", f"{name}{layer.part_name(number)}", *at)
                    step = at[0] if reverse else part.steps - at[0]
                    when = (-i, -above, step) if turned else (step, -i, -number)
                    places.append((when, where))
    return min(places, key=lambda place: place[0])[1] if places else None


class Watch:
    """Looks at a network while it learns: a handful of numbers per layer, every so many windows.

    Pass it to a Trainer, or call it in a loop of your own, after the loss and before backward.

    Parameters
    ----------
    net : recurrent layer, network or LanguageModel
    every : int
        Look at one window in so many, beginning with the first.
    path : path, optional
        A JSONL file to append to, one line per look.
    tensorboard : path, optional
        A folder for TensorBoard, whose package must be installed.
    nonfinite : "stop" or "warn"
        What to do if the loss is not finite: raise FloatingPointError, or warn. Both name the first layer,
        step and row where it began. A Trainer stops in either case, without taking the step.

    Attributes
    ----------
    records : list of dict
        One per look: "window" (calls, from 1), "loss" and, for each layer by name, "gradient" (the norm of
        the loss's gradient at h, over all steps; None, as every number here, where it is beyond all numbers
        or no row has a step), "half_life" (in steps, of the last step's loss; None if it does not shrink or
        cannot be measured), "kept" (the share of it that reaches the initial state),
        "saturated" (the share of saturated values: of the gates, or of h where that is the only gate; None if
        they do not saturate), "forget" (the mean of the gate that keeps c, or None) and "weights" (the norm
        of the recurrent weights).

    Raises
    ------
    ImportError
        `tensorboard` is given, and the package is not installed.
    OSError
        A file cannot be written.
    TypeError, ValueError
        A parameter does not fit, or the network has no recurrent layer.
    """

    def __init__(self, net, every=50, path=None, tensorboard=None, nonfinite="stop"):
        self.net, self.every = recurrent_network(net), check_size("every", every)
        if nonfinite not in ("stop", "warn"):
            raise ValueError(f'nonfinite must be "stop" or "warn", got {nonfinite!r}')
        self.nonfinite = nonfinite
        self._file = None if path is None else RecordFile(path)
        self._board = None if tensorboard is None else _open_board(tensorboard)
        self.window, self.records = 0, []

    def __repr__(self):
        return f"Watch(every={self.every}, window={self.window}, records={len(self.records)})"

    def __call__(self, loss, dy, trace):
        """Look at one window, if it is its turn.

        Parameters
        ----------
        loss : float
        dy : ndarray
            The gradient of the loss with respect to the network's output.
        trace : Trace
            From the network's forward, not consumed yet.

        Returns
        -------
        dict or None
            What was added to ``records``, if anything.

        Raises
        ------
        FloatingPointError
            The loss is not finite, and `nonfinite` is "stop".
        """
        if trace is None:
            raise TypeError("trace must come from forward(..., training=True), got None")
        self.window += 1
        if not math.isfinite(loss):
            self._report(loss, trace, dy)
            return None
        if (self.window - 1) % self.every:
            return None
        record = {"window": self.window, "loss": float(loss), **self._look(dy, trace)}
        self.records.append(record)
        self._write(record)
        return record

    @property
    def path(self):
        """The JSONL file, or None."""
        return None if self._file is None else self._file.path

    def state(self):
        """Return where it is, for a checkpoint: the "window", and the "place" in its file or None."""
        return {"window": self.window, "place": self._file and self._file.place}

    def load_state(self, state):
        """Go back to where ``state()`` was taken: records of later windows are removed, in the file too.

        A file that does not begin with what was written until then is only added to.

        Raises
        ------
        OSError
            The file cannot be written. Nothing changes then.
        """
        if self._file is not None:
            self._file = RecordFile(self._file.path, state["place"])
        self.window = state["window"]
        self.records = [record for record in self.records if record["window"] <= self.window]

    def _report(self, loss, trace, dy):
        place = find_nonfinite(self.net, trace=trace, dy=dy)
        text = f"the loss of window {self.window} is {loss}"
        text += f": {place}" if place else ", but states and gradients are finite"
        if self.nonfinite == "stop":
            raise FloatingPointError(text)
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _look(self, dy, trace):
        layers = list(recurrent_layers(self.net, trace))
        flow = self._flow(dy, trace, layers) if layers[0][2].sequences.rows.count else None
        seen = {}
        with np.errstate(all="ignore"):  # what overflows is recorded as None
            for i, (name, layer, layer_trace) in enumerate(layers):
                for number, one in enumerate(layer_trace.layers):
                    weights = layer[layer.named("weight_hh", number)]
                    seen[f"{name}{layer.part_name(number)}"] = {
                        **_of_gradient(flow, i, number, self.net.keeps_time),
                        **_of_gates(one),
                        "weights": plain(norms_over_time(weights[None])[0]),
                    }
        return seen

    def _flow(self, dy, trace, layers):
        """Return the records of all steps' loss and of the last one's, and the states that it is at."""
        _, _, top = layers[-1]
        ends = ends_of(-1, top.steps, top.sequences.lengths)
        last = only_at(self.net, top.unbatched, dy, ends)
        return run_back(self.net, dy, trace), run_back(self.net, last, trace), ends

    def _write(self, record):
        if self._file is not None:
            self._file.append(record)
        if self._board is not None:
            self._board.add_scalar("loss", record["loss"], record["window"])
            for name, numbers in record.items():
                for what, value in numbers.items() if isinstance(numbers, dict) else ():
                    if value is not None:
                        self._board.add_scalar(f"{name}/{what}", value, record["window"])
            self._board.flush()


def _of_gradient(flow, i, number, keeps_time):
    """Return what Watch records of the gradient at one layer; None where no row has a step."""
    if flow is None:
        return dict.fromkeys(("gradient", "half_life", "kept"))
    total, last, ends = flow
    reach = reach_of([(ends, last[i], number)], keeps_time)
    norms = norms_over_time(total[i].stack[number].dh)
    return {
        "gradient": plain(norms_of_rows(norms[None])[0]),
        "half_life": plain(reach.half_life),
        "kept": plain(reach.kept),
    }


def _of_gates(trace):
    """Return what Watch records of the gates of one layer."""
    cell = trace.cell
    gates = {name: trace.real(a) for name, a in trace.gates.items()}
    values = gates or {cell.h.name: trace.real(trace.h)}
    limits = {name: trace.gate_records[name].limits for name in values}
    saturated = None
    if all(limits.values()):
        count = size = 0
        for name, a in values.items():
            low, high = limits[name]
            count += int(np.count_nonzero(a < low)) + int(np.count_nonzero(a > high))
            size += a.size
        saturated = float(count / size) if size else None
    return {
        "saturated": saturated,
        "forget": plain(gates[cell.keeps].mean())
        if cell.keeps and gates[cell.keeps].size
        else None,
    }


def _open_board(folder):
    try:
        from tensorboard.summary import Writer
    except ImportError:
        raise ImportError("tensorboard is not installed: pip install tensorboard") from None
    return Writer(str(folder))
