"""Step an LSTM one sample at a time, as an audio or control loop does.

Run it with: ``python examples/step.py``
"""

import time

import numpy as np

import lstmc


def main(steps: int = 20_000) -> np.ndarray:
    """Run a noisy signal through a small network, and return what comes out."""
    net = lstmc.Sequential(lstmc.LSTM(4, 32, rng=0), lstmc.Linear(32, 1, rng=1))
    stepper = net.stepper(batch=1)  # packed weights, a state of its own
    signal = np.random.default_rng(2).standard_normal((steps, 4)).astype(np.float32)
    output = np.empty((steps, 1), np.float32)
    began = time.perf_counter()
    for x, y in zip(signal, output):
        stepper(x, out=y)
    print(f"{(time.perf_counter() - began) / steps * 1e6:.2f} microseconds a step")

    # A loop of steps and one call over the whole sequence give the same bits.
    whole, _ = net(signal)
    print("the same bits as one call:", np.array_equal(output, whole))

    stepper.reset()  # forget: the state is zeros again
    return output


if __name__ == "__main__":
    main()
