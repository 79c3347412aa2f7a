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
    int gates, biases, saved, states  # of the cell
    Py_ssize_t inputs, hidden, steps, batch


cdef layer_sizes stack_sizes(const lstmc_kernels *table, int cell, int number, Py_ssize_t inputs, first,
                             Py_ssize_t steps, Py_ssize_t batch) except *:
    """Return the sizes of the first layer of a stack, whose Weights are `first`."""
    if table.gates_of(cell) == LSTMC_UNKNOWN:
        raise ValueError("the kernels have no such cell")
    check_matrix("weight_hh", first.weight_hh)
    return layer_sizes(
        number=number, gates=table.gates_of(cell), biases=table.biases_of(cell), saved=table.saved_of(cell),
        states=table.states_of(cell), inputs=inputs, hidden=first.weight_hh.shape[1], steps=steps, batch=batch)


cdef void *weight_ih_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    return address_of("weight_ih", weights.weight_ih, of.number, of.gates * of.hidden * of.inputs, written)


cdef void *weight_hh_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    return address_of("weight_hh", weights.weight_hh, of.number, of.gates * of.hidden * of.hidden, written)


cdef void *bias_of(object weights, const layer_sizes *of, bint written=False) except? NULL:
    return address_of("bias", weights.bias, of.number, of.biases * of.hidden, written)


cdef lstmc_forward_layer forward_layer(object layer, const layer_sizes *of, bint saves) except *:
    """Return a calls.ForwardLayer as C has it."""
    cdef Py_ssize_t state = of.batch * of.hidden
    cdef int number = of.number
    cdef lstmc_forward_layer to = lstmc_forward_layer(
        h_n=address_of("h_n", layer.h_n, number, state, True), c_n=NULL, h=NULL, c=NULL, gates=NULL,
        h0=address_of("h0", layer.h0, number, state, False), c0=NULL, weight_ih=weight_ih_of(layer.weights, of),
        weight_hh=weight_hh_of(layer.weights, of), bias=bias_of(layer.weights, of), packed=NULL,
        inputs=of.inputs, hidden=of.hidden)
    if of.states == 2:
        to.c_n = address_of("c_n", layer.c_n, number, state, True)
        to.c0 = address_of("c0", layer.c0, number, state, False)
    if saves:
        to.h = address_of("h", layer.h, number, (of.steps + 1) * state, True)
        if of.states == 2:
            to.c = address_of("c", layer.c, number, (of.steps + 1) * state, True)
        if of.saved:
            to.gates = address_of("gates", layer.gates, number, of.steps * of.saved * state, True)
    return to


cdef lstmc_backward_layer backward_layer(object layer, const layer_sizes *of, Py_ssize_t repeat) except *:
    """Return a calls.BackwardLayer as C has it."""
    cdef Py_ssize_t state = of.batch * of.hidden, row = state // repeat
    cdef int number = of.number
    dweights = layer.dweights
    cdef lstmc_backward_layer to = lstmc_backward_layer(
        dh0=address_of("dh0", layer.dh0, number, state, True), dc0=NULL, dweight_ih=NULL, dweight_hh=NULL, dbias=NULL,
        dh_n=optional_address("dh_n", layer.dh_n, number, state, False), dc_n=NULL,
        h=address_of("h", layer.h, number, (of.steps + 1) * row, False, True), c=NULL, gates=NULL,
        dgates=optional_address("dgates", layer.dgates, number, of.steps * of.gates * state, True),
        dh=optional_address("dh", layer.dh, number, of.steps * state, True), dc=NULL,
        dx=optional_address("dx", layer.dx, number, of.steps * of.batch * of.inputs, True),
        weight_ih=weight_ih_of(layer.weights, of), weight_hh=weight_hh_of(layer.weights, of),
        inputs=of.inputs, hidden=of.hidden)
    if of.states == 2:
        to.dc0 = address_of("dc0", layer.dc0, number, state, True)
        to.dc_n = optional_address("dc_n", layer.dc_n, number, state, False)
        to.c = address_of("c", layer.c, number, (of.steps + 1) * row, False, True)
        to.dc = optional_address("dc", layer.dc, number, of.steps * state, True)
    if of.saved:
        to.gates = address_of("gates", layer.gates, number, of.steps * of.saved * row, False, True)
    if dweights.weight_ih is not None:
        to.dweight_ih = weight_ih_of(dweights, of, True)
        to.dweight_hh = weight_hh_of(dweights, of, True)
        to.dbias = bias_of(dweights, of, True)
    return to


cdef size_t scratch_bytes(Py_ssize_t planned) except? 0:
    """Return what a plan says that it needs; raise where it says that there is no such cell."""
    if planned == LSTMC_UNKNOWN:
        raise ValueError("the kernels have no such cell")
    return planned


cdef check_layers(list layers):
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")


def recurrent_forward(int cell, list layers, cnp.ndarray x not None, y, num_threads=None):
    """Run a stack of layers, each a calls.ForwardLayer: lstmc_forward of kernels.h."""
    check_layers(layers)
    cdef const lstmc_kernels *table = table_of(x)
    cdef Py_ssize_t n = len(layers)
    if x.ndim != 3:
        raise ValueError(f"x must have 3 axes, got {shape_text((<object>x).shape)}")
    cdef layer_sizes of = stack_sizes(table, cell, PyArray_TYPE(x), x.shape[2], layers[0].weights, x.shape[0],
                                      x.shape[1])
    cdef Py_ssize_t rows = of.steps * of.batch
    cdef bint saves = layers[0].h is not None
    cdef lstmc_forward call = lstmc_forward(
        y=address_of("y", y, of.number, rows * of.hidden, True),
        x=address_of("x", x, of.number, rows * of.inputs, False), layers=NULL, num_layers=n, cell=cell,
        steps=of.steps, batch=of.batch, threads=threads_for(num_threads), scratch=NULL)
    cdef size_t plan_bytes = table.forward_plan_size(n)
    cdef Buffer scratch
    cdef char *memory = <char *>PyMem_Malloc(plan_bytes + n * sizeof(lstmc_forward_layer))
    if memory == NULL:
        raise MemoryError
    cdef lstmc_forward_layer *c_layers = <lstmc_forward_layer *>(memory + plan_bytes)
    try:
        for i in range(n):
            c_layers[i] = forward_layer(layers[i], &of, saves)
            of.inputs = of.hidden
        call.layers = c_layers
        scratch = scratch_pool.take(scratch_bytes(table.plan_forward(memory, &call)))
        call.scratch = scratch.data()
        with nogil:
            table.forward(memory, &call)
    finally:
        PyMem_Free(memory)


cdef check_gradients_apart(const lstmc_backward *call, const lstmc_backward_layer *layer, const layer_sizes *of):
    """Refuse gradients that arrive in the memory of those of the weights, which are added to."""
    cdef Py_ssize_t size = 8 if of.number == NPY_DOUBLE else 4, state = of.batch * of.hidden
    cdef const void *added[3]
    cdef Py_ssize_t counts[3]
    added[0], added[1], added[2] = layer.dweight_ih, layer.dweight_hh, layer.dbias
    counts[0], counts[1] = of.gates * of.hidden * of.inputs, of.gates * of.hidden * of.hidden
    counts[2] = of.biases * of.hidden
    for i in range(3):
        check_apart(size, "dy", call.dy, of.steps * state, "the gradients of the weights", added[i], counts[i])
        check_apart(size, "dstate", layer.dh_n, state, "the gradients of the weights", added[i], counts[i])
        check_apart(size, "dstate", layer.dc_n, state, "the gradients of the weights", added[i], counts[i])


def recurrent_backward(int cell, list layers, dx, dy, x, Py_ssize_t steps, Py_ssize_t batch, num_threads=None,
                       Py_ssize_t repeat=1):
    """Differentiate a stack of layers, each a calls.BackwardLayer: lstmc_backward of kernels.h."""
    check_layers(layers)
    first = layers[0].weights
    check_matrix("weight_ih", first.weight_ih)
    cdef const lstmc_kernels *table = table_of(first.weight_ih)
    cdef Py_ssize_t n = len(layers)
    cdef bint adds = layers[0].dweights.weight_ih is not None
    if steps < 0 or batch < 0 or repeat < 1 or batch % repeat or (adds and repeat > 1):
        raise ValueError(f"steps, batch and repeat do not fit: {steps}, {batch}, {repeat}")
    cdef layer_sizes of = stack_sizes(table, cell, PyArray_TYPE(first.weight_ih), first.weight_ih.shape[1], first,
                                      steps, batch)
    cdef Py_ssize_t rows = steps * batch
    cdef lstmc_backward call = lstmc_backward(
        dx=optional_address("dx", dx, of.number, rows * of.inputs, True),
        dy=optional_address("dy", dy, of.number, rows * of.hidden, False),
        x=NULL, layers=NULL, num_layers=n, cell=cell, steps=steps, batch=batch, repeat=repeat,
        threads=threads_for(num_threads), scratch=NULL)
    if adds:
        call.x = address_of("x", x, of.number, rows * of.inputs, False)
    cdef size_t plan_bytes = table.backward_plan_size()
    cdef Buffer scratch
    cdef char *memory = <char *>PyMem_Malloc(plan_bytes + n * sizeof(lstmc_backward_layer))
    if memory == NULL:
        raise MemoryError
    cdef lstmc_backward_layer *c_layers = <lstmc_backward_layer *>(memory + plan_bytes)
    try:
        for i in range(n):
            if (layers[i].dweights.weight_ih is not None) != adds:
                raise ValueError("dweights must be there for all layers or for none")
            c_layers[i] = backward_layer(layers[i], &of, repeat)
            check_gradients_apart(&call, &c_layers[i], &of)
            of.inputs = of.hidden
        call.layers = c_layers
        scratch = scratch_pool.take(scratch_bytes(table.plan_backward(memory, &call)))
        call.scratch = scratch.data()
        with nogil:
            table.backward(memory, &call)
    finally:
        PyMem_Free(memory)
