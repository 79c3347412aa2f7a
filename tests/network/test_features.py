"""What layers read must be what those before them give: refused when a Sequential is built, by both names."""

import numpy as np
import pytest
from own_layers import Bare, Halve, Residual

import lstmc


class Says(lstmc.Layer):
    """A layer of a user's own that says what it reads and gives."""

    def __init__(self, reads=None, gives=None):
        super().__init__()
        self.in_features, self.out_features = reads, gives

    def forward(self, x, state=None, training=True):
        return x, state, None

    def backward(self, dy, trace, dstate=None):
        return dy, dstate


class Own(lstmc.Sequential):
    """It says nothing: what it computes of its layers is its own."""

    def compute(self, x, call):
        return super().compute(x[..., :3], call)


REFUSED = {
    "numbers": (
        lambda: (lstmc.LSTM(3, 5), lstmc.Linear(4, 2)),
        r"layers\[1\] \(Linear\) reads 4 features, and layers\[0\] \(LSTM\) gives 5 features",
    ),
    "numbers where tokens are read": (
        lambda: (lstmc.Linear(3, 5), lstmc.Embedding(7, 4)),
        r"layers\[1\] \(Embedding\) reads tokens, and layers\[0\] \(Linear\) gives 5 features",
    ),
    "an embedding": (
        lambda: (lstmc.Embedding(7, 4), lstmc.GRU(7, 4)),
        r"layers\[1\] \(GRU\) reads 7 features, and layers\[0\] \(Embedding\) gives 4 features",
    ),
    "two directions": (
        lambda: (lstmc.RNN(3, 5, bidirectional=True), lstmc.Linear(5, 2)),
        r"layers\[1\] \(Linear\) reads 5 features, and layers\[0\] \(RNN\) gives 10 features",
    ),
    "a projection": (
        lambda: (lstmc.LSTM(3, 5, proj_size=2), lstmc.Linear(5, 2)),
        r"layers\[1\] \(Linear\) reads 5 features, and layers\[0\] \(LSTM\) gives 2 features",
    ),
    "both": (
        lambda: (lstmc.LSTM(3, 5, 2, proj_size=2, bidirectional=True), lstmc.Linear(2, 2)),
        r"layers\[1\] \(Linear\) reads 2 features, and layers\[0\] \(LSTM\) gives 4 features",
    ),
    "through layers that change none": (
        lambda: (
            lstmc.LSTM(3, 5), lstmc.Dropout(0.5), lstmc.Last(), lstmc.Activation("relu"), lstmc.Linear(4, 2),
        ),
        r"layers\[4\] \(Linear\) reads 4 features, and layers\[0\] \(LSTM\) gives 5 features",
    ),
    "nested": (
        lambda: (
            lstmc.Linear(3, 3),
            lstmc.Sequential(lstmc.RNN(3, 5), lstmc.Sequential(lstmc.Dropout(0.5))),
            lstmc.Sequential(lstmc.Linear(4, 2)),
        ),
        r"layers\[2\]\.layers\[0\] \(Linear\) reads 4 features, and layers\[1\]\.layers\[0\] \(RNN\) gives 5",
    ),
    "tokens of one's own": (
        lambda: (Says("tokens", "tokens"), lstmc.Linear(3, 5)),
        r"layers\[1\] \(Linear\) reads 3 features, and layers\[0\] \(Says\) gives tokens",
    ),
    "features of one's own": (
        lambda: (lstmc.Linear(3, 5), Says(4, "same")),
        r"layers\[1\] \(Says\) reads 4 features, and layers\[0\] \(Linear\) gives 5 features",
    ),
    "as many as are read": (
        lambda: (Says(4, "same"), lstmc.Linear(3, 5)),
        r"layers\[1\] \(Linear\) reads 3 features, and layers\[0\] \(Says\) gives 4 features",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_do_not_fit(name):
    layers, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        lstmc.Sequential(*layers())


FITTING = {
    "tokens to logits": lambda: (
        lstmc.Embedding(7, 3), lstmc.Dropout(0.1), lstmc.LSTM(3, 5, 2, proj_size=2, bidirectional=True),
        lstmc.Activation("tanh"), lstmc.Last(), lstmc.Linear(4, 2),
    ),
    "one that says nothing": lambda: (lstmc.Linear(3, 5), Halve(), lstmc.Linear(4, 2)),
    "one that inherits nothing": lambda: (lstmc.Linear(3, 4), Bare(4, np.float32), lstmc.Linear(5, 2)),
    "what is not known here": lambda: (
        lstmc.Linear(3, 4), Says("anything", "any"), lstmc.Linear(5, 4), Says(True, (1, 2)),
        lstmc.Linear(6, 4), Says("same", np.arange(3)), lstmc.Linear(7, 2),
    ),
    "a composite, which says nothing": lambda: (
        lstmc.Linear(3, 4), Residual(lstmc.LSTM(5, 5)), lstmc.Linear(6, 2),
    ),
    "a Sequential with a compute of its own": lambda: (
        lstmc.Linear(3, 4), Own(lstmc.Linear(3, 3)), lstmc.Linear(5, 2),
    ),
    "a Sequential that begins by passing on": lambda: (
        lstmc.Linear(3, 4), lstmc.Sequential(lstmc.Dropout(0.1), lstmc.Linear(4, 2)), lstmc.Linear(2, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FITTING)
def test_what_may_fit_is_not_refused(name):
    lstmc.Sequential(*FITTING[name]())


def test_networks_say_what_they_read_and_give():
    """As a user's own layer may want to know of what it is made around."""
    for layers, reads, gives in (
        ((lstmc.Embedding(7, 3), lstmc.LSTM(3, 5, bidirectional=True)), "tokens", 10),
        ((lstmc.Dropout(0.1), lstmc.Activation("tanh")), None, "same"),
        ((lstmc.Dropout(0.1), lstmc.LSTM(3, 5), lstmc.Dropout(0.1)), 3, 5),
        ((Says(4, "same"), lstmc.Dropout(0.1)), 4, 4),
        ((lstmc.Linear(3, 4), Halve()), 3, None),
    ):
        net = lstmc.Sequential(*layers)
        assert (net.in_features, net.out_features) == (reads, gives)
    own = Own(lstmc.Linear(3, 4))
    assert (own.in_features, own.out_features) == (None, None)
