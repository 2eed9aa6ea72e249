# Everything from a fresh clone with Python 3.10 or later and make. `make` alone lists the targets.
#
#   make demo TORCH_INDEX=<address>    takes torch from another package index (a CPU or a CUDA build)
#   make test PYTHON=python3.12        makes the environment with another Python
#   make test ARGS="tests/test_x.py"   hands arguments on (test, contract, bench)

PYTHON      ?= python3
TORCH_INDEX ?=
ARGS        ?=

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
APART := $(VENV)/apart
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Two test processes with two threads each would fight for the same cores. Each has a half of the tests at first, so that
# what a file makes once is made once, and takes from the others when its own are done.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

FAST := tests/test_layout.py tests/test_settings.py tests/test_compose.py tests/test_config_errors.py tests/test_cli.py

.PHONY: help demo test check bench peers contract clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1 \2/p' Makefile | while read -r name text; do printf 'make %-10s %s\n' "$$name" "$$text"; done

demo: $(READY)  ## train small models, run the needle grid, ask questions about documents (ten minutes)
	$(BIN)/python -m farfield.demo

test: $(APART)/.ready  ## run the tests
	$(PYTEST) --numprocesses auto --dist worksteal $(ARGS)

check: $(READY)  ## format, lint, types, import directions and the fast tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) --quiet $(FAST)

bench: $(READY)  ## measure tokens per second, memory and state against length
	$(BIN)/farfield speed "what=[decoder]" $(ARGS)

peers: $(READY)  ## install the libraries that bench measures ours beside
	$(PIP) --editable '.[peers]'
	$(PIP) --no-deps --requirement benchmarks/peers/alone.txt

contract: $(READY)  ## run the whole contract suite: every mixer with every clause
	$(PYTEST) --numprocesses auto --dist worksteal -m "contract_full" $(ARGS)

clean:  ## remove the environment, build outputs and caches; runs, results and indexes stay
	rm -rf $(VENV) build dist src/*.egg-info .coverage htmlcov
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, made once and again when what it is made from has changed. Torch comes first and alone: its
# version is the pinned one, from TORCH_INDEX where given, and nothing that follows can choose another.
$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once, some minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Farfield needs Python 3.10 or later; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --no-deps torch
	$(PIP) --editable '.[cpu,dev,documents,oracles]'
	@touch $@

# What else tests compare with: packages without what they ask for, which would be another torch, and packages in a
# folder off the path, since they are in the way of others. The two files say more.
$(APART)/.ready: $(READY) tests/oracles/alone.txt tests/oracles/apart.txt
	$(PIP) --no-deps --requirement tests/oracles/alone.txt
	MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE $(PIP) --no-deps --no-build-isolation --upgrade \
	    --target $(APART) --requirement tests/oracles/apart.txt
	@touch $@
