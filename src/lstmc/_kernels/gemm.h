/* The matrix product: panels, the micro-kernel, and products made of it.
 *
 * A panel is PANEL columns of the right-hand matrix, K-major: k rows of PANEL numbers, 64-byte aligned,
 * zeros where the matrix has ended. The micro-kernel multiplies a few rows of the left-hand matrix by
 * one panel (or one row by several) and holds the whole result in registers.
 *
 * Every element of a result is one chain of multiply-adds over ascending k that starts from zero or from
 * what the result held; blocks over k put the chain down and take it up again. So the bits depend neither
 * on the number of rows done at once, nor on blocks, nor on threads.
 */
#ifndef LSTMC_GEMM_H
#define LSTMC_GEMM_H

#include "real.h"
#include "team.h"

enum {
    PANEL_VECTORS = 4,
    PANEL = PANEL_VECTORS * VL,
    MAX_ROWS = MAX_ACCUMULATORS / PANEL_VECTORS,
    /* Rows of a panel that are reused from cache by all rows of the left-hand matrix. */
    K_BLOCK = 64 * 1024 / (PANEL * (int)sizeof(real)),
};

INLINE ptrdiff_t panels_of(ptrdiff_t columns) { return ceil_div(columns, PANEL); }

/* ---- packing ------------------------------------------------------------------------------------- */

/* Panels [from, to) of a row-major (k, columns) matrix whose rows lie `stride` apart. */
static void NAME(pack_rows)(real *panels, const real *matrix, ptrdiff_t stride, ptrdiff_t k, ptrdiff_t columns,
                            ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t p = from; p < to; p++) {
        ptrdiff_t width = min_of(PANEL, columns - p * PANEL);
        real *row = panels + p * k * PANEL;
        const real *source = matrix + p * PANEL;
        for (ptrdiff_t i = 0; i < k; i++, row += PANEL, source += stride) {
            if (width == PANEL) {
                for (int v = 0; v < PANEL_VECTORS; v++)
                    store(row + v * VL, load(source + v * VL));
            } else {
                memcpy(row, source, width * sizeof(real));
                memset(row + width, 0, (PANEL - width) * sizeof(real));
            }
        }
    }
}

/* One vector's worth of columns of a panel: lanes j < n from rows j of `matrix`, k numbers each. */
INLINE void pack_lanes(real *panel, const real *matrix, ptrdiff_t stride, ptrdiff_t k, ptrdiff_t n)
{
    enum { AT_ONCE = 16 }; /* rows of the panel written before moving on: they stay in the nearest cache */
    for (ptrdiff_t start = 0; start < k; start += AT_ONCE) {
        ptrdiff_t end = min_of(start + AT_ONCE, k);
        for (ptrdiff_t j = 0; j < n; j++)
            for (ptrdiff_t i = start; i < end; i++)
                panel[i * PANEL + j] = matrix[j * stride + i];
        for (ptrdiff_t i = start; i < end; i++)
            for (ptrdiff_t j = n; j < VL; j++)
                panel[i * PANEL + j] = 0;
    }
}

/* Panels [from, to) of the transpose of `weight` (gates * units, k), rows gate by gate. Vector v of a
 * panel holds gate v % gates of unit group v / gates, so that the gates of a unit sit side by side. */
static void NAME(pack_transposed)(real *panels, const real *weight, ptrdiff_t k, ptrdiff_t units, int gates,
                                  ptrdiff_t from, ptrdiff_t to)
{
    const ptrdiff_t groups = PANEL_VECTORS / gates;
    for (ptrdiff_t p = from; p < to; p++)
        for (int v = 0; v < PANEL_VECTORS; v++) {
            ptrdiff_t unit = (p * groups + v / gates) * VL;
            ptrdiff_t n = max_of(0, min_of(VL, units - unit));
            const real *rows = weight + (v % gates * units + (n ? unit : 0)) * k;
            pack_lanes(panels + p * k * PANEL + v * VL, rows, k, k, n);
        }
}

/* Columns [from, to) of a row-major (k, .) matrix as blocks of MAX_ROWS columns, k-major: the left-hand
 * side of a product with the transpose. */
static void NAME(pack_columns)(real *blocks, const real *matrix, ptrdiff_t stride, ptrdiff_t k, ptrdiff_t from,
                               ptrdiff_t to)
{
    for (ptrdiff_t column = from; column < to; column += MAX_ROWS) {
        ptrdiff_t n = min_of(MAX_ROWS, to - column);
        const real *source = matrix + column;
        for (ptrdiff_t i = 0; i < k; i++, blocks += MAX_ROWS, source += stride)
            for (ptrdiff_t m = 0; m < n; m++)
                blocks[m] = source[m];
    }
}

/* ---- the micro-kernel ---------------------------------------------------------------------------- */

/* The left-hand matrix: element (m, k) of the block that starts at row r is
 * start[r * block + m * row + k * column]. Row-major: block = row, column = 1. */
typedef struct {
    const real *start;
    ptrdiff_t block, row, column;
} NAME(left);

/* c[m][v] (+)= sum over k of a[m][k] b[k][v] for `rows` rows and `vectors` vectors of columns, both
 * compile-time constants: up to PANEL_VECTORS of one panel, or all of several. This is where the time goes:
 * the sums stay in registers. */
INLINE void micro_kernel(const int rows, const int vectors, real *c, ptrdiff_t c_row, ptrdiff_t c_panel,
                         const real *a, ptrdiff_t a_row, ptrdiff_t a_column, const real *b, ptrdiff_t b_panel,
                         ptrdiff_t k, int accumulate)
{
#define AT(panel_stride, v) ((v) / PANEL_VECTORS * (panel_stride) + (v) % PANEL_VECTORS * VL)
    vec sum[MAX_ROWS * PANEL_VECTORS];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[m * vectors + v] = accumulate ? load(c + m * c_row + AT(c_panel, v)) : (vec){0};
    for (ptrdiff_t i = 0; i < k; i++) {
        UNROLL for (int m = 0; m < rows; m++) {
            vec left = splat(a[m * a_row]);
            UNROLL for (int v = 0; v < vectors; v++)
                sum[m * vectors + v] += left * *(const vec *)(b + AT(b_panel, v));
        }
        a += a_column;
        b += PANEL;
    }
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++)
            store(c + m * c_row + AT(c_panel, v), sum[m * vectors + v]);
#undef AT
}

/* The compiled variants. One row by one panel would wait for each addition (four cycles) before the next:
 * a few rows take several panels at once. */
static void NAME(tile)(ptrdiff_t rows, ptrdiff_t vectors, real *c, ptrdiff_t c_row, ptrdiff_t c_panel,
                       const real *a, ptrdiff_t a_row, ptrdiff_t a_column, const real *b, ptrdiff_t b_panel,
                       ptrdiff_t k, int accumulate)
{
#define VARIANT(r, v)                                                                                          \
    case (r) * 32 + (v):                                                                                       \
        if ((r) * (v) <= MAX_ACCUMULATORS)                                                                     \
            micro_kernel(r, v, c, c_row, c_panel, a, a_row, a_column, b, b_panel, k, accumulate);              \
        break;
#define ONE_PANEL(r) VARIANT(r, 1) VARIANT(r, 2) VARIANT(r, 3) VARIANT(r, 4)
    switch (rows * 32 + vectors) {
        ONE_PANEL(1) ONE_PANEL(2) ONE_PANEL(3) ONE_PANEL(4) ONE_PANEL(5) ONE_PANEL(6)
        VARIANT(1, 8) VARIANT(1, 12) VARIANT(1, 16) VARIANT(2, 8) VARIANT(2, 12) VARIANT(3, 8)
    }
#undef ONE_PANEL
#undef VARIANT
}

/* The last columns of a result that is not padded: through a padded copy. */
static void NAME(narrow_tile)(ptrdiff_t rows, ptrdiff_t columns, real *c, ptrdiff_t c_row, const real *a,
                              ptrdiff_t a_row, ptrdiff_t a_column, const real *b, ptrdiff_t k, int accumulate)
{
    real padded[MAX_ROWS * PANEL] __attribute__((aligned(64)));
    for (ptrdiff_t m = 0; accumulate && m < rows; m++) {
        memcpy(padded + m * PANEL, c + m * c_row, columns * sizeof(real));
        memset(padded + m * PANEL + columns, 0, (PANEL - columns) * sizeof(real));
    }
    NAME(tile)(rows, ceil_div(columns, VL), padded, PANEL, 0, a, a_row, a_column, b, 0, k, accumulate);
    for (ptrdiff_t m = 0; m < rows; m++)
        memcpy(c + m * c_row, padded + m * PANEL, columns * sizeof(real));
}

/* ---- products ------------------------------------------------------------------------------------ */

/* c (rows, columns) = or += a (rows, k) times the panels b. Row m of panel p of the result starts at
 * c + m * c_row + p * c_panel. c_row = PANEL says that the result stays in panels: it is padded, and whole
 * vectors are written. Otherwise c_panel = PANEL, and only its columns are. */
static void NAME(product)(real *c, ptrdiff_t c_row, ptrdiff_t c_panel, NAME(left) a, const real *b, ptrdiff_t rows,
                          ptrdiff_t columns, ptrdiff_t k, int accumulate)
{
    const ptrdiff_t b_panel = k * PANEL, whole = columns / PANEL, rest = columns % PANEL;
    const int padded = c_row == PANEL || rest % VL == 0;
    const int packed_left = a.block != a.row; /* its blocks are MAX_ROWS high; others are cut evenly */
    const ptrdiff_t k_block = rows > MAX_ROWS ? K_BLOCK : max_of(k, 1);
    if (rows <= 0 || columns <= 0)
        return;
    for (ptrdiff_t k0 = 0; k0 == 0 || k0 < k; k0 += k_block) {
        const ptrdiff_t depth = min_of(k_block, k - k0);
        for (ptrdiff_t p = 0, at_once; p < whole + (rest > 0); p += at_once) {
            const real *panel = b + p * b_panel + k0 * PANEL;
            at_once = 1;
            if (rows <= 3 && p < whole) {
                ptrdiff_t most = min_of(MAX_ROWS / rows, rows == 1 ? 4 : rows == 2 ? 3 : 2);
                at_once = ceil_div(whole - p, ceil_div(whole - p, most));
            }
            const ptrdiff_t vectors = p < whole ? at_once * PANEL_VECTORS : ceil_div(rest, VL);
            for (ptrdiff_t r = 0, height; r < rows; r += height) {
                height = packed_left ? min_of(MAX_ROWS, rows - r) : ceil_div(rows - r, ceil_div(rows - r, MAX_ROWS));
                real *out = c + r * c_row + p * c_panel;
                const real *left = a.start + r * a.block + k0 * a.column;
                if (p < whole || padded)
                    NAME(tile)(height, vectors, out, c_row, c_panel, left, a.row, a.column, panel, b_panel, depth,
                               accumulate || k0 > 0);
                else
                    NAME(narrow_tile)(height, rest, out, c_row, left, a.row, a.column, panel, depth,
                                      accumulate || k0 > 0);
            }
        }
    }
}

INLINE NAME(left) row_major(const real *start, ptrdiff_t stride)
{
    return (NAME(left)){start, stride, stride, 1};
}

/* sums (columns,) += the rows of a row-major (k, columns) matrix, for columns [from, to). */
static void NAME(add_rows)(real *sums, const real *matrix, ptrdiff_t stride, ptrdiff_t k, ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t column = from; column < to; column += VL) {
        ptrdiff_t n = min_of(VL, to - column);
        vec sum = load_n(sums + column, n);
        for (ptrdiff_t i = 0; i < k; i++)
            sum += load_n(matrix + i * stride + column, n);
        store_n(sums + column, sum, n);
    }
}

/* ---- the gradient of a weight -------------------------------------------------------------------- */

/* dweight (rows, columns) += dout (k, rows) transposed times in (k, columns). */
typedef struct {
    real *dweight;
    const real *in;
    ptrdiff_t columns;
} NAME(weight_gradient);

static size_t NAME(weight_gradients_scratch)(int threads, ptrdiff_t rows, const NAME(weight_gradient) *w, int count)
{
    ptrdiff_t size = threads * aligned(K_BLOCK * (ceil_div(rows, threads) + MAX_ROWS));
    for (int i = 0; i < count; i++)
        size += K_BLOCK * panels_of(w[i].columns) * PANEL;
    return size * sizeof(real);
}

/* For the weights whose outputs have the gradient dout (k, rows): all members of a team call it together.
 * Members share the packing of `in` and then own rows of the results. */
static void NAME(add_weight_gradients)(const NAME(weight_gradient) *w, int count, const real *dout, ptrdiff_t k,
                                       ptrdiff_t rows, real *scratch, const team *member)
{
    ptrdiff_t from, to, first, last;
    team_share(member, rows, &from, &to);
    real *blocks = scratch + member->rank * aligned(K_BLOCK * (ceil_div(rows, member->size) + MAX_ROWS));
    real *all_panels = scratch + member->size * aligned(K_BLOCK * (ceil_div(rows, member->size) + MAX_ROWS));
    for (ptrdiff_t k0 = 0; k0 < k; k0 += K_BLOCK) {
        const ptrdiff_t depth = min_of(K_BLOCK, k - k0);
        real *panels = all_panels;
        for (int i = 0; i < count; i++) {
            team_share(member, panels_of(w[i].columns), &first, &last);
            NAME(pack_rows)(panels, w[i].in + k0 * w[i].columns, w[i].columns, depth, w[i].columns, first, last);
            panels += panels_of(w[i].columns) * depth * PANEL;
        }
        NAME(pack_columns)(blocks, dout + k0 * rows, rows, depth, from, to);
        team_barrier(member);
        panels = all_panels;
        for (int i = 0; i < count; i++) {
            NAME(product)(w[i].dweight + from * w[i].columns, w[i].columns, PANEL,
                          (NAME(left)){blocks, depth, 1, MAX_ROWS}, panels, to - from, w[i].columns, depth, 1);
            panels += panels_of(w[i].columns) * depth * PANEL;
        }
        team_barrier(member);
    }
}

#endif
