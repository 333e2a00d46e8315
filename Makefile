# What a developer types. The first target of a fresh clone makes the virtual environment by itself:
#   make test                                   everything, on python3
#   make test BASE=python3.12 VENV=.venv-3.12   the same on another interpreter
#   make test ARGS="tests/core -x"              a part of it

BASE ?= python3
VENV ?= .venv
ARGS ?=
PY := $(VENV)/bin/python

.PHONY: help build test lint format bench bench-quick docs asan soak clean

help:
	@echo "make build | test | lint | format | bench | bench-quick | docs | asan | soak | clean   (see CONTRIBUTING.md)"

# The environment, with noria in it in editable form: Python files take effect at once, `make build` does the rest.
$(VENV)/ready: pyproject.toml
	$(BASE) -m venv $(VENV)
	$(PY) -m pip install --quiet 'setuptools>=77' 'Cython>=3.1'
	$(PY) -m pip install --quiet --no-build-isolation --editable '.[test,lint]'
	touch $@

# Translates and compiles only what changed since the last time.
build: $(VENV)/ready
	$(PY) setup.py --quiet build_ext --inplace

test: build
	$(PY) -m pytest $(ARGS)

lint: build
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/cython-lint src/noria  # it calls pycodestyle by name

format: $(VENV)/ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Compares with every other event loop that is installed: $(VENV)/bin/pip install uvloop rloop zloop ...
# All of it takes most of an hour; bench-quick two minutes.
bench: build
	$(PY) -m noria bench $(ARGS)

bench-quick: build
	$(PY) -m noria bench --quick $(ARGS)

# What the documentation shows, executed for real: the README's programs, the tutorial's, the notebook.
docs: build
	$(PY) -m pytest tests/test_readme.py tests/seed $(ARGS)

# A second build with AddressSanitizer, apart from the first, and the tests of the compiled parts on it. CPython keeps
# memory until it exits, so leaks are looked for by the tests themselves and not by the sanitizer.
ASAN := $(CURDIR)/build/asan/lib
WITH_ASAN := LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 \
    PYTHONMALLOC=malloc PYTHONPATH=$(ASAN)
.PHONY: asan-build
asan-build: $(VENV)/ready
	NORIA_SANITIZE=address $(PY) setup.py --quiet build --build-base build/asan --build-lib $(ASAN)
asan: asan-build
	$(WITH_ASAN) $(PY) -m pytest -o timeout=600 $(or $(ARGS),tests/core tests/files tests/net tests/streams tests/sync)

# All at once for ten minutes, on that build; tests/soak says what is counted.
soak: asan-build
	cd tests && $(WITH_ASAN) $(abspath $(PY)) -m soak $(or $(ARGS),--seconds 600)

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find src/noria \( -name '*.so' -o -name '*.c' \) -not -path '*/bench/*' -type f -delete
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
