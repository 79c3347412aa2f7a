# Two commands that need nothing but Python 3.11 or newer and a C compiler:
#   make demo   trains on the text that comes with Python and shows what was learnt
#   make test   installs lstmc with what its tests need and runs them
# And make bench, which installs PyTorch, ONNX Runtime and JAX to time them beside lstmc.
# Each makes a virtual environment of its own, again when a source has changed.
# And make lint, which checks style and types.
# And make gpu, on a machine with an NVIDIA GPU that has everything: builds, tests, checks and times there.

PYTHON ?= python3
MINUTES ?= 1.7
SENTENCE = The value of the expression is converted to a string, and the name of the class is looked up in the \
	namespace of the module. If the object has no such attribute, an exception is raised.

SOURCES := setup.py pyproject.toml $(shell find src -name '*.py' -o -name '*.py[xi]' -o -name '*.pxi' -o -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | grep -v -e binding/core.c$$ -e binding/kernels.pxi$$ -e binding/flat.pxi$$)

C_SOURCES := $(shell find src/lstmc/_kernels/c tests/kernels -name '*.[ch]')

.PHONY: demo test bench gpu lint style clean check-python

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

# BENCH="step --hidden 256 --threads 1" times one workload; without, everything.
bench: .venv-bench/stamp
	.venv-bench/bin/python -m benchmarks $(BENCH)

# GPU="test" or GPU="time --quick" runs that alone; benchmarks/gpu.sh --help says what there is.
gpu:
	PYTHON="$(PYTHON)" bash benchmarks/gpu.sh $(GPU)

.venv-demo/stamp: EXTRAS = plot
.venv-test/stamp: EXTRAS = test,plot
# That CUDA sources compile is tested with nvcc or, where that is missing and there is one to be had, with NVRTC.
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

# The same with tools that are there already, in the folder BIN of an environment that has lstmc too.
style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/mypy
	$(BIN)/stubtest lstmc --ignore-missing-stub --allowlist .ci/allowlist --ignore-unused-allowlist \
		--mypy-config-file pyproject.toml

.venv-lint/stamp: EXTRAS = dev

clean:
	rm -rf build demo dist .venv-demo .venv-test .venv-bench .venv-lint src/*.egg-info src/lstmc/_kernels/binding/core.c
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
