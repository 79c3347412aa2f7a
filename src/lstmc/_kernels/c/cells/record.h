/* The record of a cell: CELL, its counts, and PHASES, addresses of what pointwise.h made of each phase.
 *
 * A cell of one phase has it from pointwise.h; the file of a cell of several includes it after the last.
 */
#define STRING_(a) #a
#define STRING(a) STRING_(a)

static const cell CELL = {
    .name = STRING(CELL),
    .gates = CELL_GATES,
    .apart = CELL_APART,
    .biases = CELL_BIASES,
    .saved = CELL_SAVED,
    .has_c = CELL_HAS_C,
    .carries_h = CELL_CARRIES_H,
    .num_peepholes = CELL_PEEPHOLES,
    .peepholes = {CELL_SEES},
    .num_phases = sizeof((const phase *[]){PHASES}) / sizeof(const phase *),
    .phases = {PHASES},
};

#undef STRING
#undef STRING_
#undef PHASES
#undef CELL
#undef CELL_GATES
#undef CELL_APART
#undef CELL_BIASES
#undef CELL_SAVED
#undef CELL_HAS_C
#undef CELL_CARRIES_H
#undef CELL_PEEPHOLES
#undef CELL_SEES
#undef CELL_CLIPS
