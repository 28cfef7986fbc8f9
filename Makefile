# Tickgraph's verbs. `make up` runs it, `make test` tests it; `make help` lists them all.

PYTHON ?= python3
RUN := .venv/.runtime
DEV := .venv/.dev
# Named although it changes nothing: as root, supervisord complains where no user is.
SUPERVISORD = supervisord -c db/supervisord.conf --user $$(id -u)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help up demo test test-all lint type-check format check schema lock

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(RUN)  ## run everything on this machine, in the foreground; Ctrl-C stops it
	@python -m ingest check & checked=$$!; python -m graph check && wait $$checked
	@exec setpriv --pdeathsig TERM -- python -m db with-servers -- $(SUPERVISORD)

demo: export DATA_DIR := $(or $(DATA_DIR),.tickgraph)/demo
demo: $(RUN)  ## the same with simulated prices, without internet, on data of its own
	@python -m ingest check & checked=$$!; python -m graph check && wait $$checked
	@exec setpriv --pdeathsig TERM -- python -m db with-servers -- \
		python -m ingest with-simulator -- $(SUPERVISORD)

test: $(DEV)  ## run the tests (real servers, under five minutes)
	@pytest -n 2 -m "not slow"

test-all: $(DEV)  ## run all tests: those with real clients, a browser and scale, too
	@pytest -n 2

check: lint type-check  ## format, lint, types and the arrows between packages

lint: $(DEV)
	@ruff format --check .
	@ruff check .
	@lint-imports

type-check: $(DEV)
	@mypy

format: $(DEV)  ## format the code
	@ruff format .
	@ruff check --fix .

schema: $(DEV)  ## write graph/schema.graphql anew
	@python -m graph schema > graph/schema.graphql

lock: $(DEV)  ## resolve the newest versions into the lock files
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
		--custom-compile-command "make lock" pyproject.toml --group local -o requirements.lock
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
		--custom-compile-command "make lock" pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

$(RUN): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Tickgraph needs Python 3.11 or later, and PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Tickgraph needs Python's venv, and PYTHON=$(PYTHON) lacks it (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Making .venv from requirements.lock; the download may take a minute …"
	@$(PYTHON) -m venv .venv
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(DEV): requirements-dev.lock $(RUN)
	@echo "Adding the development tools …"
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
