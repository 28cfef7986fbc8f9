# Commands of Tickgraph. `make up` runs it, `make test` runs the tests, `make help` lists all commands.

PYTHON ?= python3
RUN := .venv/.runtime
DEV := .venv/.dev
COMPOSE := docker compose
# Uses the servers of `make infra` if no other database is configured.
INFRA = if [ -f .infra.env ] && [ -z "$$DATABASE_URL$$POSTGRES_HOST" ] && ! grep -qsE '^(DATABASE_URL|POSTGRES_HOST)=.' .env; \
	then while IFS= read -r line; do case "$$line" in REDIS_URL=*) [ -z "$$REDIS_URL" ] || continue;; esac; export "$$line"; done <.infra.env; fi
# --user has no effect here, but without it supervisord logs a warning when run as root.
SUPERVISORD = supervisord -c db/runtime/supervisord.conf --user $$(id -u)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help up demo down test test-all coverage clients chaos fuzz bench bench-growth bench-live bench-page bench-stream day backup restore drill-restore drill-upgrade drill-replica drill-failover drill-worker-host drill-site check-image pictures monitoring down-monitoring lint type-check format check schema migrate upgrade downgrade dev-web dev-worker \
	debug-web infra down-infra audit lock

help:  ## list all commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(RUN)  ## run everything on this machine in the foreground; Ctrl-C stops it
	@python -m ingest check & checked=$$!; python -m graph check && wait $$checked
	@exec setpriv --pdeathsig TERM -- python -m db with-servers -- $(SUPERVISORD)

demo: $(RUN)  ## run everything with simulated prices and separate data; needs no internet access
	@python -m ingest check & checked=$$!; python -m graph check && wait $$checked
	@exec setpriv --pdeathsig TERM -- python -m db with-servers --demo -- \
		python -m ingest with-simulator -- $(SUPERVISORD)

down: $(RUN)  ## stop `make up`, `make demo` and the compose project of this clone
	@python -m db stop
	@if docker info >/dev/null 2>&1; then $(COMPOSE) --profile '*' down; fi

test: $(DEV)  ## run the tests with real servers; about three minutes
	@pytest -n 3 -m "not slow"

test-all: $(DEV) clients  ## run all tests, including client, browser and scale tests
	@pytest -n 3

coverage: $(DEV) clients  ## run all tests, and print the coverage of lines and branches; takes half as long again
	@pytest -n 3 --cov --cov-report=
	@echo "coverage of lines and branches: $$(coverage report --format=total) % (\`coverage report --skip-covered\` lists the rest)"

clients: tests/clients/node_modules tests/clients/python/.venv  ## install the Node.js and Python clients for the tests

tests/clients/python/.venv: tests/clients/python/requirements.lock
	@$(PYTHON) -m venv $@
	@$@/bin/pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

tests/clients/node_modules: tests/clients/package-lock.json
	@if ! command -v npm >/dev/null; then echo "npm is not installed; skipping the tests of Node.js clients"; \
	elif npm ci --prefix tests/clients --no-fund --no-audit --loglevel error; then touch $@; \
	else rm -rf $@; echo "the npm registry is not reachable; skipping the tests of Node.js clients"; fi

fuzz: $(DEV)  ## fuzz the API for 15 minutes (MINUTES=15), and the worker with fuzzed exchange responses
	@FUZZ_MINUTES=$(or $(MINUTES),15) FUZZ_SEED=$$(date +%s) pytest -q -s -o faulthandler_timeout=0 tests/graph/test_fuzz.py tests/ingest/test_jobs.py

chaos: $(DEV)  ## run the fault injection test for 15 minutes, then verify that no minute is lost (ARGS="--short")
	@python -m tests.chaos $(ARGS)

bench: $(DEV)  ## benchmark the API against minimal HTTP routes over the same tables (ARGS="--only latest")
	@python -m tests.bench.throughput $(ARGS)
	@python -m tests.bench.peers

bench-growth: $(DEV)  ## benchmark queries at one million and fifty million rows (ARGS="--rows 10000000")
	@python -m tests.bench.growth $(ARGS)

bench-stream: $(DEV)  ## benchmark the stream: a day of 200 tickers at a tick a second, in virtual time (ARGS="--minutes 60")
	@python -m tests.bench.stream $(ARGS)

bench-page: $(DEV)  ## benchmark the live page in Chromium: size, first paint, long tasks (ARGS="--tickers 20")
	@python -m tests.bench.page $(ARGS)

bench-live: $(DEV)  ## benchmark event delivery to 100, 1,000 and 5,000 subscribers (ARGS="--subscribers 1000")
	@python -m tests.bench.live $(ARGS)

monitoring:  ## run everything in containers, with Prometheus, Alertmanager, Loki, Alloy and Grafana (127.0.0.1:3001)
	@$(COMPOSE) -f docker-compose.yml -f monitoring/docker-compose.yml up --build -d

down-monitoring:  ## stop the monitoring containers only
	@$(COMPOSE) -f docker-compose.yml -f monitoring/docker-compose.yml rm --stop --force \
		prometheus alertmanager loki alloy grafana

day: $(DEV)  ## benchmark a day of 200 tickers through all processes (ARGS="--minutes 60")
	@python -m tests.bench.day $(ARGS)

backup: $(RUN)  ## write the whole database to a file (ARGS="--output FILE")
	@python -m db backup $(ARGS)

restore: $(RUN)  ## restore a backup (FILE=…) into the empty database of DATABASE_URL or a new DATA_DIR
	@test -n "$(FILE)" || { echo 'FILE is not set. Use: make restore FILE=tickgraph-….dump'; exit 1; }
	@python -m db restore $(FILE) $(ARGS)

drill-restore: $(DEV)  ## drill: collect, back up, delete everything, restore elsewhere, backfill; prints the durations
	@pytest -q -s tests/e2e/test_drills.py -k restore

drill-upgrade: $(DEV)  ## drill: migrate filled databases from schemas 0001, 0002 and 0003 to the newest during reads and writes
	@pytest -q -s tests/e2e/test_drills.py -k upgrade

drill-replica: $(DEV)  ## drill: a replica under load lags, is killed and restarts; no query fails or returns stale data
	@pytest -q -s tests/e2e/test_drill_replica.py

drill-failover: $(DEV)  ## drill: promote a replica that lacks the last commits, with active subscribers and queries
	@pytest -q -s tests/e2e/test_drill_failover.py

drill-worker-host: $(DEV)  ## drill: the only worker is killed in the middle of a minute, another worker takes over
	@pytest -q -s tests/e2e/test_drills.py -k worker_host

drill-site: $(DEV)  ## drill: two sites; one loses its network for an hour, then its database; both end with the same minutes
	@pytest -q -s tests/e2e/test_drill_site.py

check-image: $(DEV)  ## build the image and compose project, and check user, layers, size, first price, shutdown, restore
	@pytest -q -s tests/e2e/test_image.py

pictures: $(DEV)  ## regenerate the pictures of the README (ARGS=/tmp/pictures: pictures of all page states, into that folder)
	@python -m tests.pictures $(or $(ARGS),docs --readme)

check: lint type-check test  ## run all checks of a change: lint, types and tests

lint: $(DEV)  ## check format, lint and import contracts
	@ruff format --check .
	@ruff check .
	@lint-imports

type-check: $(DEV)  ## check types
	@mypy

format: $(DEV)  ## format the code
	@ruff format .
	@ruff check --fix .

schema: $(DEV)  ## regenerate graph/schema.graphql
	@python -m graph schema > graph/schema.graphql

migrate: $(DEV)  ## generate a migration from the models: msg="description"; `make upgrade` applies it
	@test -n "$(msg)" || { echo 'msg is not set. Use: make migrate msg="…"'; exit 1; }
	@python -m db with-servers -- alembic revision --autogenerate -m "$(msg)"

upgrade: $(RUN)  ## migrate the configured database to the newest schema
	@$(INFRA); alembic upgrade head

downgrade: $(RUN)  ## downgrade the configured database: rev=-1 or a revision
	@test -n "$(rev)" || { echo "rev is not set. Use: make downgrade rev=-1"; exit 1; }
	@$(INFRA); alembic downgrade $(rev)

dev-web: $(DEV)  ## run only the API, with reload on code changes
	@$(INFRA); exec uvicorn graph.app:app --reload --reload-dir graph --reload-dir db --host $${HOST:-127.0.0.1} --port $${PORT:-8000}

dev-worker: $(DEV)  ## run worker and scheduler; the worker reloads on code changes
	@$(INFRA); periodiq ingest.broker:broker ingest.actors & scheduler=$$!; trap "kill $$scheduler" EXIT INT TERM; \
		dramatiq ingest.broker:broker ingest.actors --processes 1 --threads 4 --watch .

debug-web: $(DEV)  ## run only the API, waiting for a debugger on port 5678
	@$(INFRA); exec python -m debugpy --listen 127.0.0.1:5678 --wait-for-client -m graph serve

infra:  ## run only PostgreSQL and Redis in containers, published on loopback
	@echo '{"services": {"db": {"ports": ["127.0.0.1:5432:5432"]}, "redis": {"ports": ["127.0.0.1:6379:6379"]}}}' \
		| $(COMPOSE) -f docker-compose.yml -f - up -d --wait db redis
	@{ echo POSTGRES_HOST=127.0.0.1; $(COMPOSE) exec -T db env | grep '^POSTGRES_'; echo REDIS_URL=redis://127.0.0.1:6379/0; } >.infra.env
	@echo "The development commands use .infra.env; for other programs:"; cat .infra.env

down-infra:  ## stop PostgreSQL and Redis of `make infra`
	@$(COMPOSE) stop db redis
	@rm -f .infra.env

audit: $(DEV)  ## check locked versions for known vulnerabilities, and write the SBOM to sbom.json
	@pip-audit --require-hashes --disable-pip -r requirements-dev.lock
	@pip-audit --require-hashes --disable-pip -r requirements.lock --format cyclonedx-json --output sbom.json

LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock"
lock: $(DEV)  ## resolve the newest versions into the lock files of the image, `make up`, tracing and tests
	@$(LOCK) --upgrade pyproject.toml -o requirements.lock
	@$(LOCK) --upgrade pyproject.toml --group local -c requirements.lock -o requirements-local.lock
	@$(LOCK) --upgrade pyproject.toml --group traces -c requirements.lock -o requirements-traces.lock
	@$(LOCK) --upgrade pyproject.toml --group signing -c requirements.lock -o requirements-signing.lock
	@$(LOCK) --upgrade pyproject.toml --group mcp -c requirements.lock -c requirements-traces.lock -o requirements-mcp.lock
	@$(LOCK) --upgrade pyproject.toml --group arrow -c requirements.lock -o requirements-arrow.lock
	@$(LOCK) --upgrade pyproject.toml --group dev -c requirements-local.lock -c requirements-traces.lock -c requirements-signing.lock \
		-c requirements-arrow.lock -c requirements-mcp.lock -o requirements-dev.lock
	@$(LOCK) --upgrade tests/clients/python/requirements.in -o tests/clients/python/requirements.lock

$(RUN): requirements-local.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Tickgraph requires Python 3.11 or later, but PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "PYTHON=$(PYTHON) lacks the venv module. Install it (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Creating .venv from requirements-local.lock; the download may take a minute …"
	@$(PYTHON) -m venv .venv
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements-local.lock
	@touch $@

$(DEV): requirements-dev.lock $(RUN)
	@echo "Installing the development tools …"
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
