/* The C interface of lstmc, and the manual of every pointer in it.
 *
 * There is one table of functions per element type and instruction set; lstmc_table() gives one. All
 * tables have this same form: `lstmc_real` stands for float in an f32 table and for double in an f64
 * table, and ROOM says what an argument must have room for.
 *
 * Rules that hold everywhere unless a comment says otherwise:
 *   - Arrays are C-contiguous, in the order of axes given, aligned as their elements are. Scratch and
 *     packed weights start on a 64-byte boundary.
 *   - Outputs may not overlap anything. Inputs may overlap each other.
 *   - "written" outputs are set; "added to" outputs must hold numbers before.
 *   - Sizes are not negative. A kernel never allocates, prints, locks or exits, and keeps nothing: scratch
 *     is an argument, its size in bytes is what its plan or its twin `..._scratch` says.
 *   - `threads` is the most threads a call may use; it takes fewer where more would not help. Results have
 *     the same bits for every number.
 *   - Sequences of one call may differ in length. They are then sorted, the longest first, and `starts`
 * (T+1,) says where the rows of each step begin: those of step t, starts[t+1] - starts[t] of them and never
 * more than those of the step before, belong to the first sequences. What is (T, B, .) has starts[T] rows,
 * and what is (T+1, B, .) has B more, the first ones. B is the number of sequences, each of one step at
 * least, T the length of the longest. NULL: all have length T.
 *   - Letters: T steps, B batch rows, I inputs, H hidden units, G gates (row blocks of the weights, in the
 *     order that the cell's file says), S biases of a unit (G, or more), V classes; P units of the state h,
 *     which are H, or fewer where a layer has a projection: h is then W_hr m, and m what the cell makes
 *     (Sak et al. 2014).
 */
#ifndef LSTMC_KERNELS_H
#define LSTMC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* cffi begin */
typedef void lstmc_real; /* float or double, as the table says */

enum { LSTMC_UNKNOWN = -1 }; /* returned for a number that names no cell or function */
/* function of activate() */
enum {
    LSTMC_EXP = 0,
    LSTMC_VTANH = 1,
    LSTMC_SIGMOID = 2,
    LSTMC_LOG1P = 3,
    LSTMC_RELU = 4,
    LSTMC_ELU = 5,
    LSTMC_LEAKY_RELU = 6
};

/* One layer of a stack, forward. What is of c is NULL where the cell has none, what is of m and W_hr where
   there is no projection, which a cell may have that has one phase and does not carry h on by itself. */
typedef struct {
    /* outputs, written */
    lstmc_real *h_n; /* (B, P) the state after each sequence's last step; may be h0 itself */
    lstmc_real *c_n; /* (B, H) likewise, may be c0 itself */
    /* saved for backward: all of them, or all NULL to keep nothing */
    lstmc_real *h;     /* (T+1, B, P): slot 0 becomes h0, slot t the state after t steps */
    lstmc_real *c;     /* (T+1, B, H) */
    lstmc_real *gates; /* (T, B, saved*H) what the cell saves: its activated gates */
    lstmc_real *m;     /* (T, B, H) what the cell makes, before the projection */
    /* inputs */
    const lstmc_real *h0; /* (B, P) */
    const lstmc_real *c0; /* (B, H) */
    /* weights */
    const lstmc_real *weight_ih; /* (G*H, I) */
    const lstmc_real *weight_hh; /* (G*H, P) */
    const lstmc_real *bias;      /* (S*H,) */
    const lstmc_real *weight_hr; /* (P, H) */
    const lstmc_real *peepholes; /* (peepholes*H,), NULL where the cell has none */
    const lstmc_real *packed; /* pack_layer() of those above, which are then not read (of weight_hr, whether
                                 it is NULL); or NULL: the call packs them for itself */
    /* sizes */
    ptrdiff_t inputs;  /* I: the features of x for the first layer, P of the layer below for others */
    ptrdiff_t hidden;  /* H, the same in all layers of a stack */
    ptrdiff_t outputs; /* P, likewise; H without a projection */
} lstmc_forward_layer;

typedef struct {
    lstmc_real *y;       /* written: (T, B, P) h of the last layer at every step; or NULL, if that is saved */
    const lstmc_real *x; /* (T, B, I) */
    const lstmc_forward_layer *layers;
    int num_layers;          /* at least 1 */
    int cell;                /* the number that cell() returns for its name */
    ptrdiff_t steps, batch;  /* T, B */
    const ptrdiff_t *starts; /* (T+1,), or NULL; a plan is for these, too */
    /* (starts[T],) which row of y each of h is, where states are saved; NULL: the same. Rows that it does not
       name are not written. */
    const ptrdiff_t *order;
    double clip; /* the limit of sums, above 0, where the cell clips them */
    int threads;
    void *scratch; /* as many bytes as plan_forward() says; not read by that */
} lstmc_forward;

/* One layer of a stack, backward. Likewise. */
typedef struct {
    /* outputs, written */
    lstmc_real *dh0; /* (B, P); may be dh_n itself */
    lstmc_real *dc0; /* (B, H); may be dc_n itself */
    /* outputs, added to: all of them, or all NULL for none */
    lstmc_real *dweight_ih; /* (G*H, I) */
    lstmc_real *dweight_hh; /* (G*H, P) */
    lstmc_real *dbias;      /* (S*H,) */
    lstmc_real *dweight_hr; /* (P, H) */
    lstmc_real *dpeepholes; /* (peepholes*H,) */
    /* inputs */
    const lstmc_real *dh_n;  /* (B, P) the gradient arriving through the final state, or NULL for zeros */
    const lstmc_real *dc_n;  /* (B, H) likewise */
    const lstmc_real *h;     /* (T+1, B, P), as forward saved it */
    const lstmc_real *c;     /* (T+1, B, H) */
    const lstmc_real *gates; /* (T, B, saved*H) */
    const lstmc_real *m;     /* (T, B, H) */
    /* saved, written */
    /* ... each may be NULL: it is not saved */
    lstmc_real *dgates; /* (T, B, G*H) the gradient of the sums before the activations; may be gates, if of
                           one size */
    lstmc_real *dh;     /* (T, B, P) what arrives at h after each step from the step after (the last: dh_n) */
    lstmc_real *dc;     /* (T, B, H) likewise at c, through c of the step after */
    lstmc_real *dx;     /* (T, B, I) what goes to y of the layer below; of the first layer, see the call's */
    /* weights, those that forward saw */
    const lstmc_real *weight_ih;
    const lstmc_real *weight_hh;
    const lstmc_real *weight_hr;
    const lstmc_real *peepholes;
    /* sizes */
    ptrdiff_t inputs, hidden, outputs;
} lstmc_backward_layer;

typedef struct {
    lstmc_real *dx;       /* written: (T, B, I); may be x itself; or NULL, and it is not computed */
    const lstmc_real *dy; /* (T, B, P) the gradient arriving at y, or NULL for zeros */
    const lstmc_real *x;  /* (T, B, I), as forward read it; not read where no weight's gradient is asked */
    const lstmc_backward_layer *layers;
    int num_layers;
    int cell;
    ptrdiff_t steps, batch;
    const ptrdiff_t *starts; /* (T+1,) as forward had it; of its rows, where `repeat` is above 1 */
    const ptrdiff_t *before; /* (starts[T],) which row of h each row's step began from; NULL without starts */
    /* (starts[T],) which row of dy and dx each of h is; NULL: the same. With it `repeat` is 1, dx not x, and
       rows that it does not name are neither read nor written. */
    const ptrdiff_t *order;
    /* Gradients of one forward row: h, c and gates have B / repeat rows, and row b of all gradients belongs
       to row b / repeat of those. Above 1 no weight's gradient may be asked; 0 is 1. */
    ptrdiff_t repeat;
    double clip; /* as forward had it */
    /* The limit of the gradients of sums at every step (Graves 2013), as they go on to weights, h_before and
       x; 0: none */
    double grad_clip;
    int threads;
    void *scratch; /* as many bytes as plan_backward() says; not read by that */
} lstmc_backward;

/* Plain arrays a, out of n elements; rows are of `columns` elements. Token ids are int64. */
typedef struct lstmc_kernels {
    const char *isa; /* baseline, v3, v4 or neon */
    int real_size;   /* 4 or 8 */
    int vector_bytes;

    /* recurrent layers; cells/, forward.h, backward.h */

    /* The number of a cell by its name, as cells/list.h has them; LSTMC_UNKNOWN for another name. The same in
       all tables. */
    int (*cell)(const char *name);
    /* How many row blocks its weights have, and its bias, and what is saved for backward, and its peepholes;
       and how many arrays its state: 1 for h, 2 for h and c. LSTMC_UNKNOWN for an unknown cell. */
    int (*gates_of)(int cell);
    int (*biases_of)(int cell);
    int (*saved_of)(int cell);
    int (*peepholes_of)(int cell);
    int (*states_of)(int cell);
    /* Lays down in `plan` (..._plan_size() bytes, aligned for a pointer) all that follows from a call's cell,
       sizes, threads, and from which of its pointers are NULL. Returns the bytes of scratch that the call
       needs, and a forward call that saves has room there for the backward call after it; LSTMC_UNKNOWN for
       an unknown cell, and for a projection of one that cannot have it. */
    size_t (*forward_plan_size)(int num_layers);
    ptrdiff_t (*plan_forward)(void *plan, const lstmc_forward *call);
    size_t (*backward_plan_size)(void);
    ptrdiff_t (*plan_backward)(void *plan, const lstmc_backward *call);
    /* A call as it was planned; it may point elsewhere than the one that was. A plan is only read. */
    void (*forward)(const void *plan, const lstmc_forward *call);
    void (*backward)(const void *plan, const lstmc_backward *call);
    /* Two calls that write nothing in common, side by side where there are threads for both: each was planned
       for half of the threads. */
    void (*forward_both)(const void *plan, const lstmc_forward *call, const void *other_plan,
                         const lstmc_forward *other);
    void (*backward_both)(const void *plan, const lstmc_backward *call, const void *other_plan,
                          const lstmc_backward *other);
    /* packed: packed_size() bytes, written. Reads the weights and sizes of the layer. 0, or LSTMC_UNKNOWN for
       an unknown cell, and so packed_size(). */
    int (*pack_layer)(lstmc_real *packed, const lstmc_forward_layer *layer, int cell);
    ptrdiff_t (*packed_size)(const lstmc_forward_layer *layer, int cell);

    /* y (rows, outputs) = x (rows, inputs) times weight (outputs, inputs) transposed, plus bias (outputs,)
       unless that is NULL; linear.h. packed as above, by pack_linear(), or NULL. */
    void (*linear_forward)(lstmc_real *y, const lstmc_real *x, const lstmc_real *weight,
                           const lstmc_real *bias, const lstmc_real *packed, ptrdiff_t rows, ptrdiff_t inputs,
                           ptrdiff_t outputs, int threads, void *scratch);
    size_t (*linear_forward_scratch)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t outputs, int threads);
    void (*pack_linear)(lstmc_real *packed, const lstmc_real *weight, ptrdiff_t inputs, ptrdiff_t outputs);
    size_t (*packed_linear_size)(ptrdiff_t inputs, ptrdiff_t outputs);
    /* dx (rows, inputs) written, or NULL; dweight and dbias added to, each of them or NULL. */
    void (*linear_backward)(lstmc_real *dx, lstmc_real *dweight, lstmc_real *dbias, const lstmc_real *dy,
                            const lstmc_real *x, const lstmc_real *weight, ptrdiff_t rows, ptrdiff_t inputs,
                            ptrdiff_t outputs, int threads, void *scratch);
    size_t (*linear_backward_scratch)(ptrdiff_t rows, ptrdiff_t inputs, ptrdiff_t outputs, int threads);

    /* Row i of `to`, of `columns` elements and to_stride from the next, becomes row index[i] of `source`, or
       zeros where index[i] is negative; if `adds`, that row is added instead, or nothing. */
    void (*gather_rows)(lstmc_real *to, ptrdiff_t to_stride, const lstmc_real *source,
                        ptrdiff_t source_stride, const ptrdiff_t *index, int adds, ptrdiff_t rows,
                        ptrdiff_t columns, int threads);

    /* y (rows, columns): rows of weight (V, columns) chosen by tokens (rows,), each in [0, V). */
    void (*embedding_forward)(lstmc_real *y, const int64_t *tokens, const lstmc_real *weight, ptrdiff_t rows,
                              ptrdiff_t columns);
    /* dweight (V, columns), added to */
    void (*embedding_backward)(lstmc_real *dweight, const lstmc_real *dy, const int64_t *tokens,
                               ptrdiff_t rows, ptrdiff_t columns, int threads);

    /* activations; flat/activations.h */

    /* y (n,) = function(x) of each element, as the cells compute it; may be x itself. slope, at least 0: what
       x is multiplied by where it is negative (LSTMC_LEAKY_RELU), or exp(x) - 1 is (LSTMC_ELU). exp and log1p
       are for tests of their accuracy. 0, or LSTMC_UNKNOWN. */
    int (*activate)(lstmc_real *y, const lstmc_real *x, int function, double slope, ptrdiff_t n, int threads);
    /* dx (n,), written, may be dy itself: dy times the derivative, from y as activate() left it. At 0 it is
       that of the negative side. 0, or LSTMC_UNKNOWN, of exp and log1p too. */
    int (*activate_backward)(lstmc_real *dx, const lstmc_real *dy, const lstmc_real *y, int function,
                             double slope, ptrdiff_t n, int threads);
    /* dx (rows, columns), written, from y as softmax() below left it; may be dy itself. */
    void (*softmax_backward)(lstmc_real *dx, const lstmc_real *dy, const lstmc_real *y, ptrdiff_t rows,
                             ptrdiff_t columns, int threads);

    /* losses and norms; flat.h */

    /* out (rows, columns): softmax of each row of logits, which may be out itself. */
    void (*softmax)(lstmc_real *out, const lstmc_real *logits, ptrdiff_t rows, ptrdiff_t columns,
                    int threads);
    /* The mean over the rows whose target is not `ignored`, in nats; 0 if there is none. dlogits
       (rows, columns), written, may be logits itself or NULL. targets (rows,) each `ignored` or in [0,
       columns). losses: scratch, ROOM for `rows` doubles. */
    double (*softmax_cross_entropy)(lstmc_real *dlogits, double *losses, const lstmc_real *logits,
                                    const int64_t *targets, int64_t ignored, ptrdiff_t rows,
                                    ptrdiff_t columns, int threads);
    /* The mean of (y - target)^2 over those of n elements that count: where mask (n,) is not 0, or all if it
       is NULL; 0 if none does. dy (n,), written, may be y itself or NULL; where an element does not count it
       is 0, whatever y and target are there. sums: scratch, ROOM for n / 4096 + 1 doubles. */
    double (*squared_error)(lstmc_real *dy, double *sums, const lstmc_real *y, const lstmc_real *target,
                            const uint8_t *mask, ptrdiff_t n, int threads);
    /* Likewise of error^2 / 2 where |error| = |y - target| is at most delta > 0, and beyond of the line that
       goes on from there, delta (|error| - delta / 2). */
    double (*huber)(lstmc_real *dy, double *sums, const lstmc_real *y, const lstmc_real *target,
                    const uint8_t *mask, double delta, ptrdiff_t n, int threads);
    /* Likewise of -target log(p) - (1 - target) log(1 - p), in nats, with p = sigmoid(logits) and targets in
       [0, 1]. */
    double (*binary_cross_entropy)(lstmc_real *dlogits, double *sums, const lstmc_real *logits,
                                   const lstmc_real *targets, const uint8_t *mask, ptrdiff_t n, int threads);
    /* The Euclidean norm, in double. Where the squares overflow or vanish, a is read twice more: infinite
       only if an element or the norm itself is. sums as above. */
    double (*norm)(double *sums, const lstmc_real *a, ptrdiff_t n, int threads);
    void (*scale)(lstmc_real *a, double factor, ptrdiff_t n, int threads); /* a *= factor */
    /* What of a lies beyond +-limit becomes that; NaN stays. limit: at least 0. */
    void (*clip_values)(lstmc_real *a, double limit, ptrdiff_t n, int threads);

    /* optimisers, one step over n parameters: params and the states after it are updated in place;
       flat/optimisers.h. eps: at least the smallest normal number. */
    void (*sgd)(lstmc_real *params, lstmc_real *velocity /* NULL without momentum */, const lstmc_real *grads,
                double lr, double momentum, int nesterov, double weight_decay, ptrdiff_t n, int threads);
    void (*adam)(lstmc_real *params, lstmc_real *m, lstmc_real *v, const lstmc_real *grads,
                 int64_t step /* from 1 */, double lr, double beta1, double beta2, double eps,
                 double weight_decay, int decoupled, ptrdiff_t n, int threads);
    void (*rmsprop)(lstmc_real *params, lstmc_real *square_avg,
                    lstmc_real *velocity /* NULL without momentum */, const lstmc_real *grads, double lr,
                    double alpha, double eps, double momentum, double weight_decay, ptrdiff_t n, int threads);

    /* A number of `size` bytes: changing any of them changes it, but for one case in 2^32. The same in all
     * tables. */
    uint64_t (*fingerprint)(const void *bytes, size_t size);
} lstmc_kernels;

/* The table for real_size 4 or 8 and an instruction set by name; NULL where this machine or this build does
 * not have it. isa NULL: the best there is. */
const lstmc_kernels *lstmc_table(int real_size, const char *isa);
/* Writes the names of the instruction sets lstmc_table() would give, best first, separated by spaces.
 * names: ROOM for 64 characters. */
void lstmc_instruction_sets(char *names);
/* cffi end */

#endif
