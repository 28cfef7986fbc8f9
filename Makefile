# Tickgraph's verbs. `make up` runs it, `make test` tests it; `make help` lists them all.

PYTHON ?= python3
RUN := .venv/.runtime
DEV := .venv/.dev
COMPOSE := docker compose
# The servers of `make infra`, where no other address is set.
INFRA = if [ -f .infra.env ] && [ -z "$$DATABASE_URL$$POSTGRES_HOST" ] && ! grep -qsE '^(DATABASE_URL|POSTGRES_HOST)=.' .env; \
	then while IFS= read -r line; do case "$$line" in REDIS_URL=*) [ -z "$$REDIS_URL" ] || continue;; esac; export "$$line"; done <.infra.env; fi
# The user is named although it changes nothing: as root, supervisord complains where none is.
SUPERVISORD = supervisord -c db/supervisord.conf --user $$(id -u)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help up demo down test test-all clients chaos fuzz bench bench-growth bench-live day backup restore drill-restore drill-upgrade drill-replica drill-failover drill-worker-host check-image pictures monitoring down-monitoring lint type-check format check schema migrate upgrade downgrade dev-web dev-worker \
	debug-web infra down-infra audit lock

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(RUN)  ## run everything on this machine, in the foreground; Ctrl-C stops it
	@python -m ingest check & checked=$$!; python -m graph check && wait $$checked
	@exec setpriv --pdeathsig TERM -- python -m db with-servers -- $(SUPERVISORD)

demo: $(RUN)  ## the same with simulated prices, without internet, on data of its own
	@python -m ingest check & checked=$$!; python -m graph check && wait $$checked
	@exec setpriv --pdeathsig TERM -- python -m db with-servers --demo -- \
		python -m ingest with-simulator -- $(SUPERVISORD)

down: $(RUN)  ## stop what `make up` and `make demo` started in this clone, and its compose project
	@python -m db stop
	@if docker info >/dev/null 2>&1; then $(COMPOSE) --profile '*' down; fi

test: $(DEV)  ## run the tests (real servers, under five minutes)
	@pytest -n 2 -m "not slow"

test-all: $(DEV) clients  ## run all tests: those with real clients, a browser and scale, too
	@pytest -n 2
	@ANSWER_CACHE_MB=0 pytest -n 2 -m "not slow" -k "not test_fuzz and not schemathesis" tests/graph

clients: tests/clients/node_modules tests/clients/python/.venv  ## install the clients that the tests run, Node.js' and Python's

tests/clients/python/.venv: tests/clients/python/requirements.lock
	@$(PYTHON) -m venv $@
	@$@/bin/pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

tests/clients/node_modules: tests/clients/package-lock.json
	@if ! command -v npm >/dev/null; then echo "npm is not installed: the clients of Node.js are not tested"; \
	elif npm ci --prefix tests/clients --no-fund --no-audit --loglevel error; then touch $@; \
	else rm -rf $@; echo "npm's registry is out of reach: the clients of Node.js are not tested"; fi

fuzz: $(DEV)  ## requests that nobody would think of against the API, and such answers of the exchange (MINUTES=15 for the first)
	@FUZZ_MINUTES=$(or $(MINUTES),15) FUZZ_SEED=$$(date +%s) pytest -q -s -o faulthandler_timeout=0 tests/graph/test_fuzz.py tests/ingest/test_jobs.py

chaos: $(DEV)  ## the fault run: a quarter of an hour of everything that goes wrong, then an account of every minute (ARGS="--short")
	@python -m tests.chaos $(ARGS)

bench: $(DEV)  ## how fast everything is, against the fastest plain routes over the same tables (ARGS="--only latest")
	@python -m tests.bench.serving $(ARGS)

bench-growth: $(DEV)  ## the same questions at a million rows and at fifty million (ARGS="--rows 10000000")
	@python -m tests.bench.growth $(ARGS)

bench-live: $(DEV)  ## how fast a stored price reaches 100, 1,000 and 5,000 subscribers (ARGS="--subscribers 1000")
	@python -m tests.bench.live $(ARGS)

monitoring:  ## run everything in containers with Prometheus, Alertmanager, Loki, Alloy and Grafana (127.0.0.1:3001)
	@$(COMPOSE) -f docker-compose.yml -f monitoring/docker-compose.yml up --build -d

down-monitoring:  ## stop what watches, and leave the product running
	@$(COMPOSE) -f docker-compose.yml -f monitoring/docker-compose.yml rm --stop --force \
		prometheus alertmanager loki alloy grafana

day: $(DEV)  ## a day of 200 tickers through everything, as fast as it goes (ARGS="--minutes 60")
	@python -m tests.bench.day $(ARGS)

backup: $(RUN)  ## write the whole database into a file (ARGS="--output FILE")
	@python -m db backup $(ARGS)

restore: $(RUN)  ## restore a backup into the empty database that DATABASE_URL names, or into a new DATA_DIR: FILE=…
	@test -n "$(FILE)" || { echo 'say which: make restore FILE=tickgraph-….dump'; exit 1; }
	@python -m db restore $(FILE) $(ARGS)

drill-restore: $(DEV)  ## the drill: collect, back up, lose everything, restore elsewhere, catch up; with its figures
	@pytest -q -s tests/e2e/test_drills.py -k restore

drill-upgrade: $(DEV)  ## the drill: a filled database of each earlier schema goes up while it is read and written
	@pytest -q -s tests/e2e/test_drills.py -k upgrade

drill-replica: $(DEV)  ## the drill: a replica under load lags, is killed and comes back; nobody gets an old answer or none
	@pytest -q -s tests/e2e/test_drill_replica.py

drill-failover: $(DEV)  ## the drill: a replica that lacks the last commits is promoted under subscribers and readers
	@pytest -q -s tests/e2e/test_drill_failover.py

drill-worker-host: $(DEV)  ## the drill: the only worker's host is lost in the middle of a minute, another takes over
	@pytest -q -s tests/e2e/test_drills.py -k worker_host

check-image: $(DEV)  ## build the image and the compose project, and look at them: user, layers, size, first price, draining, restore
	@pytest -q -s tests/e2e/test_image.py

pictures: $(DEV)  ## make the README's pictures anew (ARGS="/tmp/pictures" for every state instead)
	@python -m tests.pictures $(or $(ARGS),docs --readme)

check: lint type-check test  ## everything that a change has to pass: lint, types and tests

lint: $(DEV)  ## format and lint, and the arrows between packages
	@ruff format --check .
	@ruff check .
	@lint-imports

type-check: $(DEV)  ## types
	@mypy

format: $(DEV)  ## format the code
	@ruff format .
	@ruff check --fix .

schema: $(DEV)  ## write graph/schema.graphql anew
	@python -m graph schema > graph/schema.graphql

migrate: $(DEV)  ## write a migration from the models: msg="what it does"
	@test -n "$(msg)" || { echo 'say what it does: make migrate msg="…"'; exit 1; }
	@python -m db with-servers -- alembic revision --autogenerate -m "$(msg)"

upgrade: $(RUN)  ## migrate the database that is set up to the newest schema
	@$(INFRA); alembic upgrade head

downgrade: $(RUN)  ## migrate it down: rev=-1 or a revision
	@test -n "$(rev)" || { echo "say how far: make downgrade rev=-1"; exit 1; }
	@$(INFRA); alembic downgrade $(rev)

dev-web: $(DEV)  ## the API alone, reloading when the code changes
	@$(INFRA); exec uvicorn graph.app:app --reload --reload-dir graph --reload-dir db --host $${HOST:-127.0.0.1} --port $${PORT:-8000}

dev-worker: $(DEV)  ## worker and scheduler, the worker reloading when the code changes
	@$(INFRA); periodiq ingest.broker:broker ingest.actors & scheduler=$$!; trap "kill $$scheduler" EXIT INT TERM; \
		dramatiq ingest.broker:broker ingest.actors --processes 1 --threads 4 --watch .

debug-web: $(DEV)  ## the API alone, waiting for a debugger on port 5678
	@$(INFRA); exec python -m debugpy --listen 127.0.0.1:5678 --wait-for-client -m graph serve

infra:  ## PostgreSQL and Redis alone, in containers, published on loopback
	@echo '{"services": {"db": {"ports": ["127.0.0.1:5432:5432"]}, "redis": {"ports": ["127.0.0.1:6379:6379"]}}}' \
		| $(COMPOSE) -f docker-compose.yml -f - up -d --wait db redis
	@{ echo POSTGRES_HOST=127.0.0.1; $(COMPOSE) exec -T db env | grep '^POSTGRES_'; echo REDIS_URL=redis://127.0.0.1:6379/0; } >.infra.env
	@echo "the verbs of developers use them (.infra.env); for other programs:"; cat .infra.env

down-infra:  ## stop them
	@$(COMPOSE) stop db redis
	@rm -f .infra.env

audit: $(DEV)  ## look the locked versions up for known weaknesses, and write what the product is made of into sbom.json
	@pip-audit --require-hashes --disable-pip -r requirements-dev.lock
	@pip-audit --require-hashes --disable-pip -r requirements.lock --format cyclonedx-json --output sbom.json

LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock"
lock: $(DEV)  ## resolve the newest versions into the lock files: the image's, `make up`'s, with traces, the tests'
	@$(LOCK) --upgrade pyproject.toml -o requirements.lock
	@$(LOCK) --upgrade pyproject.toml --group local -c requirements.lock -o requirements-local.lock
	@$(LOCK) --upgrade pyproject.toml --group traces -c requirements.lock -o requirements-traces.lock
	@$(LOCK) --upgrade pyproject.toml --group dev -c requirements-local.lock -c requirements-traces.lock -o requirements-dev.lock
	@$(LOCK) --upgrade tests/clients/python/requirements.in -o tests/clients/python/requirements.lock

$(RUN): requirements-local.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Tickgraph needs Python 3.11 or later, and PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Tickgraph needs Python's venv, and PYTHON=$(PYTHON) lacks it (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Making .venv from requirements-local.lock; the download may take a minute …"
	@$(PYTHON) -m venv .venv
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements-local.lock
	@touch $@

$(DEV): requirements-dev.lock $(RUN)
	@echo "Adding the development tools …"
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
