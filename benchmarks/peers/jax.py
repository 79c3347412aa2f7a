"""JAX: lax.scan over time, the input product before it, compiled as a whole."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from . import Side, Turns

NOT_PLAIN = ()

jax.config.update("jax_cpu_enable_async_dispatch", False)  # nothing to overlap with


class Cell(NamedTuple):
    """How many states a cell has, and a step."""

    states: int
    step: Callable  # (W x + b, R h: (B, G*H); R's own bias, if any; states) -> states


def _lstm(of_x, of_h, own, state):
    i, f, g, o = jnp.split(of_x + of_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(of_x, of_h, own, state):
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (jnp.split(a, 3, axis=-1) for a in (of_x, of_h))
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + r * (n_h + own))
    return (n + z * (state[0] - n),)


CELLS = {
    "lstm": Cell(2, _lstm),
    "gru": Cell(1, _gru),
    "rnn": Cell(1, lambda of_x, of_h, own, state: (jnp.tanh(of_x + of_h),)),
}


def _stack(w, weights, x, states):
    """Run all layers, weights transposed; return y and the final states."""
    final, cell = [], CELLS[w.cell].step
    for k in range(w.layers):
        recurrent = weights[f"weight_hh_l{k}"]
        bias, own = jnp.split(weights[f"bias_l{k}"], recurrent.shape[1:])

        def step(state, of_x, recurrent=recurrent, own=own):
            state = cell(of_x, state[0] @ recurrent, own, state)
            return state, state[0]

        products = x @ weights[f"weight_ih_l{k}"] + bias
        state, x = jax.lax.scan(step, states[k], products)
        final.append(state)
    return x, tuple(final)


def _arrays(w, problem):
    """Return the transposed weights by name, the sets of input, and zero states."""
    jax.config.update("jax_enable_x64", w.dtype == "float64")
    zeros = jnp.zeros((w.batch, w.hidden), w.dtype)
    states = ((zeros,) * CELLS[w.cell].states,) * w.layers
    weights = {name: jnp.asarray(a.T.copy()) for name, a in problem.weights.items()}
    return weights, [tuple(map(jnp.asarray, one)) for one in problem.sets], states


def step(w, problem, setting):
    weights, sets, states = _arrays(w, problem)
    call = jax.jit(lambda weights, x, states: _stack(w, weights, x, states))
    turns, y = Turns([x[None] for (x,) in sets]), None

    def run(n):
        nonlocal y, states
        for x in turns.take(n):
            y, states = call(weights, x, states)
            y.block_until_ready()

    return {"jax": Side(run, lambda: (y[0], *map(jnp.stack, zip(*states))))}


def forward(w, problem, setting):
    weights, sets, states = _arrays(w, problem)
    call = jax.jit(lambda weights, x: _stack(w, weights, x, states)[0])
    turns, y = Turns(sets), None

    def run(n):
        nonlocal y
        for (x,) in turns.take(n):
            y = call(weights, x).block_until_ready()

    return {"jax": Side(run, lambda: (y,))}


def train(w, problem, setting):
    weights, sets, states = _arrays(w, problem)
    turns, results = Turns(sets), None

    @jax.jit
    def gradients(weights, x, dy):
        y, pull = jax.vjp(lambda weights, x: _stack(w, weights, x, states)[0], weights, x)
        return y, *pull(dy)

    def run(n):
        nonlocal results
        for x, dy in turns.take(n):
            results = jax.block_until_ready(gradients(weights, x, dy))

    def answers():
        y, grads, dx = results
        return (y, dx, *(grads[name].T for name in problem.weights))

    return {"jax": Side(run, answers)}
