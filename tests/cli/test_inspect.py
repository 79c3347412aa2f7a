"""lstmc inspect: what it prints and writes is what the reports say, and what it refuses."""

import importlib.util
import json
import re

import numpy as np
import pytest

import lstmc
from lstmc import cli

TEXT = "the cat sat on the mat. the dog saw the cat, and the cat ran."


@pytest.fixture(params=[pytest.param(("lstm", 0.0), id="lstm"), pytest.param(("rnn", 0.0), id="rnn"),
                        pytest.param(("lstm", 0.3), id="dropout", marks=pytest.mark.slow),
                        pytest.param(("gru", 0.0), id="gru", marks=pytest.mark.slow)])  # fmt: skip
def model(request, tmp_path, monkeypatch):
    """Write a model with random weights to model.safetensors, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    cell, dropout = request.param
    model = lstmc.LanguageModel(
        lstmc.Vocabulary.from_text(TEXT), cell, layers=2, hidden=9, embed=5, dropout=dropout, rng=0
    )
    model.save("model.safetensors")
    return model


def inspect(*arguments):
    return cli.main(["inspect", "model.safetensors", *map(str, arguments)])


def test_what_is_printed_and_written(model, tmp_path, capsys):
    assert inspect("--text", TEXT, "--out", "seen", "--unit", 4, "--layer", 0) == 0
    output = capsys.readouterr().out
    check_reports(model, json.loads((tmp_path / "seen" / "report.json").read_text()), output)
    check_writers(model, output)
    assert output.startswith("gradients ")  # the verdict first
    assert "the loss at step 59" in output.splitlines()[0]
    assert not re.search(r"\bl\d", output)  # no names of weights
    assert output.count("\n") <= 50 + 10 * ("spectrum_layer_1" in output)
    pictures = {path.name for path in (tmp_path / "seen").glob("*.png")}
    if importlib.util.find_spec("matplotlib"):
        assert {"flow.png", "gates.png", "histograms.png", "jacobian.png"} < pictures
        assert any(name.startswith("spectrum") for name in pictures)
    assert all(name in output for name in pictures)


def check_reports(model, report, output):
    ids = model.vocabulary.encode(TEXT)[:, None]
    flow = lstmc.gradient_flow(model.net, ids[:-1], ids[1:])
    assert str(lstmc.gate_statistics(model.net, ids[:-1])) in output
    assert report["flow"]["verdict"] == flow.verdict
    assert len(report["flow"]["layers"]) == len(report["gates"]["layers"]) == 2
    for seen, layer in zip(report["flow"]["layers"], flow.layers, strict=True):
        assert seen["reach"]["norms"] == layer.reach.norms.tolist()
        assert flow.sentence(layer) in output
    if model.config["dropout"]:  # a stack for each layer
        assert "layer 0, singular values of d s_60" in output
        assert "layer 1, singular values of d s_60" in output
        assert {"spectrum_layer_0", "spectrum_layer_1"} < set(report)
    else:
        assert "\nsingular values of d s_60" in output
        assert "spectrum" in report


def check_writers(model, output):
    if (cell := model.config["cell"]) != "lstm":
        assert f"who wrote a unit: {cell.upper()} layers have no cell state" in output
        return
    first = lstmc.writers(model, TEXT[:-1], unit=4, layer=0, k=1)[0]
    _, listed = output.split("who wrote unit 4 of layer 0")
    assert f"{first.contribution:+8.4f}  token {first.position:5} {first.token!r}" in listed


def test_a_network_that_explodes(tmp_path, monkeypatch, capsys):
    """All states are zero, and a gradient grows a hundredfold a step."""
    monkeypatch.chdir(tmp_path)
    model = lstmc.LanguageModel(
        lstmc.Vocabulary.from_text(TEXT), "rnn", layers=1, hidden=9, embed=5, rng=0
    )
    model.net["1.weight_ih_l0"][...], model.net["1.bias_l0"][...] = 0, 0
    model.net["1.weight_hh_l0"][...] = 100 * np.eye(9)
    model.save("model.safetensors")
    assert inspect("--text", TEXT * 3, "--out", "seen") == 0
    output = capsys.readouterr().out
    assert "exploding, the gradient is beyond all numbers" in output
    assert "beyond all numbers from k = 182 on" in output
    report = json.loads((tmp_path / "seen" / "report.json").read_text())
    assert report["flow"]["verdict"] == "exploding"


@pytest.mark.parametrize("model", [("lstm", 0.0)], indirect=True)
@pytest.mark.slow
def test_a_long_text_is_read_from_a_file_and_cut(model, tmp_path, capsys):
    (tmp_path / "long.txt").write_text(TEXT * 20)
    assert inspect("--file", "long.txt", "--out", "seen") == 0
    assert "the last 1,000 are read" in capsys.readouterr().out
    report = json.loads((tmp_path / "seen" / "report.json").read_text())
    assert report["flow"]["steps"] == 999
    assert np.isclose(report["flow"]["loss"], model.loss((TEXT * 20)[-1000:]), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model.safetensors"], 2, "say what the model is to read"),
        (["model.safetensors", "--text", "a", "--file", "b"], 2, "say what the model is to read"),
        ([], 2, "a model is needed, or --demo"),
        (["model.safetensors", "--demo"], 2, "--demo takes no model, no text and no unit"),
        (["model.safetensors", "--text", TEXT, "--seed", "0"], 2, "--seed need --demo"),
        (["--demo", "--steps", "9"], 2, "--steps must be 10 or more"),
        (["model.safetensors", "--text", "th"], 1, "at least 3 tokens, got 2"),
        (["model.safetensors", "--text", "the{"], 1, "'{'"),
        (["absent.safetensors", "--text", "the"], 1, "absent.safetensors"),
        (["model.safetensors", "--text", TEXT, "--layer", "2"], 1, r"--layer must be in [0, 2)"),
        (
            ["model.safetensors", "--text", TEXT, "--unit", "9"],
            1,
            "unit must be an integer in [0, 9)",
        ),
        (
            ["model.safetensors", "--text", TEXT, "--out", "model.safetensors"],
            1,
            "model.safetensors",
        ),
    ],
)
@pytest.mark.parametrize("model", [("lstm", 0.0)], indirect=True)
def test_what_is_refused(model, arguments, code, message, capsys):
    assert cli.main(["inspect", *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith("lstmc: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_demo_compares_both_on_both_problems(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", "--demo", "--steps", "12", "--updates", "4", "--out", "seen"]) == 0
    output = capsys.readouterr().out
    report = json.loads((tmp_path / "seen" / "report.json").read_text())
    assert set(report) == {"adding", "temporal_order"}
    for name, seen in report.items():
        assert [one["updates"] for one in seen["learnings"].values()] == [[4], [4]]
        assert len(seen["flows"]["rnn"]["layers"][0]["reach"]["norms"]) == 13
        assert f"{name.replace('_', ' ')}, 12 steps: learned when" in output
    drawn = (tmp_path / "seen" / "demo.png").exists()
    assert drawn == (importlib.util.find_spec("matplotlib") is not None)


@pytest.mark.slow
def test_the_demo_of_another_seed_is_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outputs = []
    for seed in (0, 1):
        assert (
            cli.main(["inspect", "--demo", "--steps", "10", "--updates", "2", "--seed", str(seed)])
            == 0
        )
        outputs.append(capsys.readouterr().out)
    assert outputs[0] != outputs[1]
