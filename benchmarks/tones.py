"""Train the classifier of examples/tones.py with lstmc and with PyTorch, and print how often both are right.

    python -m benchmarks.tones [--seeds 3] [--updates 400]

The same syllables, sizes, optimiser and clipping, one thread; each with its own initialisation. PyTorch takes
the batch as a packed sequence, and the final states of both directions. This is a check of learning.
"""

import argparse
import runpy
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import lstmc

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "tones.py"), run_name="tones")


def torch_accuracy(updates, seed):
    """Do in PyTorch what the example's main does; return the accuracy on the same other syllables."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    lstm = torch.nn.LSTM(1, 32, bidirectional=True)
    linear = torch.nn.Linear(64, len(EXAMPLE["TONES"]))
    parameters = [*lstm.parameters(), *linear.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.01)
    mean_loss = torch.nn.CrossEntropyLoss()

    def run(rng, batch):
        x, lengths, tones = EXAMPLE["make_batch"](rng, batch)
        packed = pack_padded_sequence(
            torch.from_numpy(x), torch.from_numpy(lengths), enforce_sorted=False
        )
        _, (h, _) = lstm(packed)  # h (2, B, 32)
        return linear(torch.cat([h[0], h[1]], 1)), torch.from_numpy(tones)

    for _ in range(updates):
        optimiser.zero_grad()
        mean_loss(*run(rng, 64)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    with torch.no_grad():
        y, tones = run(np.random.default_rng(2026), 4000)
    return (y.argmax(1) == tones).double().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=400)
    args = parser.parse_args()
    rows = []
    lstmc.set_num_threads(1)
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        rows.append((EXAMPLE["main"](args.updates, seed), torch_accuracy(args.updates, seed)))
        print("seed {}: lstmc {:.1%}, torch {:.1%}".format(seed, *rows[-1]), flush=True)
    print("mean: lstmc {:.1%}, torch {:.1%}".format(*np.mean(rows, 0)))


if __name__ == "__main__":
    main()
