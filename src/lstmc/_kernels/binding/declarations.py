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

NDARRAY = "cnp.ndarray"
SQUARES = "(n // 4096 + 1) * sizeof(double)"  # bytes of one sum a block
LINEAR = {"rows": "x.shape[0]", "inputs": "weight.shape[1]", "outputs": "weight.shape[0]"}
SOFTMAX = {"rows": "logits.shape[0]", "columns": "logits.shape[1]"}
LOSS = {"scratch": {"sums": SQUARES}, "masks": {"mask": "n"}}
# By name: an expression for each size; for each array its elements, and for each mask, of booleans or None;
# for token ids their number, what they are below and, if there is one, the argument that they may be instead;
# for scratch its bytes. "optional": arrays that may be None; "absent": one that never is there; "same": an
# output, and the input that it may be itself.
FLAT = {
    "linear_forward": {
        "sizes": LINEAR,
        "arrays": {
            "y": "rows * outputs",
            "x": "rows * inputs",
            "weight": "outputs * inputs",
            "bias": "outputs",
        },
        "scratch": {"scratch": "table.linear_forward_scratch(rows, inputs, outputs, threads)"},
        "optional": ("bias",),
        "absent": ("packed",),
    },
    "linear_backward": {
        "sizes": LINEAR,
        "arrays": {
            "dx": "rows * inputs",
            "dweight": "outputs * inputs",
            "dbias": "outputs",
            "dy": "rows * outputs",
            "x": "rows * inputs",
            "weight": "outputs * inputs",
        },
        "scratch": {"scratch": "table.linear_backward_scratch(rows, inputs, outputs, threads)"},
        "optional": ("dx", "dweight", "dbias"),
    },
    "embedding_forward": {
        "sizes": {"rows": "tokens.size", "columns": "weight.shape[1]"},
        "arrays": {"y": "rows * columns", "weight": "weight.size"},
        "ids": {"tokens": ("rows", "weight.shape[0]", None)},
    },
    "embedding_backward": {
        "sizes": {"rows": "tokens.size", "columns": "dweight.shape[1]"},
        "arrays": {"dweight": "dweight.size", "dy": "rows * columns"},
        "ids": {"tokens": ("rows", "dweight.shape[0]", None)},
    },
    "activate": {
        "sizes": {"n": "x.size"},
        "arrays": dict.fromkeys(("y", "x"), "n"),
        "same": ("y", "x"),
    },
    "activate_backward": {
        "sizes": {"n": "y.size"},
        "arrays": dict.fromkeys(("dx", "dy", "y"), "n"),
        "same": ("dx", "dy"),
    },
    "softmax_backward": {
        "sizes": {"rows": "y.shape[0]", "columns": "y.shape[1]"},
        "arrays": dict.fromkeys(("dx", "dy", "y"), "rows * columns"),
        "same": ("dx", "dy"),
    },
    "softmax": {
        "sizes": SOFTMAX,
        "arrays": dict.fromkeys(("out", "logits"), "rows * columns"),
        "same": ("out", "logits"),
    },
    "softmax_cross_entropy": {
        "sizes": SOFTMAX,
        "arrays": dict.fromkeys(("dlogits", "logits"), "rows * columns"),
        "ids": {"targets": ("rows", "columns", "ignored")},
        "scratch": {"losses": "rows * sizeof(double)"},
        "same": ("dlogits", "logits"),
    },
    "squared_error": {
        "sizes": {"n": "y.size"},
        "arrays": dict.fromkeys(("dy", "y", "target"), "n"),
        "same": ("dy", "y"),
        **LOSS,
    },
    "huber": {
        "sizes": {"n": "y.size"},
        "arrays": dict.fromkeys(("dy", "y", "target"), "n"),
        "same": ("dy", "y"),
        **LOSS,
    },
    "binary_cross_entropy": {
        "sizes": {"n": "logits.size"},
        "arrays": dict.fromkeys(("dlogits", "logits", "targets"), "n"),
        "same": ("dlogits", "logits"),
        **LOSS,
    },
    "norm": {
        "sizes": {"n": "a.size"},
        "arrays": {"a": "n"},
        "scratch": {"sums": SQUARES},
    },
    "scale": {"sizes": {"n": "a.size"}, "arrays": {"a": "n"}},
    "clip_values": {"sizes": {"n": "a.size"}, "arrays": {"a": "n"}},
    "sgd": {
        "sizes": {"n": "params.size"},
        "arrays": dict.fromkeys(("params", "velocity", "grads"), "n"),
        "optional": ("velocity",),
    },
    "adam": {
        "sizes": {"n": "params.size"},
        "arrays": dict.fromkeys(("params", "m", "v", "grads"), "n"),
    },
    "rmsprop": {
        "sizes": {"n": "params.size"},
        "arrays": dict.fromkeys(("params", "square_avg", "velocity", "grads"), "n"),
        "optional": ("velocity",),
    },
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


def checks(name, arguments):
    """Return the lines that check the arrays of a function, and set the addresses of their elements."""
    known = FLAT[name]
    arrays, masks, optional = known["arrays"], known.get("masks", {}), known.get("optional", ())
    written = [a for kind, a in arguments if a in arrays and not kind.startswith("const")]
    lines = []
    for a, count in arrays.items():
        one = "optional_address" if a in optional else "address_of"
        lines.append(f'cdef void *{a}_data = {one}("{a}", {a}, number, {count}, {a in written})')
    for a, count in masks.items():
        lines.append(
            f'cdef void *{a}_data = optional_address("{a}", {a}, NPY_BOOL, {count}, False)'
        )
    for i, (a, count) in enumerate(arrays.items()):
        for b, other in list(arrays.items())[i + 1 :]:
            if (a in written or b in written) and (a, b) != known.get("same"):
                lines.append(
                    f'check_apart(table.real_size, "{a}", {a}_data, {count}, "{b}", {b}_data, {other})'
                )
        for b, other in masks.items() if a in written else ():
            size = f"({count}) * table.real_size"
            lines.append(f'check_apart(1, "{a}", {a}_data, {size}, "{b}", {b}_data, {other})')
    if "same" in known:
        a, b = known["same"]
        lines.append(f"if {a}_data != {b}_data:")
        lines.append(
            f'    check_apart(table.real_size, "{a}", {a}_data, {arrays[a]}, "{b}", {b}_data, {arrays[b]})'
        )
    return lines


def plan(text, name):
    """Sort the parameters of a function into what Python gives and what the binding adds."""
    known, (result, arguments) = FLAT[name], parameters(text, name)
    arrays, ids, scratch = known["arrays"], known.get("ids", {}), known.get("scratch", {})
    masks, optional = known.get("masks", {}), known.get("optional", ())
    expressions = [*known["sizes"].values(), *(one[1] for one in ids.values())]
    first = next(a for _, a in arguments if a in arrays and a not in optional)
    lines = [
        f'check_matrix("{a}", {a})' for a in arrays if any(f"{a}.shape[" in e for e in expressions)
    ]
    lines.append(f"cdef const lstmc_kernels *table = table_of({first})")
    lines.append(f"cdef int number = PyArray_TYPE({first})")
    if any(a == "threads" for _, a in arguments):
        lines.append("cdef int threads = threads_for(num_threads)")
    lines += [f"cdef Py_ssize_t {a} = {size}" for a, size in known["sizes"].items()]
    lines += checks(name, arguments)
    for a, (count, limit, instead) in ids.items():
        more = f", True, {instead}" if instead else ""
        lines.append(f'cdef Buffer {a}_memory = copied_ids("{a}", {a}, {count}, {limit}{more})')
    lines += [f"cdef Buffer {a}_memory = scratch_pool.take({size})" for a, size in scratch.items()]
    lines += [f"cdef void *{a}_data = {a}_memory.data()" for a in (*ids, *scratch)]
    signature, passed = [], []
    for kind, a in arguments:
        if a in arrays:
            kinds = ("object", "_Array | None") if a in optional else (NDARRAY, "_Array")
            signature.append((a, *kinds))
            passed.append(f"{a}_data")
        elif a in masks:
            signature.append((a, "object", "NDArray[np.bool_] | None"))
            passed.append(f"<{kind}>{a}_data")
        elif a in ids:
            signature.append((a, NDARRAY, "_Array"))
            passed.append(f"<{kind}>{a}_data")
        elif a in scratch:
            passed.append(f"<{kind}>{a}_data")
        elif a in known.get("absent", ()):
            passed.append("NULL")
        else:
            if a not in known["sizes"] and a != "threads":
                signature.append((a, kind, "float" if kind == "double" else "int"))
            passed.append(a)
    return result, signature, lines, passed


def binding(text, name):
    """Return the binding of one function."""
    result, signature, lines, passed = plan(text, name)
    takes = ", ".join(
        f"cnp.ndarray {a} not None" if kind == NDARRAY else f"{kind} {a}".removeprefix("object ")
        for a, kind, _ in signature
    )
    if "threads" in passed:
        takes += ", num_threads=None"
    call = f"table.{name}({', '.join(passed)})"
    body = [f'"""Call {name} of kernels.h, which says what each argument is."""', *lines]
    if result == "double":
        body += ["cdef double value", "with nogil:", f"    value = {call}", "return value"]
    elif result == "int":
        body += ["cdef int value", "with nogil:", f"    value = {call}"]
        body += ["if value == LSTMC_UNKNOWN:", f'    raise ValueError("{name} does not have it")']
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
