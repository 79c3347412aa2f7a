/* The element type, the vector type and the names of the compilation at hand.
 *
 * kernels.c is compiled once per element type (-DLSTMC_REAL=32 or 64) and instruction set
 * (-DLSTMC_ISA_NAME=v3 with the matching -march). This header turns those two facts into `real`, `vec`
 * and NAME(). It is not a portability layer: GCC's and Clang's vector extension is the language here,
 * and an intrinsic appears only where the extension has no words for it (masked loads and stores, the
 * larger of two, any of several).
 */
#ifndef LSTMC_REAL_H
#define LSTMC_REAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define MAX_ACCUMULATORS 24 /* of 32 registers: the rest hold a panel row and a broadcast */
#define X86_WIDTH _mm512
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define MAX_ACCUMULATORS 12 /* of 16 */
#define X86_WIDTH _mm256
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define MAX_ACCUMULATORS 24 /* of 32 */
#else
#define VECTOR_BYTES 16
#define MAX_ACCUMULATORS 12 /* of 16 */
#define X86_WIDTH _mm
#endif

#if LSTMC_REAL == 32
typedef float real;
typedef int32_t bits;
#define TYPE_NAME f32
#define X86_TYPE ps
#elif LSTMC_REAL == 64
typedef double real;
typedef int64_t bits;
#define TYPE_NAME f64
#define X86_TYPE pd
#else
#error "compile with -DLSTMC_REAL=32 or -DLSTMC_REAL=64"
#endif

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(stem) JOIN(stem, TYPE_NAME, LSTMC_ISA_NAME)
#define X86(operation) JOIN(X86_WIDTH, operation, X86_TYPE) /* the intrinsic of this type and width */

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef bits ivec __attribute__((vector_size(VECTOR_BYTES)));
/* A vector anywhere in an array: aligned as its elements are. */
typedef real uvec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

enum { VL = VECTOR_BYTES / sizeof(real) };

#define INLINE static inline __attribute__((always_inline))
/* A loop that is unrolled whole: UNROLLED(int i = 0; i < 4; i++). */
#ifdef __clang__
#define UNROLLED(...) _Pragma("unroll") for (__VA_ARGS__)
#else
#define UNROLLED(...) _Pragma("GCC unroll 32") for (__VA_ARGS__)
#endif

INLINE vec load(const real *p) { return *(const uvec *)p; }
INLINE void store(real *p, vec v) { *(uvec *)p = v; }
INLINE vec splat(real a) { return a - (vec){0}; } /* 0 - would lose the sign of a zero; a - 0 does not */

/* f(s, lane) for every lane. */
#if VECTOR_BYTES * 8 / LSTMC_REAL == 16
#define LANES(f, s)                                                                                     \
    f(s, 0), f(s, 1), f(s, 2), f(s, 3), f(s, 4), f(s, 5), f(s, 6), f(s, 7), f(s, 8), f(s, 9), f(s, 10), \
        f(s, 11), f(s, 12), f(s, 13), f(s, 14), f(s, 15)
#elif VECTOR_BYTES * 8 / LSTMC_REAL == 8
#define LANES(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3), f(s, 4), f(s, 5), f(s, 6), f(s, 7)
#elif VECTOR_BYTES * 8 / LSTMC_REAL == 4
#define LANES(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3)
#else
#define LANES(f, s) f(s, 0), f(s, 1)
#endif

/* The first n of VL lanes, 0 < n <= VL: the others read as zero and are not written. */
#if defined(__AVX512F__)
INLINE vec load_some(const real *p, ptrdiff_t n) { return X86(maskz_loadu)((1u << n) - 1, p); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) { X86(mask_storeu)(p, (1u << n) - 1, v); }
#elif defined(__AVX2__)
#define LANE(s, lane) lane
INLINE __m256i below(ptrdiff_t n) { return (__m256i)((ivec){LANES(LANE, 0)} < (bits)n); }
INLINE vec load_some(const real *p, ptrdiff_t n) { return X86(maskload)(p, below(n)); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) { X86(maskstore)(p, below(n), v); }
#else
INLINE vec load_some(const real *p, ptrdiff_t n)
{
    vec v = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        v[i] = p[i];
    return v;
}
INLINE void store_some(real *p, vec v, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = v[i];
}
#endif
/* A whole vector goes the common way: what a masked store wrote is not forwarded to a load that follows. */
INLINE vec load_n(const real *p, ptrdiff_t n) { return n == VL ? load(p) : load_some(p, n); }
INLINE void store_n(real *p, vec v, ptrdiff_t n)
{
    if (n == VL)
        store(p, v);
    else
        store_some(p, v, n);
}

/* rows[i][j] and rows[j][i] change places: after one exchange of halves, of quarters, ... of single lanes. */
#define UPPER(s, j) ((j) & (s) ? VL + (j) - (s) : (j))
#define LOWER(s, j) ((j) & (s) ? VL + (j) : ((j) + (s)) % VL)
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
INLINE void transpose(vec rows[VL])
{
#define EXCHANGE(s)                                                        \
    UNROLLED(int i = 0; (s) < VL && i < VL; i++)                           \
        if (!(i & (s))) {                                                  \
            vec upper = rows[i], lower = rows[(i + (s)) % VL];             \
            rows[i] = SHUFFLE(upper, lower, LANES(UPPER, s));              \
            rows[(i + (s)) % VL] = SHUFFLE(upper, lower, LANES(LOWER, s)); \
        }
    EXCHANGE(1)
    EXCHANGE(2)
    EXCHANGE(4)
    EXCHANGE(8)
#undef EXCHANGE
}

/* mask lanes are all ones or all zeros, as vector comparisons give them. */
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* Whether any lane of such a mask is set. */
INLINE int any(ivec mask)
{
#if defined(__AVX512F__)
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__x86_64__)
    return X86(movemask)((vec)mask) != 0;
#else
    bits set = 0;
    for (int i = 0; i < VL; i++)
        set |= mask[i];
    return set != 0;
#endif
}

/* The larger and the smaller of x and a limit; NaN where x is NaN, as x86 has it if x comes second. */
#if defined(__x86_64__)
INLINE vec at_least(vec x, real limit) { return X86(max)(splat(limit), x); }
INLINE vec at_most(vec x, real limit) { return X86(min)(splat(limit), x); }
#else
INLINE vec at_least(vec x, real limit) { return choose((ivec)(x < limit), splat(limit), x); }
INLINE vec at_most(vec x, real limit) { return choose((ivec)(x > limit), splat(limit), x); }
#endif

INLINE ptrdiff_t min_of(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
INLINE ptrdiff_t max_of(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
INLINE ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
/* Elements rounded up so that what follows starts on a 64-byte boundary. */
INLINE ptrdiff_t aligned(ptrdiff_t n)
{
    return ceil_div(n, 64 / (ptrdiff_t)sizeof(real)) * (64 / (ptrdiff_t)sizeof(real));
}

#endif
