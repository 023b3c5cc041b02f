# `make demo` and `make test` work in a fresh clone: they create .venv and install into it first.
# Another interpreter:  make test PYTHON=python3.11

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-all test-minimum lint format docs build wheel clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"dabnn needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/dabnn demo

# Two processes, each with one thread of torch; a file's tests stay together, for what they share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: install
	$(PYTEST)

# Everything: the matrix over timm, SMP and torchvision, and the tests that train for minutes.
test-all: install
	$(PYTEST) -m ""

# The oldest versions that pyproject.toml allows, in an environment of their own (several GB).
test-minimum:
	mkdir -p build
	$(PYTHON) tests/minimum.py > build/minimum.txt
	PIP_CONSTRAINT=build/minimum.txt $(MAKE) test VENV=build/minimum

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

build: install
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# The wheel as a user gets it: alone in a fresh environment, away from this folder, without a network.
wheel: build
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --disable-pip-version-check dist/*.whl
	cd build/wheel && HF_HUB_OFFLINE=1 bin/python -I ../../tests/installed.py

clean:
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
