/* The weights of a layer as forward reads them: W, R and b in panels, one after another, phase by phase. */
#ifndef LSTMC_PACKED_H
#define LSTMC_PACKED_H

#include "list.h"

/* Where those of one phase are, in elements from the start of the layer's. */
typedef struct {
    ptrdiff_t w; /* panels of the phase's sums of a unit, I rows each */
    ptrdiff_t r; /* the same, H rows each */
    ptrdiff_t b; /* panels of its biases of a unit, one row */
} packed_phase;

/* Says it of all phases; returns the elements of the layer. */
static ptrdiff_t lay_packed(packed_phase places[MOST_PHASES], const cell *cell, ptrdiff_t inputs,
                            ptrdiff_t hidden)
{
    ptrdiff_t end = 0;
    for (int p = 0; p < cell->num_phases; p++) {
        const ptrdiff_t elements = panels_of_units(hidden, cell->phases[p]->gates) * PANEL;
        places[p] = (packed_phase){end, end + elements * inputs, end + elements * (inputs + hidden)};
        end = places[p].b + panels_of_units(hidden, cell->phases[p]->biases) * PANEL;
    }
    return end;
}

/* A member's share of the panels; each is packed by itself. */
static void pack_share(real *packed, const cell *cell, const lstmc_forward_layer *layer, const team *member)
{
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs;
    packed_phase places[MOST_PHASES];
    lay_packed(places, cell, inputs, hidden);
    for (int p = 0; p < cell->num_phases; p++) {
        const phase *phase = cell->phases[p];
        const ptrdiff_t above = phase->first * hidden; /* rows of the phases before */
        real *w = packed + places[p].w, *r = packed + places[p].r, *b = packed + places[p].b;
        ptrdiff_t first, last;
        team_share(member, panels_of_units(hidden, phase->gates), &first, &last);
        NAME(pack_transposed)(w + first * inputs * PANEL, (const real *)layer->weight_ih + above * inputs,
                              inputs, hidden, phase->gates, first, last);
        NAME(pack_transposed)(r + first * hidden * PANEL, (const real *)layer->weight_hh + above * hidden,
                              hidden, hidden, phase->gates, first, last);
        team_share(member, panels_of_units(hidden, phase->biases), &first, &last);
        NAME(pack_transposed)(b + first * PANEL, (const real *)layer->bias + above, 1, hidden, phase->biases,
                              first, last);
    }
}

static int NAME(pack_layer)(lstmc_real *packed, const lstmc_forward_layer *layer, int number)
{
    const cell *cell = cell_of(number);
    const team alone = {NULL, 0, 1, 0};
    if (!cell)
        return LSTMC_UNKNOWN;
    pack_share(packed, cell, layer, &alone);
    return 0;
}

static ptrdiff_t NAME(packed_size)(const lstmc_forward_layer *layer, int number)
{
    const cell *cell = cell_of(number);
    packed_phase places[MOST_PHASES];
    return cell ? lay_packed(places, cell, layer->inputs, layer->hidden) * (ptrdiff_t)sizeof(real)
                : LSTMC_UNKNOWN;
}

#endif
