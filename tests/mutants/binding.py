"""Mutants of the binding."""

# name, file, what is there, what takes its place
MUTANTS = [
    ("stepper: refresh takes the first weights again", "binding/steppers.pxi",
     "        self.weights = weights\n        self.inputs",
     "        self.weights = list(layers).copy\n        self.inputs"),
    ("stepper: it begins with zeros in any case", "binding/steppers.pxi", "if begins is None:", "if True:"),
    ("stepper: undo leaves c", "binding/steppers.pxi", "layer.c0 = layer.c_n", "pass"),
    ("binding: an element may be missing", "binding/checks.pxi", "(size == count or",
     "(size + 1 >= count or"),
]  # fmt: skip
