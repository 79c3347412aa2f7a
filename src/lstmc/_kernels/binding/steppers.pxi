# Single steps: packed weights, own state.

cdef class RecurrentStepper:
    """A stack of recurrent layers, one step at a call: packed weights, own state, no allocation.

    The weights are copied when it is made; ``refresh()`` copies them again. One thread at a time.
    """

    cdef const lstmc_kernels *table
    cdef lstmc_forward call
    cdef lstmc_forward_layer *layers
    cdef void *plan
    cdef object weights  # () -> a calls.Weights for each layer
    cdef list form       # types and shapes of those
    cdef list memory     # what the addresses in `layers` and `call` point into
    cdef int type_number, worth_releasing, busy
    cdef Py_ssize_t inputs, outputs
    cdef readonly object dtype
    cdef cnp.ndarray h, c  # (L, B, H); c None where the cell has none

    def __cinit__(self, int cell, weights, Py_ssize_t batch, num_threads=None):
        layers = weights()
        cdef int n = len(layers)
        cdef Pool pool = Pool()
        cdef Buffer buffer
        self.dtype = layers[0].weight_ih.dtype
        self.table = table_of(layers[0].weight_ih)
        self.type_number = NPY_DOUBLE if self.dtype == np.float64 else NPY_FLOAT
        self.weights = weights
        self.inputs = layers[0].weight_ih.shape[1]
        self.outputs = layers[-1].weight_hh.shape[1]
        self.h = np.zeros((n, batch, self.outputs), self.dtype)
        self.c = np.zeros((n, batch, self.outputs), self.dtype) if self.table.states_of(cell) == 2 else None
        self.layers = <lstmc_forward_layer *>PyMem_Malloc(n * sizeof(lstmc_forward_layer))
        self.plan = PyMem_Malloc(self.table.forward_plan_size(n))
        if self.layers == NULL or self.plan == NULL:
            raise MemoryError
        self.memory = []
        self.form = [[(type(w), w.dtype, w.shape) for w in one] for one in layers]
        self.call = lstmc_forward(y=NULL, x=NULL, layers=self.layers, num_layers=n, cell=cell, steps=1, batch=batch,
                                  threads=threads_for(num_threads), scratch=NULL)
        operations = 0
        for i, (weight_ih, weight_hh, _) in enumerate(layers):
            h = data_of(self.h[i])
            c = NULL if self.c is None else data_of(self.c[i])
            self.layers[i] = lstmc_forward_layer(
                h_n=h, c_n=c, h=NULL, c=NULL, gates=NULL, h0=h, c0=c, weight_ih=NULL, weight_hh=NULL, bias=NULL,
                packed=NULL, inputs=weight_ih.shape[1], hidden=weight_hh.shape[1])
            buffer = pool.take(scratch_bytes(self.table.packed_size(&self.layers[i], cell)))
            self.layers[i].packed = buffer.data()
            self.memory.append(buffer)
            operations += 2 * batch * (weight_ih.size + weight_hh.size)
        self.worth_releasing = operations > 20000  # some 0.5 microseconds; the GIL costs 0.035
        self.refresh()
        buffer = pool.take(scratch_bytes(self.table.plan_forward(self.plan, &self.call)))
        self.call.scratch = buffer.data()
        self.memory.append(buffer)

    def __dealloc__(self):
        PyMem_Free(self.layers)
        PyMem_Free(self.plan)

    def refresh(self):
        """Take the weights as they are now."""
        cdef lstmc_forward_layer layer
        for i, weights in enumerate(self.weights()):
            if [(type(w), w.dtype, w.shape) for w in weights] != self.form[i]:
                raise ValueError("the layer has other weights than those this stepper was made for: make a new one")
            layer = self.layers[i]
            layer.weight_ih = data_of(weights.weight_ih)
            layer.weight_hh = data_of(weights.weight_hh)
            layer.bias = data_of(weights.bias)
            self.table.pack_layer(<void *>self.layers[i].packed, &layer, self.call.cell)

    def states(self):
        """Return the arrays of the state itself, not copies: (h,) or (h, c)."""
        return (self.h,) if self.c is None else (self.h, self.c)

    cdef bint fits(self, cnp.ndarray out, cnp.ndarray x) noexcept:
        """Whether out has the shape that belongs to x, and no byte in common with it."""
        cdef char *a = <char *>PyArray_DATA(x)
        cdef char *b = <char *>PyArray_DATA(out)
        if out.ndim != x.ndim or out.shape[out.ndim - 1] != self.outputs:
            return False
        if out.ndim == 2 and out.shape[0] != self.call.batch:
            return False
        return a + PyArray_NBYTES(x) <= b or b + PyArray_NBYTES(out) <= a

    def __call__(self, x, out=None):
        """Read one step of input and return the output.

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
                self.table.forward(self.plan, &self.call)
            self.busy = 0
        else:
            self.table.forward(self.plan, &self.call)
        return target


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
