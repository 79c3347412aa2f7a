"""The command line: files, exit codes, one-line errors, and that every option takes effect."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import (
    SMALL,
    TEXT,
    error_of,
    metrics,
    model_bytes,
    process,
    run,
    train,
    wait_for,
)

from lstmc import LanguageModel, Vocabulary, cli
from lstmc.cli import train as cli_train
from lstmc.files import read_safetensors, write_safetensors
from lstmc.training import tokenize

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the picture of the losses, which takes longer than to learn."""
    monkeypatch.setattr(cli_train, "draw", lambda curve, path: None)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "lstmc: error: device 'cuda'"), ("gpu", 'device must be "cpu", "cuda" or "cuda:N"')],
)
def test_a_device_that_is_not_there(device, message, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert cli.main(["train", "text.txt", "--out", "there", "--device", device]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not os.path.exists("there")


# -- the whole way --------------------------------------------------------------------------------


def test_train_next_sample_eval(capsys):
    assert train("out", "--epochs", 12, "--lr", 0.02) == 0
    output = capsys.readouterr().out
    assert "2,232 characters to train on, 248 to validate on" in output
    loss = float(re.search(r"^validation loss (\S+) nats per character", output, re.M)[1])
    lines = metrics("out")
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert loss == pytest.approx(min(line["valid_loss"] for line in lines), abs=1e-4)
    assert {"model.safetensors", "checkpoint.safetensors"} <= set(os.listdir("out"))

    assert run("next", "out/model.safetensors", "the ca", "-k", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"0\.\d{4}  't'", lines[0])

    sampling = ("sample", "out/model.safetensors", "--prompt", "the ", "--length", 50, "--seed", 1)
    assert run(*sampling) == 0
    sampled = capsys.readouterr().out
    assert len(sampled) == 4 + 50 + 1
    assert sampled.startswith("the ")
    assert sampled[:-1] == LanguageModel.load("out/model.safetensors").sample("the ", 50, rng=1)
    for option in (("--temperature", 5), ("--top-k", 1), ("--seed", 2)):
        assert run(*sampling, *option) == 0
        assert capsys.readouterr().out != sampled

    assert run("eval", "out/model.safetensors", "text.txt") == 0
    output = capsys.readouterr().out
    perplexity = LanguageModel.load("out/model.safetensors").perplexity(TEXT)
    assert f"perplexity {perplexity:.4f}" in output


@pytest.mark.parametrize(
    "command",
    [("next", "the"), ("eval", "text.txt"), ("sample",), ("inspect", "--text", "the cat")],
)
def test_a_diverged_model_is_an_error(command, capsys):
    model = LanguageModel(Vocabulary.from_text(TEXT), layers=1, hidden=4, embed=4, rng=1)
    model.net["2.bias"][1] = np.nan
    model.save("diverged.safetensors")
    name, *arguments = command
    assert run(name, "diverged.safetensors", *arguments) == 1
    assert "not finite" in error_of(capsys)


def test_a_loss_beyond_all_perplexities(capsys):
    model = LanguageModel(Vocabulary.from_text(TEXT), layers=1, hidden=4, embed=4, rng=1)
    model.net["2.bias"][1] = 1e9
    model.save("sure.safetensors")
    assert run("eval", "sure.safetensors", "text.txt") == 0
    assert "perplexity inf" in capsys.readouterr().out


def test_standard_input_is_read(capsys):
    with open("text.txt") as file:
        done = subprocess.run([sys.executable, "-m", "lstmc", "train", "-", "--out", "piped", *SMALL],
                              stdin=file, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert train("named") == 0
    assert model_bytes("piped") == model_bytes("named")


def test_words(capsys):
    assert train("out", "--level", "word", "--min-count", 41) == 0
    model = LanguageModel.load("out/model.safetensors")
    assert "dog" not in model.vocabulary.tokens
    assert "cat" in model.vocabulary.tokens
    capsys.readouterr()
    assert run("eval", "out/model.safetensors", "text.txt") == 0
    assert "of the words are unknown" in capsys.readouterr().out


@pytest.mark.parametrize("level", ["word", "token"])
def test_validation_begins_with_a_whole_word(level):
    for share in (0.1, 0.101, 0.102, 0.103):
        assert train("out", "--level", level, "--valid", share, "--overwrite", "--epochs", 1) == 0
        known = LanguageModel.load("out/model.safetensors").vocabulary.tokens
        assert set(known) == {"<unk>", *tokenize(TEXT, level)}
    Path("text.txt").write_text("\u6c34" * 3000)  # one word, by the rule
    assert train("out", "--level", level, "--overwrite") == 1


def test_the_loss_curve_is_drawn():
    pytest.importorskip("matplotlib")
    assert train("out") == 0
    assert Path("out/loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_best_epoch_is_kept(undrawn):
    assert train("out", "--lr", 0.5, "--epochs", 6, "--patience", 6) == 0
    losses = [line["valid_loss"] for line in metrics("out")]
    best = 1 + int(np.argmin(losses))
    assert best < 6, "this learning rate must be bad enough for the test to mean something"
    assert train("best", "--lr", 0.5, "--epochs", best) == 0
    assert model_bytes("out") == model_bytes("best")


def test_what_was_learnt_before_divergence_is_kept(capsys):
    assert train("out", "--lr", 0.01) == 0
    best = model_bytes("out")
    os.remove("out/model.safetensors")
    arrays, metadata = read_safetensors("out/checkpoint.safetensors")
    arrays["weights.2.bias"][:] = np.nan
    write_safetensors("out/checkpoint.safetensors", arrays, metadata)
    capsys.readouterr()
    assert run("train", "--out", "out", "--resume", "--epochs", 4) == 1
    assert "loss nan" in error_of(capsys)
    assert model_bytes("out") == best


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    ["--cell rnn", "--cell gru", "--level word", "--layers 2", "--hidden 13", "--embed 7", "--dropout 0.5",
     "--dtype float64", "--batch 9", "--steps 11", "--optimizer sgd", "--optimizer adamw",
     "--optimizer rmsprop", "--lr 0.003", "--clip-value 0.001",
     "--clip 0.01", "--epochs 3", "--valid 0.2", "--seed 7", "--schedule step --decay 0.1",
     "--schedule exponential", "--schedule plateau --decay 0.001 --lr 0.5"],
)  # fmt: skip
def test_every_option_takes_effect(option, undrawn):
    epochs = ["--epochs", "4"] if "plateau" in option else []
    assert train("plain", *epochs) == 0
    assert train("other", *epochs, *option.split()) == 0
    assert model_bytes("plain") != model_bytes("other")
    if "plateau" in option:  # not for the learning rate alone
        rates = [line["lr"] for line in metrics("other")]
        assert len(set(rates)) > 1


def test_variational_takes_effect_and_is_kept(undrawn):
    """In the model, and in the run that a resume goes on with."""
    assert train("plain", "--dropout", 0.5) == 0
    assert train("other", "--dropout", 0.5, "--variational") == 0
    assert model_bytes("plain") != model_bytes("other")
    model = LanguageModel.load("other/model.safetensors")
    assert model.config["variational"]
    assert run("train", "--out", "other", "--resume", "--epochs", 3) == 0
    assert run("train", "--out", "plain", "--resume", "--variational", "--epochs", 3) == 1


def test_tied_takes_effect_and_is_kept(undrawn):
    assert train("plain", "--embed", 8, "--hidden", 8) == 0
    assert train("other", "--embed", 8, "--hidden", 8, "--tied", "--epochs", 2) == 0
    models = [LanguageModel.load(f"{name}/model.safetensors") for name in ("plain", "other")]
    assert [model.config["tied"] for model in models] == [False, True]
    sizes = [model.net.num_parameters for model in models]
    assert sizes[0] - sizes[1] == 8 * len(models[0].vocabulary)
    assert run("train", "--out", "other", "--resume", "--epochs", 3) == 0
    assert train("whole", "--embed", 8, "--hidden", 8, "--tied", "--epochs", 3) == 0
    assert model_bytes("other") == model_bytes("whole")
    assert run("train", "--out", "plain", "--resume", "--tied", "--epochs", 3) == 1


def test_decay_every_and_patience_take_effect(undrawn):
    step = ("--schedule", "step", "--epochs", 4)
    assert train("a", *step, "--decay-every", 2) == 0
    assert [line["lr"] for line in metrics("a")] == [2e-3, 2e-3, 1e-3, 1e-3]
    assert train("b", "--lr", 2, "--clip", 1000, "--epochs", 9, "--patience", 1) == 0
    assert len(metrics("b")) < 9


def test_threads_and_repetition_do_not_change_a_bit(undrawn):
    assert train("a", "--threads", 1) == 0
    assert train("b", "--threads", 2) == 0
    assert train("a", "--threads", 1, "--overwrite") == 0
    assert model_bytes("a") == model_bytes("b")


def test_defaults_are_those_that_help_tells(capsys):
    with pytest.raises(SystemExit) as stop:
        run("train", "--help")
    assert stop.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    for name, value in cli_train.DEFAULTS.items():
        option = "--" + name.replace("_", "-")
        assert name == "file" or option in output
        if value is not None and value is not False and name != "file":
            assert re.search(rf"{option} [^(]*\(default: {re.escape(str(value))}\)", output), option
    settings = cli_train.new_settings(cli.make_parser().parse_args(["train"]))
    assert (settings["hidden"], settings["batch"], settings["lr"]) == (128, 50, 2e-3)
    settings = cli_train.new_settings(cli.make_parser().parse_args(["train", "--optimizer", "sgd"]))
    assert settings["lr"] == 1


@pytest.mark.parametrize(
    "command", ["train", "next", "sample", "eval", "inspect", "bench", "config"]
)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        run(command, "--help")
    assert f"  lstmc {command}" in capsys.readouterr().out.partition("example:")[2]


def test_version_and_config(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert re.fullmatch(r"lstmc \d+\.\d+\.\d+(\.dev\d+)?\n", capsys.readouterr().out)
    assert run("config") == 0
    assert "instruction set" in capsys.readouterr().out


def test_bench_prints_a_line_for_each_kind_of_work(capsys):
    assert run("bench", "--hidden", 8, "--seconds", 0.001, "--threads", 1) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("threads: 1")
    assert {line.split()[0] for line in lines} == {"step", "forward", "train"}
    for line in lines:
        assert re.fullmatch(r"\w+ .*H8 +[\d.]+ [mµ]?s +[\d.]+ +[\d,]+", line), line


def test_bench_with_a_peer(capsys):
    pytest.importorskip("torch")
    assert run("bench", "--hidden", 8, "--seconds", 0.001, "--threads", 1, "--peer", "torch") == 0
    _, header, *lines = capsys.readouterr().out.splitlines()
    assert header.endswith("torch/lstmc")
    assert all(re.search(r" [\d.]+×$", line) for line in lines)


def test_bench_without_the_peer_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert run("bench", "--peer", "torch") == 1
    assert "--peer torch needs PyTorch" in error_of(capsys)


def test_without_a_file_the_help_topics_of_python_are_learnt(capsys):
    small = ("--hidden", 4, "--embed", 2, "--layers", 1, "--batch", 400, "--epochs", 1)
    assert run("train", "--out", "out", *small) == 0
    assert "the help topics of Python" in capsys.readouterr().out


# -- stopping and going on ------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_saves_and_resuming_ends_with_the_same_bits():
    # More epochs than are trained before the signal; both runs then end where the second was told to.
    long = ["--epochs", 5000, "--dropout", 0.2]
    child = process("train", "text.txt", "--out", "out", *SMALL, *long)
    wait_for("out/checkpoint.safetensors", child)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130, error
    assert "lstmc train --out out --resume" in error
    assert "Traceback" not in error
    LanguageModel.load("out/model.safetensors")
    epochs = read_safetensors("out/checkpoint.safetensors")[1]["epoch"] + 3
    assert run("train", "--out", "out", "--resume", "--epochs", epochs) == 0
    assert train("whole", "--dropout", 0.2, "--epochs", epochs) == 0
    assert model_bytes("out") == model_bytes("whole")
    assert len(metrics("out")) >= epochs


def test_the_clock_stops_cleanly_and_resuming_goes_on(capsys):
    began = time.monotonic()
    assert train("out", "--epochs", 100_000, "--minutes", 0.02) == 0
    assert time.monotonic() - began < 30
    assert "the time is up; to go on: lstmc train --out out --resume" in capsys.readouterr().out
    epochs = read_safetensors("out/checkpoint.safetensors")[1]["epoch"] + 2
    assert run("train", "--out", "out", "--resume", "--epochs", epochs) == 0
    assert train("whole", "--epochs", epochs) == 0
    assert model_bytes("out") == model_bytes("whole")


def test_a_finished_run_can_be_made_longer():
    assert train("long", "--epochs", 4) == 0
    assert train("short", "--epochs", 2) == 0
    assert train("short", "--resume", "--epochs", 4) == 0
    assert model_bytes("short") == model_bytes("long")


def test_a_resumed_run_refuses_what_conflicts(capsys):
    assert train("out") == 0
    capsys.readouterr()
    assert run("train", "--out", "out", "--resume", "--hidden", 13) == 1
    assert "--hidden 13 conflicts with the run in out, which began with 12" in error_of(capsys)
    with open("text.txt", "a") as file:
        file.write("more")
    assert run("train", "--out", "out", "--resume") == 1
    assert "not the one that the run in out was trained on" in error_of(capsys)
    assert run("train", "--out", "nothing", "--resume") == 1
    assert "no run to resume" in error_of(capsys)


def test_a_run_is_not_written_over_unasked(capsys):
    assert train("out") == 0
    before = model_bytes("out")
    capsys.readouterr()
    assert train("out", "--seed", 2) == 1
    assert "--overwrite" in error_of(capsys)
    assert model_bytes("out") == before
    assert train("out", "--seed", 2, "--overwrite") == 0
    assert model_bytes("out") != before
    assert len(metrics("out")) == 2


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train nothing.txt", "nothing.txt: No such file"),
        ("train empty.txt", "empty"),
        ("train latin.txt", "not UTF-8"),
        ("train short.txt", "too short"),
        ("train short.txt --batch 1", "too short: --valid"),
        ("train text.txt --out text.txt", "text.txt must be a folder"),
        ("train text.txt --out text.txt/run", "text.txt"),
        ("next nothing.safetensors the", "nothing.safetensors: No such file"),
        ("next text.txt the", "text.txt"),
        ("sample empty.txt", "empty.txt"),
        ("eval text.txt text.txt", "text.txt"),
        ("train text.txt --optimizer sgd --lr 1e300 --hidden 4", "lower lr"),
        ("train text.txt --hidden 1000000000", "memory"),
    ],
)
def test_errors_are_one_line(arguments, message, folder, capsys):
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "short.txt").write_text("abc")
    assert run(*arguments.split()) == 1
    assert message in error_of(capsys)


def test_unseen_characters_are_named(capsys):
    assert train("out") == 0
    capsys.readouterr()
    assert run("next", "out/model.safetensors", "naïve") == 1
    assert "'ï'" in error_of(capsys)
    assert run("next", "out/model.safetensors", "") == 1
    assert "at least 1 token" in error_of(capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_found_before_training(folder, capsys):
    (folder / "locked").mkdir(mode=0o500)
    began = time.monotonic()
    assert train("locked", "--epochs", 100_000) == 1
    assert time.monotonic() - began < 10
    assert "locked" in error_of(capsys)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "lstmc", "config"], stdout=full,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "lstmc: error: No space left on device\n"


@pytest.mark.parametrize(
    "arguments",
    ["", "fly", "sample", "next model", "sample m --temperature -1", "train --hidden 0",
     "train --lr nan", "train --dropout 1", "train --valid 1", "train --cell gru2",
     "train --epochs 1.5", "train --min-count 2", "train --decay 0.5",
     "train --variational", "train --clip-value 0", "train --tied --hidden 9",
     "train --valid 0 --patience 2", "train --schedule exponential --decay-every 2",
     "train --resume --overwrite", "bench --seconds 0", "bench --peer numpy"],
)  # fmt: skip
def test_wrong_usage_is_told_with_code_two(arguments, capsys):
    try:
        code = run(*arguments.split())
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "error: " in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_error():
    assert train("out") == 0
    child = process("sample", "out/model.safetensors", "--length", 50)
    child.stdout.close()
    assert child.wait(timeout=60) == 0
    assert child.stderr.read() == ""
    child.stderr.close()
    child.stdin.close()
