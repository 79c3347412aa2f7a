"""The kernels of a GPU, through CuPy: the functions of cpu.py under the same names, on CuPy arrays.

The order of launches; the arithmetic is in cuda/*.cu, products and launching in cuda_launch.py, how a layer's
steps are run in cuda_time.py, single steps in cuda_stepper.py, checks in cuda_checks.py. Everything is put on
the current stream of the current device, and nothing waits for it but what a check must know: whether tokens
are in range.

`num_threads` is the CPU's: it is taken and has no effect. Numbers that the CPU's functions give as floats are
arrays () of float64 here, so that a caller waits where he reads them.
"""

import math

import cupy
import numpy as np

from .. import cpu
from .checks import (  # noqa: F401 what cpu.py has, this one has
    address,
    adopt,
    check_num_threads,
    checked,
    checked_tokens,
    here,
)
from .launch import THREADS, flat_kernel, i32, i64, launch, number, or_null, product
from .stepper import RecurrentStepper  # noqa: F401 likewise
from .ways import Cell, run_backward, run_forward, use_way

__all__ = [*cpu.__all__, "use_way"]

arrays = cupy  # the module whose arrays these functions take

SUM_BLOCK = 4096  # as in flat.cu
MOST_BLOCKS = 1024
INFERENCE_BYTES = 256 << 20  # of the sums that are held at once where no trace is kept


class Pool:
    """Memory that is used again: CuPy has a pool of its own."""

    def array(self, shape, dtype):
        """Give an array, not initialised."""
        return cupy.empty(tuple(shape), dtype)


def fingerprint(given):
    """Give an array () that changes, but for one case in 2^64, when any element of any of the arrays does."""
    everything = cupy.zeros((), np.uint64)
    for array in given:
        words = array.view(np.uint32)
        if words.size:
            blocks = min(-(-words.size // (4 * THREADS)), MOST_BLOCKS)
            flat_kernel("fingerprint")(
                (blocks,), (THREADS,), (everything, words, i64(words.size)), shared_mem=THREADS * 8
            )
    return everything


# -- recurrent layers -------------------------------------------------------------------------------


def _rows(array):
    """Give (T, B, columns) as (T*B, columns)."""
    return array.reshape(-1, array.shape[-1])


CELLS = {"lstm": (1, 0), "rnn_tanh": (0, 0), "rnn_relu": (0, 1), "rnn_identity": (0, 2)}


def cell(name):
    """Return what the calls below take for the cell of this name."""
    if name not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)} on a GPU, got {name!r}")
    return CELLS[name]


def recurrent_forward(cell, layers, x, y, num_threads=None):
    """Run a stack of layers: lstmc_forward of kernels.h.

    Each layer is a calls.ForwardLayer.
    """
    check_num_threads(num_threads)
    below = x
    for layer in layers[:-1]:
        below = _layer_forward(cell, layer, below, None)
    _layer_forward(cell, layers[-1], below, y)


def _layer_forward(cell, layer, x, y):
    """Run one layer; give its h of all steps. y None: of a layer whose output only the next one reads."""
    weight_ih, weight_hh, bias = layer.weights
    h, c, c_n, gates = layer.h, layer.c, layer.c_n, layer.gates
    here("the layer's weights", weight_hh)
    steps, batch, _ = x.shape
    hidden, width = weight_hh.shape[1], weight_hh.shape[0]
    saves = h is not None
    if saves:
        h[0] = layer.h0
        states = h[1:]
    else:
        states = cupy.empty((steps, batch, hidden), x.dtype) if y is None else y
    if c is not None:
        c[0] = layer.c0
    elif c_n is not None:
        c_n[...] = layer.c0
    at_once = max(1, steps)
    if gates is None:
        at_once = max(1, INFERENCE_BYTES // (batch * width * x.dtype.itemsize))
    for start in range(0, steps, at_once):
        end = min(start + at_once, steps)
        sums = gates
        if sums is None:
            sums = cupy.empty((end - start, batch, width), x.dtype)
        product(_rows(sums), _rows(x[start:end]), weight_ih, turn_b=True)
        before = states[start - 1] if start else layer.h0
        run_forward(
            Cell(*cell, weight_hh, end - start, batch), before, sums, bias,
            c_n if c is None else c[start], states[start:end], c_n if c is None else c[start + 1 :], gates,
            y[start:end] if saves and y is not None else None,
        )  # fmt: skip
    layer.h_n[...] = states[-1] if steps else layer.h0
    if c is not None:
        c_n[...] = c[-1]
    return states


def recurrent_backward(cell, layers, dx, dy, x, steps, batch, num_threads=None, repeat=1):
    """Differentiate a stack of layers: lstmc_backward of kernels.h.

    Each layer is a calls.BackwardLayer.
    """
    check_num_threads(num_threads)
    for i in reversed(range(len(layers))):
        layer, dgates = layers[i], layers[i].dgates
        weight_ih, weight_hh, _ = layer.weights
        here("the layer's weights", weight_hh)
        if dgates is None:
            dgates = cupy.empty((steps, batch, weight_hh.shape[0]), weight_hh.dtype)
        run_backward(
            Cell(*cell, weight_hh, steps, batch), layer.dh0, layer.dc0, layer.dh_n, layer.dc_n, dy,
            layer.h, layer.c, layer.gates, dgates, layer.dh, layer.dc, repeat,
        )  # fmt: skip
        flat = _rows(dgates)
        dw, dr, db = layer.dweights
        if dw is not None:
            below = layers[i - 1].h[1 : steps + 1] if i else x
            product(dw, flat, _rows(below), turn_a=True, add=True)
            product(dr, flat, _rows(layer.h[:steps]), turn_a=True, add=True)
            _add_rows(db, flat)
        dy = dx if i == 0 else layer.dx
        if i and dy is None:
            dy = cupy.empty((steps, batch, weight_ih.shape[1]), weight_hh.dtype)
        if dy is not None:
            product(_rows(dy), flat, weight_ih)


def _add_rows(out, a):
    """Add the sum of the rows of a (rows, columns) to out (columns,)."""
    rows, columns = a.shape
    if not rows or not columns:
        return
    count = min(64, -(-rows // 64))
    many = -(-rows // count)
    parts = cupy.empty((count, columns), a.dtype)
    flat_kernel("sum_rows", a.dtype)(
        (-(-columns // 64), count), (64,), (parts, a, i64(rows), i64(columns), i64(many))
    )
    launch(flat_kernel("add_sums", a.dtype), columns, out, parts, i64(count), i64(columns))


# -- linear, embedding, dropout ---------------------------------------------------------------------


def linear_forward(y, x, weight, bias, num_threads=None):
    """Give y (rows, outputs) = x (rows, inputs) @ weight (outputs, inputs).T + bias."""
    check_num_threads(num_threads)
    product(y, x, here("the layer's weights", weight), turn_b=True)
    if bias is not None:
        launch(flat_kernel("add_bias", y.dtype), y.size, y, bias, i64(y.shape[0]), i64(y.shape[1]))


def linear_backward(dx, dweight, dbias, dy, x, weight, num_threads=None):
    """Write dx, add to dweight and dbias; None for what is not wanted."""
    check_num_threads(num_threads)
    if dweight is not None:
        product(dweight, dy, x, turn_a=True, add=True)
    if dbias is not None:
        _add_rows(dbias, dy)
    if dx is not None:
        product(dx, dy, here("the layer's weights", weight))


class LinearStepper:
    """A linear layer with its weights copied once; ``refresh()`` copies them again."""

    def __init__(self, weights):
        self._weights = weights
        self._kept = [None if w is None else w.copy() for w in weights()]

    def refresh(self):
        """Take the weights as they are now."""
        for mine, theirs in zip(self._kept, self._weights()):
            if mine is not None:
                mine[...] = theirs

    def __call__(self, y, x, threads):
        """Write y (rows, outputs) from x (rows, inputs); both contiguous."""
        linear_forward(y, x, *self._kept)


def embedding_forward(y, tokens, weight):
    """Give y (rows, columns): the rows of weight chosen by tokens, int64 and in range."""
    here("the layer's weights", weight)
    launch(
        flat_kernel("embedding_forward", y.dtype), y.size, y, tokens, weight, i64(tokens.size),
        i64(weight.shape[1]),
    )  # fmt: skip


def embedding_backward(dweight, dy, tokens, num_threads=None):
    """Add dy (rows, columns) to the rows of dweight chosen by tokens: those of one token in their order."""
    check_num_threads(num_threads)
    rows, columns = tokens.size, dweight.shape[1]
    if not rows:
        return
    # Each key is one of its kind, so that any way of sorting gives the same.
    keys = cupy.sort(tokens.reshape(-1) * rows + cupy.arange(rows))
    threads = min(THREADS, -(-columns // 32) * 32)
    flat_kernel("embedding_backward", dweight.dtype)(
        (rows,), (threads,), (dweight, dy, keys, i64(rows), i64(columns))
    )


def dropout_mask(rng, share, shape):
    """Draw an array of booleans, false with probability `share`, by a key that the generator gives."""
    mask = cupy.empty(shape, bool)
    key = np.uint64(rng.integers(2**63))
    launch(
        flat_kernel("dropout_mask"), -(-mask.size // 4), mask, key, number(share), i64(mask.size)
    )
    return mask


def masked(y, x, mask, factor):
    """Write y = x * mask * factor."""
    launch(flat_kernel("masked", y.dtype), y.size, y, x, mask, number(factor), i64(y.size))


# -- flat arrays ------------------------------------------------------------------------------------


def _softmax_rows(out, losses, logits, targets, weight, ignored):
    rows, columns = logits.shape
    if rows:
        flat_kernel("softmax_rows", logits.dtype)(
            (rows,), (THREADS,),
            (or_null(out), or_null(losses), logits, or_null(targets), or_null(weight), i64(ignored),
             i64(columns)),
            shared_mem=THREADS * logits.dtype.itemsize,
        )  # fmt: skip


def softmax(out, logits, num_threads=None):
    """Write the softmax of each row of logits (rows, columns) to out, which may be logits."""
    check_num_threads(num_threads)
    _softmax_rows(out, None, logits, None, None, 0)


def softmax_cross_entropy(dlogits, logits, targets, ignored, num_threads=None):
    """Give the mean loss in nats over rows whose target is not `ignored`; write dlogits (rows, columns)."""
    check_num_threads(num_threads)
    rows = logits.shape[0]
    weight, losses = cupy.empty((), np.float64), cupy.empty(rows, np.float64)
    flat_kernel("weight_of_targets")(
        (1,), (THREADS,), (weight, targets, i64(ignored), i64(rows)), shared_mem=THREADS * 8
    )
    _softmax_rows(dlogits, losses, logits, targets, weight, ignored)
    return _added_up(losses, weight)


def _added_up(sums, weight=None, factor=1.0, root=False):
    out = cupy.empty((), np.float64)
    flat_kernel("add_up")(
        (1,), (THREADS,), (out, sums, or_null(weight), number(factor), i32(root), i64(sums.size)),
        shared_mem=THREADS * 8,
    )  # fmt: skip
    return out


def _squares(dy, a, target):
    n = a.size
    sums = cupy.empty(-(-n // SUM_BLOCK), np.float64)
    if n:
        flat_kernel("squares", a.dtype)(
            (sums.size,), (THREADS,), (sums, or_null(dy), a, or_null(target), i64(n)),
            shared_mem=THREADS * 8,
        )  # fmt: skip
    return sums


def squared_error(dy, y, target, num_threads=None):
    """Give the mean of (y - target)^2; write its gradient to dy."""
    check_num_threads(num_threads)
    return _added_up(_squares(dy, y, target), factor=1 / max(1, y.size))


def sum_of_squares(a, num_threads=None):
    """Give the sum of squares of a flat array, in double precision."""
    check_num_threads(num_threads)
    return _added_up(_squares(None, a, None))


def clip(grads, max_norm, num_threads=None):
    """Scale a flat array to a norm of at most max_norm, if its norm is finite; give the norm before."""
    check_num_threads(num_threads)
    norm = _added_up(_squares(None, grads, None), root=True)
    launch(
        flat_kernel("clip", grads.dtype), grads.size, grads, norm, number(max_norm), i64(grads.size)
    )
    return norm


def scale(a, factor, num_threads=None):
    """Multiply a flat array by a number, in place."""
    check_num_threads(num_threads)
    launch(flat_kernel("scale", a.dtype), a.size, a, number(factor), i64(a.size))


def sgd(params, velocity, grads, lr, momentum, nesterov, weight_decay, num_threads=None):
    """One step of stochastic gradient descent over flat arrays; velocity may be None."""
    check_num_threads(num_threads)
    launch(
        flat_kernel("sgd", params.dtype), params.size, here("params", params), or_null(velocity), grads,
        number(lr), number(momentum), i32(nesterov), number(weight_decay), i64(params.size),
    )  # fmt: skip


def adam(
    params, m, v, grads, step, lr, beta1, beta2, eps, weight_decay, decoupled, num_threads=None
):
    """One step of Adam (decoupled: AdamW) over flat arrays; step counts from 1."""
    check_num_threads(num_threads)
    launch(
        flat_kernel("adam", params.dtype), params.size, here("params", params), m, v, grads,
        number(lr / (1 - beta1**step)), number(beta1), number(beta2), number(eps),
        number(0 if decoupled else weight_decay), number(1 - lr * weight_decay if decoupled else 1),
        number(math.sqrt(1 - beta2**step)), i64(params.size),
    )  # fmt: skip


def rmsprop(
    params, square_avg, velocity, grads, lr, alpha, eps, momentum, weight_decay, num_threads=None
):
    """One step of RMSprop over flat arrays; velocity may be None."""
    check_num_threads(num_threads)
    launch(
        flat_kernel("rmsprop", params.dtype), params.size, here("params", params), square_avg,
        or_null(velocity), grads, number(lr), number(alpha), number(eps), number(momentum),
        number(weight_decay), i64(params.size),
    )  # fmt: skip
