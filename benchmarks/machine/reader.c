/* Reads an array as fast as loads go: several independent accumulators of the widest vectors. */
#include <stddef.h>

#if defined(__AVX512F__)
enum { WIDTH = 64 };
#elif defined(__AVX__)
enum { WIDTH = 32 };
#else
enum { WIDTH = 16 };
#endif
typedef long long lanes __attribute__((vector_size(WIDTH)));

/* bytes: 64-byte aligned, a multiple of 8 * 64 of them. Returns something that depends on all of them. */
long long read_all(const void *bytes, ptrdiff_t size, ptrdiff_t passes)
{
    enum { CHAINS = 8 };
    lanes sum[CHAINS] = {{0}};
    for (ptrdiff_t pass = 0; pass < passes; pass++) {
        const lanes *p = bytes, *end = p + size / WIDTH;
        for (; p < end; p += CHAINS)
            for (int k = 0; k < CHAINS; k++)
                sum[k] ^= p[k];
        __asm__ volatile("" : : : "memory"); /* or one pass would do for all */
    }
    for (int k = 1; k < CHAINS; k++)
        sum[0] ^= sum[k];
    return sum[0][0];
}
