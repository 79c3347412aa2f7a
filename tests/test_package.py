"""The package as installed: its face, its size in time, its switches from the environment.

And what setup.py says where there is nothing to build it with.
"""

import importlib.resources
import io
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import lstmc
from lstmc._kernels.binding import core

ROOT = Path(__file__).resolve().parents[1]
# What setup.py takes of Cython; compiling the binding's source would take seconds, and is not reached.
CYTHON = "def cythonize(modules, language_level):\n    return modules\n"


def python(code, check=True, **environment):
    """Run code in a fresh process; give its output, or the last line of its error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    if check:
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def test_the_face_is_whole():
    assert sorted(lstmc.__all__) == sorted(set(lstmc.__all__))
    for name in lstmc.__all__:
        assert getattr(lstmc, name).__doc__, f"{name} has no docstring"
    for name in (
        "LSTM",
        "RNN",
        "Sequential",
        "LanguageModel",
        "Trainer",
        "Vocabulary",
        "show_config",
    ):
        assert name in lstmc.__all__
    assert lstmc.__version__ == version("lstmc")


def test_public_methods_say_what_they_do():
    for name in lstmc.__all__:
        if isinstance(thing := getattr(lstmc, name), type):
            for method, function in vars(thing).items():
                if not method.startswith("_") and callable(function):
                    assert function.__doc__, f"{name}.{method} has no docstring"


def test_types_are_shipped():
    files = importlib.resources.files("lstmc")
    assert (files / "py.typed").is_file()
    assert (files / "__init__.pyi").is_file()
    assert (files / "inspection" / "__init__.pyi").is_file()
    assert (files / "training" / "__init__.pyi").is_file()
    assert (files / "_kernels" / "binding" / "core.pyi").is_file()


def test_import_brings_in_nothing_that_is_not_needed_yet():
    """Beyond what NumPy brings: what is slow to import is left to the calls that need it."""
    slow = ("safetensors", "tqdm", "matplotlib", "argparse", "torch", "cupy", "json", "concurrent",
            "lstmc.cli", "lstmc.reference", "lstmc.inspection.comparison")  # fmt: skip
    code = "import sys, numpy; before = set(sys.modules); import lstmc; "
    code += f"print([n for n in {slow} if n in set(sys.modules) - before])"
    assert python(code) == "[]"


def test_show_config():
    out = io.StringIO()
    lstmc.show_config(out)
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.getvalue().splitlines())
    assert shown["lstmc"] == lstmc.__version__
    assert shown["numpy"] == np.__version__
    assert shown["instruction set"].startswith(core.instruction_set())
    for isa in core.instruction_sets():
        assert isa in shown["instruction set"]
    assert shown["threads"].split()[0] == str(lstmc.get_num_threads())
    assert "float32" in shown["type"]
    assert "float64" in shown["type"]
    assert shown["cores"].split()[0].isdecimal()
    assert shown["team"] == core.team_kind()
    assert shown["python"] == sys.version.split()[0]


RUN = """
import lstmc, numpy as np
y, _ = lstmc.LSTM(3, 5, rng=0)(np.ones((4, 2, 3), np.float32))
print(lstmc._kernels.binding.core.instruction_set(), lstmc.get_num_threads(), round(float(y.sum()), 4))
"""


@pytest.mark.parametrize("isa", core.instruction_sets())
def test_the_instruction_set_can_be_chosen(isa):
    name, _, total = python(RUN, LSTMC_ISA=isa).split()
    assert name == isa
    assert total == python(RUN, LSTMC_ISA="").split()[2]


# What is wrong in the environment is said by the first call, so that a command can say it in a line.
USE = "import lstmc; lstmc.get_num_threads()"


def test_a_wrong_instruction_set_is_refused_with_those_there_are():
    message = python(USE, check=False, LSTMC_ISA="z80")
    assert (
        message
        == f"ValueError: LSTMC_ISA must be one of {', '.join(core.instruction_sets())}, got 'z80'"
    )


def test_threads_come_from_the_environment():
    assert python(RUN, LSTMC_NUM_THREADS="3").split()[1] == "3"


@pytest.mark.parametrize("wrong", ["0", "-1", "many", "2.5"])
def test_a_wrong_number_of_threads_is_refused(wrong):
    message = python(USE, check=False, LSTMC_NUM_THREADS=wrong)
    assert (
        message == f"ValueError: LSTMC_NUM_THREADS must be an integer from 1 to 4096, got {wrong!r}"
    )


def test_the_threads_of_a_call_come_before_those_that_were_set():
    before = lstmc.get_num_threads()
    try:
        lstmc.set_num_threads(2)
        assert lstmc.get_num_threads() == 2
        with pytest.raises(ValueError, match="n must be an integer"):
            lstmc.set_num_threads(0)
        lstmc.set_num_threads(None)
        assert lstmc.get_num_threads() == before
    finally:
        lstmc.set_num_threads(None)


@pytest.fixture
def build(tmp_path):
    """Return a function that runs setup.py on a copy of the sources, by a compiler."""
    pytest.importorskip("setuptools", minversion="77")
    if not (ROOT / "src" / "lstmc" / "__init__.py").exists():
        pytest.skip("the sources are not here")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "core.c"))
    (tmp_path / "site" / "Cython").mkdir(parents=True)
    (tmp_path / "site" / "Cython" / "__init__.py").touch()
    (tmp_path / "site" / "Cython" / "Build.py").write_text(CYTHON)

    def run(command, **environment):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), **environment}
        return subprocess.run(
            [sys.executable, "setup.py", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def check_message(done, problem):
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    names = ("gcc libc6-dev python3-dev", "gcc python3-devel", "gcc musl-dev", "xcode-select")
    for name in names:
        assert name in done.stderr
    assert "copying" not in done.stdout
    assert len(done.stdout.splitlines()) <= 3


@pytest.mark.parametrize("command", ["build", "build_ext"])
def test_without_a_compiler(command, build):
    check_message(build(command, CC="/nowhere/cc -O2"), "/nowhere/cc: No such file or directory")


def test_without_a_path(build):
    check_message(build("build", PATH="/nowhere"), ": No such file or directory")


def test_without_headers(build, tmp_path):
    missing = "<stdin>:2:10: fatal error: Python.h: No such file or directory"
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho 'In file included:\n{missing}' >&2\nexit 1\n")
    compiler.chmod(0o755)
    check_message(build("build", CC=str(compiler)), missing)
