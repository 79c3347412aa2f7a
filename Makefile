# With Python 3.11 or newer and a C compiler:
#   make demo    trains on the text that comes with Python and shows what was learnt
#   make test    runs the tests, but for those marked slow
#   make lint    checks style and types
#   make format  formats Python and C
#   make bench   times lstmc beside PyTorch, ONNX Runtime and JAX, which it installs
#   make gpu     builds, tests, checks and times on a machine with an NVIDIA GPU, CuPy and PyTorch
#   make clean   removes what the others made
# All but gpu and clean install lstmc into a virtual environment of their own, again when a source has changed.

PYTHON ?= python3
MINUTES ?= 1.7
SENTENCE = The value of the expression is converted to a string, and the name of the class is looked up in the \
	namespace of the module. If the object has no such attribute, an exception is raised.

SOURCES := setup.py pyproject.toml $(shell find src -name '*.py' -o -name '*.py[xi]' -o -name '*.pxi' -o -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | grep -v -e binding/core.c$$ -e binding/kernels.pxi$$ -e binding/flat.pxi$$)

# What clang-format checks; CUDA sources, and those of the emulator, are formatted by hand.
C_SOURCES := $(shell find src/lstmc/_kernels/c tests/kernels benchmarks -name '*.[ch]')

.PHONY: demo test bench gpu lint style format clean check-python

demo: .venv-demo/stamp
	rm -rf demo
	.venv-demo/bin/lstmc train --seed 1 --epochs 100 --minutes $(MINUTES) --out demo
	@echo; echo "What follows 'The value of the ':"
	.venv-demo/bin/lstmc next demo/model.safetensors "The value of the "
	@echo; echo "A sample:"
	.venv-demo/bin/lstmc sample demo/model.safetensors --prompt "The " --length 600 --temperature 0.5 --seed 1
	@echo; echo "Where in time its gradients live:"
	.venv-demo/bin/lstmc inspect demo/model.safetensors --out demo --text "$(SENTENCE)"
	@echo; echo "The curve of the loss is in demo/loss.png, the flow of the gradient in demo/flow.png."

test: .venv-test/stamp
	.venv-test/bin/python -m pytest -m "not slow" -n 2 --dist loadfile

# BENCH="step --hidden 256 --threads 1" times one workload; without it, all are timed.
bench: .venv-bench/stamp
	.venv-bench/bin/python -m benchmarks $(BENCH)

# GPU="test" or GPU="time --quick" runs one part; benchmarks/gpu.sh --help lists them.
gpu:
	PYTHON="$(PYTHON)" bash benchmarks/gpu.sh $(GPU)

.venv-demo/stamp: EXTRAS = plot
.venv-test/stamp: EXTRAS = test,plot
# A test compiles the CUDA sources with nvcc or, where that is missing, with NVRTC if it can be installed.
.venv-test/stamp: AFTERWARDS = @command -v nvcc > /dev/null || .venv-test/bin/python -m pip install --quiet \
	--disable-pip-version-check nvidia-cuda-nvrtc || true
.venv-bench/stamp: EXTRAS = bench
.venv-%/stamp: $(SOURCES) | check-python
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check ".[$(EXTRAS)]"
	$(AFTERWARDS)
	touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "lstmc needs Python 3.11 or newer; say which with: make PYTHON=python3.11 ..."; exit 1; }

lint: .venv-lint/stamp
	@$(MAKE) --no-print-directory style BIN=.venv-lint/bin

# The same with the tools in the folder BIN of an environment that has lstmc too.
style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/mypy
	$(BIN)/stubtest lstmc --ignore-missing-stub --allowlist .ci/allowlist --ignore-unused-allowlist \
		--mypy-config-file pyproject.toml

format: .venv-lint/stamp
	.venv-lint/bin/ruff check --fix .
	.venv-lint/bin/ruff format .
	.venv-lint/bin/clang-format -i $(C_SOURCES)

.venv-lint/stamp: EXTRAS = dev

clean:
	rm -rf build demo dist .venv-demo .venv-test .venv-bench .venv-lint src/*.egg-info
	rm -f $(addprefix src/lstmc/_kernels/binding/,core.c kernels.pxi flat.pxi)
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
