"""LanguageModel: what it says is what its network says, from the weights of now, and files keep it.

The judge of probabilities is the network's own sequence call (judged elsewhere) and plain NumPy.
"""

import math
import os

import numpy as np
import pytest
from cases import KINDS
from support import assert_close, assert_same_bits

from lstmc import LSTM, RNN, Adam, Dropout, LanguageModel, Trainer, Vocabulary
from lstmc.files import read_safetensors, write_safetensors

TEXT = "the cat sat on the mat.\nthe dog saw the cat.\n" * 8
CHARACTERS = Vocabulary.from_text(TEXT)
WORDS = Vocabulary.from_text(TEXT, "word")
TOKENS = Vocabulary.from_text(TEXT, "token")
# The softmax of the kernels against NumPy's in float64: some units of the last place of float32.
ROUNDING = {"float32": 1e-6, "float64": 1e-14}


def make(vocabulary=CHARACTERS, **options):
    return LanguageModel(vocabulary, **{"layers": 2, "hidden": 19, "embed": 7, "rng": 5, **options})


def expected(model, ids):
    """Probabilities (T, V) after each token, by the network's sequence call and NumPy's softmax."""
    logits, _ = model.net(np.asarray(ids)[:, None])
    logits = logits[:, 0].astype(np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_steps_give_the_probabilities_of_every_continuation(cell, dropout, dtype):
    model = make(cell=cell, dropout=dropout, dtype=dtype)
    ids = CHARACTERS.encode("the dog sat")
    wanted = expected(model, ids)
    for i, character in enumerate("the dog sat"):
        got = model.step(character) if i % 2 else model.step(int(ids[i]))
        assert got.dtype == dtype
        assert_close(got, wanted[i], ROUNDING[dtype.name])
        assert abs(float(got.sum()) - 1) < 10 * ROUNDING[dtype.name]


def test_the_network_is_the_one_that_was_asked_for():
    plain = make(layers=3).net.layers
    assert [type(layer).__name__ for layer in plain] == ["Embedding", "LSTM", "Linear"]
    assert plain[1].num_layers == 3
    dropping = make(layers=2, dropout=0.3, cell="rnn").net.layers
    kinds = [type(layer).__name__ for layer in dropping]
    assert kinds == ["Embedding", "Dropout", "RNN", "Dropout", "RNN", "Dropout", "Linear"]
    assert {layer.p for layer in dropping if isinstance(layer, Dropout)} == {0.3}
    masks = {layer.rng.random() for layer in dropping if isinstance(layer, Dropout)}
    assert len(masks) == 3, "each layer drops on its own"
    for variational in (False, True):
        drop = make(dropout=0.3, variational=variational).net.layers[1]
        assert drop.variational is variational
    assert isinstance(make().net.layers[1], LSTM)
    assert isinstance(dropping[2], RNN)


def test_the_memory_starts_at_zeros_and_can_be_forgotten_and_put_back():
    model = make()
    assert all(not part.any() for part in model.state[1])
    first = model.step("t")
    kept = model.state
    assert all(part.any() for part in kept[1])
    second = model.step("h")
    assert not np.array_equal(first, second)
    model.state = kept
    assert np.array_equal(model.step("h"), second)
    model.reset()
    assert all(not part.any() for part in model.state[1])
    assert np.array_equal(model.step("t"), first)


def test_what_starts_from_zeros_leaves_the_memory_alone():
    model = make()
    model.step("t")
    before = model.state
    first = model.continuations("the", k=3)
    text = model.sample("the", length=9, rng=1)
    perplexity = model.perplexity("the cat")
    for a, b in zip(before[1], model.state[1]):
        assert np.array_equal(a, b)
    model.reset()
    assert model.continuations("the", k=3) == first
    assert model.sample("the", length=9, rng=1) == text
    assert model.perplexity("the cat") == perplexity


@pytest.mark.parametrize(
    "name", ["0.weight", "1.weight_ih_l0", "1.weight_hh_l1", "1.bias_l0", "2.weight", "2.bias"]
)
def test_a_weight_that_changes_is_seen_at_once(name):
    model, twin = make(), make()
    assert np.array_equal(model.step("t"), twin.step("t"))
    state = model.state
    view = model.net[name]
    if name == "0.weight":
        view[CHARACTERS.index("h")] += 0.25
    else:
        view[(-1,) * view.ndim] += 0.25
    twin.net.params[:] = model.net.params
    fresh = LanguageModel(CHARACTERS, layers=2, hidden=19, embed=7, rng=0)
    fresh.net.params[:] = model.net.params
    fresh.state = state  # a stepper that was never packed from the old weights
    wanted = fresh.step("h")
    assert np.array_equal(model.step("h"), wanted)
    assert np.array_equal(twin.step("h"), wanted)
    assert model.continuations("the cat") == fresh.continuations("the cat")


def test_training_is_seen_and_learns():
    model = make(WORDS)
    before = model.perplexity(TEXT)
    trainer = Trainer(model.net, Adam(model.net, lr=0.02), batch=4, steps=10)
    model.step("the")
    trainer.fit(WORDS.encode(TEXT), epochs=15)
    assert model.perplexity(TEXT) < 0.3 * before
    model.reset()
    assert_close(model.step("the"), expected(model, WORDS.encode("the"))[0], ROUNDING["float32"])


def test_continuations_are_the_likeliest_in_order():
    model = make()
    wanted = expected(model, CHARACTERS.encode("the c"))[-1]
    found = model.continuations("the c", k=len(CHARACTERS) + 5)
    assert len(found) == len(CHARACTERS)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    for token, probability in found:
        assert abs(probability - wanted[CHARACTERS.index(token)]) < 1e-6
    assert model.continuations("the c", k=2) == found[:2]
    assert all(type(p) is float for _, p in found)


def test_perplexity_is_exp_of_the_mean_loss_however_long_the_text():
    model = make()
    text = TEXT[:300]  # longer than what is computed at once
    ids = CHARACTERS.encode(text)
    probabilities = expected(model, ids[:-1])[np.arange(len(ids) - 1), ids[1:]]
    wanted = math.exp(-np.log(probabilities).mean())
    assert model.perplexity(text) == pytest.approx(wanted, rel=1e-6)


def test_characters_that_are_left_out_are_neither_read_nor_predicted():
    model = make()
    text, without = "the Ωcat saté.", "the cat sat."
    assert model.loss(text, "skip") == model.loss(without)
    assert model.perplexity(text, unknown="skip") == model.perplexity(without)
    assert model.continuations(text, unknown="skip") == model.continuations(without)
    sampled = model.sample(text, 9, rng=1, unknown="skip")
    assert sampled == text + model.sample(without, 9, rng=1).removeprefix(without)
    for call in (model.loss, model.perplexity, model.continuations, model.sample):
        with pytest.raises(ValueError, match="character 'Ω' at position 4 was not in the training"):
            call(text)
        with pytest.raises(ValueError, match='unknown must be "error" or "skip", got \'count\''):
            call(text, unknown="count")
    with pytest.raises(ValueError, match="at least 2 tokens, got 1 of 3: the rest was not in"):
        model.loss("Ωaé", "skip")


def test_unknown_words_are_scored_as_the_unknown_one():
    for vocabulary in (WORDS, TOKENS):
        model = make(vocabulary)
        ids = model.vocabulary.encode("the zebra sat")
        assert ids[1] == 0
        wanted = -np.log(expected(model, ids[:-1])[[0, 1], ids[1:]]).mean()
        assert model.loss("the zebra sat") == pytest.approx(wanted, rel=1e-6)
        assert model.loss("the zebra sat", "skip") == model.loss("the zebra sat")


# -- sampling -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_text():
    model = make()
    assert model.sample("the", rng=3) == model.sample("the", rng=np.random.default_rng(3))
    assert model.sample("the", rng=3) != model.sample("the", rng=4)
    assert len(model.sample("the", length=17, rng=3)) == 20
    assert model.sample("the", length=0) == "the"


def test_temperature_zero_and_top_one_take_the_likeliest():
    model = make()
    text = model.sample("the", length=30, temperature=0)
    for i in range(3, len(text)):
        ids = CHARACTERS.encode(text[:i])
        assert text[i] == CHARACTERS.tokens[int(expected(model, ids)[-1].argmax())]
    assert model.sample("the", length=30, top_k=1, rng=8) == text
    assert model.sample("the", length=30, temperature=1e-300, rng=8) == text


def test_draws_follow_the_probabilities():
    """400 draws after one prompt: each count within five standard deviations of its mean."""
    model = make()
    for temperature, top_k in ((1.0, None), (2.0, None), (0.7, 4)):
        weights = expected(model, CHARACTERS.encode("the"))[-1] ** (1 / temperature)
        if top_k:
            weights[np.argsort(weights)[:-top_k]] = 0
        weights /= weights.sum()
        rng = np.random.default_rng(11)
        drawn = [model.sample("the", 1, temperature, top_k, rng)[-1] for _ in range(400)]
        for token, p in zip(CHARACTERS.tokens, weights):
            spread = 5 * math.sqrt(400 * p * (1 - p))
            assert abs(drawn.count(token) - 400 * p) <= spread, (temperature, top_k, token)


def test_unknown_words_are_never_drawn():
    model = make(WORDS)
    model.net["2.bias"][0] = 50.0  # <unk> is almost certain
    assert model.continuations("the", k=1)[0][0] == "<unk>"
    assert "<unk>" not in model.sample("the", length=100, rng=0)
    assert "<unk>" not in model.sample("the", length=20, temperature=0)
    assert "<unk>" not in model.sample("the", length=20, top_k=1)


def test_a_prompt_stays_as_it_was_written():
    text = make(WORDS).sample("the   cat,zebra ", length=5, rng=0)
    assert text.startswith("the   cat,zebra ")
    assert len(WORDS.encode(text)) == 9


def test_without_a_prompt_a_text_starts_as_after_a_newline():
    model = make()
    assert model.sample(length=20, rng=2) == model.sample("\n", length=20, rng=2)[1:]
    no_newline = make(Vocabulary.from_text("abc"))
    assert no_newline.sample(length=20, rng=2) == no_newline.sample("a", length=20, rng=2)[1:]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.step("ß"), "'ß'"),
        (lambda m: m.step("th"), "one character"),
        (lambda m: m.step(-1), r"\[0, 1\d\), got -1"),
        (lambda m: m.step(10**30), "token must be in"),
        (lambda m: m.continuations(""), "at least 1 token, got 0"),
        (lambda m: m.continuations("the", k=0), "k must be"),
        (lambda m: m.continuations("caß"), "'ß' at position 2"),
        (lambda m: m.perplexity("t"), "at least 2 tokens, got 1"),
        (lambda m: m.sample("the", temperature=-1), "temperature must be"),
        (lambda m: m.sample("the", temperature=math.nan), "temperature must be"),
        (lambda m: m.sample("the", length=-1), "length must be"),
        (lambda m: m.sample("the", top_k=0), "top_k must be"),
        (lambda m: make(cell="gru2"), "cell must be one of lstm, gru, rnn, got 'gru2'"),
        (lambda m: make(hidden=0), "hidden must be"),
        (lambda m: make(dropout=1.0), "dropout must be"),
        (lambda m: make(variational=True), "variational needs dropout above 0, got 0"),
        (lambda m: make(tied=True), "as the two layers have one weight, got embed 7 and hidden 19"),
        (lambda m: make(WORDS).step("the cat"), "token must be one word"),
        (lambda m: make(TOKENS).step("the cat"), "token must be one token"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.step(1.0),
        lambda m: m.step(True),
        lambda m: m.sample(3),
        lambda m: m.continuations(None),
        lambda m: make(["a", "b"]),
        lambda m: make(dtype=np.float16),
        lambda m: make(layers=1.5),
    ],
)
def test_bad_types_are_refused(call):
    with pytest.raises(TypeError):
        call(make())


def test_a_diverged_network_is_told():
    model = make()
    model.net["2.bias"][3] = math.nan
    for call in (model.sample, model.continuations, model.perplexity, model.loss):
        with pytest.raises(ValueError, match="output is not finite: its training has diverged"):
            call("the")


def test_a_perplexity_beyond_all_numbers():
    """Logits of 1e5 for the wrong token: a loss of as many nats."""
    model = make()
    model.net["2.weight"][...] = 0
    model.net["2.bias"][...] = 0
    model.net["2.bias"][model.vocabulary.index("t")] = 1e5
    assert model.loss("the") == pytest.approx(1e5)
    assert model.perplexity("the") == math.inf
    model.net["2.bias"][model.vocabulary.index("t")] = 705
    assert model.perplexity("the") == pytest.approx(math.exp(705), rel=1e-4)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "gru"},
        {"cell": "rnn", "dropout": 0.2},
        {"dropout": 0.2, "variational": True},
        {"tied": True, "embed": 19},
        {"tied": True, "embed": 19, "dropout": 0.2, "cell": "gru"},
        {"vocabulary": WORDS, "layers": 1},
        {"vocabulary": TOKENS},
    ],
)
def test_one_file_keeps_it_all(tmp_path, options, dtype):
    model = make(**options, dtype=dtype)
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert os.listdir(tmp_path) == [path.name]
    loaded = LanguageModel.load(path)
    assert loaded.config == model.config
    assert loaded.vocabulary == model.vocabulary
    assert loaded.net.dtype == dtype
    assert np.array_equal(loaded.net.params, model.net.params)
    assert loaded.sample("the", rng=1) == model.sample("the", rng=1)


def test_a_file_that_is_broken_is_refused_with_its_name(tmp_path):
    path = tmp_path / "model.safetensors"
    make().save(path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            LanguageModel.load(path)
    path.write_bytes(b"not a model at all" * 100)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        LanguageModel.load(path)
    with pytest.raises(FileNotFoundError):
        LanguageModel.load(tmp_path / "nothing")


def spoil_dtype(arrays, metadata):
    arrays["2.bias"] = arrays["2.bias"].astype(np.float64)


def spoil_shape(arrays, metadata):
    arrays["2.bias"] = np.zeros(3, np.float32)


def in_layer(i, **changes):
    return lambda a, m: m["network"]["options"]["layers"][i]["options"].update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, m: a.pop("2.bias"), "'2.bias' is missing"),
        (lambda a, m: a.update(extra=np.zeros(2, np.float32)), "'extra' is not one"),
        (spoil_shape, r"'2.bias' must be \(1\d,\), got \(3,\)"),
        (spoil_dtype, "'2.bias' must be float32, got float64"),
        (lambda a, m: m["network"]["options"]["layers"].pop(1), "has no recurrent layer"),
        (lambda a, m: m["network"]["options"]["layers"].pop(2), "is not that of a language model"),
        (in_layer(1, num_layers=3), "'1.bias_l2' is missing"),
        (in_layer(1, num_layers=10**9), "num_layers is 1000000000, and no tensor is as large"),
        (in_layer(1, wings=2), "is not that of a language model"),
        (lambda a, m: m.update(network=3), "not a language model"),
        (lambda a, m: m.pop("vocabulary"), "not a language model of lstmc: 'vocabulary'"),
        (lambda a, m: m["vocabulary"].update(level="letter"), "level must be"),
        (
            lambda a, m: m["vocabulary"]["tokens"].pop(),
            "is not that of a language model of so many",
        ),
        (lambda a, m: m.update(format="something"), "not a language model"),
        (lambda a, m: m.update(kind="network"), "it must be a language model, and is 'network'"),
    ],
)
def test_a_file_with_the_wrong_content_is_refused(tmp_path, spoil, message):
    path = tmp_path / "model.safetensors"
    make().save(path)
    arrays, metadata = read_safetensors(path)
    spoil(arrays, metadata)
    write_safetensors(path, arrays, metadata)
    with pytest.raises(ValueError, match=message) as caught:
        LanguageModel.load(path)
    assert "model.safetensors" in str(caught.value)


def test_a_model_of_the_version_before_is_read(tmp_path):
    """Of 0.1: another format, with the arguments of the model instead of a description."""
    model = make(dropout=0.25)
    arrays = {name: array.copy() for name, array in model.net.items()}
    vocabulary = {"level": model.vocabulary.level, "tokens": model.vocabulary.tokens}
    config = {
        name: value for name, value in model.config.items() if name not in ("variational", "tied")
    }
    old = {"format": "lstmc language model 1", "config": config, "vocabulary": vocabulary}
    write_safetensors(tmp_path / "model", arrays, old)
    loaded = LanguageModel.load(tmp_path / "model")
    assert loaded.net.description == model.net.description
    assert loaded.config == model.config
    assert_same_bits(loaded.net.params, model.net.params)
    for name, value in (
        ("hidden", 10**9),
        ("cell", "gru"),
        ("layers", "two"),
        ("layers", 10**9),
        ("wings", 1),
    ):
        config = {**model.config, name: value}
        write_safetensors(tmp_path / "model", arrays, {**old, "config": config})
        with pytest.raises(ValueError, match="not a language model of lstmc"):
            LanguageModel.load(tmp_path / "model")


def test_a_model_of_words_keeps_the_rule_of_its_file(tmp_path):
    """A file without one is of a version that cut words at combining marks."""
    model = make(Vocabulary.from_text("cafe\u0301 x", "word"))
    model.save(tmp_path / "model")
    assert LanguageModel.load(tmp_path / "model").vocabulary.encode("cafe\u0301").tolist() == [1]
    arrays, metadata = read_safetensors(tmp_path / "model")
    assert metadata["vocabulary"].pop("rule") == 2
    metadata["vocabulary"]["tokens"] = ["<unk>", "cafe", "\u0301"]
    write_safetensors(tmp_path / "model", arrays, metadata)
    before = LanguageModel.load(tmp_path / "model")
    assert before.vocabulary.encode("cafe\u0301").tolist() == [1, 2]
    before.save(tmp_path / "again")
    assert read_safetensors(tmp_path / "again")[1] == metadata
    metadata["vocabulary"]["rule"] = 3
    write_safetensors(tmp_path / "model", arrays, metadata)
    with pytest.raises(ValueError, match="rule must be an integer from 1 to 2, got 3"):
        LanguageModel.load(tmp_path / "model")


def test_a_checkpoint_is_not_a_model(tmp_path):
    model = make()
    Trainer(model.net, Adam(model.net), batch=2, steps=5).save(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="not a language model"):
        LanguageModel.load(tmp_path / "checkpoint")


def test_the_same_seed_makes_the_same_model():
    assert np.array_equal(make(rng=1).net.params, make(rng=np.random.default_rng(1)).net.params)
    assert not np.array_equal(make(rng=1).net.params, make(rng=2).net.params)
