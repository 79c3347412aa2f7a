/* One variant of the LSTM: CELL, its name, and VARIANT, what it has, become a cell by pointwise.h. */
#define OF_CELL_(a, b) a##_##b
#define OF_CELL2(a, b) OF_CELL_(a, b)
#define OF_CELL(stem) OF_CELL2(CELL, stem)

INLINE void OF_CELL(forward)(forward_units *u) { lstm_variant_forward(VARIANT, u); }
INLINE void OF_CELL(backward)(backward_units *u) { lstm_variant_backward(VARIANT, u); }

#undef OF_CELL
#undef OF_CELL2
#undef OF_CELL_

#define IS_COUPLED (((VARIANT) & COUPLED) != 0)
#define CELL_GATES (4 - IS_COUPLED) /* i, f, g, o: the order of the weight rows; no f where it is coupled */
#define CELL_SAVED CELL_GATES       /* the activated gates */
#define CELL_HAS_C 1
#define CELL_PEEPHOLES ((VARIANT) & PEEPHOLES ? 3 - IS_COUPLED : 0) /* of i, f, o */
#define CELL_SEES {0, 0}, {IS_COUPLED ? 2 : 1, IS_COUPLED}, {3, 1}
#define CELL_CLIPS (((VARIANT) & CLIPS) != 0)
#include "pointwise.h"
#undef IS_COUPLED
#undef VARIANT
