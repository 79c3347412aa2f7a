/* exp, tanh, sigmoid, log1p and expm1 on vectors.
 *
 * Bounds of the error, in units in the last place of the correctly rounded result, as
 * tests/kernels/test_c_api.py measures and asserts them: of f32 over all floats (1.095, 2.523, 2.481, 1.327,
 * 1.142), of f64 over some million numbers (1.044, 2.461, 2.100, 1.244, 1.146). Results that would be
 * denormal are flushed to zero.
 *
 *   exp       1.1    arguments up to 88.37626 (f32) or 709.43614 (f64); above, infinity
 *   tanh      2.6    odd to the bit, exactly +-1 where it saturates
 *   sigmoid   2.5    exactly 0 and 1 where it saturates
 *   log1p     1.4    arguments from 0 to 1 alone
 *   expm1     1.3    arguments up to 0 alone
 *
 * NaN stays NaN. Sums are written so that each has one product to contract with: the result does not
 * depend on what the compiler chooses to fuse.
 */
#ifndef LSTMC_VMATH_H
#define LSTMC_VMATH_H

#include "real.h"

#define LOG2_E 0x1.71547652b82fep0
#if LSTMC_REAL == 32
#define LN2_HIGH 0x1.62e4p-1f /* 15 bits: n times this is exact */
#define LN2_LOW 0x1.7f7d1cp-20f
/* x + this - this rounds x to an integer; x + this has the exponent of 2^x in its low bits, bias and all. */
#define ROUND_MAGIC (0x1.8p23f + 127)
#define MANTISSA_BITS 23
#define EXP_LOWEST -88.0f  /* its n is -127, whose scale has all bits zero: 0 */
#define EXP_HIGHEST 88.8f  /* from 88.376 on n is 128, whose scale has the bits of infinity */
#define TANH_HIGHEST 10.0f /* tanh is 1 from 9.02 on */
#else
#define LN2_HIGH 0x1.62e42fefa3p-1
#define LN2_LOW 0x1.3de6af278ece6p-42
#define ROUND_MAGIC (0x1.8p52 + 1023)
#define MANTISSA_BITS 52
#define EXP_LOWEST -709.0
#define EXP_HIGHEST 709.9 /* from 709.436 on n is 1024 */
#define TANH_HIGHEST 20.0 /* tanh is 1 from 19.1 on */
#endif

/* (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2, Chebyshev fits; error of exp(r): 7.8e-9 and 1.3e-17. */
INLINE vec exp_tail(vec r)
{
#if LSTMC_REAL == 32
    vec q = splat(0x1.6d113cp-10f);
    q = q * r + 0x1.120ba2p-7f;
    q = q * r + 0x1.55551ap-5f;
    q = q * r + 0x1.5554dcp-3f;
    q = q * r + 0x1p-1f;
#else
    vec q = splat(0x1.af38d53857513p-26);
    q = q * r + 0x1.2891a8c1d838dp-22;
    q = q * r + 0x1.71de0d9c145d0p-19;
    q = q * r + 0x1.a019b8ef67c6cp-16;
    q = q * r + 0x1.a01a01a7c8d47p-13;
    q = q * r + 0x1.6c16c17893833p-10;
    q = q * r + 0x1.11111111109adp-7;
    q = q * r + 0x1.5555555553d4fp-5;
    q = q * r + 0x1.5555555555556p-3;
    q = q * r + 0x1.0000000000001p-1;
#endif
    return q;
}

/* x = n ln2 + r: returns exp(r) - 1 and gives 2^n in *scale. */
INLINE vec exp_reduced(vec x, vec *scale)
{
    vec shifted = x * (real)LOG2_E + ROUND_MAGIC;
    vec n = shifted - ROUND_MAGIC;
    vec r = x - n * LN2_HIGH;
    r = r - n * LN2_LOW;
    *scale = (vec)((ivec)shifted << MANTISSA_BITS);
    return (r * r) * exp_tail(r) + r;
}

/* Of x within the limits. */
INLINE vec exp_within(vec x)
{
    vec scale, p = exp_reduced(x, &scale);
    return scale * (1 + p); /* scale * p alone may be denormal, and flushed */
}

/* A NaN passes through both limits: a comparison with it is false. */
INLINE vec v_exp(vec x) { return exp_within(at_most(at_least(x, EXP_LOWEST), EXP_HIGHEST)); }

/* The sign is changed after the limits, where it costs nothing: it goes into the first multiply-adds. */
INLINE vec v_sigmoid(vec x) { return 1 / (1 + exp_within(-at_most(at_least(x, -EXP_HIGHEST), -EXP_LOWEST))); }

/* exp(x) - 1 of x within the limits; it keeps small x exact. */
INLINE vec expm1_within(vec x)
{
    vec scale, p = exp_reduced(x, &scale);
    return scale * p + (scale - 1);
}

INLINE vec v_expm1(vec x) { return expm1_within(at_least(x, EXP_LOWEST)); }

/* tanh(a) = e / (e + 2) with e = exp(2a) - 1 */
INLINE vec v_tanh(vec x)
{
    const ivec sign = (ivec)splat((real)-0.0);
    vec a = (vec)((ivec)x & ~sign);
    a = at_most(a, TANH_HIGHEST);
    vec e = expm1_within(a + a);
    return (vec)((ivec)(e / (e + 2)) | ((ivec)x & sign));
}

/* log(1 + x) = 2 atanh(s) with s = x / (2 + x); and 2 s is x - s x, which keeps small x exact. The polynomial
 * is (2 atanh(s) / s - 2) / s^2 in s^2 <= 1/9, a Chebyshev fit; error of the logarithm: 1.1e-9 and 7.3e-18 of
 * it. */
INLINE vec v_log1p(vec x)
{
    const vec s = x / (2 + x), square = s * s;
#if LSTMC_REAL == 32
    vec q = splat(0x1.dbef8ep-3f);
    q = q * square + 0x1.bc7be0p-3f;
    q = q * square + 0x1.24c9bep-2f;
    q = q * square + 0x1.9998d2p-2f;
    q = q * square + 0x1.555556p-1f;
#else
    vec q = splat(0x1.4b450d2a54ca0p-3);
    q = q * square + 0x1.683fb6064d977p-4;
    q = q * square + 0x1.eb9c8ed7159e2p-4;
    q = q * square + 0x1.10abc75ca9c41p-3;
    q = q * square + 0x1.3b18bdf1a5926p-3;
    q = q * square + 0x1.745cf041c4b97p-3;
    q = q * square + 0x1.c71c7273a4299p-3;
    q = q * square + 0x1.24924923d10b8p-2;
    q = q * square + 0x1.999999999a413p-2;
    q = q * square + 0x1.5555555555555p-1;
#endif
    return x - s * (x - square * q);
}

#endif
