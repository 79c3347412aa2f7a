# Calls of a stack of recurrent layers.

def cell(name):
    """Return the number that the calls below take for the cell of this name."""
    cdef int number = float32_table.cell(name.encode())
    if number == LSTMC_UNKNOWN:
        raise ValueError(f"the kernels have no cell {name!r}")
    return number


# What the arrays of a layer are measured by.
cdef struct layer_sizes:
    int number  # of the element type
    int gates, biases, saved, peepholes, states  # of the cell
    Py_ssize_t inputs, hidden, outputs, batch
    bint projected
    Py_ssize_t rows  # of all steps


cdef layer_sizes stack_sizes(const lstmc_kernels *table, int cell, int number, first, Py_ssize_t rows,
                             Py_ssize_t batch) except *:
    """Return the sizes of the first layer of a stack, whose Weights are `first`."""
    if table.gates_of(cell) == LSTMC_UNKNOWN:
        raise ValueError("the kernels have no such cell")
    cdef bint projected = first.weight_hr is not None
    check_matrix("weight_ih", first.weight_ih)
    check_matrix("weight_hh", first.weight_hh)
    if projected:
        check_matrix("weight_hr", first.weight_hr)
    cdef Py_ssize_t outputs = first.weight_hh.shape[1]
    return layer_sizes(
        number=number, gates=table.gates_of(cell), biases=table.biases_of(cell), saved=table.saved_of(cell),
        peepholes=table.peepholes_of(cell), states=table.states_of(cell), inputs=first.weight_ih.shape[1],
        hidden=first.weight_hr.shape[1] if projected else outputs, outputs=outputs, batch=batch,
        projected=projected, rows=rows)


# The rows of every step: calls.Rows, checked, as C has them.
cdef struct step_rows:
    Py_ssize_t steps, batch, count
    const Py_ssize_t *starts
    const Py_ssize_t *before
    const Py_ssize_t *order
    Py_ssize_t places  # rows of y, dy and dx


cdef step_rows rows_of(of, bint differentiated) except *:
    """Check a calls.Rows: nothing outside the arrays is read or written where it holds."""
    cdef step_rows to = step_rows(steps=of.steps, batch=of.batch, count=0, starts=NULL, before=NULL, order=NULL, places=0)
    cdef Py_ssize_t t, most = to.batch
    if to.steps < 0 or to.batch < 0:
        raise ValueError(f"steps and batch must not be negative, got {to.steps} and {to.batch}")
    to.count = to.places = to.steps * to.batch
    if of.starts is None:
        if of.order is not None:
            raise ValueError("order must be None without starts")
        return to
    to.starts = <const Py_ssize_t *>address_of("starts", of.starts, NPY_INTP, to.steps + 1, False)
    if to.steps < 1 or to.starts[0] or to.starts[1] != most:
        raise ValueError("starts must begin with 0 and the number of sequences")
    for t in range(to.steps):
        if not 0 < to.starts[t + 1] - to.starts[t] <= most:
            raise ValueError(f"starts must not grow by more than before, nor by none: see step {t}")
        most = to.starts[t + 1] - to.starts[t]
    to.count = to.places = to.starts[to.steps]
    if differentiated:
        to.before = <const Py_ssize_t *>address_of("before", of.before, NPY_INTP, to.count, False)
        for t in range(to.count):
            if not 0 <= to.before[t] < to.batch + to.count:
                raise ValueError(f"before must be rows of h, got {to.before[t]} at {t}")
    if of.order is not None:
        to.places = of.places
        if not to.count <= to.places < 1 << 40:  # no product with a width overflows
            raise ValueError(f"places must be {to.count} or more, got {to.places}")
        to.order = <const Py_ssize_t *>address_of("order", of.order, NPY_INTP, to.count, False)
        for t in range(to.count):
            if not 0 <= to.order[t] < to.places:
                raise ValueError(f"order must be of {to.places} rows, got {to.order[t]} at {t}")
    return to


cdef void *weight_ih_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    return address_of("weight_ih", weights.weight_ih, of.number, of.gates * of.hidden * of.inputs, written)


cdef void *weight_hh_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    return address_of("weight_hh", weights.weight_hh, of.number, of.gates * of.hidden * of.outputs, written)


cdef void *weight_hr_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    if not of.projected:
        return NULL
    return address_of("weight_hr", weights.weight_hr, of.number, of.outputs * of.hidden, written)


cdef void *peephole_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    if not of.peepholes:
        return NULL
    return address_of("peephole", weights.peephole, of.number, of.peepholes * of.hidden, written)


cdef void *bias_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    return address_of("bias", weights.bias, of.number, of.biases * of.hidden, written)


cdef lstmc_forward_layer forward_layer(object layer, const layer_sizes *of, bint saves) except *:
    """Return a calls.ForwardLayer as C has it."""
    cdef Py_ssize_t state = of.batch * of.hidden
    cdef int number = of.number
    cdef lstmc_forward_layer to = lstmc_forward_layer(
        h_n=address_of("h_n", layer.h_n, number, of.batch * of.outputs, True), c_n=NULL, h=NULL, c=NULL, gates=NULL,
        m=NULL, h0=address_of("h0", layer.h0, number, of.batch * of.outputs, False), c0=NULL,
        weight_ih=weight_ih_of(layer.weights, of), weight_hh=weight_hh_of(layer.weights, of),
        bias=bias_of(layer.weights, of), weight_hr=weight_hr_of(layer.weights, of),
        peepholes=peephole_of(layer.weights, of), packed=NULL, inputs=of.inputs, hidden=of.hidden,
        outputs=of.outputs)
    if of.states == 2:
        to.c_n = address_of("c_n", layer.c_n, number, state, True)
        to.c0 = address_of("c0", layer.c0, number, state, False)
    if saves:
        to.h = address_of("h", layer.h, number, (of.batch + of.rows) * of.outputs, True)
        if of.states == 2:
            to.c = address_of("c", layer.c, number, (of.batch + of.rows) * of.hidden, True)
        if of.saved:
            to.gates = address_of("gates", layer.gates, number, of.rows * of.saved * of.hidden, True)
        if of.projected:
            to.m = address_of("m", layer.m, number, of.rows * of.hidden, True)
    return to


cdef lstmc_backward_layer backward_layer(object layer, const layer_sizes *of, Py_ssize_t repeat) except *:
    """Return a calls.BackwardLayer as C has it: `of` counts gradients, `repeat` for each row that forward saved."""
    cdef Py_ssize_t state = of.batch * of.hidden, all = of.rows * of.hidden
    cdef Py_ssize_t state_of_h = of.batch * of.outputs, all_of_h = of.rows * of.outputs
    cdef int number = of.number
    dweights = layer.dweights
    cdef lstmc_backward_layer to = lstmc_backward_layer(
        dh0=address_of("dh0", layer.dh0, number, state_of_h, True), dc0=NULL, dweight_ih=NULL, dweight_hh=NULL,
        dbias=NULL, dweight_hr=NULL, dpeepholes=NULL,
        dh_n=optional_address("dh_n", layer.dh_n, number, state_of_h, False), dc_n=NULL,
        h=address_of("h", layer.h, number, (state_of_h + all_of_h) // repeat, False, True), c=NULL, gates=NULL, m=NULL,
        dgates=optional_address("dgates", layer.dgates, number, of.gates * all, True),
        dh=optional_address("dh", layer.dh, number, all_of_h, True), dc=NULL,
        dx=optional_address("dx", layer.dx, number, of.rows * of.inputs, True),
        weight_ih=weight_ih_of(layer.weights, of), weight_hh=weight_hh_of(layer.weights, of),
        weight_hr=weight_hr_of(layer.weights, of), peepholes=peephole_of(layer.weights, of),
        inputs=of.inputs, hidden=of.hidden, outputs=of.outputs)
    if of.states == 2:
        to.dc0 = address_of("dc0", layer.dc0, number, state, True)
        to.dc_n = optional_address("dc_n", layer.dc_n, number, state, False)
        to.c = address_of("c", layer.c, number, (state + all) // repeat, False, True)
        to.dc = optional_address("dc", layer.dc, number, all, True)
    if of.saved:
        to.gates = address_of("gates", layer.gates, number, of.saved * all // repeat, False, True)
    if of.projected:
        to.m = address_of("m", layer.m, number, all // repeat, False, True)
    if dweights.weight_ih is not None:
        to.dweight_ih = weight_ih_of(dweights, of, True)
        to.dweight_hh = weight_hh_of(dweights, of, True)
        to.dbias = bias_of(dweights, of, True)
        to.dweight_hr = weight_hr_of(dweights, of, True)
        to.dpeepholes = peephole_of(dweights, of, True)
    return to


cdef size_t scratch_bytes(Py_ssize_t planned) except? 0:
    """Return what a plan says that it needs; raise where it says that there is no such cell."""
    if planned == LSTMC_UNKNOWN:
        raise ValueError("the kernels have no such cell, or no projection of it")
    return planned


cdef class Planned:
    """A call of a stack of layers, checked and planned: the arrays that it was made from must outlive it."""

    cdef const lstmc_kernels *table
    cdef char *memory  # the plan, and after it the layers
    cdef Buffer scratch

    def __dealloc__(self):
        PyMem_Free(self.memory)

    cdef void *room(self, size_t plan_bytes, size_t layers_bytes) except NULL:
        """Make room for a plan and for layers; return where the layers begin."""
        self.memory = <char *>PyMem_Malloc(plan_bytes + layers_bytes)
        if self.memory == NULL:
            raise MemoryError
        return self.memory + plan_bytes

    cdef layer_sizes sizes(self, int cell, list layers, const step_rows *rows) except *:
        """Take the table that the weights' type has; return the sizes of the first layer."""
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        first = layers[0].weights
        check_matrix("weight_ih", first.weight_ih)
        self.table = table_of(first.weight_ih)
        return stack_sizes(self.table, cell, PyArray_TYPE(first.weight_ih), first, rows.count, rows.batch)


cdef class PlannedForward(Planned):
    """A calls.ForwardStack as C has it."""

    cdef lstmc_forward call

    def __cinit__(self, int cell, stack, of, int threads):
        cdef list layers = stack.layers
        cdef Py_ssize_t n = len(layers)
        cdef step_rows rows = rows_of(of, False)
        cdef layer_sizes sizes = self.sizes(cell, layers, &rows)
        cdef bint saves = layers[0].h is not None
        cdef lstmc_forward_layer *c_layers = <lstmc_forward_layer *>self.room(
            self.table.forward_plan_size(n), n * sizeof(lstmc_forward_layer))
        self.call = lstmc_forward(
            y=NULL, x=address_of("x", stack.x, sizes.number, rows.count * sizes.inputs, False), layers=c_layers,
            num_layers=n, cell=cell, steps=rows.steps, batch=rows.batch, starts=rows.starts,
            order=rows.order, clip=stack.clip, threads=threads, scratch=NULL)
        if rows.order != NULL and not saves:
            raise ValueError("order must be None where nothing is saved")
        if stack.y is not None or not saves or rows.order != NULL:
            self.call.y = address_of("y", stack.y, sizes.number, rows.places * sizes.outputs, True)
        for i in range(n):
            c_layers[i] = forward_layer(layers[i], &sizes, saves)
            sizes.inputs = sizes.outputs
        self.scratch = scratch_pool.take(scratch_bytes(self.table.plan_forward(self.memory, &self.call)))
        self.call.scratch = self.scratch.data()


cdef class PlannedBackward(Planned):
    """A calls.BackwardStack as C has it."""

    cdef lstmc_backward call

    def __cinit__(self, int cell, stack, of, int threads, Py_ssize_t repeat):
        cdef list layers = stack.layers
        cdef Py_ssize_t n = len(layers)
        cdef step_rows rows = rows_of(of, True)
        cdef layer_sizes sizes = self.sizes(cell, layers, &rows)
        cdef bint adds = layers[0].dweights.weight_ih is not None
        if repeat < 1 or (adds and repeat > 1):
            raise ValueError(f"repeat must be 1, or more where no weight's gradient is asked, got {repeat}")
        if rows.order != NULL and repeat > 1:
            raise ValueError(f"order must be None where repeat is above 1, got {repeat}")
        sizes.batch *= repeat
        sizes.rows *= repeat
        cdef lstmc_backward_layer *c_layers = <lstmc_backward_layer *>self.room(
            self.table.backward_plan_size(), n * sizeof(lstmc_backward_layer))
        self.call = lstmc_backward(
            dx=optional_address("dx", stack.dx, sizes.number, rows.places * repeat * sizes.inputs, True),
            dy=optional_address("dy", stack.dy, sizes.number, rows.places * repeat * sizes.outputs, False),
            x=NULL, layers=c_layers, num_layers=n, cell=cell, steps=rows.steps, batch=sizes.batch, starts=rows.starts,
            before=rows.before, order=rows.order, repeat=repeat, clip=stack.clip, grad_clip=stack.grad_clip,
            threads=threads, scratch=NULL)
        if adds:
            self.call.x = address_of("x", stack.x, sizes.number, sizes.rows * sizes.inputs, False)
        for i in range(n):
            if (layers[i].dweights.weight_ih is not None) != adds:
                raise ValueError("dweights must be there for all layers or for none")
            c_layers[i] = backward_layer(layers[i], &sizes, repeat)
            check_gradients_apart(&self.call, &c_layers[i], &sizes, rows.places * repeat)
            sizes.inputs = sizes.outputs
        self.scratch = scratch_pool.take(scratch_bytes(self.table.plan_backward(self.memory, &self.call)))
        self.call.scratch = self.scratch.data()


cdef check_gradients_apart(const lstmc_backward *call, const lstmc_backward_layer *layer, const layer_sizes *of,
                           Py_ssize_t places):
    """Refuse gradients that arrive in the memory of those of the weights, which are added to: dy has `places` rows."""
    cdef Py_ssize_t size = 8 if of.number == NPY_DOUBLE else 4
    cdef const void *added[5]
    cdef Py_ssize_t counts[5]
    added[0], added[1], added[2] = layer.dweight_ih, layer.dweight_hh, layer.dbias
    added[3], added[4] = layer.dweight_hr, layer.dpeepholes
    counts[0], counts[1] = of.gates * of.hidden * of.inputs, of.gates * of.hidden * of.outputs
    counts[2], counts[3], counts[4] = of.biases * of.hidden, of.outputs * of.hidden, of.peepholes * of.hidden
    for i in range(5):
        check_apart(size, "dy", call.dy, places * of.outputs, "the gradients of the weights", added[i], counts[i])
        check_apart(size, "dstate", layer.dh_n, of.batch * of.outputs, "the gradients of the weights", added[i], counts[i])
        check_apart(size, "dstate", layer.dc_n, of.batch * of.hidden, "the gradients of the weights", added[i], counts[i])


def recurrent_forward(int cell, list stacks, of, num_threads=None):
    """Run a calls.ForwardStack, or two of the same sizes side by side, over the steps of a calls.Rows.

    lstmc_forward of kernels.h says what each array is.
    """
    cdef int threads = threads_for(num_threads)
    cdef bint both = len(stacks) == 2 and threads > 1
    cdef list planned = [PlannedForward(cell, stack, of, threads // 2 if both else threads) for stack in stacks]
    cdef PlannedForward one = planned[0], other = planned[-1]
    if both:
        with nogil:
            one.table.forward_both(one.memory, &one.call, other.memory, &other.call)
        return
    for one in planned:
        with nogil:
            one.table.forward(one.memory, &one.call)


def recurrent_backward(int cell, list stacks, of, num_threads=None, Py_ssize_t repeat=1):
    """Differentiate a calls.BackwardStack, or two of the same sizes side by side: lstmc_backward of kernels.h."""
    cdef int threads = threads_for(num_threads)
    cdef bint both = len(stacks) == 2 and threads > 1
    cdef list planned = [
        PlannedBackward(cell, stack, of, threads // 2 if both else threads, repeat) for stack in stacks]
    cdef PlannedBackward one = planned[0], other = planned[-1]
    if both:
        with nogil:
            one.table.backward_both(one.memory, &one.call, other.memory, &other.call)
        return
    for one in planned:
        with nogil:
            one.table.backward(one.memory, &one.call)


cdef Py_ssize_t row_stride(str name, cnp.ndarray array, int number) except -1:
    """Return the elements from one row of a matrix to the next; its rows are contiguous."""
    cdef Py_ssize_t size = 8 if number == NPY_DOUBLE else 4
    check_matrix(name, array)
    if PyArray_TYPE(array) != number or not array.flags.aligned or array.dtype.byteorder == ">":
        raise TypeError(f"{name} must be an aligned native array of the other's type, got {array.dtype}")
    if not array.size:
        return 0
    if array.shape[1] > 1 and array.strides[1] != size or array.strides[0] % size or array.strides[0] < 0:
        raise ValueError(f"{name} must have contiguous rows, got strides {(<object>array).strides}")
    return array.strides[0] // size


def gather_rows(cnp.ndarray to not None, cnp.ndarray source not None, cnp.ndarray index not None, bint adds=False,
                num_threads=None):
    """Write rows of one matrix to another, row index[i] to row i, or zeros where index[i] is negative; or add them.

    Both may be columns of a wider array: only their rows are contiguous.
    """
    cdef int number = PyArray_TYPE(to), threads = threads_for(num_threads)
    cdef const lstmc_kernels *table = table_of(to)
    cdef Py_ssize_t to_stride = row_stride("to", to, number), stride = row_stride("source", source, number)
    cdef Py_ssize_t rows = to.shape[0], columns = to.shape[1], limit = source.shape[0], i
    cdef const Py_ssize_t *at = <const Py_ssize_t *>address_of("index", index, NPY_INTP, rows, False)
    if source.shape[1] != columns or not to.flags.writeable or np.may_share_memory(to, source):
        raise ValueError(f"to must be writable, apart from source and {columns} wide, got {shape_text((<object>source).shape)}")
    for i in range(rows):
        if at[i] >= limit:
            raise ValueError(f"index must be below {limit}, got {at[i]} at {i}")
    cdef void *to_data = PyArray_DATA(to)
    cdef const void *source_data = PyArray_DATA(source)
    with nogil:
        table.gather_rows(to_data, to_stride, source_data, stride, at, adds, rows, columns, threads)
