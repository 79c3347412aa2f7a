/* The weights of a layer as forward reads them: W, R and b in panels, one after another, phase by phase; then
 * what some cells and layers have beside them. */
#ifndef LSTMC_PACKED_H
#define LSTMC_PACKED_H

#include "list.h"

/* Where those of one phase are, in elements from the start of the layer's. */
typedef struct {
    ptrdiff_t w; /* panels of the phase's sums of a unit, I rows each */
    ptrdiff_t r; /* the same, P rows each */
    ptrdiff_t b; /* panels of its biases of a unit, one row */
} packed_phase;

typedef struct {
    packed_phase phases[MOST_PHASES];
    ptrdiff_t peepholes;  /* rows of whole vectors of units */
    ptrdiff_t projection; /* panels of P columns, H rows each */
} packed_layer;

/* Says it of a layer; returns its elements. */
static ptrdiff_t lay_packed(packed_layer *places, const cell *cell, const lstmc_forward_layer *layer)
{
    const ptrdiff_t inputs = layer->inputs, hidden = layer->hidden, outputs = layer->outputs;
    ptrdiff_t end = 0;
    for (int p = 0; p < cell->num_phases; p++) {
        const ptrdiff_t elements = panels_of_units(hidden, cell->phases[p]->gates) * PANEL;
        places->phases[p] = (packed_phase){end, end + elements * inputs, end + elements * (inputs + outputs)};
        end = places->phases[p].b + panels_of_units(hidden, cell->phases[p]->biases) * PANEL;
    }
    places->peepholes = end;
    places->projection = end + aligned(cell->num_peepholes * whole_vectors(hidden));
    return places->projection + (layer->weight_hr ? panels_of(outputs) * hidden * PANEL : 0);
}

/* A member's share of the panels; each is packed by itself. */
static void pack_share(real *packed, const cell *cell, const lstmc_forward_layer *layer, const team *member)
{
    const ptrdiff_t hidden = layer->hidden, inputs = layer->inputs, outputs = layer->outputs;
    packed_layer places;
    ptrdiff_t first, last;
    lay_packed(&places, cell, layer);
    for (int p = 0; p < cell->num_phases; p++) {
        const phase *phase = cell->phases[p];
        const packed_phase *place = &places.phases[p];
        const ptrdiff_t above = phase->first * hidden; /* rows of the phases before */
        real *w = packed + place->w, *r = packed + place->r, *b = packed + place->b;
        team_share(member, panels_of_units(hidden, phase->gates), &first, &last);
        NAME(pack_transposed)(w + first * inputs * PANEL, (const real *)layer->weight_ih + above * inputs,
                              inputs, hidden, phase->gates, first, last);
        NAME(pack_transposed)(r + first * outputs * PANEL, (const real *)layer->weight_hh + above * outputs,
                              outputs, hidden, phase->gates, first, last);
        team_share(member, panels_of_units(hidden, phase->biases), &first, &last);
        NAME(pack_transposed)(b + first * PANEL, (const real *)layer->bias + above, 1, hidden, phase->biases,
                              first, last);
    }
    team_share(member, cell->num_peepholes, &first, &last);
    for (ptrdiff_t k = first; k < last; k++) {
        real *row = packed + places.peepholes + k * whole_vectors(hidden);
        memset(row, 0, whole_vectors(hidden) * sizeof(real));
        memcpy(row, (const real *)layer->peepholes + k * hidden, hidden * sizeof(real));
    }
    team_share(member, layer->weight_hr ? panels_of(outputs) : 0, &first, &last);
    NAME(pack_transposed)(packed + places.projection + first * hidden * PANEL, layer->weight_hr, hidden,
                          outputs, 1, first, last);
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
    packed_layer places;
    return cell ? lay_packed(&places, cell, layer) * (ptrdiff_t)sizeof(real) : LSTMC_UNKNOWN;
}

#endif
