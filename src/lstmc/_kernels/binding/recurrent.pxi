# Calls of a stack of recurrent layers.

def cell(name):
    """Return the number that the calls below take for the cell of this name."""
    cdef int number = float32_table.cell(name.encode())
    if number == LSTMC_UNKNOWN:
        raise ValueError(f"the kernels have no cell {name!r}")
    return number


cdef lstmc_forward_layer forward_layer(object layer) except *:
    """Return a calls.ForwardLayer as C has it."""
    weights = layer.weights
    return lstmc_forward_layer(
        h_n=data_of(layer.h_n), c_n=data_of(layer.c_n), h=data_of(layer.h), c=data_of(layer.c),
        gates=data_of(layer.gates), h0=data_of(layer.h0), c0=data_of(layer.c0),
        weight_ih=data_of(weights.weight_ih), weight_hh=data_of(weights.weight_hh), bias=data_of(weights.bias),
        packed=NULL, inputs=weights.weight_ih.shape[1], hidden=weights.weight_hh.shape[1])


cdef lstmc_backward_layer backward_layer(object layer) except *:
    """Return a calls.BackwardLayer as C has it."""
    weights, dweights = layer.weights, layer.dweights
    return lstmc_backward_layer(
        dh0=data_of(layer.dh0), dc0=data_of(layer.dc0), dweight_ih=data_of(dweights.weight_ih),
        dweight_hh=data_of(dweights.weight_hh), dbias=data_of(dweights.bias), dh_n=data_of(layer.dh_n),
        dc_n=data_of(layer.dc_n), h=data_of(layer.h), c=data_of(layer.c), gates=data_of(layer.gates),
        dgates=data_of(layer.dgates), dh=data_of(layer.dh), dc=data_of(layer.dc), dx=data_of(layer.dx),
        weight_ih=data_of(weights.weight_ih), weight_hh=data_of(weights.weight_hh),
        inputs=weights.weight_ih.shape[1], hidden=weights.weight_hh.shape[1])


cdef size_t scratch_bytes(Py_ssize_t planned) except? 0:
    """Return what a plan says that it needs; raise where it says that there is no such cell."""
    if planned == LSTMC_UNKNOWN:
        raise ValueError("the kernels have no such cell")
    return planned


cdef check_layers(list layers):
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")


def recurrent_forward(int cell, list layers, cnp.ndarray x, cnp.ndarray y, num_threads=None):
    """Run a stack of layers, each a calls.ForwardLayer: lstmc_forward of kernels.h."""
    check_layers(layers)
    cdef const lstmc_kernels *table = table_of(x)
    cdef Py_ssize_t n = len(layers)
    cdef lstmc_forward call = lstmc_forward(
        y=PyArray_DATA(y), x=PyArray_DATA(x), layers=NULL, num_layers=n, cell=cell, steps=x.shape[0], batch=x.shape[1],
        threads=threads_for(num_threads), scratch=NULL)
    cdef size_t plan_bytes = table.forward_plan_size(n)
    cdef Buffer scratch
    cdef char *memory = <char *>PyMem_Malloc(plan_bytes + n * sizeof(lstmc_forward_layer))
    if memory == NULL:
        raise MemoryError
    cdef lstmc_forward_layer *c_layers = <lstmc_forward_layer *>(memory + plan_bytes)
    try:
        for i in range(n):
            c_layers[i] = forward_layer(layers[i])
        call.layers = c_layers
        scratch = scratch_pool.take(scratch_bytes(table.plan_forward(memory, &call)))
        call.scratch = scratch.data()
        with nogil:
            table.forward(memory, &call)
    finally:
        PyMem_Free(memory)


def recurrent_backward(int cell, list layers, dx, dy, x, Py_ssize_t steps, Py_ssize_t batch, num_threads=None,
                       Py_ssize_t repeat=1):
    """Differentiate a stack of layers, each a calls.BackwardLayer: lstmc_backward of kernels.h."""
    check_layers(layers)
    cdef const lstmc_kernels *table = table_of(layers[0].dh0)
    cdef Py_ssize_t n = len(layers)
    cdef lstmc_backward call = lstmc_backward(
        dx=data_of(dx), dy=data_of(dy), x=data_of(x), layers=NULL, num_layers=n, cell=cell, steps=steps, batch=batch,
        repeat=repeat, threads=threads_for(num_threads), scratch=NULL)
    cdef size_t plan_bytes = table.backward_plan_size()
    cdef Buffer scratch
    cdef char *memory = <char *>PyMem_Malloc(plan_bytes + n * sizeof(lstmc_backward_layer))
    if memory == NULL:
        raise MemoryError
    cdef lstmc_backward_layer *c_layers = <lstmc_backward_layer *>(memory + plan_bytes)
    try:
        for i in range(n):
            c_layers[i] = backward_layer(layers[i])
        call.layers = c_layers
        scratch = scratch_pool.take(scratch_bytes(table.plan_backward(memory, &call)))
        call.scratch = scratch.data()
        with nogil:
            table.backward(memory, &call)
    finally:
        PyMem_Free(memory)
