# Target `app` (default) is the image of the API, worker, scheduler and migrations. Other targets:
#   all-in-one  everything except PostgreSQL in one container, under supervisord
#   test        the tests, with their own servers
# The image builds on any architecture.

FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/venv/bin:$PATH
WORKDIR /app
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tickgraph

FROM base AS packages
# requirements-traces.lock, -arrow.lock and -signing.lock add tracing, Parquet and signatures.
ARG LOCK=requirements.lock
RUN python3 -m venv /venv
COPY requirements.lock requirements-traces.lock requirements-arrow.lock requirements-signing.lock ./
RUN pip install --quiet --require-hashes -r $LOCK && python -m compileall -q /venv

FROM packages AS packages-local
COPY requirements-local.lock ./
RUN pip install --quiet --require-hashes -r requirements-local.lock

FROM packages-local AS test
COPY requirements-dev.lock ./
RUN pip install --quiet --require-hashes -r requirements-dev.lock
COPY . .
RUN chown tickgraph /app
USER tickgraph
CMD ["pytest", "-q", "-m", "not slow"]

FROM base AS code
COPY alembic.ini pyproject.toml ./
COPY alembic alembic
COPY db db
COPY ingest ingest
COPY graph graph

FROM code AS all-in-one
COPY --from=packages-local /venv /venv
RUN mkdir /data && chown tickgraph /data
VOLUME /data
USER tickgraph
ENV HOST=0.0.0.0 PORT=8000 DATA_DIR=/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-m", "graph", "healthy"]
CMD ["python", "-m", "db", "with-servers", "--", "supervisord", "-c", "db/runtime/supervisord.conf"]

FROM code AS app
COPY --from=packages /venv /venv
USER tickgraph
ENV HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-m", "graph", "healthy"]
CMD ["python", "-m", "graph", "serve"]
