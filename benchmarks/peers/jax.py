"""JAX: lax.scan over time, the input product before it, compiled as a whole."""

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_cpu_enable_async_dispatch", False)  # nothing to overlap with


def _cell(cell, a, state):
    """Take the sums before the activations and the state; give the new state."""
    if cell == "rnn":
        return (jnp.tanh(a),)
    i, f, g, o = jnp.split(a, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _stack(w, weights, x, states):
    """Run all layers, weights transposed; give y and the final states."""
    final = []
    for k in range(w.layers):
        recurrent = weights[f"weight_hh_l{k}"]

        def step(state, a, recurrent=recurrent):
            state = _cell(w.cell, a + state[0] @ recurrent, state)
            return state, state[0]

        products = x @ weights[f"weight_ih_l{k}"] + weights[f"bias_l{k}"]
        state, x = jax.lax.scan(step, states[k], products)
        final.append(state)
    return x, tuple(final)


def _arrays(w, problem):
    jax.config.update("jax_enable_x64", w.dtype == "float64")
    zeros = jnp.zeros((w.batch, w.hidden), w.dtype)
    states = ((zeros,) * (2 if w.cell == "lstm" else 1),) * w.layers
    weights = {name: jnp.asarray(a.T.copy()) for name, a in problem.weights.items()}
    return weights, jnp.asarray(problem.x), states


def step(w, problem, threads):
    weights, x, states = _arrays(w, problem)
    call = jax.jit(lambda weights, x, states: _stack(w, weights, x, states))

    def run(n):
        nonlocal states
        for _ in range(n):
            y, states = call(weights, x, states)
            y.block_until_ready()
        return (y[0],)

    return {"jax": run}


def forward(w, problem, threads):
    weights, x, states = _arrays(w, problem)
    call = jax.jit(lambda weights, x: _stack(w, weights, x, states)[0])

    def run(n):
        for _ in range(n):
            y = call(weights, x).block_until_ready()
        return (y,)

    return {"jax": run}


def train(w, problem, threads):
    weights, x, states = _arrays(w, problem)
    dy = jnp.asarray(problem.dy)

    @jax.jit
    def gradients(weights, x, dy):
        y, pull = jax.vjp(lambda weights, x: _stack(w, weights, x, states)[0], weights, x)
        return y, *pull(dy)

    def run(n):
        for _ in range(n):
            y, grads, dx = jax.block_until_ready(gradients(weights, x, dy))
        return (y, dx, *(np.asarray(grads[name]).T for name in problem.weights))

    return {"jax": run}
