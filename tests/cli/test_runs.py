"""Runs of ``lstmc train`` as an operator has them: stopped, made longer, unwatched, with streams closed."""

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from commands import SMALL, TEXT, metrics, process, run, train, wait_for

from lstmc import LanguageModel, cli, training
from lstmc.cli import train as cli_train
from lstmc.files import only_one, read_safetensors


@pytest.fixture(autouse=True)
def undrawn(folder, monkeypatch):
    """Work in a folder of its own, without the picture of the losses, which takes longer than to learn."""
    monkeypatch.setattr(cli_train, "draw", lambda curve, path: None)


def shell(line, **environment):
    """Run a line of a shell in which lstmc is the command; return the code and what it wrote."""
    command = f"{shlex.quote(sys.executable)} -m lstmc"
    done = subprocess.run(
        ["sh", "-c", re.sub(r"\blstmc\b", command, line)],
        capture_output=True, env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


OPTIONS = " ".join(SMALL)

# -- made longer ------------------------------------------------------------------------------------


def test_a_run_that_patience_ended_is_extended(capsys):
    options = ("--optimizer", "sgd", "--lr", 12, "--epochs", 30)
    assert train("out", *options, "--patience", 1) == 0
    done = len(metrics("out"))
    assert done < 30
    output = capsys.readouterr().out
    again = "lstmc train --out out --resume --epochs 60"
    assert f"stopped: validation has not improved for 1 epoch; to go on: {again}" in output
    assert len(re.findall(r"^epoch \d+/30: ", output, re.M)) == done

    assert run("train", "--out", "out", "--resume") == 0
    output = capsys.readouterr().out
    assert f"going on after epoch {done} of 30\nnothing to train: validation has not" in output
    assert "training " not in output  # the epochs are not said again

    assert run("train", "--out", "out", "--resume", "--patience", 3, "--epochs", done + 1) == 0
    assert len(metrics("out")) == done + 1
    assert f"epoch {done + 1}/{done + 1}: training" in capsys.readouterr().out
    settings = read_safetensors("out/checkpoint.safetensors")[1]["note"]["settings"]
    assert (settings["patience"], settings["epochs"]) == (3, done + 1)
    assert run("train", "--out", "out", "--resume", "--epochs", done + 4, "--patience", 1) == 0
    assert len(metrics("out")) > done + 1


def test_a_run_that_has_had_its_epochs_says_so(capsys):
    assert train("my run") == 0
    capsys.readouterr()
    assert run("train", "--out", "my run", "--resume") == 0
    output = capsys.readouterr().out
    how = "lstmc train --out 'my run' --resume --epochs 4"
    assert f"nothing to train: the run has had 2 of 2 epochs; to go on: {how}\n" in output
    assert "going on" not in output


def test_any_settings_that_train_can_be_resumed(capsys):
    odd = ("--seed", 12345678901234567890, "--clip", 1e30, "--patience", 10**18)
    assert train("-odd", *odd) == 0
    capsys.readouterr()
    assert run("train", "--out=-odd", "--resume") == 0
    assert "lstmc train --out=-odd --resume --epochs 4" in capsys.readouterr().out
    for name in ("layers", "hidden", "embed", "batch", "steps"):
        assert train("out", f"--{name}", 10**12) == 2
        assert f"--{name} must be at most" in capsys.readouterr().err


def test_a_resumed_run_with_nothing_to_train_leaves_the_model(monkeypatch):
    """Of a run stopped within an epoch it may be better than that of its best epoch."""
    whole = training.Trainer._train_window

    def stopping(trainer, x, targets):
        whole(trainer, x, targets)
        if (trainer.epoch, trainer.window) == (1, 20):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_train_window", stopping)
        assert train("out", "--lr", 0.01, "--epochs", 2) == 143
    before = Path("out/model.safetensors").read_bytes()
    assert run("train", "--out", "out", "--resume", "--epochs", 1) == 0
    assert Path("out/model.safetensors").read_bytes() == before
    os.utime("out/model.safetensors", (0, 0))  # as if killed before it was saved
    assert run("train", "--out", "out", "--resume", "--epochs", 1) == 0
    assert Path("out/model.safetensors").read_bytes() != before
    os.unlink("out/model.safetensors")
    assert run("train", "--out", "out", "--resume", "--epochs", 1) == 0
    assert os.path.exists("out/model.safetensors")


def test_patience_needs_validation_when_resumed_too(capsys):
    assert train("out", "--valid", 0) == 0
    assert run("train", "--out", "out", "--resume", "--patience", 2) == 2
    assert "--patience needs validation" in capsys.readouterr().err


def test_texts_of_another_python(capsys, monkeypatch):
    monkeypatch.setattr(cli_train, "default_text", lambda: TEXT)
    assert run("train", "--out", "out", *SMALL) == 0
    monkeypatch.setattr(cli_train, "default_text", lambda: TEXT + "More.")
    assert run("train", "--out", "out", "--resume", "--epochs", 3) == 1
    message = "the run in out was trained on the help topics of another version of Python"
    assert message in capsys.readouterr().err


# -- stopped ----------------------------------------------------------------------------------------


def test_minutes_that_end_before_the_first_window(capsys):
    assert train("out", "--minutes", 1e-9) == 0
    assert "the time is up; to go on: lstmc train --out out --resume" in capsys.readouterr().out
    assert read_safetensors("out/checkpoint.safetensors")[1]["window"] == 1
    assert run("train", "--out", "out", "--resume", "--minutes", 1e10) == 0
    assert "going on after window 1 of " in capsys.readouterr().out
    assert len([line for line in metrics("out") if "window" not in line]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_request_to_end_is_as_ctrl_c(number, code):
    child = process("train", "text.txt", "--out", "out", *SMALL, "--epochs", 100_000)
    wait_for("out/metrics.jsonl", child)
    time.sleep(0.1)
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert (child.returncode, "Traceback" in error) == (code, False), error
    assert "lstmc: stopped; to go on: lstmc train --out out --resume" in error
    LanguageModel.load("out/model.safetensors")


def test_a_run_killed_before_its_first_window_can_be_resumed(monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*given):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_train_window", killed)
        with pytest.raises(Killed):
            train("out")
    assert run("train", "--out", "out", "--resume") == 0
    assert len(metrics("out")) == 2


def test_what_is_left_without_a_checkpoint_is_told_from_a_run(capsys):
    assert train("out") == 0
    os.unlink("out/checkpoint.safetensors")
    capsys.readouterr()
    assert train("out") == 1
    error = capsys.readouterr().err
    assert "out holds files of a run already: replace it with --overwrite" in error
    assert "--resume" not in error


def test_two_runs_are_never_in_one_folder(capsys):
    children = [process("train", "text.txt", "--out", "out", *SMALL) for _ in range(8)]
    codes = [(child.communicate(timeout=120)[1], child.returncode) for child in children]
    assert sorted(code for _, code in codes) == [0] + [1] * 7
    for error, code in codes:
        assert not code or "at work in this folder" in error or "holds a run already" in error
    assert len(metrics("out")) == 2
    with only_one("out"):
        for more in ("--overwrite", "--resume"):
            assert train("out", more) == 1
            assert "out: another process is at work in this folder" in capsys.readouterr().err
    assert train("out", "--overwrite") == 0


def test_a_run_that_diverges_ends_with_an_error(capsys):
    assert train("out", "--lr", 1000) == 1
    assert "lstmc: error: training has diverged: the mean loss" in capsys.readouterr().err


# -- streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed):
    code, output, error = shell(f"lstmc train text.txt --out out {OPTIONS} {closed}")
    assert (code, error) == (0, b"")
    assert (b"wrote" in output) is (">&-" not in closed.replace("2>&-", ""))
    assert len(metrics("out")) == 2


def test_standard_input_that_is_closed():
    code, _, error = shell(f"lstmc train - --out out {OPTIONS} <&-")
    assert (code, error) == (1, b"lstmc: error: standard input is empty\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_cannot_show_is_replaced(encoding):
    with open("greek.txt", "w", encoding="utf-8") as file:
        file.write("Ωμέγα και άλφα\n" * 100)
    code, _, error = shell(f"lstmc train greek.txt --out out {OPTIONS}", PYTHONIOENCODING=encoding)
    assert (code, error) == (0, b"")
    sample = "lstmc sample out/model.safetensors --prompt Ω --length 20 --seed 1"
    code, output, error = shell(sample, PYTHONIOENCODING=encoding)
    assert (code, error) == (0, b"")
    assert output.startswith(b"?")


@pytest.mark.parametrize(("name", "value"), [("LSTMC_ISA", "foo"), ("LSTMC_NUM_THREADS", "abc")])
def test_a_wrong_environment_is_an_error_in_a_line(name, value):
    for command in ("config", "next model text"):
        code, output, error = shell(f"lstmc {command}", **{name: value})
        assert (code, output) == (1, b"")
        assert re.fullmatch(rf"lstmc: error: {name} must be .*, got '{value}'\n".encode(), error)


def test_a_reader_that_goes_away_does_not_end_training():
    code, output, error = shell(f"lstmc train text.txt --out out {OPTIONS} --epochs 40 | head -n 3")
    assert (code, error) == (0, b"")
    assert output.count(b"\n") == 3
    assert len(metrics("out")) == 40
    LanguageModel.load("out/model.safetensors")


def test_a_terminal_that_is_closed_ends_training_with_all_saved():
    command = [sys.executable, "-m", "lstmc", "train", "text.txt", "--out", "out", *SMALL]
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [*command, "--epochs", "100000"],
        stdin=follower, stdout=follower, stderr=follower,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(follower)
    wait_for("out/metrics.jsonl", child)
    os.read(leader, 100)
    os.close(leader)
    assert child.wait(60) == 129
    epochs = read_safetensors("out/checkpoint.safetensors")[1]["epoch"]
    LanguageModel.load("out/model.safetensors")
    assert run("train", "--out", "out", "--resume", "--epochs", epochs + 1) == 0


# -- what is seen -----------------------------------------------------------------------------------


def in_terminal(*arguments, columns=80):
    """Run lstmc in a terminal of so many columns; return the code and what was written to it."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "lstmc", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as child:
        os.close(follower)
        seen = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # its end
                break
    os.close(leader)
    return child.returncode, seen.decode()


def test_a_terminal_of_80_columns_keeps_a_line_per_epoch():
    Path("text.txt").write_text(TEXT * 30)
    code, seen = in_terminal("train", "text.txt", "--out", "out", *SMALL, "--epochs", 3)
    assert code == 0, seen
    drawn = [part for line in seen.split("\n") for part in line.rstrip("\r").split("\r")]
    for part in drawn:
        if not part.startswith(("text: ", "network: ")):
            assert len(part) <= 80, part
    kept = [line.rstrip("\r").split("\r")[-1] for line in seen.split("\n")]
    epochs = [line for line in kept if line.startswith("epoch ")]
    assert len(epochs) == 3
    for line in epochs:
        assert re.fullmatch(
            r"epoch \d/3: training \d\.\d{4}, validation \d\.\d{4}( \(best\))?, [\d,]+ tokens/s",
            line,
        )
    bars = [part for part in drawn if "%|" in part]
    assert any(re.search(r"tokens/s, loss \d\.\d{4}", part) for part in bars)


def test_without_a_terminal_every_epoch_is_logged_when_it_ends():
    command = [sys.executable, "-m", "lstmc", "train", "text.txt", "--out", "out", *SMALL]
    with open("log", "w") as log:
        child = subprocess.Popen(
            [*command, "--epochs", "100000"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(600):
            if "epoch 2/100000: training " in Path("log").read_text():
                break
            time.sleep(0.05)
            assert child.poll() is None
        else:
            pytest.fail("nothing was logged")
    finally:
        child.kill()
        child.wait()


def test_a_resumed_run_says_where_it_goes_on(capsys):
    assert train("out") == 0
    capsys.readouterr()
    assert train("out", "--resume", "--epochs", 3) == 0
    output = capsys.readouterr().out
    assert "going on after epoch 2 of 3\nepoch 3/3: training " in output
    assert "epoch 2/" not in output
    assert cli.main(["train", "--out", "out", "--resume", "--epochs", "4"]) == 0
