/* The matrix product: panels, the micro-kernel, and products made of it.
 *
 * A panel is PANEL columns of the right-hand matrix, K-major: k rows of PANEL numbers, 64-byte aligned. Where
 * the matrix ends, zeros fill a vector up. The micro-kernel multiplies a few rows of the left-hand matrix by
 * one panel (up to three rows: by several) and holds the whole result in registers.
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
    LINE = 64 / (int)sizeof(real), /* of a cache */
    /* Columns packed side by side to be the rows of a left-hand matrix: those of the tallest tile. Of wider
     * strips a tile would use a part of each cache line. */
    STRIP = 2 * MAX_ROWS,
    /* Blocks that stay in the second-level cache: of a panel, while all rows use it, ... */
    K_BLOCK = 128 * 1024 / (PANEL * (int)sizeof(real)),
    /* ... and of the left-hand matrix, while all panels do. */
    ROW_BLOCK = (384 * 1024 / (K_BLOCK * (int)sizeof(real)) + STRIP - 1) / STRIP * STRIP,
};

INLINE ptrdiff_t panels_of(ptrdiff_t columns) { return ceil_div(columns, PANEL); }

/* n cut into equal parts of `most` or less: their length. */
INLINE ptrdiff_t even_part(ptrdiff_t n, ptrdiff_t most)
{
    return n > most ? ceil_div(n, ceil_div(n, most)) : n;
}

/* ---- packing ------------------------------------------------------------------------------------- */

/* A part of each row is packed at a time, and no hardware fetches from row to row: that many are asked for
 * ahead. */
enum { PACKED_AHEAD = 16 };

/* Writes panels [from, to) of a (k, columns) matrix: row i is the rows[i]-th, or with NULL the i-th, of those
 * that lie `stride` apart. Vectors of the last panel that hold no column are left as they are: no product
 * reads them. */
static void NAME(pack_rows)(real *panels, const real *matrix, ptrdiff_t stride, const ptrdiff_t *rows,
                            ptrdiff_t k, ptrdiff_t columns, ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t p = from; p < to; p++) {
        const ptrdiff_t width = min_of(PANEL, columns - p * PANEL);
        real *row = panels + (p - from) * k * PANEL;
        const real *source = matrix + p * PANEL;
        for (ptrdiff_t i = 0; i < k; i++, row += PANEL, source += stride) {
            if (rows)
                source = matrix + rows[i] * stride + p * PANEL;
            const real *later = rows ? matrix + rows[min_of(i + PACKED_AHEAD, k - 1)] * stride + p * PANEL
                                     : source + PACKED_AHEAD * stride;
            for (ptrdiff_t j = 0; j < width; j += LINE)
                __builtin_prefetch(later + j);
            for (ptrdiff_t j = 0; j < width; j += VL)
                store(row + j, load_n(source + j, min_of(VL, width - j)));
        }
    }
}

/* One vector's worth of columns of a panel: lane j is rows[j], k numbers; NULL: zeros. */
INLINE void pack_lanes(real *panel, const real *const rows[VL], ptrdiff_t k)
{
    vec block[VL];
    for (ptrdiff_t i = 0; i < k; i += VL) {
        const ptrdiff_t width = min_of(VL, k - i);
        UNROLLED(int j = 0; j < VL; j++)
            block[j] = rows[j] ? load_n(rows[j] + i, width) : (vec){0};
        transpose(block);
        for (int j = 0; j < width; j++)
            store(panel + (i + j) * PANEL, block[j]);
    }
}

/* Weights that make `gates` sums for each of `units` units lie in panels by groups of VL units: the sums of
 * the first gate for all of the group, then of the second... If half as many are left for the last group,
 * each gate takes half a vector. */
INLINE ptrdiff_t group_width(ptrdiff_t units, ptrdiff_t first, int gates)
{
    return gates > 1 && units - first <= VL / 2 ? VL / 2 : VL;
}

/* Columns up to the last that holds a sum. */
INLINE ptrdiff_t grouped_columns(ptrdiff_t units, int gates)
{
    const ptrdiff_t last = (units - 1) / VL * VL;
    return (last + group_width(units, last, gates)) * gates;
}

/* Panels of all sums of so many units. */
INLINE ptrdiff_t panels_of_units(ptrdiff_t units, int gates)
{
    return panels_of(grouped_columns(units, gates));
}

/* Writes panels [from, to) of the transpose of `weight` (gates * units, k), rows gate by gate, in such
 * groups. */
static void NAME(pack_transposed)(real *panels, const real *weight, ptrdiff_t k, ptrdiff_t units, int gates,
                                  ptrdiff_t from, ptrdiff_t to)
{
    enum { AT_ONCE = 256 }; /* rows of a panel that all its vectors are written to before moving on */
    for (ptrdiff_t p = from; p < to; p++)
        for (ptrdiff_t i = 0; i < k; i += AT_ONCE)
            for (int v = 0; v < PANEL_VECTORS; v++) {
                const ptrdiff_t vector = p * PANEL_VECTORS + v, first = vector / gates * VL;
                const ptrdiff_t width = group_width(units, first, gates);
                const real *rows[VL];
                for (int j = 0; j < VL; j++) { /* a group's vectors may lie in two panels */
                    const ptrdiff_t column = vector % gates * VL + j, gate = column / width;
                    const ptrdiff_t unit = first + column % width;
                    rows[j] = gate < gates && unit < units ? weight + (gate * units + unit) * k + i : NULL;
                }
                pack_lanes(panels + ((p - from) * k + i) * PANEL + v * VL, rows, min_of(AT_ONCE, k - i));
            }
}

/* Columns [from, to) of a row-major (k, .) matrix as strips, k rows of STRIP columns each: the left-hand
 * side of a product with the transpose. A vector writes beyond its strip's columns what the next row, written
 * later, puts right. */
static void NAME(pack_columns)(real *strips, const real *matrix, ptrdiff_t stride, ptrdiff_t k,
                               ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t i = 0; i < k; i++, matrix += stride) {
        for (ptrdiff_t column = from; column < to; column += LINE)
            __builtin_prefetch(matrix + PACKED_AHEAD * stride + column);
        for (ptrdiff_t column = from; column < to; column += STRIP) {
            real *row = strips + (column - from) * k + i * STRIP;
            for (ptrdiff_t j = 0; j < min_of(STRIP, to - column); j += VL)
                store_n(row + j, load_n(matrix + column + j, min_of(VL, to - column - j)),
                        i + 1 < k ? VL : min_of(VL, STRIP - j));
        }
    }
}

/* ---- the micro-kernel ---------------------------------------------------------------------------- */

/* The left-hand matrix: element (m, k) is start[m / STRIP * strip + m % STRIP * row + k * column]. */
typedef struct {
    const real *start;
    ptrdiff_t strip, row, column;
} NAME(left);

INLINE NAME(left) row_major(const real *start, ptrdiff_t stride)
{
    return (NAME(left)){start, STRIP * stride, stride, 1};
}
INLINE NAME(left) in_strips(const real *strips, ptrdiff_t k)
{
    return (NAME(left)){strips, STRIP * k, 1, STRIP};
}
INLINE const real *left_at(const NAME(left) * a, ptrdiff_t m, ptrdiff_t k)
{
    return a->start + m / STRIP * a->strip + m % STRIP * a->row + k * a->column;
}

/* c[m][v] (+)= sum over k of a[m][k] b[k][v] for `rows` rows and `vectors` vectors of columns, both
 * compile-time constants: up to PANEL_VECTORS of one panel, or all of several. This is where the time goes:
 * the sums stay in registers. Tall tiles, which leave the memory idle, fetch k cache lines from `ahead` on.
 */
INLINE void micro_kernel(const int rows, const int vectors, real *c, ptrdiff_t c_row, ptrdiff_t c_panel,
                         const real *a, ptrdiff_t a_row, ptrdiff_t a_column, const real *b, ptrdiff_t b_panel,
                         ptrdiff_t k, int accumulate, ptrdiff_t lanes, const real *ahead)
{
#define AT(panel_stride, v) ((v) / PANEL_VECTORS * (panel_stride) + (v) % PANEL_VECTORS * VL)
    vec sum[MAX_ROWS * PANEL_VECTORS];
    UNROLLED(int m = 0; m < rows; m++)
        UNROLLED(int v = 0; v < vectors; v++)
            sum[m * vectors + v] = !accumulate       ? (vec){0}
                                   : v < vectors - 1 ? load(c + m * c_row + AT(c_panel, v))
                                                     : load_n(c + m * c_row + AT(c_panel, v), lanes);
    for (ptrdiff_t i = 0; i < k; i++) {
        UNROLLED(int m = 0; m < rows; m++) {
            vec left = splat(a[m * a_row]);
            UNROLLED(int v = 0; v < vectors; v++)
                sum[m * vectors + v] += left * *(const vec *)(b + AT(b_panel, v));
        }
        if (vectors <= PANEL_VECTORS && 3 * rows * vectors >= 2 * MAX_ACCUMULATORS) {
            __builtin_prefetch(ahead, 0, 2);
            ahead += LINE;
        }
        a += a_column;
        b += PANEL;
    }
    UNROLLED(int m = 0; m < rows; m++)
        UNROLLED(int v = 0; v < vectors; v++)
            store_n(c + m * c_row + AT(c_panel, v), sum[m * vectors + v], v < vectors - 1 ? VL : lanes);
#undef AT
}

/* The compiled variants. One row by one panel would wait for each addition (four cycles) before the next:
 * a few rows take several panels at once. */
static void NAME(tile)(ptrdiff_t rows, ptrdiff_t vectors, real *c, ptrdiff_t c_row, ptrdiff_t c_panel,
                       const real *a, ptrdiff_t a_row, ptrdiff_t a_column, const real *b, ptrdiff_t b_panel,
                       ptrdiff_t k, int accumulate, ptrdiff_t lanes, const real *ahead)
{
#define VARIANT(r, v)                                                                                   \
    case (r) * 32 + (v):                                                                                \
        if ((r) * (v) <= MAX_ACCUMULATORS)                                                              \
            micro_kernel(r, v, c, c_row, c_panel, a, a_row, a_column, b, b_panel, k, accumulate, lanes, \
                         ahead);                                                                        \
        break;
#define ONE_PANEL(r) VARIANT(r, 1) VARIANT(r, 2) VARIANT(r, 3) VARIANT(r, 4)
#define TWO_PANELS(r) VARIANT(r, 5) VARIANT(r, 6) VARIANT(r, 7) VARIANT(r, 8)
#define THREE_PANELS(r) VARIANT(r, 9) VARIANT(r, 10) VARIANT(r, 11) VARIANT(r, 12)
#define FOUR_PANELS(r) VARIANT(r, 13) VARIANT(r, 14) VARIANT(r, 15) VARIANT(r, 16)
    switch (rows * 32 + vectors) {
        /* clang-format off */
        ONE_PANEL(1) ONE_PANEL(2) ONE_PANEL(3) ONE_PANEL(4) ONE_PANEL(5) ONE_PANEL(6)
        VARIANT(7, 1) VARIANT(8, 1) VARIANT(9, 1) VARIANT(10, 1) VARIANT(11, 1) VARIANT(12, 1)
        TWO_PANELS(1) TWO_PANELS(2) TWO_PANELS(3) THREE_PANELS(1) THREE_PANELS(2) FOUR_PANELS(1)
        /* clang-format on */
    }
#undef FOUR_PANELS
#undef THREE_PANELS
#undef TWO_PANELS
#undef ONE_PANEL
#undef VARIANT
}

/* ---- products ------------------------------------------------------------------------------------ */

INLINE void NAME(fetch)(const real *c, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t m = 0; m < rows; m++)
        for (ptrdiff_t column = 0; column < columns; column += LINE)
            __builtin_prefetch(c + m * row + column, 1);
}

/* c (rows, columns) = or += a (rows, k) times the panels b. Row m of panel p of the result starts at
 * c + m * c_row + p * c_panel. c_row = PANEL says that the result stays in panels: it is padded, and whole
 * vectors are written. Otherwise c_panel = PANEL, and only its columns are. */
static void NAME(product)(real *c, ptrdiff_t c_row, ptrdiff_t c_panel, NAME(left) a, const real *b,
                          ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t k, int accumulate)
{
    const ptrdiff_t b_panel = k * PANEL, panels = panels_of(columns), all_vectors = ceil_div(columns, VL);
    const ptrdiff_t last_lanes = c_row == PANEL || columns % VL == 0 ? VL : columns % VL;
    const ptrdiff_t k_block = rows > MAX_ROWS ? even_part(k, K_BLOCK) : max_of(k, 1);
    if (rows <= 0 || columns <= 0)
        return;
    for (ptrdiff_t top = 0; top < rows; top += ROW_BLOCK)
        for (ptrdiff_t k0 = 0; k0 == 0 || k0 < k; k0 += k_block) {
            const ptrdiff_t depth = min_of(k_block, k - k0), end = min_of(rows, top + ROW_BLOCK);
            const int more = accumulate || k0 > 0;
            for (ptrdiff_t p = 0, at_once; p < panels; p += at_once) {
                at_once = rows <= 3 ? even_part(panels - p, max_of(1, min_of(MAX_ROWS / rows, 5 - rows))) : 1;
                const ptrdiff_t vectors =
                    min_of((p + at_once) * PANEL_VECTORS, all_vectors) - p * PANEL_VECTORS;
                const ptrdiff_t tallest = vectors == 1 ? 2 * MAX_ROWS : MAX_ROWS;
                /* What is next is fetched meanwhile, a part by each tile; after the last, the same again */
                const real *panel = b + p * b_panel + k0 * PANEL;
                const real *next = p + 1 < panels   ? panel + b_panel
                                   : k0 + depth < k ? b + (k0 + depth) * PANEL
                                                    : b;
                const real *ahead = next;
                for (ptrdiff_t r = top, height; r < end; r += height, ahead += depth * LINE) {
                    /* cut evenly; a strip is a multiple of the tallest, and no tile may cross its end */
                    height = a.column == 1 ? even_part(end - r, tallest) : min_of(end - r, tallest);
                    if (more && c_row != PANEL) /* what the next tile's sums start from */
                        NAME(fetch)(c + (r + height) * c_row + p * c_panel, c_row,
                                    min_of(height, end - r - height), vectors * VL);
                    NAME(tile)(height, vectors, c + r * c_row + p * c_panel, c_row, c_panel,
                               left_at(&a, r, k0), a.row, a.column, panel, b_panel, depth, more,
                               p + at_once < panels ? VL : last_lanes,
                               ahead < next + depth * PANEL ? ahead : panel);
                }
            }
        }
}

/* sums (columns,) += the rows of a row-major (k, columns) matrix, for columns [from, to). */
static void NAME(add_rows)(real *sums, const real *matrix, ptrdiff_t stride, ptrdiff_t k, ptrdiff_t from,
                           ptrdiff_t to)
{
    enum { AT_ONCE = 8 * VL }; /* columns: as many chains */
    for (; to - from >= AT_ONCE; from += AT_ONCE) {
        vec sum[AT_ONCE / VL];
        UNROLLED(int v = 0; v < AT_ONCE / VL; v++)
            sum[v] = load(sums + from + v * VL);
        for (ptrdiff_t i = 0; i < k; i++)
            UNROLLED(int v = 0; v < AT_ONCE / VL; v++)
                sum[v] += load(matrix + i * stride + from + v * VL);
        UNROLLED(int v = 0; v < AT_ONCE / VL; v++)
            store(sums + from + v * VL, sum[v]);
    }
    for (; from < to; from += VL) {
        const ptrdiff_t n = min_of(VL, to - from);
        vec sum = load_n(sums + from, n);
        for (ptrdiff_t i = 0; i < k; i++)
            sum += load_n(matrix + i * stride + from, n);
        store_n(sums + from, sum, n);
    }
}

/* sums (columns,) += the rows of such a matrix, each times a row of factors (., columns), factor_stride
 * apart: the rows[i]-th, or with NULL the i-th. Likewise. */
static void NAME(add_products)(real *sums, const real *matrix, ptrdiff_t stride, const real *factors,
                               ptrdiff_t factor_stride, const ptrdiff_t *rows, ptrdiff_t k, ptrdiff_t from,
                               ptrdiff_t to)
{
    enum { AT_ONCE = 4 * VL };
    for (ptrdiff_t end; from < to; from = end) {
        vec sum[AT_ONCE / VL];
        end = min_of(from + AT_ONCE, to);
        const int vectors = (int)ceil_div(end - from, VL);
        for (int v = 0; v < vectors; v++)
            sum[v] = load_n(sums + from + v * VL, min_of(VL, end - from - v * VL));
        for (ptrdiff_t i = 0; i < k; i++) {
            const real *factor = factors + (rows ? rows[i] : i) * factor_stride;
            for (int v = 0; v < vectors; v++) {
                const ptrdiff_t at = from + v * VL, n = min_of(VL, end - at);
                sum[v] += load_n(matrix + i * stride + at, n) * load_n(factor + at, n);
            }
        }
        for (int v = 0; v < vectors; v++)
            store_n(sums + from + v * VL, sum[v], min_of(VL, end - from - v * VL));
    }
}

/* ---- the gradient of a weight -------------------------------------------------------------------- */

/* dweight (rows, columns) += dout (k, rows) transposed times in (k, columns). */
typedef struct {
    real *dweight;
    const real *in;
    ptrdiff_t columns, stride; /* from one row of `in` to the next */
    const ptrdiff_t *rows;     /* (k,) which of the rows of `in`; NULL: one after another */
} NAME(weight_gradient);

/* For k terms or fewer; of fewer an even part may be longer. */
static size_t NAME(weight_gradients_scratch)(int threads, ptrdiff_t k, const NAME(weight_gradient) * w,
                                             int count)
{
    const ptrdiff_t k_block = min_of(k, K_BLOCK);
    ptrdiff_t size = threads * ROW_BLOCK * k_block;
    for (int i = 0; i < count; i++)
        size += k_block * panels_of(w[i].columns) * PANEL;
    return size * sizeof(real);
}

/* For the weights whose outputs have the gradient dout (k, rows), its rows `stride` apart: all members of a
 * team call it together. Members share the packing of `in` and then own rows of the results. */
static void NAME(add_weight_gradients)(const NAME(weight_gradient) * w, int count, const real *dout,
                                       ptrdiff_t stride, ptrdiff_t k, ptrdiff_t rows, real *scratch,
                                       const team *member)
{
    const ptrdiff_t k_block = even_part(k, K_BLOCK);
    ptrdiff_t from, to, first, last;
    team_share(member, rows, &from, &to);
    real *strips = scratch + member->rank * ROW_BLOCK * k_block;
    real *all_panels = scratch + member->size * ROW_BLOCK * k_block;
    for (ptrdiff_t k0 = 0; k0 < k; k0 += k_block) {
        const ptrdiff_t depth = min_of(k_block, k - k0);
        real *panels = all_panels;
        for (int i = 0; i < count; i++) {
            team_share(member, panels_of(w[i].columns), &first, &last);
            const real *in = w[i].rows ? w[i].in : w[i].in + k0 * w[i].stride;
            NAME(pack_rows)(panels + first * depth * PANEL, in, w[i].stride,
                            w[i].rows ? w[i].rows + k0 : NULL, depth, w[i].columns, first, last);
            panels += panels_of(w[i].columns) * depth * PANEL;
        }
        team_barrier(member);
        for (ptrdiff_t top = from; top < to; top += ROW_BLOCK) {
            const ptrdiff_t height = min_of(ROW_BLOCK, to - top);
            NAME(pack_columns)(strips, dout + k0 * stride, stride, depth, top, top + height);
            panels = all_panels;
            for (int i = 0; i < count; i++) {
                NAME(product)(w[i].dweight + top * w[i].columns, w[i].columns, PANEL,
                              in_strips(strips, depth), panels, height, w[i].columns, depth, 1);
                panels += panels_of(w[i].columns) * depth * PANEL;
            }
        }
        team_barrier(member);
    }
}

#endif
