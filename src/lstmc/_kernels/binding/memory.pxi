# Memory that is used again, and arrays in it.

cdef enum:
    MOST_BLOCKS = 32
    PATIENCE = 128  # requests after which a block that none of them could use is freed
    MOST_AXES = 8

cdef class Pool:
    """Memory that is used again: fresh pages cost more than the arithmetic of a small layer.

    What the last PATIENCE requests had no use for goes back to the system: a pool holds no more than these used,
    beside the arrays that are alive. The GIL guards a pool: none of its methods runs Python code in between.
    """

    cdef void *blocks[MOST_BLOCKS]  # the one that came back last at the end
    cdef size_t sizes[MOST_BLOCKS]
    cdef unsigned long long used[MOST_BLOCKS]  # the number of requests until when each was of use
    cdef unsigned long long requests
    cdef int count
    cdef bint any_size  # a block of any size that fits will do: for what comes back soon

    cdef void *remove(self, int which) noexcept:
        cdef void *block = self.blocks[which]
        self.count -= 1
        for i in range(which, self.count):
            self.blocks[i] = self.blocks[i + 1]
            self.sizes[i] = self.sizes[i + 1]
            self.used[i] = self.used[i + 1]
        return block

    cpdef void tick(self) noexcept:
        """Count a request, and free what the last ones had no use for."""
        self.requests += 1
        for i in reversed(range(self.count)):
            if self.requests - self.used[i] > PATIENCE:
                PyMem_RawFree(self.remove(i))

    def release(self):
        """Free all that is not in use."""
        while self.count:
            PyMem_RawFree(self.remove(self.count - 1))

    @property
    def nbytes(self):
        """How many bytes wait to be used again."""
        return sum([self.sizes[i] for i in range(self.count)])

    cdef Buffer take(self, size_t nbytes):
        """Return a Buffer of at least so many bytes, not initialised.

        The smallest block that fits, if it is at most twice as large (or of `any_size`). If none is, those
        that the new one will do for (not less than half as large, or of any size) are freed first.
        """
        cdef Buffer buffer = Buffer.__new__(Buffer)
        cdef int i, best = -1
        self.tick()
        buffer.pool = self
        if nbytes < 64:
            nbytes = 64
        for i in range(self.count):
            if (nbytes <= self.sizes[i] and (self.any_size or self.sizes[i] <= 2 * nbytes + 4096)
                    and (best < 0 or self.sizes[i] < self.sizes[best])):
                best = i
        if best >= 0:
            buffer.size = self.sizes[best]
            if buffer.size > 2 * nbytes + 4096:
                buffer.used = self.used[best]
            buffer.raw = self.remove(best)
            return buffer
        for i in reversed(range(self.count)):
            if self.sizes[i] < nbytes and (self.any_size or nbytes <= 2 * self.sizes[i]):
                PyMem_RawFree(self.remove(i))
        buffer.raw = PyMem_RawMalloc(nbytes + 64)
        buffer.size = nbytes
        if buffer.raw == NULL:
            raise MemoryError(f"no memory for an array of {nbytes} bytes")
        return buffer

    def array(self, shape, dtype):
        """Return an array on a 64-byte boundary, not initialised; its memory comes back when the last view goes."""
        cdef cnp.npy_intp axes[MOST_AXES]
        cdef int ndim = len(shape), number = np.dtype(dtype).num
        if number != NPY_FLOAT and number != NPY_DOUBLE:
            raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
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
        cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(ndim, axes, number, buffer.data())
        cnp.set_array_base(array, buffer)
        return array

    cdef void give_back(self, void *raw, size_t size, unsigned long long used) noexcept:
        if self.count == MOST_BLOCKS:
            PyMem_RawFree(self.remove(0))
        self.blocks[self.count] = raw
        self.sizes[self.count] = size
        self.used[self.count] = used or self.requests
        self.count += 1

    def __dealloc__(self):
        for i in range(self.count):
            PyMem_RawFree(self.blocks[i])


cdef class Buffer:
    """Bytes that start on a 64-byte boundary and go back to their pool."""

    cdef void *raw
    cdef size_t size
    cdef unsigned long long used  # what it was before, where it is too large for what it is used for; else 0
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
            self.pool.give_back(self.raw, self.size, self.used)


cdef Pool scratch_pool = Pool()  # of what a call needs while it runs
scratch_pool.any_size = True
