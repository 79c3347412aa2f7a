"""C files of the tests, compiled against the kernels' headers as setup.py compiles the kernels."""

import ast
import platform
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNEL_TESTS = ROOT / "tests" / "kernels"
KERNELS = ROOT / "src" / "lstmc" / "_kernels" / "c"
HEADER = KERNELS / "kernels.h"
COMPILER = shutil.which("cc") or shutil.which("gcc")
TEAM = [KERNELS / "team.c", KERNELS / "team" / "threads.c"]
POSSIBLE = HEADER.exists() and COMPILER is not None


def from_setup(name):
    """Return a constant of setup.py, which cannot be imported: it would build."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"setup.py has no {name}")


def declarations():
    """Return what kernels.h declares, as cffi reads it."""
    text = re.search(r"/\* cffi begin \*/(.*)/\* cffi end \*/", HEADER.read_text(), re.DOTALL)[1]
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def compile_library(folder, sources, isa, bits=32):
    """Compile C files into one library for an element type and an instruction set of this machine."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    march = from_setup("INSTRUCTION_SETS").get(machine, {}).get(isa, [])
    macros = [f"-DLSTMC_REAL={bits}", f"-DLSTMC_ISA_NAME={isa}", f"-I{KERNELS}"]
    flags = [*from_setup("FLAGS"), *march, "-fPIC", "-shared", "-pthread", "-Wno-unused-function"]
    library = Path(folder) / f"{isa}-{bits}.so"
    command = [COMPILER, *flags, *macros, *map(str, sources), "-lm", "-o", str(library)]
    subprocess.run(command, check=True)
    return str(library)
