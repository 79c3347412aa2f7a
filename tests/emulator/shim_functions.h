/* The functions of shim.h that CUDA has and C++ has not: barriers, warps, atomics, loads, numbers. */

/* ---- barriers, warps, atomics ---- */

static inline void __syncthreads() { emulated::wait(emulated::AT_BARRIER); }
static inline void __nanosleep(unsigned) { emulated::wait(emulated::SPINNING); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
[[noreturn]] static inline void __trap() { throw emulated::Failure{"__trap()"}; }
static inline long long clock64() {
    static long long now;
    return now += 100;
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)emulated::warp(emulated::BALLOT, mask, predicate != 0, 0);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) { __ballot_sync(mask, 0); }
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

namespace emulated {
template <typename T>
static T shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle is of 4 or 8 bytes");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = warp(SHUFFLE, mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}
} /* namespace emulated */

template <typename T>
static T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    unsigned lane = emulated::lane_of(*emulated::current);
    return emulated::shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <typename T>
static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    unsigned lane = emulated::lane_of(*emulated::current), source = lane ^ bits;
    if (source >= (lane & ~(width - 1)) + width) source = lane;
    return emulated::shuffle(mask, value, source);
}
template <typename T>
static T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    unsigned lane = emulated::lane_of(*emulated::current);
    bool inside = (lane & (width - 1)) + by < (unsigned)width;
    return emulated::shuffle(mask, value, inside ? lane + by : lane);
}
template <typename T>
static T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    unsigned lane = emulated::lane_of(*emulated::current);
    bool inside = (lane & (width - 1)) >= by;
    return emulated::shuffle(mask, value, inside ? lane - by : lane);
}

/* The value's type is not deduced, so that atomicAdd(&an_unsigned, 1) is what it is in CUDA. */
namespace emulated {
template <typename T>
struct Same {
    typedef T type;
};
template <typename T>
using same = typename Same<T>::type;
} /* namespace emulated */

#define EMULATED_ATOMIC(name, allowed, new_value)                                                  \
    template <typename T>                                                                          \
    static inline T name(T *address, emulated::same<T> value) {                                    \
        static_assert(sizeof(T) == 4 || sizeof(T) == 8, #name " is of 4 or 8 bytes");              \
        static_assert(std::is_##allowed<T>::value, #name " is not of this type");                  \
        T old = *address;                                                                          \
        *address = new_value;                                                                      \
        emulated::poll();                                                                          \
        return old;                                                                                \
    }
EMULATED_ATOMIC(atomicAdd, arithmetic, old + value)
EMULATED_ATOMIC(atomicSub, integral, old - value)
EMULATED_ATOMIC(atomicMax, integral, old < value ? value : old)
EMULATED_ATOMIC(atomicMin, integral, value < old ? value : old)
EMULATED_ATOMIC(atomicAnd, integral, old & value)
EMULATED_ATOMIC(atomicOr, integral, old | value)
EMULATED_ATOMIC(atomicXor, integral, old ^ value)
EMULATED_ATOMIC(atomicExch, arithmetic, value)
#undef EMULATED_ATOMIC
template <typename T>
static inline T atomicCAS(T *address, emulated::same<T> compare, emulated::same<T> value) {
    static_assert(std::is_integral<T>::value, "atomicCAS is of integers");
    T old = *address;
    if (old == compare) *address = value;
    emulated::poll();
    return old;
}

/* ---- loads, stores and numbers ---- */

/* Those of an integer may be of a loop that waits; it then gets its turn to wait. */
#define EMULATED_LOAD(name)                                                                        \
    template <typename T>                                                                          \
    static inline T name(const T *address) {                                                       \
        if (std::is_integral<T>::value) emulated::poll();                                          \
        __asm__ volatile("" ::: "memory");                                                         \
        return *address;                                                                           \
    }
EMULATED_LOAD(__ldg)
EMULATED_LOAD(__ldca)
EMULATED_LOAD(__ldcg)
EMULATED_LOAD(__ldcs)
EMULATED_LOAD(__ldlu)
EMULATED_LOAD(__ldcv)
#undef EMULATED_LOAD
#define EMULATED_STORE(name)                                                                       \
    template <typename T>                                                                          \
    static inline void name(T *address, emulated::same<T> value) {                                 \
        *address = value;                                                                          \
    }
EMULATED_STORE(__stwb)
EMULATED_STORE(__stcg)
EMULATED_STORE(__stcs)
EMULATED_STORE(__stwt)
#undef EMULATED_STORE

#define EMULATED_BITS(name, From, To)                                                              \
    static inline To name(From from) {                                                             \
        To to;                                                                                     \
        memcpy(&to, &from, sizeof to);                                                             \
        return to;                                                                                 \
    }
EMULATED_BITS(__float_as_uint, float, unsigned)
EMULATED_BITS(__float_as_int, float, int)
EMULATED_BITS(__uint_as_float, unsigned, float)
EMULATED_BITS(__int_as_float, int, float)
EMULATED_BITS(__double_as_longlong, double, long long)
EMULATED_BITS(__longlong_as_double, long long, double)
#undef EMULATED_BITS

/* min and max of any two numbers; of floating ones, NaN is what the other is, as in CUDA. */
template <typename A, typename B>
static inline typename std::common_type<A, B>::type min(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return fmin((T)a, (T)b);
    else return (T)a < (T)b ? (T)a : (T)b;
}
template <typename A, typename B>
static inline typename std::common_type<A, B>::type max(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return fmax((T)a, (T)b);
    else return (T)a < (T)b ? (T)b : (T)a;
}

static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
#define __expf expf /* macros, as glibc has functions of these names */
#define __logf logf
#define __powf powf
#define __sinf sinf
#define __cosf cosf
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
