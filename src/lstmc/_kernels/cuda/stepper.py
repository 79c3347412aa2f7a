"""Recurrent layers on a GPU one step at a time: own weights, own state, one launch per layer if it can be."""

import cupy

from ..messages import shape_text
from .checks import adopt, check_num_threads, checked, not_cupys, on_current_device
from .launch import NULL, THREADS, i32, kernel, launch
from .products import product

__all__ = ["RecurrentStepper"]

FEW_ROWS = 8  # up to so many, a warp makes the sums of one row's unit
# Up to so many multiplications a layer's step is one launch, products and all. Where there are more, cuBLAS
# is faster by more than its two launches cost.
AT_ONCE = 1 << 30
# As in stepper.cuh:
TILE_ROWS, TILE_UNITS, TILE_TERMS, PADDING = 64, 16, 16, 5


class RecurrentStepper:
    """A stack of recurrent layers, one step per call, with its own state.

    The weights are copied when it is made; ``refresh()`` copies them again. One thread at a time.
    """

    def __new__(cls, cell, weights, batch, num_threads=None):
        """Copy the weights."""
        check_num_threads(num_threads)
        self = super().__new__(cls)
        self._weights = weights
        self._copies = [tuple(w.copy() for w in layer[:3]) for layer in weights()]
        first, last = self._copies[0], self._copies[-1]
        self.dtype = first[0].dtype
        self._batch_rows, self._inputs = batch, first[0].shape[1]
        self._outputs = hidden = last[1].shape[1]
        shape = (len(self._copies), batch, hidden)
        self._h, self._c = cupy.zeros(shape, self.dtype), cupy.zeros(shape, self.dtype)
        self._has_c = cell.has_c
        most = batch * max(
            weight_ih.size + weight_hh.size for weight_ih, weight_hh, _ in self._copies
        )
        if batch <= FEW_ROWS:
            name, self._grid, self._shared = "step_rows", (-(-batch * hidden * 32 // THREADS),), 0
        elif most <= AT_ONCE:
            name, self._grid = "step_tiles", (-(-batch // TILE_ROWS), -(-hidden // TILE_UNITS))
            numbers = TILE_TERMS * (TILE_ROWS + cell.gates * TILE_UNITS + PADDING)
            self._shared = numbers * self.dtype.itemsize
        else:
            name, self._grid = "step_sums", None
            self._sums = cupy.empty((2, batch, first[1].shape[0]), self.dtype)
        self._step = kernel(cell.file, name, self.dtype, cell.defines)
        if self._grid:
            self._h_after = cupy.empty(shape, self.dtype)  # takes turns with h
        return self

    def refresh(self):
        """Take the weights as they are now."""
        for copies, layer in zip(self._copies, self._weights()):
            for copy, now in zip(copies, layer):
                copy[...] = now

    def _state(self):
        return (self._h, self._c) if self._has_c else (self._h,)

    def read_state(self):
        """Return a copy of the state: a list of arrays (L, B, H)."""
        return [part.copy() for part in self._state()]

    def write_state(self, parts):
        """Set the state to such arrays."""
        for mine, new in zip(self._state(), parts):
            mine[...] = new

    def clear_state(self, mask=None):
        """Set the state to zeros: of all rows, or of those where mask, (B,) booleans, is true."""
        for part in self._state():
            part[:, slice(None) if mask is None else mask] = 0

    def __call__(self, x, out=None):
        """Read one step of input and return the output.

        Parameters
        ----------
        x : array (B, I), or (I,) where B is 1
        out : array of the output's shape, optional
            Written and returned.

        Returns
        -------
        y : array (B, H), or (H,) where x is (I,)
        """
        batch = self._batch_rows
        x = adopt(x)
        flat = batch == 1 and getattr(x, "ndim", 2) == 1
        x = checked("x", x, self.dtype, (self._inputs,) if flat else (batch, self._inputs))
        on_current_device("the stepper's state", self._h)
        if out is None:
            out = cupy.empty((self._outputs,) if flat else (batch, self._outputs), self.dtype)
        else:
            self._check_out(out, x)
        if not batch:
            return out
        (self._at_once if self._grid else self._by_products)(x, out)
        return out

    def _check_out(self, out, x):
        shape = (*x.shape[:-1], self._outputs)
        expected = (
            f"out must be a contiguous {self.dtype.name} array {shape_text(shape)} on the GPU"
        )
        if not isinstance(out, cupy.ndarray):
            raise TypeError(f"{expected}, got {not_cupys(out)}")
        fits = out.dtype == self.dtype and out.shape == shape and out.flags.c_contiguous
        if not fits or cupy.may_share_memory(out, x):
            got = f"{out.dtype.name} {shape_text(out.shape)}"
            raise ValueError(f"{expected} that does not overlap x, got {got}")

    def _at_once(self, x, out):
        """Take a step by one launch per layer."""
        last = len(self._copies) - 1
        for i, (weight_ih, weight_hh, bias) in enumerate(self._copies):
            after = self._h_after[i]
            self._step(
                self._grid, (THREADS,),
                (after, self._c[i], out if i == last else NULL, self._h[i], x, weight_ih, weight_hh, bias,
                 i32(self._batch_rows), i32(weight_ih.shape[1]), i32(self._outputs)),
                shared_mem=self._shared,
            )  # fmt: skip
            x = after
        self._h, self._h_after = self._h_after, self._h

    def _by_products(self, x, out):
        """Take a step by two products and one launch per layer."""
        last, size = len(self._copies) - 1, self._batch_rows * self._outputs
        sums, recurrent = self._sums
        for i, (weight_ih, weight_hh, bias) in enumerate(self._copies):
            h = self._h[i]
            product(sums, x, weight_ih, turn_b=True)
            product(recurrent, h, weight_hh, turn_b=True)
            launch(
                self._step, size, h, self._c[i], out if i == last else NULL, sums, recurrent, bias,
                i32(self._batch_rows), i32(self._outputs),
            )  # fmt: skip
            x = h
