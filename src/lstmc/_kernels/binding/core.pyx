# cython: boundscheck=False, cdivision=True
"""The binding: checks of what comes from Python, then one C call without the GIL.

Nothing is computed here. kernels.h is the manual of the calls; the layers above own every array that is
passed on to them.
"""

import os

import numpy as np

from lstmc._kernels.messages import kind_of, shape_text

cimport numpy as cnp
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint64_t, uintptr_t

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    void *PyArray_DATA(cnp.ndarray) nogil
    int PyArray_ISCARRAY(cnp.ndarray) nogil     # contiguous, aligned, native and writable
    int PyArray_ISCARRAY_RO(cnp.ndarray) nogil  # the same, writable or not
    int PyArray_TYPE(cnp.ndarray) nogil
    int PyArray_CheckExact(object) nogil
    size_t PyArray_NBYTES(cnp.ndarray) nogil
    object PyArray_EMPTY(int, cnp.npy_intp *, int, int)
    enum: NPY_FLOAT, NPY_DOUBLE

cdef extern from "kernels.h" nogil:
    ctypedef struct lstmc_forward_layer:
        void *h_n
        void *c_n
        void *h
        void *c
        void *gates
        const void *h0
        const void *c0
        const void *weight_ih
        const void *weight_hh
        const void *bias
        const void *packed
        Py_ssize_t inputs
        Py_ssize_t hidden

    ctypedef struct lstmc_forward:
        void *y
        const void *x
        const lstmc_forward_layer *layers
        int num_layers
        int cell
        int activation
        Py_ssize_t steps
        Py_ssize_t batch
        int threads
        void *scratch

    ctypedef struct lstmc_backward_layer:
        void *dh0
        void *dc0
        void *dweight_ih
        void *dweight_hh
        void *dbias
        const void *dh_n
        const void *dc_n
        const void *h
        const void *c
        const void *gates
        void *dgates
        void *dh
        void *dc
        void *dx
        const void *weight_ih
        const void *weight_hh
        Py_ssize_t inputs
        Py_ssize_t hidden

    ctypedef struct lstmc_backward:
        void *dx
        const void *dy
        const void *x
        const lstmc_backward_layer *layers
        int num_layers
        int cell
        int activation
        Py_ssize_t steps
        Py_ssize_t batch
        Py_ssize_t repeat
        int threads
        void *scratch

    ctypedef struct lstmc_kernels:
        const char *isa
        int real_size
        int vector_bytes
        void (*forward)(const lstmc_forward *) noexcept nogil
        size_t (*forward_scratch)(const lstmc_forward *) noexcept nogil
        void (*backward)(const lstmc_backward *) noexcept nogil
        size_t (*backward_scratch)(const lstmc_backward *) noexcept nogil
        void (*pack_layer)(void *, const lstmc_forward_layer *, int) noexcept nogil
        size_t (*packed_size)(const lstmc_forward_layer *, int) noexcept nogil
        void (*linear_forward)(void *, const void *, const void *, const void *, const void *,
                               Py_ssize_t, Py_ssize_t, Py_ssize_t, int, void *) noexcept nogil
        size_t (*linear_forward_scratch)(Py_ssize_t, Py_ssize_t, Py_ssize_t, int) noexcept nogil
        void (*pack_linear)(void *, const void *, Py_ssize_t, Py_ssize_t) noexcept nogil
        size_t (*packed_linear_size)(Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*linear_backward)(void *, void *, void *, const void *, const void *, const void *,
                                Py_ssize_t, Py_ssize_t, Py_ssize_t, int, void *) noexcept nogil
        size_t (*linear_backward_scratch)(Py_ssize_t, Py_ssize_t, Py_ssize_t, int) noexcept nogil
        void (*embedding_forward)(void *, const int64_t *, const void *, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*embedding_backward)(void *, const void *, const int64_t *, Py_ssize_t, Py_ssize_t, int) noexcept nogil
        void (*softmax)(void *, const void *, Py_ssize_t, Py_ssize_t, int) noexcept nogil
        double (*softmax_cross_entropy)(void *, double *, const void *, const int64_t *, int64_t,
                                        Py_ssize_t, Py_ssize_t, int) noexcept nogil
        double (*squared_error)(void *, double *, const void *, const void *, Py_ssize_t, int) noexcept nogil
        double (*sum_of_squares)(double *, const void *, Py_ssize_t, int) noexcept nogil
        void (*scale)(void *, double, Py_ssize_t, int) noexcept nogil
        void (*sgd)(void *, void *, const void *, double, double, int, double, Py_ssize_t, int) noexcept nogil
        void (*adam)(void *, void *, void *, const void *, int64_t, double, double, double, double, double,
                     int, Py_ssize_t, int) noexcept nogil
        void (*rmsprop)(void *, void *, void *, const void *, double, double, double, double, double,
                        Py_ssize_t, int) noexcept nogil
        uint64_t (*fingerprint)(const void *, size_t) noexcept nogil

    const lstmc_kernels *lstmc_table(int real_size, const char *isa)
    void lstmc_instruction_sets(char *names)

cdef extern from "team.h" nogil:
    int lstmc_openmp_version()

# Number of the cell, and of its activation.
cdef dict CELLS = {"lstm": (1, 0), "rnn_tanh": (0, 0), "rnn_relu": (0, 1), "rnn_identity": (0, 2)}


def cell(name):
    """Return what the calls below take for the cell of this name."""
    if name not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {name!r}")
    return CELLS[name]


# ---- instruction sets and threads ---------------------------------------------------------------------

cdef const lstmc_kernels *float32_table
cdef const lstmc_kernels *float64_table
cdef int threads_wanted = 0  # of set_num_threads; 0: not set
cdef int threads_default = 1


def instruction_sets():
    """Names of the instruction sets that this build and this machine have, best first."""
    cdef char names[64]
    lstmc_instruction_sets(names)
    return names.decode().split()


def use_instruction_set(name=None):
    """Choose the kernels by name; None chooses the best. Steppers keep those they were made with."""
    global float32_table, float64_table
    if name is not None and name not in instruction_sets():
        raise ValueError(f"LSTMC_ISA must be one of {', '.join(instruction_sets())}, got {name!r}")
    encoded = (name or instruction_sets()[0]).encode()
    float32_table = lstmc_table(4, encoded)
    float64_table = lstmc_table(8, encoded)


def instruction_set():
    """Name of the instruction set in use."""
    return float32_table.isa.decode()


def openmp_version():
    """OpenMP's version of the build as yyyymm, 0 without."""
    return lstmc_openmp_version()


def usable_cores():
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_num_threads(n):
    """Set how many threads the kernels may use; None returns to the default."""
    global threads_wanted
    threads_wanted = 0 if n is None else check_threads("n", n)


def get_num_threads():
    """Tell how many threads a call may use that does not say."""
    return threads_wanted or threads_default


def check_threads(name, n):
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= 4096:
        raise ValueError(f"{name} must be an integer from 1 to 4096, got {n!r}")
    return int(n)


cdef int threads_for(object num_threads) except -1:
    if num_threads is None:
        return threads_wanted or threads_default
    return check_threads("num_threads", num_threads)


def _read_environment():
    global threads_default
    use_instruction_set(os.environ.get("LSTMC_ISA") or None)
    wanted = os.environ.get("LSTMC_NUM_THREADS")
    if wanted:
        try:
            threads_default = check_threads("LSTMC_NUM_THREADS", int(wanted))
        except ValueError:
            raise ValueError(
                f"LSTMC_NUM_THREADS must be an integer from 1 to 4096, got {wanted!r}") from None
    else:
        threads_default = usable_cores()


_read_environment()

cdef inline const lstmc_kernels *table_of(cnp.ndarray a):
    return float64_table if PyArray_TYPE(a) == NPY_DOUBLE else float32_table


# ---- memory -------------------------------------------------------------------------------------------

cdef enum:
    MOST_BLOCKS = 32
    MOST_AXES = 8

cdef class Pool:
    """Memory that is used again: fresh pages cost more than the arithmetic of a small layer.

    Whoever holds the GIL has the pool to himself: nothing in between runs Python code.
    """

    cdef void *blocks[MOST_BLOCKS]  # the one given back last at the end
    cdef size_t sizes[MOST_BLOCKS]
    cdef int count
    cdef bint any_size  # give blocks of any size that fits: for what is given back soon

    cdef void *remove(self, int which) noexcept:
        cdef void *block = self.blocks[which]
        self.count -= 1
        for i in range(which, self.count):
            self.blocks[i] = self.blocks[i + 1]
            self.sizes[i] = self.sizes[i + 1]
        return block

    cdef Buffer take(self, size_t wanted):
        """Give a Buffer of at least so many bytes, not initialised.

        The smallest block that fits, if it is at most twice as large (or of `any_size`). If none is, those
        that the new one will do for (not less than half as large, or of any size) are freed first.
        """
        cdef Buffer buffer = Buffer.__new__(Buffer)
        cdef int i, best = -1
        buffer.pool = self
        if wanted < 64:
            wanted = 64
        for i in range(self.count):
            if (wanted <= self.sizes[i] and (self.any_size or self.sizes[i] <= 2 * wanted + 4096)
                    and (best < 0 or self.sizes[i] < self.sizes[best])):
                best = i
        if best >= 0:
            buffer.size = self.sizes[best]
            buffer.raw = self.remove(best)
            return buffer
        for i in reversed(range(self.count)):
            if self.sizes[i] < wanted and (self.any_size or wanted <= 2 * self.sizes[i]):
                PyMem_RawFree(self.remove(i))
        buffer.raw = PyMem_RawMalloc(wanted + 64)
        buffer.size = wanted
        if buffer.raw == NULL:
            raise MemoryError(f"no memory for an array of {wanted} bytes")
        return buffer

    def array(self, shape, dtype):
        """Give an array on a 64-byte boundary, not initialised; its memory comes back when the last view goes."""
        cdef cnp.npy_intp axes[MOST_AXES]
        cdef int ndim = len(shape), number = np.dtype(dtype).num
        if ndim > MOST_AXES:
            raise ValueError(f"shape must have at most {MOST_AXES} axes, got {ndim}")
        nbytes = np.dtype(dtype).itemsize
        for n in shape:
            nbytes *= n
        if nbytes > 2**62:
            raise MemoryError(f"an array of {nbytes} bytes is too large")
        for i in range(ndim):
            axes[i] = shape[i]
        cdef Buffer buffer = self.take(nbytes)
        cdef cnp.ndarray made = cnp.PyArray_SimpleNewFromData(ndim, axes, number, buffer.data())
        cnp.set_array_base(made, buffer)
        return made

    cdef void give_back(self, void *raw, size_t size) noexcept:
        if self.count == MOST_BLOCKS:
            PyMem_RawFree(self.remove(0))
        self.blocks[self.count] = raw
        self.sizes[self.count] = size
        self.count += 1

    def __dealloc__(self):
        for i in range(self.count):
            PyMem_RawFree(self.blocks[i])


cdef class Buffer:
    """Bytes that start on a 64-byte boundary and go back to their pool."""

    cdef void *raw
    cdef size_t size
    cdef Pool pool

    cdef void *data(self) noexcept:
        return <void *>((<uintptr_t>self.raw + 63) & ~<uintptr_t>63)

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.data()
        view.obj = self
        view.len = self.size
        view.readonly = 0
        view.itemsize = 1
        view.format = "B"
        view.ndim = 1
        view.shape = <Py_ssize_t *>&self.size
        view.strides = &view.itemsize
        view.suboffsets = NULL
        view.internal = NULL

    def __dealloc__(self):
        if self.raw != NULL:
            self.pool.give_back(self.raw, self.size)


cdef Pool scratch_pool = Pool()  # of what a call needs while it runs
scratch_pool.any_size = True


# ---- checks -------------------------------------------------------------------------------------------

def checked(name, value, dtype, shape):
    """Give `value` as a contiguous native array if it has the type and the shape, else raise.

    `shape` holds numbers, which must match, and letters, which stand for any size. An array that is
    contiguous, aligned and native already is given back as it is, others as a copy.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a {dtype.name} array {shape_text(shape)}, got {kind_of(value)}")
    if value.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} must be {dtype.name}, got {value.dtype.name}")
    matches = value.ndim == len(shape)
    if matches:
        for got, wanted in zip(value.shape, shape):
            if not isinstance(wanted, str) and got != wanted:
                matches = False
    if not matches:
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    return contiguous(value, dtype)


def contiguous(value, dtype):
    """Give an array as kernels read it: contiguous, of this type, aligned; a copy only where it is not."""
    cdef cnp.ndarray array = np.asarray(value, dtype, order="C")
    return array if PyArray_ISCARRAY_RO(array) else array.copy()


def checked_tokens(name, value, limit, shape=None, ignored=None):
    """Give token ids as a contiguous int64 array; each must be in [0, limit) or be `ignored`."""
    if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") not in (np.int64, np.int32):
        got = value.dtype.name if isinstance(value, np.ndarray) else kind_of(value)
        raise TypeError(f"{name} must be an int64 or int32 array, got {got}")
    if shape is not None and value.shape != tuple(shape):
        raise ValueError(f"{name} must be {shape_text(shape)}, got {shape_text(value.shape)}")
    cdef cnp.ndarray ids = contiguous(value, np.int64)
    cdef const int64_t *p = <const int64_t *>PyArray_DATA(ids)
    cdef Py_ssize_t i, n = ids.size
    cdef int64_t end = limit, skip = 0 if ignored is None else ignored
    for i in range(n):
        if (p[i] < 0 or p[i] >= end) and (ignored is None or p[i] != skip):
            at = ", ".join(str(j) for j in np.unravel_index(i, value.shape)) if value.ndim else "()"
            allowed = f"in [0, {limit})" + ("" if ignored is None else f" or {ignored}")
            raise ValueError(f"{name}[{at}] must be {allowed}, got {p[i]}")
    return ids


def fingerprint(list arrays):
    """Give a 64-bit number that changes when any element of any of the arrays does."""
    cdef uint64_t all = 0
    for a in arrays:
        all = all * 31 + float32_table.fingerprint(PyArray_DATA(<cnp.ndarray>a), a.nbytes)
    return all


cdef inline void *data_of(object a):
    """Address of an array's data; NULL for None. The array must outlive its use."""
    return NULL if a is None else PyArray_DATA(<cnp.ndarray>a)


# ---- recurrent layers ---------------------------------------------------------------------------------

cdef size_t training_scratch(const lstmc_kernels *table, const lstmc_forward *call) except? 0:
    """Tell what a forward call and the backward call after it need: one block that serves both is the least."""
    cdef lstmc_backward after = lstmc_backward(
        dx=call.y, dy=NULL, x=NULL, layers=NULL, num_layers=call.num_layers, cell=call.cell,
        activation=call.activation, steps=call.steps, batch=call.batch, repeat=1, threads=call.threads, scratch=NULL)
    cdef lstmc_backward_layer *layers = <lstmc_backward_layer *>PyMem_Malloc(
        call.num_layers * sizeof(lstmc_backward_layer))
    if layers == NULL:
        raise MemoryError
    for i in range(call.num_layers):  # dgates: that they lie in the trace, as in training
        layers[i].inputs, layers[i].hidden = call.layers[i].inputs, call.layers[i].hidden
        layers[i].dgates = call.layers[i].gates
    after.layers = layers
    cdef size_t wanted = max(table.forward_scratch(call), table.backward_scratch(&after))
    PyMem_Free(layers)
    return wanted


def recurrent_forward(tuple cell, list layers, cnp.ndarray x, cnp.ndarray y, num_threads=None):
    """Run a stack of layers: lstmc_forward.

    Each layer is a calls.ForwardLayer.
    """
    cdef const lstmc_kernels *table = table_of(x)
    cdef lstmc_forward call
    cdef Buffer scratch
    cdef Py_ssize_t n = len(layers)
    cdef lstmc_forward_layer *c_layers = <lstmc_forward_layer *>PyMem_Malloc(n * sizeof(lstmc_forward_layer))
    if c_layers == NULL:
        raise MemoryError
    try:
        for i in range(n):
            layer = layers[i]
            w = layer.weights
            c_layers[i] = lstmc_forward_layer(
                h_n=data_of(layer.h_n), c_n=data_of(layer.c_n), h=data_of(layer.h), c=data_of(layer.c),
                gates=data_of(layer.gates), h0=data_of(layer.h0), c0=data_of(layer.c0),
                weight_ih=data_of(w.weight_ih), weight_hh=data_of(w.weight_hh), bias=data_of(w.bias), packed=NULL,
                inputs=w.weight_ih.shape[1], hidden=w.weight_hh.shape[1])
        call = lstmc_forward(y=PyArray_DATA(y), x=PyArray_DATA(x), layers=c_layers, num_layers=n, cell=cell[0],
                             activation=cell[1], steps=x.shape[0], batch=x.shape[1],
                             threads=threads_for(num_threads), scratch=NULL)
        scratch = scratch_pool.take(training_scratch(table, &call) if c_layers[0].h else table.forward_scratch(&call))
        call.scratch = scratch.data()
        with nogil:
            table.forward(&call)
    finally:
        PyMem_Free(c_layers)


def recurrent_backward(tuple cell, list layers, dx, dy, x, Py_ssize_t steps, Py_ssize_t batch,
                       num_threads=None, Py_ssize_t repeat=1):
    """Differentiate a stack of layers: lstmc_backward.

    Each layer is a calls.BackwardLayer.
    """
    cdef const lstmc_kernels *table = table_of(layers[0].dh0)
    cdef lstmc_backward call
    cdef Buffer scratch
    cdef Py_ssize_t n = len(layers)
    cdef lstmc_backward_layer *c_layers = <lstmc_backward_layer *>PyMem_Malloc(n * sizeof(lstmc_backward_layer))
    if c_layers == NULL:
        raise MemoryError
    try:
        for i in range(n):
            layer = layers[i]
            w, dw = layer.weights, layer.dweights
            c_layers[i] = lstmc_backward_layer(
                dh0=data_of(layer.dh0), dc0=data_of(layer.dc0), dweight_ih=data_of(dw.weight_ih),
                dweight_hh=data_of(dw.weight_hh), dbias=data_of(dw.bias), dh_n=data_of(layer.dh_n),
                dc_n=data_of(layer.dc_n), h=data_of(layer.h), c=data_of(layer.c), gates=data_of(layer.gates),
                dgates=data_of(layer.dgates), dh=data_of(layer.dh), dc=data_of(layer.dc), dx=data_of(layer.dx),
                weight_ih=data_of(w.weight_ih), weight_hh=data_of(w.weight_hh),
                inputs=w.weight_ih.shape[1], hidden=w.weight_hh.shape[1])
        call = lstmc_backward(dx=data_of(dx), dy=data_of(dy), x=data_of(x), layers=c_layers, num_layers=n,
                              cell=cell[0], activation=cell[1], steps=steps, batch=batch, repeat=repeat,
                              threads=threads_for(num_threads), scratch=NULL)
        scratch = scratch_pool.take(table.backward_scratch(&call))
        call.scratch = scratch.data()
        with nogil:
            table.backward(&call)
    finally:
        PyMem_Free(c_layers)


cdef class RecurrentStepper:
    """A stack of recurrent layers, one step at a call: packed weights, own state, no allocation.

    The weights are copied when it is made; ``refresh()`` copies them again. One thread at a time.
    """

    cdef const lstmc_kernels *table
    cdef lstmc_forward call
    cdef lstmc_forward_layer *layers
    cdef object weights    # () -> [(weight_ih, weight_hh, bias), ...]
    cdef list kept         # what the addresses in `layers` and `call` point into
    cdef int type_number, worth_releasing, busy
    cdef Py_ssize_t inputs, outputs
    cdef readonly object dtype
    cdef cnp.ndarray h, c  # (L, B, H); c None for an RNN

    def __cinit__(self, tuple cell, weights, Py_ssize_t batch, num_threads=None):
        first = weights()
        self.dtype = first[0][0].dtype
        self.type_number = NPY_DOUBLE if self.dtype == np.float64 else NPY_FLOAT
        self.table = float64_table if self.type_number == NPY_DOUBLE else float32_table
        self.weights = weights
        self.inputs = first[0][0].shape[1]
        self.outputs = first[-1][1].shape[1]
        n = len(first)
        self.h = np.zeros((n, batch, self.outputs), self.dtype)
        self.c = np.zeros((n, batch, self.outputs), self.dtype) if cell[0] == 1 else None
        self.layers = <lstmc_forward_layer *>PyMem_Malloc(n * sizeof(lstmc_forward_layer))
        if self.layers == NULL:
            raise MemoryError
        self.kept = []
        self.call = lstmc_forward(y=NULL, x=NULL, layers=self.layers, num_layers=n, cell=cell[0], activation=cell[1],
                                  steps=1, batch=batch, threads=threads_for(num_threads), scratch=NULL)
        cdef Pool pool = Pool()
        cdef Buffer buffer
        operations = 0
        for i, (weight_ih, weight_hh, _) in enumerate(first):
            h = data_of(self.h[i])
            c = NULL if self.c is None else data_of(self.c[i])
            self.layers[i] = lstmc_forward_layer(
                h_n=h, c_n=c, h=NULL, c=NULL, gates=NULL, h0=h, c0=c, weight_ih=NULL, weight_hh=NULL, bias=NULL,
                packed=NULL, inputs=weight_ih.shape[1], hidden=weight_hh.shape[1])
            buffer = pool.take(self.table.packed_size(&self.layers[i], self.call.cell))
            self.layers[i].packed = buffer.data()
            self.kept.append(buffer)
            operations += 2 * batch * (weight_ih.size + weight_hh.size)
        self.worth_releasing = operations > 20000  # some 0.5 microseconds; the GIL costs 0.035
        self.refresh()
        buffer = pool.take(self.table.forward_scratch(&self.call))
        self.call.scratch = buffer.data()
        self.kept.append(buffer)

    def __dealloc__(self):
        PyMem_Free(self.layers)

    def refresh(self):
        """Take the weights as they are now."""
        cdef lstmc_forward_layer layer
        for i, (weight_ih, weight_hh, bias) in enumerate(self.weights()):
            layer = self.layers[i]
            layer.weight_ih = data_of(weight_ih)
            layer.weight_hh = data_of(weight_hh)
            layer.bias = data_of(bias)
            self.table.pack_layer(<void *>self.layers[i].packed, &layer, self.call.cell)

    def states(self):
        """Give the arrays of the state itself, not copies: (h,) or (h, c)."""
        return (self.h,) if self.c is None else (self.h, self.c)

    cdef bint fits(self, cnp.ndarray out, cnp.ndarray x) noexcept:
        """Tell whether out has the shape that belongs to x, and no byte in common with it."""
        cdef char *a = <char *>PyArray_DATA(x)
        cdef char *b = <char *>PyArray_DATA(out)
        if out.ndim != x.ndim or out.shape[out.ndim - 1] != self.outputs:
            return False
        if out.ndim == 2 and out.shape[0] != self.call.batch:
            return False
        return a + PyArray_NBYTES(x) <= b or b + PyArray_NBYTES(out) <= a

    def __call__(self, x, out=None):
        """Read one step of input and give the output.

        Parameters
        ----------
        x : ndarray (B, I), or (I,) where B is 1
        out : ndarray of the output's shape, optional
            Written and returned: nothing is allocated then.

        Returns
        -------
        y : ndarray (B, H), or (H,) where x is (I,)
        """
        cdef cnp.ndarray source, target
        cdef cnp.npy_intp shape[2]
        cdef int flat
        if (not PyArray_CheckExact(x) or PyArray_TYPE(x) != self.type_number
                or not PyArray_ISCARRAY_RO(x)):
            x = checked("x", x, self.dtype, x.shape if isinstance(x, np.ndarray) else (self.call.batch, self.inputs))
        source = x
        flat = source.ndim == 1 and self.call.batch == 1
        if not flat and (source.ndim != 2 or source.shape[0] != self.call.batch) \
                or source.shape[source.ndim - 1] != self.inputs:
            allowed = shape_text((self.call.batch, self.inputs))
            if self.call.batch == 1:
                allowed += f" or {shape_text((self.inputs,))}"
            raise ValueError(f"x must be {allowed}, got {shape_text(x.shape)}")
        if out is None:
            shape[0] = self.call.batch
            shape[1] = self.outputs
            out = PyArray_EMPTY(2 - flat, shape + flat, self.type_number, 0)
        elif (not PyArray_CheckExact(out) or PyArray_TYPE(out) != self.type_number
                or not PyArray_ISCARRAY(out)
                or not self.fits(<cnp.ndarray>out, source)):
            expected = (self.call.batch, self.outputs)[1 if flat else 0:]
            got = f"{out.dtype.name} {shape_text(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"out must be a writable contiguous {self.dtype.name} array {shape_text(expected)} "
                             f"that does not overlap x, got {got}")
        target = out
        if self.busy:
            raise RuntimeError("this stepper is in use by another thread: give each thread one of its own")
        if self.call.batch == 0:
            return target
        self.call.x = PyArray_DATA(source)
        self.call.y = PyArray_DATA(target)
        if self.worth_releasing:
            self.busy = 1
            with nogil:
                self.table.forward(&self.call)
            self.busy = 0
        else:
            self.table.forward(&self.call)
        return target


# ---- linear and embedding -----------------------------------------------------------------------------

def linear_forward(cnp.ndarray y, cnp.ndarray x, cnp.ndarray weight, bias, num_threads=None):
    """Give y (rows, outputs) = x (rows, inputs) @ weight (outputs, inputs).T + bias."""
    cdef const lstmc_kernels *table = table_of(x)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t rows = x.shape[0], inputs = weight.shape[1], outputs = weight.shape[0]
    cdef Buffer scratch = scratch_pool.take(table.linear_forward_scratch(rows, inputs, outputs, threads))
    cdef void *space = scratch.data()
    cdef const void *b = data_of(bias)
    with nogil:
        table.linear_forward(PyArray_DATA(y), PyArray_DATA(x), PyArray_DATA(weight), b, NULL, rows, inputs, outputs,
                             threads, space)


def linear_backward(dx, dweight, dbias, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray weight,
                    num_threads=None):
    """Write dx, add to dweight and dbias; None for what is not wanted."""
    cdef const lstmc_kernels *table = table_of(x)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t rows = x.shape[0], inputs = weight.shape[1], outputs = weight.shape[0]
    cdef Buffer scratch = scratch_pool.take(table.linear_backward_scratch(rows, inputs, outputs, threads))
    cdef void *space = scratch.data()
    cdef void *to_x = data_of(dx)
    cdef void *to_weight = data_of(dweight)
    cdef void *to_bias = data_of(dbias)
    with nogil:
        table.linear_backward(to_x, to_weight, to_bias, PyArray_DATA(dy), PyArray_DATA(x),
                              PyArray_DATA(weight), rows, inputs, outputs, threads, space)


cdef class LinearStepper:
    """A linear layer with its weights packed once; ``refresh()`` packs them again."""

    cdef const lstmc_kernels *table
    cdef object weights   # () -> (weight, bias or None)
    cdef Buffer packed
    cdef cnp.ndarray bias
    cdef Py_ssize_t inputs, outputs

    def __cinit__(self, weights):
        self.weights = weights
        weight, _ = weights()
        self.table = table_of(weight)
        self.outputs, self.inputs = weight.shape
        cdef Pool pool = Pool()
        self.packed = pool.take(self.table.packed_linear_size(self.inputs, self.outputs))
        self.refresh()

    def refresh(self):
        """Take the weights as they are now."""
        weight, bias = self.weights()
        self.bias = None if bias is None else bias.copy()
        self.table.pack_linear(self.packed.data(), data_of(weight), self.inputs, self.outputs)

    def __call__(self, cnp.ndarray y, cnp.ndarray x, int threads):
        """Write y (rows, outputs) from x (rows, inputs); both contiguous."""
        cdef const void *b = data_of(self.bias)
        self.table.linear_forward(PyArray_DATA(y), PyArray_DATA(x), NULL, b, self.packed.data(), x.shape[0],
                                  self.inputs, self.outputs, threads, NULL)


def embedding_forward(cnp.ndarray y, cnp.ndarray tokens, cnp.ndarray weight):
    """Give y (rows, columns): the rows of weight chosen by tokens, int64 and in range."""
    cdef const lstmc_kernels *table = table_of(weight)
    cdef Py_ssize_t rows = tokens.size, columns = weight.shape[1]
    with nogil:
        table.embedding_forward(PyArray_DATA(y), <const int64_t *>PyArray_DATA(tokens), PyArray_DATA(weight), rows,
                                columns)


def embedding_backward(cnp.ndarray dweight, cnp.ndarray dy, cnp.ndarray tokens, num_threads=None):
    """Add dy (rows, columns) to the rows of dweight chosen by tokens."""
    cdef const lstmc_kernels *table = table_of(dweight)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t rows = tokens.size, columns = dweight.shape[1]
    with nogil:
        table.embedding_backward(PyArray_DATA(dweight), PyArray_DATA(dy), <const int64_t *>PyArray_DATA(tokens), rows,
                                 columns, threads)


# ---- flat arrays --------------------------------------------------------------------------------------

def softmax(cnp.ndarray out, cnp.ndarray logits, num_threads=None):
    """Write the softmax of each row of logits (rows, columns) to out, which may be logits."""
    cdef const lstmc_kernels *table = table_of(logits)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t rows = logits.shape[0], columns = logits.shape[1]
    with nogil:
        table.softmax(PyArray_DATA(out), PyArray_DATA(logits), rows, columns, threads)


def softmax_cross_entropy(cnp.ndarray dlogits, cnp.ndarray logits, cnp.ndarray targets, int64_t ignored,
                          num_threads=None):
    """Give the mean loss in nats over rows whose target is not `ignored`; write dlogits (rows, columns)."""
    cdef const lstmc_kernels *table = table_of(logits)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t rows = logits.shape[0], columns = logits.shape[1]
    cdef Buffer losses = scratch_pool.take(rows * sizeof(double))
    cdef double *sums = <double *>losses.data()
    cdef double loss
    with nogil:
        loss = table.softmax_cross_entropy(PyArray_DATA(dlogits), sums, PyArray_DATA(logits),
                                           <const int64_t *>PyArray_DATA(targets), ignored, rows, columns, threads)
    return loss


def squared_error(cnp.ndarray dy, cnp.ndarray y, cnp.ndarray target, num_threads=None):
    """Give the mean of (y - target)^2; write its gradient to dy."""
    cdef const lstmc_kernels *table = table_of(y)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t n = y.size
    cdef Buffer scratch = scratch_pool.take((n // 4096 + 1) * sizeof(double))
    cdef double *sums = <double *>scratch.data()
    cdef double loss
    with nogil:
        loss = table.squared_error(PyArray_DATA(dy), sums, PyArray_DATA(y), PyArray_DATA(target), n, threads)
    return loss


def sum_of_squares(cnp.ndarray a, num_threads=None):
    """Give the sum of squares of a flat array, in double precision."""
    cdef const lstmc_kernels *table = table_of(a)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t n = a.size
    cdef Buffer scratch = scratch_pool.take((n // 4096 + 1) * sizeof(double))
    cdef double *sums = <double *>scratch.data()
    cdef double total
    with nogil:
        total = table.sum_of_squares(sums, PyArray_DATA(a), n, threads)
    return total


def scale(cnp.ndarray a, double factor, num_threads=None):
    """Multiply a flat array by a number, in place."""
    cdef const lstmc_kernels *table = table_of(a)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t n = a.size
    with nogil:
        table.scale(PyArray_DATA(a), factor, n, threads)


def sgd(cnp.ndarray params, velocity, cnp.ndarray grads, double lr, double momentum, bint nesterov,
        double weight_decay, num_threads=None):
    """One step of stochastic gradient descent over flat arrays; velocity may be None."""
    cdef const lstmc_kernels *table = table_of(params)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t n = params.size
    cdef void *v = data_of(velocity)
    with nogil:
        table.sgd(PyArray_DATA(params), v, PyArray_DATA(grads), lr, momentum, nesterov, weight_decay, n, threads)


def adam(cnp.ndarray params, cnp.ndarray m, cnp.ndarray v, cnp.ndarray grads, int64_t step, double lr, double beta1,
         double beta2, double eps, double weight_decay, bint decoupled, num_threads=None):
    """One step of Adam (decoupled: AdamW) over flat arrays; step counts from 1."""
    cdef const lstmc_kernels *table = table_of(params)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t n = params.size
    with nogil:
        table.adam(PyArray_DATA(params), PyArray_DATA(m), PyArray_DATA(v), PyArray_DATA(grads), step, lr, beta1,
                   beta2, eps, weight_decay, decoupled, n, threads)


def rmsprop(cnp.ndarray params, cnp.ndarray square_avg, velocity, cnp.ndarray grads, double lr, double alpha,
            double eps, double momentum, double weight_decay, num_threads=None):
    """One step of RMSprop over flat arrays; velocity may be None."""
    cdef const lstmc_kernels *table = table_of(params)
    cdef int threads = threads_for(num_threads)
    cdef Py_ssize_t n = params.size
    cdef void *velocity_data = data_of(velocity)
    with nogil:
        table.rmsprop(PyArray_DATA(params), PyArray_DATA(square_avg), velocity_data, PyArray_DATA(grads), lr, alpha,
                      eps, momentum, weight_decay, n, threads)
