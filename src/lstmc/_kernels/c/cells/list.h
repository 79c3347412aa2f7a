/* The list of cells. A cell's number in calls is its place here. */
#ifndef LSTMC_CELLS_H
#define LSTMC_CELLS_H

#include <string.h>

#include "cell.h"
#include "../vmath.h"

#include "gru.h"
#include "gru_before.h"
#include "lstm.h"
#include "rnn.h"

static const cell *const cells[] = {
    &lstm,
    &lstm_peephole,
    &lstm_coupled,
    &lstm_coupled_peephole,
    &lstm_clipped,
    &lstm_peephole_clipped,
    &lstm_coupled_clipped,
    &lstm_coupled_peephole_clipped,
    &gru,
    &gru_before,
    &rnn_tanh,
    &rnn_relu,
    &rnn_identity,
};
enum { CELLS = sizeof(cells) / sizeof(cells[0]) };

/* The record of a cell by its number; NULL where there is none. */
static const cell *cell_of(int number) { return number >= 0 && number < CELLS ? cells[number] : NULL; }

static int cell_number(const char *name)
{
    for (int i = 0; i < CELLS; i++)
        if (strcmp(cells[i]->name, name) == 0)
            return i;
    return LSTMC_UNKNOWN;
}

static int gates_of(int number) { return cell_of(number) ? cell_of(number)->gates : LSTMC_UNKNOWN; }

static int biases_of(int number) { return cell_of(number) ? cell_of(number)->biases : LSTMC_UNKNOWN; }

static int saved_of(int number) { return cell_of(number) ? cell_of(number)->saved : LSTMC_UNKNOWN; }

static int peepholes_of(int number)
{
    return cell_of(number) ? cell_of(number)->num_peepholes : LSTMC_UNKNOWN;
}

static int states_of(int number) { return cell_of(number) ? 1 + cell_of(number)->has_c : LSTMC_UNKNOWN; }

#endif
