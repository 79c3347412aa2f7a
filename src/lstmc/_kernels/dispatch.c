/* Which of the compiled tables a machine can use. LSTMC_HAVE_<isa> says which the build has. */
#include <stdio.h>
#include <string.h>

#include "lstmc.h"

#define DECLARE(isa) extern const lstmc_kernels lstmc_kernels_f32_##isa, lstmc_kernels_f64_##isa;
#define TABLES(isa) {&lstmc_kernels_f32_##isa, &lstmc_kernels_f64_##isa}

#ifdef LSTMC_HAVE_v4
DECLARE(v4)
static int has_v4(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif
#ifdef LSTMC_HAVE_v3
DECLARE(v3)
static int has_v3(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}
#endif
static int has_always(void) { return 1; }
#ifdef LSTMC_HAVE_neon
DECLARE(neon)
#endif
#ifdef LSTMC_HAVE_baseline
DECLARE(baseline)
#endif

static const struct {
    int (*supported)(void);
    const lstmc_kernels *tables[2];
} choices[] = { /* best first */
#ifdef LSTMC_HAVE_v4
    {has_v4, TABLES(v4)},
#endif
#ifdef LSTMC_HAVE_v3
    {has_v3, TABLES(v3)},
#endif
#ifdef LSTMC_HAVE_neon
    {has_always, TABLES(neon)},
#endif
#ifdef LSTMC_HAVE_baseline
    {has_always, TABLES(baseline)},
#endif
};

enum { CHOICES = sizeof(choices) / sizeof(choices[0]) };

const lstmc_kernels *lstmc_table(int real_size, const char *isa)
{
    for (int i = 0; i < CHOICES; i++) {
        const lstmc_kernels *table = choices[i].tables[real_size == 8];
        if ((!isa || strcmp(isa, table->isa) == 0) && choices[i].supported())
            return table;
    }
    return NULL;
}

void lstmc_instruction_sets(char *names)
{
    *names = '\0';
    for (int i = 0; i < CHOICES; i++)
        if (choices[i].supported()) {
            if (*names)
                strcat(names, " ");
            strcat(names, choices[i].tables[0]->isa);
        }
}

/* Bijective in the lane and in the word: a change in one word changes the lane for certain. The shift brings
 * high bits down again; without it, two changes of sign would undo each other. */
static uint32_t mixed(uint32_t lane, uint32_t word)
{
    lane = (lane ^ word) * 0x9e3779b1u;
    return lane ^ lane >> 15;
}

/* Sixteen lanes run side by side. */
uint64_t lstmc_fingerprint(const void *bytes, size_t size)
{
    enum { LANES = 16 };
    uint32_t lane[LANES], word[LANES];
    const unsigned char *p = bytes;
    for (int i = 0; i < LANES; i++)
        lane[i] = 0x9e3779b9u * (uint32_t)(i + 1);
    for (; size >= sizeof(word); p += sizeof(word), size -= sizeof(word)) {
        memcpy(word, p, sizeof(word));
        for (int i = 0; i < LANES; i++)
            lane[i] = mixed(lane[i], word[i]);
    }
    memset(word, 0, sizeof(word));
    memcpy(word, p, size);
    uint64_t all = size;
    for (int i = 0; i < LANES; i++) {
        lane[i] = mixed(lane[i], word[i]);
        all = (all ^ lane[i]) * 0x9e3779b97f4a7c15u;
        all ^= all >> 29;
    }
    return all;
}
