"""Train one character model with lstmc and with PyTorch, epoch by epoch in turn, and print both.

    python -m benchmarks.char_lm TEXT [--epochs 10] [--peer torch|none]

Embedding 128, LSTM 2 x 128, batch 50, 50 steps, Adam 2e-3, clip 5, state carried, one thread; each with
its own initialisation; the last tenth of the text is for validation. This is a check of learning and
of the speed of the whole loop, not a kernel benchmark.
"""

import argparse
import time

import numpy as np

import lstmc
from lstmc.training import Vocabulary, evaluate, read_text, streams, windows

EMBED, HIDDEN, LAYERS, BATCH, STEPS, LR, CLIP = 128, 128, 2, 50, 50, 2e-3, 5.0


def lstmc_epochs(classes, train, valid, seed):
    rng = np.random.default_rng(seed)
    net = lstmc.Sequential(
        lstmc.Embedding(classes, EMBED, rng=rng),
        lstmc.LSTM(EMBED, HIDDEN, LAYERS, rng=rng),
        lstmc.Linear(HIDDEN, classes, rng=rng),
    )
    optimiser = lstmc.Adam(net, lr=LR)
    while True:
        start, state = time.perf_counter(), None
        for x, targets in windows(streams(train, BATCH), STEPS):
            net.zero_grad()
            logits, state, trace = net.forward(x, state)
            _, dlogits = lstmc.softmax_cross_entropy(logits, targets)
            net.backward(dlogits, trace, need_dx=False)
            lstmc.clip_grad_norm(net, CLIP)
            optimiser.step()
        yield time.perf_counter() - start, evaluate(net, valid, BATCH, STEPS)


def torch_epochs(classes, train, valid, seed):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    embedding = torch.nn.Embedding(classes, EMBED)
    lstm = torch.nn.LSTM(EMBED, HIDDEN, LAYERS)
    linear = torch.nn.Linear(HIDDEN, classes)
    params = [p for module in (embedding, lstm, linear) for p in module.parameters()]
    optimiser = torch.optim.Adam(params, lr=LR)
    mean_loss = torch.nn.CrossEntropyLoss()

    def run(x, targets, state):
        y, state = lstm(embedding(torch.from_numpy(x)), state)
        loss = mean_loss(linear(y).reshape(-1, classes), torch.from_numpy(targets).reshape(-1))
        return loss, tuple(part.detach() for part in state)

    while True:
        start, state = time.perf_counter(), None
        for x, targets in windows(streams(train, BATCH), STEPS):
            optimiser.zero_grad()
            loss, state = run(x, targets.copy(), state)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, CLIP)
            optimiser.step()
        seconds = time.perf_counter() - start
        total = count = 0
        state = None
        with torch.no_grad():
            for x, targets in windows(streams(valid, BATCH), STEPS):
                loss, state = run(x, targets.copy(), state)
                total, count = total + loss.item() * targets.size, count + targets.size
        yield seconds, total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--peer", choices=("torch", "none"), default="torch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lstmc.set_num_threads(1)
    text = read_text(args.text)
    vocabulary = Vocabulary.from_text(text)
    tokens = vocabulary.encode(text)
    cut = len(tokens) * 9 // 10
    data = (len(vocabulary), tokens[:cut], tokens[cut:], args.seed)
    ours, theirs = lstmc_epochs(*data), torch_epochs(*data) if args.peer == "torch" else None
    for epoch in range(1, args.epochs + 1):
        seconds, loss = next(ours)
        line = f"epoch {epoch:2}  lstmc {loss:.4f} {seconds:6.1f} s"
        if theirs:
            peer_seconds, peer_loss = next(theirs)
            line += f"  torch {peer_loss:.4f} {peer_seconds:6.1f} s  torch/lstmc {peer_seconds / seconds:.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
