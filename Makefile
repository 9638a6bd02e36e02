# Everything here sets itself up: a fresh machine needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

SECONDS ?= 60

.PHONY: setup test lint types layers audit unit scenarios soak demo bench fuzz mutants clean

setup: $(VENV)/.installed  ## what make alone does
	@echo "poolnet is installed: $(BIN)/poolnet --help shows what it does, make demo shows it at work, make test tests it"

test: lint types layers audit unit scenarios  ## what CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

audit: $(VENV)/.dev  ## known vulnerabilities of packages that poolnet needs; says so where they cannot be looked up
	$(BIN)/python -m audit

unit: $(VENV)/.dev
	$(BIN)/pytest -q --cov --cov-report=term --durations=15

SEEDS ?= 200
scenarios: $(VENV)/.dev  ## simulated pools in which all goes wrong that can; SEEDS=5000 for a long night
	$(BIN)/python -m poolnet.testing --seeds $(SEEDS)

MINUTES ?= 30
soak: $(VENV)/.dev  ## ten processes and a server under churn, then all compared: make soak MINUTES=600 [SEED=…]; Linux
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(if $(filter command environment,$(origin SEED)),--seed $(SEED))

demo: $(VENV)/.installed  ## five processes form a pool, talk and pass a file around
	$(BIN)/poolnet demo

bench: $(VENV)/.dev  ## the figures in docs/architecture.md; takes minutes, run it on an idle machine
	$(BIN)/python -m benchmarks

fuzz: $(VENV)/.fuzz  ## search for inputs that decoders do not expect: make fuzz SECONDS=3600
	$(BIN)/python -m fuzz --seconds $(SECONDS)

SAMPLE ?= 400
mutants: $(VENV)/.dev  ## put small faults into wire/, identity/ and protocol/ and see whether tests notice: SAMPLE=0 tries all
	$(BIN)/python -m mutants --sample $(SAMPLE) $(if $(filter command environment,$(origin SEED)),--seed $(SEED))

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --group dev
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --quiet --group fuzz
	touch $@

clean:
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
