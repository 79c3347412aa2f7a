# Single steps: packed weights, own state.

def form_of(weights):
    """Return what must stay as it is when the weights of a layer change: their types and shapes."""
    return [None if w is None else (type(w), w.dtype, w.shape) for w in weights]


cdef class RecurrentStepper:
    """A stack of recurrent layers, one step at a call: packed weights, own state, no allocation.

    The weights are copied when it is made; ``refresh()`` copies them again. One thread at a time.
    """

    cdef const lstmc_kernels *table
    cdef lstmc_forward call
    cdef lstmc_forward_layer *layers
    cdef void *plan
    cdef object weights  # () -> a calls.Weights for each layer
    cdef object initial  # () -> an array (L, .) for each part of the state, or None: states begin with zeros
    cdef list begins     # those arrays, as they were when the weights were copied
    cdef list form       # types and shapes of the weights
    cdef list memory     # what the addresses in `layers` and `call` point into
    cdef int type_number, worth_releasing, busy
    cdef Py_ssize_t inputs, outputs
    cdef readonly object dtype
    # Each part of the state, (2, L, B, H): as it is, and as it was before the last step. They take turns.
    cdef list parts
    cdef bint can_undo
    cdef readonly int64_t taken  # steps, without those that were undone

    def __cinit__(self, int cell, weights, Py_ssize_t batch, num_threads=None, initial=None, double clip=0):
        layers = weights()
        cdef Py_ssize_t n = len(layers)
        cdef Pool pool = Pool()
        cdef Buffer buffer
        if n < 1 or batch < 1:
            raise ValueError(f"there must be a layer and a row at least, got {n} and {batch}")
        first = layers[0]
        check_matrix("weight_ih", first.weight_ih)
        self.dtype = first.weight_ih.dtype
        self.table = table_of(first.weight_ih)
        self.type_number = NPY_DOUBLE if self.dtype == np.float64 else NPY_FLOAT
        self.initial = initial
        self.weights = weights
        self.inputs = first.weight_ih.shape[1]
        cdef layer_sizes of = stack_sizes(self.table, cell, self.type_number, first, batch, batch)
        self.outputs = of.outputs
        self.parts = [np.zeros((2, n, batch, size), self.dtype) for size in (of.outputs, of.hidden)[:of.states]]
        self.layers = <lstmc_forward_layer *>PyMem_Malloc(n * sizeof(lstmc_forward_layer))
        self.plan = PyMem_Malloc(self.table.forward_plan_size(n))
        if self.layers == NULL or self.plan == NULL:
            raise MemoryError
        self.memory = []
        self.form = [form_of(one) for one in layers]
        self.call = lstmc_forward(y=NULL, x=NULL, layers=self.layers, num_layers=n, cell=cell, steps=1, batch=batch,
                                  starts=NULL, order=NULL, clip=clip, threads=threads_for(num_threads), scratch=NULL)
        operations = 0
        for i in range(n):
            self.layers[i] = lstmc_forward_layer(
                h_n=self.place(0, 1, i), c_n=NULL, h=NULL, c=NULL, gates=NULL, m=NULL, h0=self.place(0, 0, i), c0=NULL,
                weight_ih=NULL, weight_hh=NULL, bias=NULL, weight_hr=weight_hr_of(layers[i], &of), peepholes=NULL,
                packed=NULL, inputs=of.inputs, hidden=of.hidden, outputs=of.outputs)
            if of.states == 2:
                self.layers[i].c_n, self.layers[i].c0 = self.place(1, 1, i), self.place(1, 0, i)
            buffer = pool.take(scratch_bytes(self.table.packed_size(&self.layers[i], cell)))
            self.layers[i].packed = buffer.data()
            self.memory.append(buffer)
            operations += 2 * batch * of.gates * of.hidden * (of.inputs + of.outputs)
            of.inputs = of.outputs
        self.worth_releasing = operations > 20000  # some 0.5 microseconds; the GIL costs 0.035
        self.refresh()
        self.clear_state()
        buffer = pool.take(scratch_bytes(self.table.plan_forward(self.plan, &self.call)))
        self.call.scratch = buffer.data()
        self.memory.append(buffer)

    def __dealloc__(self):
        PyMem_Free(self.layers)
        PyMem_Free(self.plan)

    cdef void *place(self, int part, int side, Py_ssize_t layer) noexcept:
        """Return where a layer's part of the state is, (B, H), on one of its two sides."""
        cdef cnp.ndarray array = self.parts[part]
        cdef Py_ssize_t size = PyArray_NBYTES(array) // (2 * self.call.num_layers)
        return <char *>PyArray_DATA(array) + (side * self.call.num_layers + layer) * size

    cdef int check_idle(self) except -1:
        """Refuse to touch what another thread's step reads and writes: steps of some size release the GIL."""
        if self.busy:
            raise RuntimeError("this stepper is in use by another thread: give each thread one of its own")
        return 0

    def refresh(self):
        """Take the weights as they are now: those of all layers, or of none if they do not fit."""
        cdef layer_sizes of
        cdef lstmc_forward_layer layer
        layers = self.weights()
        if [form_of(one) for one in layers] != self.form:
            raise ValueError("the layer has other weights than those this stepper was made for: make a new one")
        begins = None if self.initial is None else self.initial()
        for array, part in zip(begins or (), self.parts):
            address_of("initial", array, self.type_number, len(layers) * part.shape[3], False)
        of = stack_sizes(self.table, self.call.cell, self.type_number, layers[0], self.call.batch, self.call.batch)
        for packs in (False, True):
            of.inputs = self.inputs
            for i, weights in enumerate(layers):
                layer = self.layers[i]
                layer.weight_ih, layer.weight_hh = weight_ih_of(weights, &of), weight_hh_of(weights, &of)
                layer.bias = bias_of(weights, &of)
                layer.weight_hr, layer.peepholes = weight_hr_of(weights, &of), peephole_of(weights, &of)
                self.check_idle()
                if packs:
                    self.table.pack_layer(<void *>layer.packed, &layer, self.call.cell)
                of.inputs = of.outputs
        self.begins = begins

    def read_state(self):
        """Return a copy of the state: a list of arrays (L, B, H)."""
        cdef list copies = [np.empty((<object>part).shape[1:], self.dtype) for part in self.parts]
        cdef cnp.ndarray copy
        self.check_idle()  # and no Python runs from here on
        for part in range(len(copies)):
            copy = copies[part]
            memcpy(PyArray_DATA(copy), self.now(part), PyArray_NBYTES(copy))
        return copies

    def write_state(self, list parts):
        """Set the state to such arrays."""
        cdef cnp.ndarray array
        if len(parts) != len(self.parts):
            raise ValueError(f"state must have {len(self.parts)} parts, got {len(parts)}")
        for array, own in zip(parts, self.parts):
            address_of("state", array, self.type_number, own.size // 2, False)
        self.check_idle()
        for part in range(len(parts)):
            array = parts[part]
            memcpy(self.now(part), PyArray_DATA(array), PyArray_NBYTES(array))
        self.can_undo = False

    def clear_state(self, cnp.ndarray mask=None):
        """Set the state to what it begins with: of all rows, or of those where mask, (B,) booleans, is true."""
        cdef cnp.ndarray begins
        cdef Py_ssize_t batch = self.call.batch, rows = self.call.num_layers * batch, row, size
        cdef const char *chosen = NULL
        if mask is not None:
            chosen = <const char *>address_of("mask", mask, NPY_BOOL, batch, False)
        self.check_idle()
        for part in range(len(self.parts)):
            size = PyArray_NBYTES(<cnp.ndarray>self.parts[part]) // (2 * rows)
            begins = None if self.begins is None else self.begins[part]
            for row in range(rows):
                if chosen != NULL and not chosen[row % batch]:
                    continue
                if begins is None:
                    memset(<char *>self.now(part) + row * size, 0, size)
                else:
                    memcpy(<char *>self.now(part) + row * size, <char *>PyArray_DATA(begins) + row // batch * size, size)
        self.can_undo = False

    cdef void *now(self, Py_ssize_t part) noexcept:
        """Return where a part of the state begins, (L, B, H), as it is now."""
        return <void *>(self.layers[0].c0 if part else self.layers[0].h0)

    cdef void change_sides(self) noexcept:
        """Make the state that was written the one that is read."""
        cdef lstmc_forward_layer *layer
        cdef void *before
        for i in range(self.call.num_layers):
            layer = &self.layers[i]
            before = <void *>layer.h0
            layer.h0 = layer.h_n
            layer.h_n = before
            before = <void *>layer.c0
            layer.c0 = layer.c_n
            layer.c_n = before

    def undo(self):
        """Return to the state before the last step: once, and not after the state was set."""
        self.check_idle()
        if not self.can_undo:
            raise RuntimeError("there is no step to undo")
        self.change_sides()
        self.can_undo = False
        self.taken -= 1

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
        self.check_idle()
        self.call.x = PyArray_DATA(source)
        self.call.y = PyArray_DATA(target)
        if self.worth_releasing:
            self.busy = 1
            with nogil:
                self.table.forward(self.plan, &self.call)
            self.busy = 0
        else:
            self.table.forward(self.plan, &self.call)
        self.change_sides()
        self.can_undo = True
        self.taken += 1
        return target


cdef class LinearStepper:
    """A linear layer with its weights packed once; ``refresh()`` packs them again."""

    cdef const lstmc_kernels *table
    cdef object weights   # () -> (weight, bias or None)
    cdef Buffer packed
    cdef cnp.ndarray bias
    cdef int type_number
    cdef Py_ssize_t inputs, outputs

    def __cinit__(self, weights):
        self.weights = weights
        weight, _ = weights()
        check_matrix("weight", weight)
        self.table = table_of(weight)
        self.type_number = PyArray_TYPE(weight)
        self.outputs, self.inputs = weight.shape
        cdef Pool pool = Pool()
        self.packed = pool.take(self.table.packed_linear_size(self.inputs, self.outputs))
        self.refresh()

    def refresh(self):
        """Take the weights as they are now."""
        weight, bias = self.weights()
        cdef const void *from_weight = address_of("weight", weight, self.type_number, self.outputs * self.inputs, False)
        optional_address("bias", bias, self.type_number, self.outputs, False)
        self.bias = None if bias is None else bias.copy()
        self.table.pack_linear(self.packed.data(), from_weight, self.inputs, self.outputs)

    def __call__(self, cnp.ndarray y not None, cnp.ndarray x not None, int threads):
        """Write y (rows, outputs) from x (rows, inputs); both contiguous."""
        check_matrix("x", x)
        cdef Py_ssize_t rows = x.shape[0]
        cdef void *to = address_of("y", y, self.type_number, rows * self.outputs, True)
        cdef const void *source = address_of("x", x, self.type_number, rows * self.inputs, False)
        cdef const void *b = optional_address("bias", self.bias, self.type_number, self.outputs, False)
        check_apart(self.table.real_size, "y", to, rows * self.outputs, "x", source, rows * self.inputs)
        if threads < 1:
            raise ValueError(f"threads must be 1 or more, got {threads}")
        self.table.linear_forward(to, source, NULL, b, self.packed.data(), rows, self.inputs, self.outputs, threads,
                                  NULL)
