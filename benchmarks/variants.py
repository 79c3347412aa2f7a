"""Variants of the LSTM against the plain one: operations a second in training, by their own count.

    python -m benchmarks.variants [ROUNDS]

One thread, T 100, B 64, I and H 256, float32. Forward and backward of all variants take turns; a ratio is the
median over rounds.
"""

import statistics
import sys
import time

import numpy as np

import lstmc

STEPS, BATCH, INPUTS, HIDDEN = 100, 64, 256, 256
VARIANTS = {
    "plain": {},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "proj_size 128": {"proj_size": 128},
    "clip 3": {"clip": 3.0},
    "grad_clip 1": {"grad_clip": 1.0},
    "all of them": {"peephole": True, "coupled": True, "proj_size": 128, "clip": 3.0, "grad_clip": 1.0},
    "learned initial state": {"learn_initial_state": True},
}  # fmt: skip


def operations(layer):
    """Return the multiplications and additions of the products of one training call."""
    outputs = layer.features_of_h
    sums = len(layer.cell.gates) * HIDDEN * (INPUTS + outputs)
    projection = outputs * HIDDEN if layer.proj_size else 0
    return 3 * 2 * STEPS * BATCH * (sums + projection)  # forward once, backward twice as much


def main(rounds=15):
    """Print the rates."""
    lstmc.set_num_threads(1)
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)
    layers = {name: lstmc.LSTM(INPUTS, HIDDEN, rng=0, **own) for name, own in VARIANTS.items()}

    def rate(layer):
        dy = np.ones((STEPS, BATCH, layer.features_of_h), np.float32)
        start = time.process_time()
        _, _, trace = layer.forward(x)
        layer.backward(dy, trace, consume=True)
        return operations(layer) / (time.process_time() - start) / 1e9

    rates = {name: [] for name in layers}
    for number in range(rounds + 1):
        for name in list(layers)[:: 1 if number % 2 else -1]:
            measured = rate(layers[name])
            if number:  # the first round warms up
                rates[name].append(measured)
    for name, own in rates.items():
        ratio = statistics.median(a / b for a, b in zip(own, rates["plain"], strict=True))
        print(f"{name:22} {statistics.median(own):6.1f} GFLOP/s  {ratio:.3f} of the plain one's")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
