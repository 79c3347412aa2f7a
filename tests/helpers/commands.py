"""The command line in tests: a small run, and the files it leaves."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lstmc import cli

TEXT = "the cat sat on the mat.\nthe dog saw the cat, and the cat ran.\n" * 40
SMALL = [
    *("--hidden", "12", "--embed", "6", "--layers", "1", "--batch", "8", "--steps", "10"),
    *("--epochs", "2", "--threads", "1"),
]


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def train(out, *more, small=SMALL):
    return run("train", "text.txt", f"--out={out}", *small, *more)


def process(*arguments, **options):
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lstmc", *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def model_bytes(out):
    return Path(out, "model.safetensors").read_bytes()


def metrics(out):
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def error_of(capsys):
    error = capsys.readouterr().err
    assert error.startswith("lstmc: error: "), error
    assert error.count("\n") == 1, error
    return error


def wait_for(path, child):
    """Wait until a training process has saved something."""
    for _ in range(600):
        if os.path.exists(path):
            return
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")
