/* What lets CUDA C++ be compiled by a C++17 compiler and run on the CPU, one fiber per CUDA thread.
 *
 * It is a tool of tests: it looks for mistakes in the logic of a kernel (barriers, indices, races between
 * barriers) and says nothing of speed, of memory ordering or of the rounding of a real device. A kernel
 * source is appended to it, then a table of the kernels wanted (see modules.py).
 *
 * Threads run one at a time, each until it waits (a barrier, a warp operation, a __nanosleep()) or ends.
 * A round gives every thread of a block that can run one turn, in the order asked for; then barriers are
 * opened. */
#define LSTMC_EMULATED 1

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <type_traits>
#include <utility>
#include <vector>

/* ---- words of the language ---- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ _Pragma("GCC error \"declare shared memory with DYNAMIC_SHARED(type, name)\"")
#define DYNAMIC_SHARED(type, name) type *name = (type *)emulated::dynamic_shared()

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMULATED_VECTORS(T, name, bytes)                                                           \
    struct __align__(2 * bytes) name##2 { T x, y; };                                               \
    struct name##3 { T x, y, z; };                                                                 \
    struct __align__(4 * bytes > 16 ? 16 : 4 * bytes) name##4 { T x, y, z, w; };                   \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                              \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                      \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTORS(float, float, 4)
EMULATED_VECTORS(double, double, 8)
EMULATED_VECTORS(int, int, 4)
EMULATED_VECTORS(long long, longlong, 8)
EMULATED_VECTORS(unsigned long long, ulonglong, 8)
struct __align__(8) uint2 {
    unsigned x, y;
};
struct __align__(16) uint4 {
    unsigned x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
#undef EMULATED_VECTORS

/* Not static: a compiler may then not assume that they stay over a call that waits. */
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

#include "shim_fibers.h"
#include "shim_functions.h"
