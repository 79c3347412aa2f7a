"""Tests that no call of a public function ends the process, whatever its arguments are: see face.py."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

FACE = Path(__file__).with_name("face.py")


def search(examples, tmp_path):
    pytest.importorskip("hypothesis")
    seed = int(os.environ.get("LSTMC_TEST_SEED") or random.SystemRandom().randrange(2**32))
    log = tmp_path / "calls"
    command = [sys.executable, str(FACE), "--examples", str(examples), "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--log", str(log)],
        cwd=tmp_path,  # where a call may write a file
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, "\n".join(
        [
            f"the process ended with {done.returncode}; LSTMC_TEST_SEED={seed} draws it again",
            *done.stderr.splitlines()[:60],
            "the last calls:",
            *log.read_text().splitlines()[-20:],
        ]
    )


def test_no_call_ends_the_process(tmp_path):
    search(150, tmp_path)


@pytest.mark.slow
def test_no_call_ends_the_process_in_many_examples(tmp_path):
    search(3000, tmp_path)
