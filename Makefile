# `make demo` and `make test` each work in a fresh clone: they set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE # many processes import the same files

.PHONY: demo test lint lowest clean

demo: $(VENV)/.installed
	$(BIN)/python -m harness sweep experiments/vgg_cifar.py --demo
	@echo
	$(BIN)/python -m harness reload best experiments/vgg_cifar.py --demo
	@echo
	$(BIN)/python -m harness report experiments/vgg_cifar.py --demo

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv where it can be had, plain venv and pip where not.
$(VENV)/.installed: pyproject.toml
	@if $(PYTHON) -m uv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet uv 2>/dev/null; then \
		set -x; $(PYTHON) -m uv venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV) && \
		$(PYTHON) -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'; \
	elif command -v uv >/dev/null 2>&1; then \
		set -x; uv venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'; \
	else \
		set -x; $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --editable '.[dev]'; \
	fi
	@touch $@

# All tests on the lowest versions that pyproject.toml declares, in an environment of their own: `make lowest
# PYTHON=python3.13` for another Python, `make lowest TESTS="tests/training tests/test_api.py"` for some of them.
LOWEST := .venv-lowest
TESTS ?= tests

lowest:
	$(PYTHON) -m uv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m uv venv --quiet --seed --clear --python $(PYTHON) $(LOWEST)
	$(PYTHON) -m uv pip install --quiet --compile-bytecode --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest $(TESTS)

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
