/* What test_packing.py reaches of gemm.h: how weights lie in panels, for any number of sums a unit. */
#include "gemm.h"

int vector_lanes(void) { return VL; }
int panel_vectors(void) { return PANEL_VECTORS; }

ptrdiff_t panels_needed(ptrdiff_t units, int sums) { return panels_of_units(units, sums); }

void pack(real *panels, const real *weight, ptrdiff_t k, ptrdiff_t units, int sums, ptrdiff_t from,
          ptrdiff_t to)
{
    NAME(pack_transposed)(panels, weight, k, units, sums, from, to);
}

/* sums (rows, panels): those of x (rows, k), in panels as the driver keeps them. */
void multiply(real *sums, const real *x, const real *panels, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t units,
              int count)
{
    NAME(product)(sums, PANEL, rows * PANEL, row_major(x, k), panels, rows, grouped_columns(units, count), k,
                  0);
}
