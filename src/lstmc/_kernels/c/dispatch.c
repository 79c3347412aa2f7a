/* Which of the compiled tables a machine can use. LSTMC_HAVE_<isa> says which the build has. */
#include <stdio.h>
#include <string.h>

#include "kernels.h"

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
/* What the compiler may use unasked. */
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
} choices[] = {
/* best first */
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

/* An entry for each instruction set of the build, each with a table for float and one for double. */
enum { CHOICES = sizeof(choices) / sizeof(choices[0]) };

const lstmc_kernels *lstmc_table(int real_size, const char *isa)
{
    if (real_size != 4 && real_size != 8)
        return NULL;
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
