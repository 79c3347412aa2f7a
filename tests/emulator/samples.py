"""Kernels that the tests of the double run: right ones, and some with each mistake that it must see."""

SOURCE = r"""
#ifndef LSTMC_EMULATED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

template <typename T, bool with_barrier>
__global__ void turn(T *out) {
    DYNAMIC_SHARED(T, all);
    all[threadIdx.x] = (T)threadIdx.x;
    if (with_barrier) __syncthreads();
    out[threadIdx.x] = all[(threadIdx.x + 1) % blockDim.x];
}

template <typename T>
__global__ void twice(T *x, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) x[i] *= 2;
}

extern "C" __global__ void shift_all(float *x, float *y, unsigned *arrived, int steps, bool sleeps) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x, goal = 0;
    for (int step = 0; step < steps; step++) {
        y[(i + 1) % n] = x[i];
        __syncthreads();
        goal += gridDim.x;
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1);
            while (__ldcg(arrived) < goal) {
                if (sleeps) __nanosleep(20);
            }
        }
        __syncthreads();
        float *other = x;
        x = y;
        y = other;
    }
}

template <typename T>
__global__ void shuffles(T *out) {
    T sum = (T)threadIdx.x;
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    T *row = out + 4 * threadIdx.x;
    row[0] = sum;
    row[1] = __shfl_sync(0xffffffffu, (T)threadIdx.x, 3);
    row[2] = __shfl_down_sync(0xffffffffu, (T)threadIdx.x, 1);
    row[3] = __shfl_up_sync(0xffffffffu, (T)threadIdx.x, 2, 8);
}

extern "C" __global__ void fails(float *x, int how) {
    DYNAMIC_SHARED(float, all);
    if (how == 0) {
        if (threadIdx.x < 5) return;
        __syncthreads();
    }
    if (how == 1) all[threadIdx.x + 1] = 1;
    if (how == 2) x[threadIdx.x + 1] = 1;
    if (how == 3) x[(int)threadIdx.x - 1] = 1;
    if (how == 4) __trap();
    if (how == 5 && threadIdx.x) __shfl_sync(1u, x[0], 0);
    if (how == 6) *(float2 *)(x + 1) = make_float2(1, 2);
    if (how == 7) *(float *)(size_t)(how - 7) = 1;
    if (how == 8) {
        float few[4] = {};
        for (int i = 0; i < how; i++) few[i] = x[i];
        x[0] = few[1];
    }
    if (how == 9) x[0] = (int)threadIdx.x / (how - 9);
}

extern "C" __global__ void kinds(float *x, int i, double d, bool b) {}

struct pair { float *x; int n; };
extern "C" __global__ void of_struct(pair p) { for (int i = 0; i < p.n; i++) p.x[i] = i; }
"""
NAMES = [f"turn<{t}, {b}>" for t in ("float", "double") for b in ("true", "false")]
NAMES += [f"{name}<{t}>" for name in ("twice", "shuffles") for t in ("float", "double")]


def kernel(cupy, name, cooperative=False):
    """Return one of them, compiled by the double."""
    module = cupy.RawModule(
        code=SOURCE,
        options=("--std=c++17",),
        name_expressions=NAMES,
        enable_cooperative_groups=cooperative,
    )
    return module.get_function(name)
