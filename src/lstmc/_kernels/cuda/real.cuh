/* What all kernels of a GPU share: functions of numbers, shared memory, sums over a block, a barrier of
 * blocks.
 *
 * CUDA C without a header of the toolkit: NVRTC compiles it as it is, once per type that `real` stands for.
 * Compiled as plain C++ (LSTMC_EMULATED), with a program in the place of threads and blocks, it is tested
 * where there is no GPU.
 *
 * Rules that hold everywhere: arrays are C-contiguous, their axes in the order of the shape; a pointer may
 * be NULL only where its comment says so; outputs overlap nothing unless a comment says otherwise; every sum
 * has one fixed order, so that the same call gives the same bits.
 */
#ifndef LSTMC_REAL_CUH
#define LSTMC_REAL_CUH

typedef long long index_t;

#ifndef LSTMC_EMULATED
/* The block's shared memory, whose size the launch says. Starts on a 16-byte boundary. */
#define DYNAMIC_SHARED(type, name)                                 \
    extern __shared__ __align__(16) unsigned char lstmc_shared[]; \
    type *name = reinterpret_cast<type *>(lstmc_shared)
#endif

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

/* i over [0, n), shared out among all threads of the grid. */
#define FOR_EACH(i, n) \
    for (index_t i = blockIdx.x * (index_t)blockDim.x + threadIdx.x; i < (n); \
         i += (index_t)gridDim.x * blockDim.x)

template <typename real>
DEVICE real sigmoid(real x)
{
    return 1 / (1 + exp(-x));
}

/* Four numbers, read at once. */
template <typename real>
struct __align__(16) four {
    real x, y, z, w;
};

/* Return value summed over the block's threads, by halves, to every thread. room: blockDim.x numbers of
 * shared memory; blockDim.x is a power of two. */
template <typename number>
DEVICE number block_sum(number value, number *room)
{
    const int thread = threadIdx.x;
    __syncthreads(); /* what was in room before has been read */
    room[thread] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half /= 2) {
        if (thread < half)
            room[thread] += room[thread + half];
        __syncthreads();
    }
    return room[0];
}

/* Return the largest value over the block's threads, likewise; NaN counts as nothing. */
template <typename number>
DEVICE number block_most(number value, number *room)
{
    const int thread = threadIdx.x;
    __syncthreads();
    room[thread] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half /= 2) {
        if (thread < half && room[thread + half] > room[thread])
            room[thread] = room[thread + half];
        __syncthreads();
    }
    return room[0];
}

/* Wait until `goal` blocks in all have arrived: what they wrote before is then seen by __ldcg. *count is 0
 * when the kernel starts. All blocks must be resident: a cooperative launch. */
DEVICE void wait_for_blocks(unsigned *count, unsigned goal)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1u);
        while (*(volatile unsigned *)count < goal)
            __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
}

#endif
