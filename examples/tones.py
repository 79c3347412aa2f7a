"""Classify sequences of unequal length: name the tone in which a syllable is spoken.

Run it with: ``python examples/tones.py``

In Mandarin the pitch of a syllable tells words apart: it stays level, rises, dips or falls. Here voices are
high or low, syllables short or long, and pitch is measured with noise. A bidirectional LSTM reads each
syllable from both ends, Last takes what each direction knows when it has read all of it, and Linear names
the tone.
"""

import numpy as np

import lstmc

TONES = ("level", "rising", "dipping", "falling")
SHORTEST, LONGEST = 5, 60


def make_batch(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pitches x (T, B, 1), the lengths (B,) of syllables, and their tones (B,)."""
    lengths = rng.integers(SHORTEST, LONGEST, batch, endpoint=True)
    tones = rng.integers(len(TONES), size=batch)
    along = np.arange(LONGEST)[:, None] / (lengths - 1)  # (T, B): from 0 to 1 at the end
    shapes = [0 * along, along, np.abs(2 * along - 1), 1 - along]
    pitch = np.choose(tones, shapes) + rng.normal(0, 1, batch)  # of a voice
    pitch += rng.normal(0, 0.3, pitch.shape)
    pitch[along > 1] = np.nan  # there is nothing beyond an end, and nothing is read there
    return pitch[:, :, None].astype(np.float32), lengths, tones


def accuracy(net: lstmc.Sequential) -> float:
    """Return the share of 4000 other syllables, the same at every call, whose tone the network names."""
    x, lengths, tones = make_batch(np.random.default_rng(2026), 4000)
    y, _ = net(x, lengths=lengths)
    return float(np.mean(y.argmax(1) == tones))


def main(updates: int = 400, seed: int = 0) -> float:
    """Train, and return the accuracy on other syllables: chance is 0.25."""
    rng = np.random.default_rng(seed)
    net = lstmc.Sequential(
        lstmc.LSTM(1, 32, bidirectional=True, rng=rng),
        lstmc.Last(),
        lstmc.Linear(64, len(TONES), rng=rng),
    )
    optimiser = lstmc.Adam(net, lr=0.01)
    for update in range(1, updates + 1):
        x, lengths, tones = make_batch(rng, batch=64)
        y, _, trace = net.forward(x, lengths=lengths)
        loss, dy = lstmc.softmax_cross_entropy(y, tones)
        net.zero_grad()
        net.backward(dy, trace)
        lstmc.clip_grad_norm(net, 1.0)
        optimiser.step()
        if update % 100 == 0:
            print(f"update {update}: loss {loss:.3f}, accuracy {accuracy(net):.1%}")
    return accuracy(net)


if __name__ == "__main__":
    main()
