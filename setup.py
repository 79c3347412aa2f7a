"""Builds the extension: kernels.c once per element type and instruction set, then the binding.

Switches, as environment variables:

LSTMC_TEAM          whose threads the kernels use: "threads", their own (the default), or "openmp"
LSTMC_BUILD_ISAS    instruction sets to build, such as "baseline v3"; default: all of the target's
LSTMC_SANITIZE=1    with AddressSanitizer and UndefinedBehaviourSanitizer
LSTMC_CFLAGS        more flags for every C file
"""

import os
import platform
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/lstmc/_kernels/c")
BINDING = Path("src/lstmc/_kernels/binding")
INSTRUCTION_SETS = {
    "x86_64": {
        "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        "v3": ["-march=x86-64-v3"],
        "baseline": [],
    },
    "aarch64": {"neon": []},
}
# -ffp-contract=fast: a product and a sum become one fused operation wherever the target has it, so
# that every variant of the micro-kernel rounds alike. Nothing here lets the compiler reorder sums.
FLAGS = ["-std=c11", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
# The back ends of the team of threads: c/team/NAME.c, and the flags of what is compiled and linked.
TEAMS = {"threads": ["-pthread"], "openmp": ["-fopenmp"]}
NEEDED = """\
lstmc is built from C, which needs a C compiler (GCC or Clang) and the headers of Python {python}:
  {problem}
Install both, then try again:
  Debian, Ubuntu   apt install gcc libc6-dev python3-dev
  Fedora           dnf install gcc python3-devel
  Alpine           apk add gcc musl-dev python3-dev
  macOS            xcode-select --install
If this Python is not the system's own, install its headers, such as python{python}-dev; if the compiler
has another name, say which: CC=clang."""


def target_machine():
    """Name the processor that is built for: a cross build says so in _PYTHON_HOST_PLATFORM."""
    named = os.environ.get("_PYTHON_HOST_PLATFORM", "").rpartition("-")[2] or platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(named.lower(), named.lower())


class Build(build):
    """Compile before any file is copied, so that what is missing for it is said first."""

    sub_commands = sorted(build.sub_commands, key=lambda command: command[0] != "build_ext")


class BuildKernels(build_ext):
    """Compile the variants beside the extension that links them."""

    def build_extensions(self):
        """Check that the compiler and the headers are there, then build."""
        compiler = self.compiler.compiler_so
        folders = [f"-I{folder}" for folder in self.compiler.include_dirs]
        command = [*compiler, *folders, "-E", "-x", "c", "-"]
        headers, problem = "#include <math.h>\n#include <Python.h>\n", None
        try:
            done = subprocess.run(command, input=headers, text=True, capture_output=True)
        except OSError as error:
            problem = f"{compiler[0]}: {error.strerror}"
        else:
            if done.returncode:
                lines = done.stderr.splitlines()
                errors = [line for line in lines if "error" in line]
                problem = f"{compiler[0]}: {(errors or lines or ['it fails'])[0]}"
        if problem:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise SystemExit(NEEDED.format(problem=problem, python=version))
        super().build_extensions()

    def build_extension(self, ext):
        """Compile every variant, then build the binding and link all of them into it."""
        isas = INSTRUCTION_SETS.get(target_machine(), {"baseline": []})
        if chosen := os.environ.get("LSTMC_BUILD_ISAS", "").split():
            if unknown := set(chosen) - set(isas):
                raise SystemExit(f"LSTMC_BUILD_ISAS: {unknown} are not among {list(isas)}")
            isas = {name: isas[name] for name in chosen}
        flags = list(FLAGS)
        link = ["-lm"] if sys.platform == "linux" else []
        if os.environ.get("LSTMC_SANITIZE") == "1":
            flags += SANITIZE
            link += SANITIZE
        flags += os.environ.get("LSTMC_CFLAGS", "").split()
        team = os.environ.get("LSTMC_TEAM") or "threads"
        if team not in TEAMS:
            raise SystemExit(f"LSTMC_TEAM: {team!r} is not among {list(TEAMS)}")
        link += TEAMS[team] + (["-lsynchronization"] if sys.platform == "win32" else [])

        jobs = [("dispatch.c", "", flags, [(f"LSTMC_HAVE_{isa}", "1") for isa in isas])]
        jobs += [(source, team, flags + TEAMS[team], []) for source in ("team.c", f"team/{team}.c")]
        jobs += [
            ("kernels.c", f"{isa}-{bits}", flags + march,
             [("LSTMC_REAL", str(bits)), ("LSTMC_ISA_NAME", isa)])
            for isa, march in isas.items() for bits in (32, 64)
        ]  # fmt: skip
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self.compile_kernel(*job), jobs))
        ext.extra_objects += objects
        ext.depends += objects  # linked anew when one of them is
        ext.extra_link_args += link
        super().build_extension(ext)

    def compile_kernel(self, source, variant, flags, macros):
        """Compile one file into a folder of its own, unless what is there is newer."""
        folder = Path(self.build_temp) / (variant or "common")
        path = KERNELS / source
        target = folder / self.compiler.object_filenames([str(path)])[0]
        stamp = folder / f"{Path(source).name}.flags"
        recipe = repr((flags, macros, self.compiler.compiler_so))
        newest = max(p.stat().st_mtime for p in KERNELS.rglob("*.[ch]"))
        fresh = target.exists() and target.stat().st_mtime > newest
        if not (fresh and stamp.exists() and stamp.read_text() == recipe):
            (target,) = self.compiler.compile(
                [str(path)], output_dir=str(folder), macros=macros, extra_postargs=flags
            )
            stamp.write_text(recipe)
        return str(target)


runpy.run_path(str(BINDING / "declarations.py"))["write"]()

setup(
    ext_modules=cythonize(
        [
            Extension(
                "lstmc._kernels.binding.core",
                [str(BINDING / "core.pyx")],
                include_dirs=[numpy.get_include(), str(KERNELS)],
                define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
                depends=[str(path) for path in sorted(KERNELS.rglob("*.h"))],
                extra_compile_args=["-O2", "-g0", *os.environ.get("LSTMC_CFLAGS", "").split()],
            )
        ],
        language_level=3,
    ),
    cmdclass={"build": Build, "build_ext": BuildKernels},
)
