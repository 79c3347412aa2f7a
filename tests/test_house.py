"""Tests of how the source is laid out: sizes of files and folders, imports, and who may name a cell."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lstmc"
if not (SOURCE / "cells.py").exists():
    pytest.skip("there is no source tree", allow_module_level=True)

LINES, FILES = 450, 15
WRITTEN = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cu", ".cuh"}
# What a build leaves beside the sources.
BUILT = {"core.c", "kernels.pxi", "flat.pxi"}
# Where cells may be named: the lists of cells, the cells' own files, the specification.
LISTS = {"cells.py", "recurrent.py"}
CELLS, LAYERS = ("lstm", "rnn", "gru"), {"LSTM", "RNN", "GRU"}


def files_of(*folders):
    """Return all files that are not built, but for caches and metadata of packages."""
    return [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file()
        and path.name not in BUILT
        and path.suffix not in (".so", ".pyd")
        and not any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)
    ]


def read_modules():
    """Return each module of lstmc by its dotted name: its path and its syntax tree."""
    modules = {}
    for path in files_of("src/lstmc"):
        if path.suffix == ".py":
            parts = path.relative_to(SOURCE.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = path, ast.parse(path.read_text(encoding="utf-8"))
    return modules


MODULES = read_modules()
COMPILED = "lstmc._kernels.binding.core"


def imports_of(name):
    """Yield (module, what is imported from it or None, its name here, line) for imports of lstmc's own."""
    path, tree = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "lstmc":
                    yield alias.name, None, alias.asname or "lstmc", node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] != "lstmc":
                continue
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                if inner in MODULES or inner == COMPILED:
                    yield inner, None, alias.asname or alias.name, node.lineno
                else:
                    yield module, alias.name, alias.asname or alias.name, node.lineno


def where(name, line):
    return f"{MODULES[name][0].relative_to(ROOT)}:{line}"


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


# --------------------------------------------------------------------------------------------------
# Sizes
# --------------------------------------------------------------------------------------------------


def test_no_file_is_too_long():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files_of("src", "tests")
        if path.suffix in WRITTEN
    }
    assert len(lines) > 100
    assert {name: n for name, n in lines.items() if n > LINES} == {}


def test_no_folder_is_too_full():
    counts = {}
    for path in files_of("src", "tests"):
        folder = str(path.parent.relative_to(ROOT))
        counts[folder] = counts.get(folder, 0) + 1
    assert len(counts) > 10
    assert {name: n for name, n in counts.items() if n > FILES} == {}


# --------------------------------------------------------------------------------------------------
# Imports
# --------------------------------------------------------------------------------------------------


def test_no_private_name_is_used_of_another_module():
    """Neither imported from it nor read from it as an attribute."""
    wrong = []
    for name, (_, tree) in MODULES.items():
        aliases = set()
        for module, attribute, alias, line in imports_of(name):
            if attribute is None:
                aliases.add(alias)
            elif is_private(attribute):
                wrong.append(f"{where(name, line)} imports {attribute} from {module}")
        wrong += [
            f"{where(name, node.lineno)} reads {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and is_private(node.attr)
        ]
    assert not wrong, "\n".join(wrong)


def circles(graph):
    """Return the sets of two or more modules that reach each other, each one sorted (Tarjan 1972)."""
    number, low, stack, result = {}, {}, [], []

    def visit(node):
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            start = stack.index(node)
            if len(stack) - start > 1 or node in graph.get(node, ()):
                result.append(sorted(stack[start:]))
            del stack[start:]

    for node in graph:
        if node not in number:
            visit(node)
    return result


def test_circles_are_seen():
    graph = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": [], "f": ["f"]}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["f"]]


def test_imports_run_one_way():
    """Imports inside functions count too: a lazy one hides a circle and does not undo it."""
    graph = {name: {module for module, *_ in imports_of(name)} for name in MODULES}
    assert sum(map(len, graph.values())) > 100
    assert circles(graph) == []


def test_the_reference_imports_numpy_alone():
    for name, (_, tree) in MODULES.items():
        if name.split(".")[1:2] == ["reference"]:
            assert all(module.startswith("lstmc.reference") for module, *_ in imports_of(name))
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    assert [alias.name for alias in node.names] == ["numpy"], where(
                        name, node.lineno
                    )


# --------------------------------------------------------------------------------------------------
# Cells
# --------------------------------------------------------------------------------------------------


def may_name_cells(path):
    """Whether a file is a list of cells, a cell's own, or the specification."""
    inside = path.relative_to(SOURCE)
    return (
        inside.name in LISTS or inside.parts[0] == "reference" or inside.stem.split("_")[0] in CELLS
    )


def cells_named(tree):
    """Yield the lines where something is compared with a cell's name or a cell's class."""
    for node in ast.walk(tree):
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.match_case):
            asked = [node.pattern]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            names = {getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(node.args[1])}
            if names & LAYERS:
                yield node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
            "startswith", "endswith", "removeprefix",
        ):  # fmt: skip
            asked = node.args
        texts = {
            one.value
            for part in asked
            for one in ast.walk(part)
            if isinstance(one, ast.Constant) and isinstance(one.value, str)
        }
        if any(text.split("_")[0] in CELLS for text in texts):
            yield asked[0].lineno if hasattr(asked[0], "lineno") else 0


@pytest.mark.parametrize(
    "source",
    [
        'if cell == "lstm": pass',
        'x = 4 if "rnn_tanh" != cell else 1',
        'ok = cell in ("rnn", "lstm")',
        "isinstance(layer, (LSTM, int))",
        "isinstance(layer, lstmc.RNN)",
        'kind = cell.removeprefix("rnn_")',
        'match cell:\n    case "lstm": pass',
    ],
)
def test_named_cells_are_seen(source):
    assert list(cells_named(ast.parse(source)))


def typed_with_cells(tree):
    """Yield the lines of a stub that name a cell's class, or a cell among the values of a Literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in LAYERS:
            yield node.lineno
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            values = {getattr(one, "value", None) for one in ast.walk(node.slice)}
            if values & set(CELLS):
                yield node.lineno


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("X = LSTM | RNN", [1, 1]),
        ("def f(layer: LSTM) -> None: ...", [1]),
        ('cell: Literal["lstm", "rnn"]', [1]),
        ('cell: str = "lstm"\nlevel: Literal["char"]', []),
        ("from .. import LSTM as LSTM", []),
    ],
)
def test_cells_in_types_are_seen(source, lines):
    assert list(typed_with_cells(ast.parse(source))) == lines


def cells_in_text(text):
    """Yield the lines of C, CUDA or Cython that name a cell in a string or an identifier."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r"//.*|(^|\s)#(?!\s*(define|if|elif|include)).*", "", line)
        if re.search(rf"(?i)\b({'|'.join(CELLS)})(_\w+)?\b", code):
            yield number


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('\nif (strcmp(cell->name, "lstm") == 0) return;', [2]),
        ("const cell *c = &rnn_tanh;", [1]),
        ("/* of an LSTM:\n lstm */ x = 1;\nGRU();", [3]),
        ("#if CELL == LSTM", [1]),
        ("lstmc_forward(call); // an lstm", []),
        ("x = 1  # as the lstm does", []),
    ],
)
def test_cells_in_other_languages_are_seen(source, lines):
    assert list(cells_in_text(source)) == lines


def test_nothing_but_the_lists_names_a_cell():
    wrong = [
        where(name, line)
        for name, (path, tree) in MODULES.items()
        if not may_name_cells(path)
        for line in cells_named(tree)
    ]
    for path in files_of("src/lstmc"):
        if may_name_cells(path) or (path.name in ("__init__.pyi", "list.h") and path.parent in (
            SOURCE, SOURCE / "_kernels" / "c" / "cells",
        )):  # fmt: skip
            continue
        if path.suffix == ".pyi":
            lines = typed_with_cells(ast.parse(path.read_text(encoding="utf-8")))
        elif path.suffix in WRITTEN - {".py"}:
            lines = cells_in_text(path.read_text(encoding="utf-8"))
        else:
            continue
        wrong += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert not wrong, "\n".join(wrong)
