"""What a Trainer reads and measures: arrays and streams of tokens, and losses of one's own."""

import numpy as np
import pytest
from trainers import TRAIN, VALID, VOCABULARY, interrupt, losses, make_net, make_trainer

import lstmc
from lstmc.training import Interrupted, TokenStream, Trainer, evaluate

# -- what a trainer reads ---------------------------------------------------------------------------


def test_an_array_and_its_stream_train_to_the_same_bits(tmp_path):
    one, other = make_trainer(), make_trainer()
    other.batch = other.steps = None
    history = one.fit(TRAIN, VALID, epochs=2)
    stream, valid = TokenStream(TRAIN, 4, 20), TokenStream(VALID, 4, 20)
    assert (stream.count, stream.num_windows) == (596, 8)
    interrupt(other, at=11)
    with pytest.raises(Interrupted):
        other.fit(stream, valid, epochs=2, checkpoint=tmp_path / "a")
    again = make_trainer()
    again.batch = again.steps = None
    again.load(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"train must be the text .* in 4 streams, windows of 20; got .* 10"
    ):
        again.fit(TokenStream(TRAIN, 4, 10), valid, epochs=2)
    assert losses(again.fit(stream, valid, epochs=2)) == losses(history)
    assert np.array_equal(again.net.params, one.net.params)


def test_sizes_and_losses_that_are_missing_or_wrong():
    net = make_net()
    trainer = Trainer(net, lstmc.Adam(net), steps=3)
    with pytest.raises(
        ValueError, match="batch must be given to the Trainer, where train is an array"
    ):
        trainer.fit(TRAIN)
    for wrong in ("hinge", None, 3, np.ones(2)):
        with pytest.raises(ValueError, match='loss must be "cross_entropy" or a function, got'):
            Trainer(net, lstmc.Adam(net), 4, 20, loss=wrong)


def test_a_loss_of_ones_own():
    """Label smoothing by hand: the same bits as cross-entropy where it does nothing."""

    def smoothed(y, targets):
        return lstmc.softmax_cross_entropy(y, targets)

    one, other = make_trainer(), make_trainer(loss=smoothed)
    history = one.fit(TRAIN, VALID, epochs=2)
    again = other.fit(TRAIN, VALID, epochs=2)
    assert losses(again) == losses(history)
    assert [r["perplexity"] for r in again] == [None, None]


def test_what_a_loss_of_ones_own_returns_is_checked():
    def returning(make):
        return make_trainer(loss=lambda y, targets: make(*lstmc.softmax_cross_entropy(y, targets)))

    for make, message in (
        (lambda loss, dy: loss, "loss must return a loss and its gradient, got float"),
        (
            lambda loss, dy: (loss, dy[0]),
            r"gradient that loss returns must be float32 \(20, 4, 5\).* got float32",
        ),
        (lambda loss, dy: (loss, dy.astype(float)), "must be float32 .* got float64"),
        (lambda loss, dy: (loss, None), "must be float32 .* got None"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            returning(make).fit(TRAIN)


def test_a_network_that_reads_vectors_is_refused():
    net = lstmc.Sequential(lstmc.LSTM(2, 3), lstmc.Linear(3, VOCABULARY))
    with pytest.raises(
        ValueError, match="net must begin with an Embedding to read tokens, got LSTM"
    ):
        Trainer(net, lstmc.Adam(net), 4, 20).fit(TRAIN)


@pytest.mark.parametrize(("at", "token"), [(0, -1), (3, VOCABULARY), (149, 10**12)])
def test_tokens_that_are_not_known_are_refused_before_training(at, token):
    bad = VALID.copy()
    bad[at] = token
    trainer = make_trainer()
    before = trainer.net.params.copy()
    message = (
        rf"\[{at}\] must be in \[0, {VOCABULARY}\), the tokens that the network knows, got {token}"
    )
    with pytest.raises(ValueError, match="valid" + message):
        trainer.fit(TRAIN, bad)
    with pytest.raises(ValueError, match="train" + message):
        trainer.fit(bad)
    with pytest.raises(ValueError, match="tokens" + message):
        evaluate(trainer.net, bad)
    assert np.array_equal(trainer.net.params, before)
    assert (trainer.epoch, trainer.window) == (0, 0)
