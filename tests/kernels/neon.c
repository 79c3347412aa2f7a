/* The kernels held to golden arrays, in C alone: for a processor on which there is no Python.
 *
 *     neon FILE...
 *
 * neon.py writes the files, one for each case, builds this with the kernels and runs it. Every table of the
 * build that this machine can use runs every case. It prints a line for each, with the largest error, and
 * returns 1 if one fails.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* A file is a sequence of records: this header, then n doubles. The first has the case's name and numbers,
 * which the functions below name; the others are its arrays. */
typedef struct {
    char name[80];
    int64_t expected, n; /* is it what must come out, or what goes in */
} header;

typedef struct {
    const header *is;
    const double *values;
    char *memory; /* the array in the type under test */
    char *first;  /* the same in the first run */
} array;

enum { MAX_ARRAYS = 64, MAX_LAYERS = 4, MAX_TAKEN = 256, GUARD = 64, ARENA = 64 << 20 };
static array arrays[MAX_ARRAYS];
static int num_arrays;
static const lstmc_kernels *kernels; /* the table under test */
static char *arena, *ends[MAX_TAKEN];
static size_t used;
static int num_taken, failed;
static char cell_name[sizeof(((header *)0)->name)]; /* the first word of the case's name */

static void stop(const char *what, const char *name)
{
    fprintf(stderr, "%s: %s\n", what, name);
    exit(2);
}

static void fail(const char *what, const char *name)
{
    printf("    FAILED: %s: %s\n", name, what);
    failed = 1;
}

/* Memory on a 64-byte boundary, with a guard behind it. */
static void *take(size_t bytes)
{
    char *memory = arena + used;
    used += (bytes + GUARD + 63) / 64 * 64;
    if (used > ARENA || num_taken == MAX_TAKEN)
        stop("too large", "the case");
    ends[num_taken++] = memset(memory + bytes, 0xa5, GUARD);
    return memory;
}

static void check_guards(void)
{
    for (int i = 0; i < num_taken; i++)
        for (int j = 0; j < GUARD; j++)
            if (ends[i][j] != (char)0xa5) {
                fail("bytes behind it were written", "an array");
                return;
            }
}

static double get(const char *a, ptrdiff_t i)
{
    return kernels->real_size == 4 ? ((const float *)a)[i] : ((const double *)a)[i];
}

static void put(char *a, ptrdiff_t i, double value)
{
    if (kernels->real_size == 4)
        ((float *)a)[i] = (float)value;
    else
        ((double *)a)[i] = value;
}

/* The array of this case whose name is "stem" or "stem_l1"; NULL if there is none. */
static char *seek(const char *stem, int layer)
{
    char name[sizeof(arrays->is->name)];
    snprintf(name, sizeof(name), layer < 0 ? "%s" : "%s_l%d", stem, layer);
    for (array *a = arrays; a < arrays + num_arrays; a++)
        if (strcmp(a->is->name, name) == 0)
            return a->memory;
    return NULL;
}

static char *find_of(const char *stem, int layer)
{
    char *memory = seek(stem, layer);
    if (!memory)
        stop("not in the file", stem);
    return memory;
}
static char *find(const char *name) { return find_of(name, -1); }

/* ---- the cases: they take what is given and leave what is expected --------------------------------- */

/* Some steps at a time, on packed weights and with nothing kept, must give the bits of the whole sequence. */
static void check_steps(lstmc_forward call, const lstmc_forward_layer *whole, ptrdiff_t at_once)
{
    const ptrdiff_t units = call.batch * whole->hidden * kernels->real_size, steps = call.steps;
    const ptrdiff_t state = call.batch * whole->outputs * kernels->real_size;
    lstmc_forward_layer layers[MAX_LAYERS];
    for (int l = 0; l < call.num_layers; l++) {
        layers[l] = whole[l];
        layers[l].packed = take(kernels->packed_size(&whole[l], call.cell));
        kernels->pack_layer((void *)layers[l].packed, &whole[l], call.cell);
        layers[l].h = layers[l].c = layers[l].gates = layers[l].m = NULL;
        layers[l].h_n = memcpy(take(state), whole[l].h0, state);
        layers[l].h0 = layers[l].h_n;
        if (whole[l].c0)
            layers[l].c0 = layers[l].c_n = memcpy(take(units), whole[l].c0, units);
    }
    call.y = take(at_once * state);
    call.layers = layers;
    call.steps = at_once;
    void *plan = take(kernels->forward_plan_size(call.num_layers));
    call.scratch = take(kernels->plan_forward(plan, &call));
    for (ptrdiff_t t = 0; t < steps; t += at_once) {
        kernels->forward(plan, &call);
        call.x = (const char *)call.x + at_once * call.batch * whole->inputs * kernels->real_size;
        if (memcmp(call.y, find("y") + t * state, at_once * state))
            fail(at_once == 1 ? "a step differs from the sequence" : "differs if nothing is kept", "y");
    }
    for (int l = 0; l < call.num_layers; l++)
        if (memcmp(layers[l].h_n, whole[l].h_n, state) ||
            (whole[l].c0 && memcmp(layers[l].c_n, whole[l].c_n, units)))
            fail("differs from that of the sequence", "the final state");
}

static void recurrent(const double *number, int threads)
{
    const ptrdiff_t steps = number[0], batch = number[1], inputs = number[2], hidden = number[3];
    const ptrdiff_t outputs = number[5];
    const int layers = number[4], cell = kernels->cell(cell_name), saved = kernels->saved_of(cell);
    const ptrdiff_t state = batch * outputs * kernels->real_size, units = batch * hidden * kernels->real_size;
    lstmc_forward_layer f[MAX_LAYERS] = {{0}};
    lstmc_backward_layer b[MAX_LAYERS] = {{0}};
    for (int l = 0; l < layers; l++) {
        f[l] = (lstmc_forward_layer){.h_n = find("h_n") + l * state,
                                     .h = find_of("h", l),
                                     .h0 = find("h0") + l * state,
                                     .weight_ih = find_of("weight_ih", l),
                                     .weight_hh = find_of("weight_hh", l),
                                     .bias = find_of("bias", l),
                                     .weight_hr = seek("weight_hr", l),
                                     .peepholes = seek("peephole", l),
                                     .inputs = l ? outputs : inputs,
                                     .hidden = hidden,
                                     .outputs = outputs};
        b[l] = (lstmc_backward_layer){.dh0 = find("dh0") + l * state,
                                      .dweight_ih = find_of("d_weight_ih", l),
                                      .dweight_hh = find_of("d_weight_hh", l),
                                      .dbias = find_of("d_bias", l),
                                      .dweight_hr = seek("d_weight_hr", l),
                                      .dpeepholes = seek("d_peephole", l),
                                      .dh_n = find("dh_n") + l * state,
                                      .h = f[l].h,
                                      .weight_ih = f[l].weight_ih,
                                      .weight_hh = f[l].weight_hh,
                                      .weight_hr = f[l].weight_hr,
                                      .peepholes = f[l].peepholes,
                                      .inputs = f[l].inputs,
                                      .hidden = hidden,
                                      .outputs = outputs};
        if (saved && saved == kernels->gates_of(cell))
            f[l].gates = find_of("gates", l);
        else if (saved)
            f[l].gates = take(steps * saved * units);
        b[l].gates = f[l].gates;
        if (f[l].weight_hr)
            b[l].m = f[l].m = take(steps * units);
        if (kernels->states_of(cell) == 2) {
            f[l].c_n = find("c_n") + l * units;
            f[l].c0 = find("c0") + l * units;
            b[l].c = f[l].c = find_of("c", l);
            b[l].dc0 = find("dc0") + l * units;
            b[l].dc_n = find("dc_n") + l * units;
        }
    }
    lstmc_forward forward = {.y = find("y"),
                             .x = find("x"),
                             .layers = f,
                             .num_layers = layers,
                             .cell = cell,
                             .steps = steps,
                             .batch = batch,
                             .clip = number[6],
                             .threads = threads};
    void *plan = take(kernels->forward_plan_size(layers));
    forward.scratch = take(kernels->plan_forward(plan, &forward));
    kernels->forward(plan, &forward);
    check_steps(forward, f, 1);
    check_steps(forward, f, steps);
    lstmc_backward backward = {.dx = find("dx"),
                               .dy = find("dy"),
                               .x = find("x"),
                               .layers = b,
                               .num_layers = layers,
                               .cell = cell,
                               .steps = steps,
                               .batch = batch,
                               .clip = number[6],
                               .threads = threads};
    plan = take(kernels->backward_plan_size());
    backward.scratch = take(kernels->plan_backward(plan, &backward));
    kernels->backward(plan, &backward);
}

static void linear(const double *number, int threads)
{
    const ptrdiff_t rows = number[0], inputs = number[1], outputs = number[2];
    kernels->linear_forward(find("y"), find("x"), find("weight"), find("bias"), NULL, rows, inputs, outputs,
                            threads, take(kernels->linear_forward_scratch(rows, inputs, outputs, threads)));
    kernels->linear_backward(find("dx"), find("d_weight"), find("d_bias"), find("dy"), find("x"),
                             find("weight"), rows, inputs, outputs, threads,
                             take(kernels->linear_backward_scratch(rows, inputs, outputs, threads)));
}

static void adam(const double *number, int threads)
{
    const ptrdiff_t n = number[0];
    static const char *const names[] = {"params", "m", "v"}, *const new[] = {"new_params", "new_m", "new_v"};
    for (int i = 0; i < 3; i++) /* updated in place */
        memcpy(find(new[i]), find(names[i]), n * kernels->real_size);
    kernels->adam(find("new_params"), find("new_m"), find("new_v"), find("grads"), number[1], number[2],
                  number[3], number[4], number[5], number[6], 0, n, threads);
}

static void losses(const double *number, int threads)
{
    const ptrdiff_t rows = number[0], columns = number[1];
    int64_t *targets = take(rows * sizeof(*targets));
    for (ptrdiff_t i = 0; i < rows; i++)
        targets[i] = get(find("targets"), i);
    put(find("cross_entropy"), 0,
        kernels->softmax_cross_entropy(find("dlogits"), take(rows * sizeof(double)), find("logits"), targets,
                                       -1, rows, columns, threads));
    const ptrdiff_t n = rows * columns;
    double *sums = take((n / 4096 + 1) * sizeof(double));
    uint8_t *mask = take(n);
    for (ptrdiff_t i = 0; i < n; i++)
        mask[i] = get(find("mask"), i) != 0;
    char *const y = find("logits"), *const shares = find("shares");
    put(find("squared_error"), 0,
        kernels->squared_error(find("d_squared"), sums, y, shares, mask, n, threads));
    put(find("huber"), 0, kernels->huber(find("d_huber"), sums, y, shares, mask, 0.5, n, threads));
    put(find("binary"), 0,
        kernels->binary_cross_entropy(find("d_binary"), sums, y, shares, mask, n, threads));
    put(find("norm"), 0,
        kernels->norm(take((rows * columns / 4096 + 1) * sizeof(double)), find("logits"), rows * columns,
                      threads));
}

/* exp, log1p and the activations, and that denormals are flushed inside a kernel and nowhere else. */
static void functions(const double *number, int threads)
{
    const double tiny = kernels->real_size == 4 ? 0x1p-127 : 0x1p-1023; /* half the smallest normal number */
    char *denormal = take(sizeof(double));
    const ptrdiff_t n = number[0];
    const char *const names[] = {"relu", "elu", "leaky_relu"}, *const gradients[] = {"drelu", "delu",
                                                                                     "dleaky"};
    kernels->activate(find("exp"), find("x_over_4"), LSTMC_EXP, 0, n, threads);
    kernels->activate(find("tanh"), find("x"), LSTMC_VTANH, 0, n, threads);
    kernels->activate(find("sigmoid"), find("x"), LSTMC_SIGMOID, 0, n, threads);
    kernels->activate(find("log1p"), find("x_within_1"), LSTMC_LOG1P, 0, n, threads);
    kernels->activate_backward(find("dtanh"), find("dy"), find("tanh"), LSTMC_VTANH, 0, n, threads);
    kernels->activate_backward(find("dsigmoid"), find("dy"), find("sigmoid"), LSTMC_SIGMOID, 0, n, threads);
    for (int i = 0; i < 3; i++) {
        kernels->activate(find(names[i]), find("x"), LSTMC_RELU + i, 0.5, n, threads);
        kernels->activate_backward(find(gradients[i]), find("dy"), find(names[i]), LSTMC_RELU + i, 0.5, n,
                                   threads);
    }
    put(denormal, 0, tiny);
    kernels->scale(denormal, 1, 1, threads);
    if (get(denormal, 0) != 0)
        fail("not flushed inside a kernel", "a denormal number");
    volatile double half = 0x1p-1022;
    half /= 2;
    if (half == 0)
        fail("flushed outside the kernels too", "a denormal number");
}

/* ---- running and judging them ---------------------------------------------------------------------- */

static const struct {
    const char *name; /* the first word of the case's */
    void (*run)(const double *number, int threads);
} runners[] = {{"lstm", recurrent}, {"gru", recurrent}, {"rnn", recurrent},      {"linear", linear},
               {"adam", adam},      {"losses", losses}, {"functions", functions}};

/* Relative to the largest element, because a sum of many terms errs by the size of the terms. */
static double error_of(const array *a)
{
    double error = 0, largest = 0;
    for (ptrdiff_t i = 0; i < a->is->n; i++) {
        const double off = fabs(get(a->memory, i) - a->values[i]);
        error = off <= error ? error : isnan(off) ? INFINITY : off;
        largest = fmax(largest, fabs(a->values[i]));
    }
    return error > 0 ? error / largest : 0;
}

static void run_case(const header *is, const double *number)
{
    /* double: both sides round to 1e-16, and sums have some thousand terms at most, followed by few layers
     * and steps. float rounds to 6e-8; what is given, it holds exactly. */
    const double tolerance = kernels->real_size == 4 ? 1e-5 : 1e-12;
    array *const end = arrays + num_arrays, *worst = NULL;
    double largest = -1;
    used = num_taken = 0;
    snprintf(cell_name, sizeof(cell_name), "%.*s", (int)strcspn(is->name, " "), is->name);
    for (int threads = 1; threads <= 2; threads++) {
        for (array *a = arrays; a < end; a++) {
            a->first = a->memory;
            a->memory = take(a->is->n * kernels->real_size);
            for (ptrdiff_t i = 0; i < a->is->n; i++) /* ones: what is "added to" must come out one higher */
                put(a->memory, i, a->is->expected ? 1 : a->values[i]);
        }
        for (size_t i = 0; i < sizeof(runners) / sizeof(*runners); i++)
            if (strncmp(is->name, runners[i].name, strlen(runners[i].name)) == 0)
                runners[i].run(number, threads);
    }
    check_guards();
    for (array *a = arrays; a < end; a++) {
        if (memcmp(a->first, a->memory, a->is->n * kernels->real_size))
            fail("two threads give other bits than one", a->is->name);
        if (!a->is->expected)
            continue;
        const double error = error_of(a);
        if (error > tolerance)
            fail("beyond the tolerance", a->is->name);
        if (error > largest) {
            largest = error;
            worst = a;
        }
    }
    printf("%-8s f%d  %-56s %.1e (%s)\n", kernels->isa, 8 * kernels->real_size, is->name, largest,
           worst->is->name);
}

/* Reads one case into new memory, which is that of its first record. */
static header *read_case(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        stop("cannot be read", path);
    const size_t size = ftell(file);
    char *bytes = malloc(size), *next = bytes;
    rewind(file);
    if (!bytes || fread(bytes, 1, size, file) != size)
        stop("cannot be read", path);
    fclose(file);
    for (num_arrays = -1; next < bytes + size; num_arrays++) {
        const header *is = (const header *)next;
        if (num_arrays == MAX_ARRAYS)
            stop("too many arrays", path);
        if (num_arrays >= 0)
            arrays[num_arrays] = (array){.is = is, .values = (const double *)(is + 1)};
        next += sizeof(*is) + is->n * sizeof(double);
    }
    return (header *)bytes;
}

int main(int count, char **paths)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* so that it is seen where it hangs */
    arena = aligned_alloc(64, ARENA);
    for (int i = 1; i < count; i++) {
        header *is = read_case(paths[i]);
        char isas[64];
        lstmc_instruction_sets(isas);
        for (char *isa = strtok(isas, " "); isa; isa = strtok(NULL, " "))
            for (int bytes = 4; bytes <= 8; bytes += 4) {
                kernels = lstmc_table(bytes, isa);
                run_case(is, (const double *)(is + 1));
            }
        free(is);
    }
    return failed;
}
