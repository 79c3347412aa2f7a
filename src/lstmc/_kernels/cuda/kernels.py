"""The kernels of a GPU, through CuPy: the functions of cpu.py under the same names, on CuPy arrays.

Here is the order of launches; the arithmetic is in the sources. Everything is put on the current stream of
the current device, and nothing waits for it but a check that must: whether tokens are in range.

`num_threads` is the CPU's: it is accepted and has no effect. Numbers that the CPU's functions return as
floats are arrays () of float64 here, so that a caller waits where he reads them.
"""

import math

import cupy
import numpy as np

from .. import cpu
from . import cells
from .checks import (  # noqa: F401 what cpu.py has, this one has
    address,
    adopt,
    check_flat,
    check_num_threads,
    checked,
    checked_tokens,
    on_current_device,
)
from .launch import THREADS, flat_kernel, i32, i64, launch, number, or_null
from .products import product
from .stepper import RecurrentStepper  # noqa: F401 likewise
from .ways import BackwardCall, ForwardCall, LayerRun, run_backward, run_forward

__all__ = list(cpu.__all__)

arrays = cupy  # the module whose arrays these functions take
cell = cells.cell

SUM_BLOCK = 4096  # as in flat.cu
FINGERPRINT_BLOCKS = 1024  # at most
INFERENCE_BYTES = 256 << 20  # of the sums that are held at once where there is no trace


class Pool:
    """Memory that is used again: CuPy has a pool of its own."""

    def array(self, shape, dtype):
        """Return an array, not initialised."""
        return cupy.empty(tuple(shape), dtype)

    def tick(self):
        """Do nothing: CuPy's pool keeps what it has."""

    def release(self):
        """Free all memory of CuPy's pool that is not in use."""
        cupy.get_default_memory_pool().free_all_blocks()


def fingerprint(all_arrays):
    """Return an array () that changes, but for one case in 2^64, when any element of any array does."""
    total = cupy.zeros((), np.uint64)
    for array in all_arrays:
        words = array.view(np.uint32)
        if words.size:
            blocks = min(-(-words.size // (4 * THREADS)), FINGERPRINT_BLOCKS)
            flat_kernel("fingerprint")(
                (blocks,), (THREADS,), (total, words, i64(words.size)), shared_mem=THREADS * 8
            )
    return total


# -- recurrent layers -------------------------------------------------------------------------------


def _rows(array):
    """Return (T, B, columns) as (T*B, columns)."""
    return array.reshape(-1, array.shape[-1])


def recurrent_forward(cell, stacks, of, num_threads=None):
    """Run a calls.ForwardStack over the steps of a calls.Rows: lstmc_forward of kernels.h."""
    check_num_threads(num_threads)
    (stack,) = stacks
    below = stack.x
    for layer in stack.layers[:-1]:
        below = _layer_forward(cell, layer, below, None)
    _layer_forward(cell, stack.layers[-1], below, stack.y)


def _layer_forward(cell, layer, x, y):
    """Run one layer; return its h of all steps. y None: only the next layer reads its output."""
    weight_ih, weight_hh, bias = layer.weights[:3]
    h, c, c_n, gates = layer.h, layer.c, layer.c_n, layer.gates
    on_current_device("the layer's weights", weight_hh)
    steps, batch, _ = x.shape
    hidden, width = weight_hh.shape[1], weight_hh.shape[0]
    copy_to_y = None
    if h is not None:
        h[0] = layer.h0
        states, copy_to_y = h[1:], y
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
        call = ForwardCall(
            h0=states[start - 1] if start else layer.h0,
            sums=sums,
            bias=bias,
            c0=c_n if c is None else c[start],
            h=states[start:end],
            c=c_n if c is None else c[start + 1 :],
            gates=gates,
            y=None if copy_to_y is None else copy_to_y[start:end],
        )
        run_forward(LayerRun(cell, weight_hh, end - start, batch), call)
    layer.h_n[...] = states[-1] if steps else layer.h0
    if c is not None:
        c_n[...] = c[-1]
    return states


def recurrent_backward(cell, stacks, of, num_threads=None, repeat=1):
    """Differentiate a calls.BackwardStack: lstmc_backward of kernels.h."""
    check_num_threads(num_threads)
    (stack,) = stacks
    layers, dx, dy, x = stack[:4]
    steps, batch = of.steps, of.batch * repeat
    for i in reversed(range(len(layers))):
        layer = layers[i]
        dgates = _layer_backward(cell, layer, dy, steps, batch, repeat)
        below, dbelow = (layers[i - 1].h[1 : steps + 1], layer.dx) if i else (x, dx)
        if layer.dweights.weight_ih is not None:
            product(layer.dweights.weight_ih, dgates, _rows(below), turn_a=True, add=True)
            product(layer.dweights.weight_hh, dgates, _rows(layer.h[:steps]), turn_a=True, add=True)
            _add_rows(layer.dweights.bias, dgates)
        weight_ih = layer.weights.weight_ih
        if i and dbelow is None:
            dbelow = cupy.empty((steps, batch, weight_ih.shape[1]), weight_ih.dtype)
        if dbelow is not None:
            product(_rows(dbelow), dgates, weight_ih)
        dy = dbelow


def _layer_backward(cell, layer, dy, steps, batch, repeat):
    """Run one layer back through time; return its dgates as (T*B, G*H)."""
    weight_hh, dgates = layer.weights.weight_hh, layer.dgates
    on_current_device("the layer's weights", weight_hh)
    if dgates is None:
        dgates = cupy.empty((steps, batch, weight_hh.shape[0]), weight_hh.dtype)
    call = BackwardCall(
        dh0=layer.dh0,
        dc0=layer.dc0,
        dh_n=layer.dh_n,
        dc_n=layer.dc_n,
        dy=dy,
        h=layer.h,
        c=layer.c,
        gates=layer.gates,
        dgates=dgates,
        dh=layer.dh,
        dc=layer.dc,
        repeat=repeat,
    )
    run_backward(LayerRun(cell, weight_hh, steps, batch), call)
    return _rows(dgates)


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
    """Write y (rows, outputs) = x (rows, inputs) @ weight (outputs, inputs).T + bias."""
    check_num_threads(num_threads)
    product(y, x, on_current_device("the layer's weights", weight), turn_b=True)
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
        product(dx, dy, on_current_device("the layer's weights", weight))


class LinearStepper:
    """A linear layer with its weights copied once; ``refresh()`` copies them again."""

    def __init__(self, weights):
        self._weights = weights
        self._copies = [None if w is None else w.copy() for w in weights()]

    def refresh(self):
        """Take the weights as they are now."""
        for copy, now in zip(self._copies, self._weights()):
            if copy is not None:
                copy[...] = now

    def __call__(self, y, x, threads):
        """Write y (rows, outputs) from x (rows, inputs); both contiguous."""
        linear_forward(y, x, *self._copies)


def embedding_forward(y, tokens, weight):
    """Write y (rows, columns): the rows of weight chosen by tokens, int64 and in range."""
    on_current_device("the layer's weights", weight)
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
    # No two keys are equal, so that any way of sorting gives the same.
    keys = cupy.sort(tokens.reshape(-1) * rows + cupy.arange(rows))
    threads = min(THREADS, -(-columns // 32) * 32)
    flat_kernel("embedding_backward", dweight.dtype)(
        (rows,), (threads,), (dweight, dy, keys, i64(rows), i64(columns))
    )


def dropout_mask(rng, share, shape):
    """Return an array of booleans, false with probability `share`, drawn by a key from the generator."""
    mask = cupy.empty(shape, bool)
    key = np.uint64(rng.integers(2**63))
    launch(
        flat_kernel("dropout_mask"), -(-mask.size // 4), mask, key, number(share), i64(mask.size)
    )
    return mask


def masked(y, x, mask, factor):
    """Write y = x * mask * factor; the mask may be a view that repeats itself."""
    mask = cupy.ascontiguousarray(mask)
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
    """Return the mean loss in nats over rows whose target is not `ignored`; write dlogits (rows, columns)."""
    check_num_threads(num_threads)
    rows = logits.shape[0]
    weight, losses = cupy.empty((), np.float64), cupy.empty(rows, np.float64)
    flat_kernel("weight_of_targets")(
        (1,), (THREADS,), (weight, targets, i64(ignored), i64(rows)), shared_mem=THREADS * 8
    )
    _softmax_rows(dlogits, losses, logits, targets, weight, ignored)
    return _add_up(losses, weight)


def _add_up(sums, weight=None, factor=1.0, root=False):
    out = cupy.empty((), np.float64)
    flat_kernel("add_up")(
        (1,), (THREADS,), (out, sums, or_null(weight), number(factor), i32(root), i64(sums.size)),
        shared_mem=THREADS * 8,
    )  # fmt: skip
    return out


def _sums_per_block(dy, a, target):
    n = a.size
    sums = cupy.empty(-(-n // SUM_BLOCK), np.float64)
    if n:
        flat_kernel("squares", a.dtype)(
            (sums.size,), (THREADS,), (sums, or_null(dy), a, or_null(target), i64(n)),
            shared_mem=THREADS * 8,
        )  # fmt: skip
    return sums


def squared_error(dy, y, target, mask, num_threads=None):
    """Return the mean of (y - target)^2; write its gradient to dy. mask is None."""
    check_num_threads(num_threads)
    return _add_up(_sums_per_block(dy, y, target), factor=1 / max(1, y.size))


def huber(dy, y, target, mask, delta, num_threads=None):
    """Refuse."""
    raise _no_loss("huber")


def binary_cross_entropy(dlogits, logits, targets, mask, num_threads=None):
    """Refuse."""
    raise _no_loss("binary_cross_entropy")


def _no_loss(name):
    return ValueError(
        f"a GPU has no loss {name!r} yet: there are softmax_cross_entropy, squared_error"
    )


def norm(a, num_threads=None):
    """Return the Euclidean norm of a flat array, in double precision."""
    check_num_threads(num_threads)
    out = _add_up(_sums_per_block(None, a, None), root=True)
    if a.dtype == np.float64 and a.size:  # squares of float32 do not leave the range of double
        flat_kernel("scaled_norm", a.dtype)(
            (1,), (THREADS,), (out, a, i64(a.size)), shared_mem=THREADS * 8
        )
    return out


def clip(grads, max_norm, num_threads=None):
    """Scale a flat array to a norm of at most max_norm, if its norm is finite; return the norm before."""
    check_num_threads(num_threads)
    before = norm(grads)
    launch(
        flat_kernel("clip", grads.dtype), grads.size, grads, before, number(max_norm), _least(grads),
        i64(grads.size),
    )  # fmt: skip
    return before


def _least(a):
    """Return the smallest number of an array's type that is not denormal."""
    return number(np.finfo(a.dtype).tiny)


def _most(a):
    """Return the largest number of an array's type."""
    return number(np.finfo(a.dtype).max)


def scale(a, factor, num_threads=None):
    """Multiply a flat array by a number, in place."""
    check_num_threads(num_threads)
    launch(flat_kernel("scale", a.dtype), a.size, a, number(factor), i64(a.size))


def clip_values(a, limit, num_threads=None):
    """Bring what of a flat array lies beyond +-limit there, in place; NaN stays."""
    check_num_threads(num_threads)
    cupy.clip(a, -limit, limit, out=a)


def sgd(params, velocity, grads, lr, momentum, nesterov, weight_decay, num_threads=None):
    """One step of stochastic gradient descent over flat arrays; velocity may be None."""
    check_num_threads(num_threads)
    check_flat(params, velocity=velocity, grads=grads)
    launch(
        flat_kernel("sgd", params.dtype), params.size, params,
        or_null(velocity), grads, number(lr), number(momentum), i32(nesterov), number(weight_decay),
        i64(params.size),
    )  # fmt: skip


def adam(
    params, m, v, grads, step, lr, beta1, beta2, eps, weight_decay, decoupled, num_threads=None
):
    """One step of Adam (decoupled: AdamW) over flat arrays; step counts from 1."""
    check_num_threads(num_threads)
    check_flat(params, m=m, v=v, grads=grads)
    launch(
        flat_kernel("adam", params.dtype), params.size, params, m, v, grads,
        number(lr / (1 - beta1**step)), number(beta1), number(beta2), max(number(eps), _least(params)),
        number(0 if decoupled else weight_decay), number(1 - lr * weight_decay if decoupled else 1),
        number(math.sqrt(1 - beta2**step)), _most(params), i64(params.size),
    )  # fmt: skip


def rmsprop(
    params, square_avg, velocity, grads, lr, alpha, eps, momentum, weight_decay, num_threads=None
):
    """One step of RMSprop over flat arrays; velocity may be None."""
    check_num_threads(num_threads)
    check_flat(params, square_avg=square_avg, velocity=velocity, grads=grads)
    launch(
        flat_kernel("rmsprop", params.dtype), params.size, params, square_avg,
        or_null(velocity), grads, number(lr), number(alpha), max(number(eps), _least(params)),
        number(momentum), number(weight_decay), _most(params), i64(params.size),
    )  # fmt: skip
