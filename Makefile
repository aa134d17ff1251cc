# Two commands: `make demo` and `make test`. Both make .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# uv reads UV_FIND_LINKS where pip reads PIP_FIND_LINKS: a folder of wheels set for one serves both.
UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_FIND_LINKS
export OMP_NUM_THREADS ?= 1
# Without bytecode on disk every process that a test or a job starts compiles 5,000 files anew.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	if $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
BIN := .venv/bin
READY := .venv/.ready
EXTRAS := api,s3,postgres,worker,train,quantization,optimizers,wandb,embedded,dev
PYTEST := $(BIN)/python -m pytest --durations=20 -rs --no-fold-skipped
PARALLEL ?= -n 2
IN_TEST := not slow and not long
IN_SLOW := slow and not long
TYPED := api worker trainers storage cli foundation formats

LONG := api trainers faults rest numeric postgresql soak
LONG_PIECES := $(LONG:%=test-long-%)

.PHONY: help setup demo up test test-slow test-numeric test-all $(LONG_PIECES) lint format types docs clean

help:
	@echo "make demo       set up, train the example adaptor, write demo/comparison.png"
	@echo "make demo TEXT=1  the example of text: sums in words"
	@echo "make up         set up and keep the platform running on this machine"
	@echo "make test       all tests but the slow ones      make test-slow  the slow ones"
	@echo "make test-numeric  comparisons of results with other machines' kernels, part of test-slow"
	@echo "make test-all   both, then what takes longest, in pieces: $(LONG_PIECES)"
	@echo "make lint       ruff                              make types      mypy --strict"
	@echo "make docs       write what docs/ generates       make clean      remove .venv and caches"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Anneal needs Python 3.11 or newer with its venv module; none was found in PATH." >&2; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet "uv$$(sed -n 's/^uv\(==.*\)/\1/p' constraints.txt)" \
		|| echo "uv could not be installed; pip does it, more slowly"
	@if [ -x $(BIN)/uv ]; then \
		VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'; \
	else $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'; fi
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # some libraries ship files for other Pythons
	@touch $@

demo: $(READY)
	@$(BIN)/anneal demo $(if $(TEXT),--text --dir demo-text)

up: $(READY)
	@$(BIN)/anneal up

test: $(READY)
	$(PYTEST) -m "$(IN_TEST)" $(PARALLEL)

test-slow: $(READY) test-numeric
	$(PYTEST) -m "$(IN_SLOW)" $(PARALLEL)
	$(ON_POSTGRESQL) -m "$(IN_TEST) and not any_database" $(PARALLEL)

ON_POSTGRESQL = ANNEAL_TEST_DATABASE=postgresql $(PYTEST) tests/api

# Each setting makes torch use other kernels than it would choose on this machine.
NUMERIC = $(PYTEST) tests/trainers -m "numeric and $(IN_TEST)" $(PARALLEL)
test-numeric: $(READY)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(NUMERIC)

test-all: test test-slow $(LONG_PIECES)

test-long-api: $(READY)
	$(PYTEST) tests/api -m long $(PARALLEL)

test-long-trainers: $(READY)
	$(PYTEST) tests/trainers -m long $(PARALLEL)

test-long-faults: $(READY)
	$(PYTEST) tests/faults -m long $(PARALLEL)

test-long-rest: $(READY)
	$(PYTEST) --ignore=tests/api --ignore=tests/trainers --ignore=tests/faults -m long $(PARALLEL)

test-long-numeric: $(READY)
	ATEN_CPU_CAPABILITY=default $(NUMERIC)
	ONEDNN_MAX_CPU_ISA=AVX2 $(NUMERIC)

test-long-postgresql: $(READY)
	$(ON_POSTGRESQL) -m "$(IN_TEST) and any_database" $(PARALLEL)

test-long-soak: $(READY)
	$(BIN)/python -m bench.soak --jobs 100 --real 4 --minutes 5

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/python -m mypy $(TYPED)

docs: $(READY)
	$(BIN)/python -m trainers.contract.params.reference
	$(BIN)/python -m docs.configuration
	$(BIN)/python -m docs.commands
	DJANGO_SETTINGS_MODULE=tests.typing_settings $(BIN)/python -m api openapi

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
