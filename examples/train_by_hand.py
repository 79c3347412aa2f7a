"""Train by hand: forward, loss, backward, clip, step. No trainer.

Run it with: ``python examples/train_by_hand.py``

The task: read a sequence of ones and minus ones; after each, predict the sign of the one three steps before.
"""

import numpy as np

import lstmc


def make_batch(rng: np.random.Generator, steps: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (T, B, 1) and the classes (T, B), -1 where there is no answer yet."""
    bits = rng.integers(0, 2, (steps, batch))
    targets = np.full((steps, batch), -1)
    targets[3:] = bits[:-3]
    return (2.0 * bits[:, :, None] - 1).astype(np.float32), targets


def main(updates: int = 300) -> float:
    """Train, and return the loss of the last update in nats: chance is log 2 = 0.69."""
    rng = np.random.default_rng(0)
    net = lstmc.Sequential(lstmc.LSTM(1, 24, rng=rng), lstmc.Linear(24, 2, rng=rng))
    optimiser = lstmc.Adam(net, lr=0.01)
    for update in range(updates):
        x, targets = make_batch(rng, steps=20, batch=32)
        y, _, trace = net.forward(x)
        loss, dy = lstmc.softmax_cross_entropy(y, targets)  # targets of -1 are not counted
        net.zero_grad()
        net.backward(dy, trace)
        norm = lstmc.clip_grad_norm(net, 1.0)
        optimiser.step()
        if update % 50 == 0 or update == updates - 1:
            print(f"update {update:3}: loss {loss:.4f}, norm of the gradient {norm:.3f}")
    return loss


if __name__ == "__main__":
    main()
