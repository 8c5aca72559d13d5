# The two commands: `make demo` and `make test`. Each sets up what it needs; nothing else has to be
# prepared than Python 3.11 (or later) and make.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
MARKS := not system and not vm and not slow
PYTEST := $(BIN)/python -m pytest -q

# The first interpreter that is recent enough and can make an environment.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.PHONY: help demo test check format test-system test-vm test-slow bench package deb clean

help:
	@echo 'make demo                  the whole path on one machine: vehicle, agent, cloud, and trouble (1 min)'
	@echo 'make demo LOG=.. DBC=..    the same with your recording'
	@echo 'make test                  the tests (no root, a few minutes)'
	@echo 'make check                 lint and types'
	@echo 'make test-system           tests that install packages of the system (needs root)'
	@echo 'make test-vm               tests that need a kernel with CAN (here, or in a guest)'
	@echo 'make test-slow             hours or hundreds of rounds'
	@echo 'make bench                 the benchmarks: ratios, each from one run'
	@echo 'make package               wheel and sdist in dist/'
	@echo 'make deb                   packages for Debian 12 and Ubuntu 24.04 in dist/'

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or later with venv and pip was found.'; \
		echo 'On Debian or Ubuntu: apt install python3 python3-venv'; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (once; a minute or two) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

# DEMO has further options of `edge-agent bench`, such as --j1939.
demo: $(STAMP)
	@rm -rf .demo
	@$(BIN)/python -m agent.cli bench --scenario $(if $(LOG)$(DBC),recording,demo) \
		$(if $(LOG),--log '$(LOG)') $(foreach d,$(DBC),--dbc '$(d)') \
		--folder .demo --listen 127.0.0.1:0 $(DEMO)

test: $(STAMP)
	@echo 'Running the tests, on every processor ...'
	@$(PYTEST) -n auto -m '$(MARKS)' tests

check: $(STAMP)
	@echo 'Lint and types ...'
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test-system: $(STAMP)
	@echo 'Running the tests that need packages of the system ...'
	@sh tests/system/install
	@$(PYTEST) -m system tests/system tests/bench/test_scenarios.py

# Where this kernel has no virtual CAN bus, a guest has: VM_RUNNER boots it (tests/vm/README.md).
# VM_TESTS are arguments of pytest, such as 'tests/vm/test_guest.py -k power'.
VM_RUNNER ?= $(wildcard ../shared/vm/can-vm)

test-vm: $(STAMP)
	@echo 'Running the tests that need a kernel with CAN ...'
	@VM_RUNNER='$(VM_RUNNER)' $(BIN)/python -m tests.vm.runner $(VM_TESTS)

test-slow: $(STAMP)
	@VM_RUNNER='$(VM_RUNNER)' $(PYTEST) -m slow tests

bench: $(STAMP)
	@for b in tests/benchmarks/bench_*.py; do \
		$(BIN)/python -m tests.benchmarks.$$(basename $$b .py) || exit 1; done

package: $(STAMP)
	@$(BIN)/python -m build --quiet

# TARGETS names some of them, such as deb12-amd64.
deb: $(STAMP)
	@$(BIN)/python -m deb $(TARGETS)

clean:
	rm -rf $(VENV) .vm dist build .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
