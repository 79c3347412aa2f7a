"""Writes what follows from kernels.h: Cython's declarations, the bindings of its plain functions, their stub.

    python src/lstmc/_kernels/binding/declarations.py

The header is the one place that says what a kernel takes. kernels.pxi declares all of it; flat.pxi binds the
functions that take plain arrays, for which FLAT adds what C cannot say: how sizes follow from the arrays,
how much scratch there must be, and which arrays may be absent. setup.py calls ``write()`` for every build;
run as a program, this file also brings the stub, core.pyi, up to date.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
HEADER = HERE.parent / "c" / "kernels.h"
STUB = HERE / "core.pyi"
BEGIN = "# Written by declarations.py from kernels.h.\n"

SQUARES = "(n // 4096 + 1) * sizeof(double)"  # bytes of one sum a block
LINEAR = {"rows": "x.shape[0]", "inputs": "weight.shape[1]", "outputs": "weight.shape[0]"}
SOFTMAX = {"rows": "logits.shape[0]", "columns": "logits.shape[1]"}
# By name: an expression for each size, and for each scratch argument its bytes; None for an array that is
# never there; "optional": arrays that may be None.
FLAT = {
    "linear_forward": {
        **LINEAR,
        "packed": None,
        "scratch": "table.linear_forward_scratch(rows, inputs, outputs, threads)",
        "optional": ("bias",),
    },
    "linear_backward": {
        **LINEAR,
        "scratch": "table.linear_backward_scratch(rows, inputs, outputs, threads)",
        "optional": ("dx", "dweight", "dbias"),
    },
    "embedding_forward": {"rows": "tokens.size", "columns": "weight.shape[1]"},
    "embedding_backward": {"rows": "tokens.size", "columns": "dweight.shape[1]"},
    "softmax": SOFTMAX,
    "softmax_cross_entropy": {**SOFTMAX, "losses": "rows * sizeof(double)"},
    "squared_error": {"n": "y.size", "sums": SQUARES},
    "norm": {"n": "a.size", "sums": SQUARES},
    "scale": {"n": "a.size"},
    "sgd": {"n": "params.size", "optional": ("velocity",)},
    "adam": {"n": "params.size"},
    "rmsprop": {"n": "params.size", "optional": ("velocity",)},
}


def header():
    """Return the declarations of kernels.h, without comments and line breaks within."""
    text = HEADER.read_text(encoding="utf-8")
    text = text[text.index("/* cffi begin */") : text.index("/* cffi end */")]
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = text.replace("typedef void lstmc_real;", "").replace("lstmc_real", "void")
    text = text.replace("ptrdiff_t", "Py_ssize_t")
    return " ".join(text.split())


def extern(text):
    """Return kernels.pxi."""
    lines = ['cdef extern from "kernels.h" nogil:']
    for names, fields, name, function in re.findall(
        r"enum \{ ([^}]*) \};|typedef struct \w* ?\{ ([^}]*) \} (\w+);|([^;{}]+\));", text
    ):
        if names:
            lines.append(
                "    enum: " + ", ".join(part.split("=")[0].strip() for part in names.split(","))
            )
        elif fields:
            lines.append(f"    ctypedef struct {name}:")
            for field in fields.split(";"):
                for one in declarators(field.strip()):
                    lines.append(f"        {one}")
        else:
            lines.append(f"    {function.strip()}")
    return BEGIN + "\n".join(lines) + "\n"


def declarators(field):
    """Return a field as Cython writes it, one for each name that it declares."""
    if "(*" in field:
        return [field.replace("(void)", "()") + " noexcept nogil"]
    if not field:
        return []
    kind, _, names = field.rpartition(" ") if "," not in field else field.partition(" ")
    return [f"{kind} {name.strip()}" for name in names.split(",")]


def parameters(text, name):
    """Return the type that a function of the table returns, and its parameters as (type, name)."""
    result, arguments = re.search(rf"(\w+) \(\*{name}\)\(([^)]*)\)", text).groups()
    pairs = [re.match(r"(.*?[ *])(\w+)$", one.strip()).groups() for one in arguments.split(",")]
    return result, [(kind.strip(), argument) for kind, argument in pairs]


def plan(text, name):
    """Sort the parameters of a function into what Python gives and what the binding adds."""
    known, (result, arguments) = FLAT[name], parameters(text, name)
    optional = known.get("optional", ())
    signature, lines, passed = [], [], []
    scratch = [a for kind, a in arguments if kind in ("double *", "void *") and a in known]
    arrays = [a for kind, a in arguments if kind.endswith("*") and a not in known]
    sizes = [a for kind, a in arguments if kind == "Py_ssize_t"]
    first = next(a for a in arrays if a not in optional and a != "tokens")
    lines.append(f"cdef const lstmc_kernels *table = table_of({first})")
    if any(a == "threads" for _, a in arguments):
        lines.append("cdef int threads = threads_for(num_threads)")
    lines += [f"cdef Py_ssize_t {a} = {known[a]}" for a in sizes]
    for kind, a in arguments:
        if a in scratch:
            lines.append(f"cdef Buffer {a}_memory = scratch_pool.take({known[a]})")
            lines.append(f"cdef void *{a} = {a}_memory.data()")
            passed.append(f"<{kind}>{a}")
        elif a in known and known[a] is None:
            passed.append("NULL")
        elif a in optional:
            signature.append((a, "object", "_Array | None"))
            lines.append(f"cdef void *{a}_data = data_of({a})")
            passed.append(f"{a}_data")
        elif kind.endswith("*"):
            signature.append((a, "cnp.ndarray", "_Array"))
            cast = "<const int64_t *>" if "int64_t" in kind else ""
            passed.append(f"{cast}PyArray_DATA({a})")
        else:
            if a not in sizes and a != "threads":
                signature.append((a, kind, "float" if kind == "double" else "int"))
            passed.append(a)
    return result, signature, lines, passed


def binding(text, name):
    """Return the binding of one function."""
    result, signature, lines, passed = plan(text, name)
    takes = ", ".join(f"{kind} {a}".removeprefix("object ") for a, kind, _ in signature)
    if "threads" in passed:
        takes += ", num_threads=None"
    call = f"table.{name}({', '.join(passed)})"
    body = [f'"""Call {name} of kernels.h, which says what each argument is."""', *lines]
    if result == "double":
        body += ["cdef double value", "with nogil:", f"    value = {call}", "return value"]
    else:
        body += ["with nogil:", f"    {call}"]
    return f"def {name}({takes}):\n" + "".join(f"    {line}\n" for line in body)


def stub(text, name):
    """Return one function as the stub has it."""
    result, signature, _, passed = plan(text, name)
    takes = [f"{a}: {kind}" for a, _, kind in signature]
    if "threads" in passed:
        takes.append("num_threads: int | None = None")
    returns = "float" if result == "double" else "None"
    one_line = f"def {name}({', '.join(takes)}) -> {returns}: ...\n"
    if len(one_line) <= 101:
        return one_line
    inside = "    " + ", ".join(takes) + "\n"
    if len(inside) > 101:
        inside = "".join(f"    {one},\n" for one in takes)
    return f"def {name}(\n{inside}) -> {returns}: ...\n"


def whole_stub():
    """Return core.pyi with the part that is written here up to date."""
    text = header()
    by_hand = STUB.read_text(encoding="utf-8").partition(BEGIN)[0]
    return by_hand + BEGIN + "".join(stub(text, name) for name in FLAT)


def write():
    """Write kernels.pxi and flat.pxi where they are not up to date."""
    text = header()
    flat = BEGIN + "\n\n" + "\n\n".join(binding(text, name) for name in FLAT)
    for name, content in (("kernels.pxi", extern(text)), ("flat.pxi", flat)):
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write()
    STUB.write_text(whole_stub(), encoding="utf-8")
