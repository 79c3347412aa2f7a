# cython: boundscheck=False, cdivision=True
"""The binding: checks of what comes from Python, then one C call without the GIL.

Nothing is computed here. kernels.h is the manual of the calls; the layers above own every array that is
passed on to them. kernels.pxi and flat.pxi are written by declarations.py when this is built.
"""

import os

import numpy as np

from lstmc._kernels.environment import check_threads, default_threads, preferred_instruction_set
from lstmc._kernels.messages import kind_of, shape_text

cimport numpy as cnp
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    void *PyArray_DATA(cnp.ndarray) nogil
    int PyArray_ISCARRAY(cnp.ndarray) nogil     # contiguous, aligned, native and writable
    int PyArray_ISCARRAY_RO(cnp.ndarray) nogil  # the same, writable or not
    int PyArray_TYPE(cnp.ndarray) nogil
    int PyArray_CheckExact(object) nogil
    size_t PyArray_NBYTES(cnp.ndarray) nogil
    Py_ssize_t PyArray_SIZE(cnp.ndarray) nogil
    object PyArray_EMPTY(int, cnp.npy_intp *, int, int)
    enum: NPY_FLOAT, NPY_DOUBLE, NPY_INT64, NPY_INTP, NPY_LONGLONG, NPY_BOOL

cdef extern from "team.h" nogil:
    const char *lstmc_team_kind()
    int lstmc_team_cores()
    int lstmc_team_crowd(int)

include "kernels.pxi"

# The functions that activate() and activate_backward() take here, by name.
ACTIVATIONS = {
    "tanh": LSTMC_VTANH,
    "relu": LSTMC_RELU,
    "sigmoid": LSTMC_SIGMOID,
    "elu": LSTMC_ELU,
    "leaky_relu": LSTMC_LEAKY_RELU,
}

include "threads.pxi"
include "memory.pxi"
include "checks.pxi"
include "recurrent.pxi"
include "steppers.pxi"
include "flat.pxi"
