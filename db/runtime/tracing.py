"""Tracing with OpenTelemetry, configured by its standard environment variables. It is imported only when enabled.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Literal

ENABLING_VARIABLES: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Any of these variables enables tracing, unless `OTEL_TRACES_EXPORTER=none` or `OTEL_SDK_DISABLED=true` is set."""
DEFAULTS: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "none",  # Prometheus collects metrics
    "OTEL_LOGS_EXPORTER": "none",  # logs go to standard error and LOG_FILE
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "3",  # seconds; an unresponsive collector must not delay process exit
    "OTEL_PROPAGATORS": "tracecontext",
}
FLUSH_TIMEOUT_MS: Final = 3_000
CARRIER: Final = "trace"
"""Message option with the trace context of the sender."""


def is_enabled() -> bool:
    """Whether the environment enables tracing."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not is_disabled and any(os.environ.get(name) for name in ENABLING_VARIABLES)


def configure(service: str) -> bool:
    """Starts tracing of this process, its SQL statements and HTTP requests, if enabled. Returns whether it is enabled.

    Raises SystemExit with instructions if OpenTelemetry is not installed.
    """
    if not is_enabled():
        return False
    try:
        from opentelemetry.instrumentation import auto_instrumentation  # noqa: PLC0415  imported only if enabled
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider  # noqa: PLC0415
    except ImportError:
        raise SystemExit(
            "OTEL_… settings enable tracing, but OpenTelemetry is not installed. "
            "Run `pip install -r requirements-traces.lock`, or set OTEL_SDK_DISABLED=true"
        ) from None
    if isinstance(get_tracer_provider(), ProxyTracerProvider):  # otherwise `opentelemetry-instrument` has set it up
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            os.environ.setdefault("OTEL_SERVICE_NAME", service)
        auto_instrumentation.initialize(swallow_exceptions=False)
    return True


@contextmanager
def span(
    name: str, kind: Literal["INTERNAL", "PRODUCER", "CONSUMER"] = "INTERNAL", parent_carrier: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Records a span for the block, as a child of the context in `parent_carrier` if given. Tracing must be enabled."""
    from opentelemetry import propagate, trace  # noqa: PLC0415

    parent = propagate.extract(parent_carrier) if parent_carrier else None
    with trace.get_tracer("tickgraph").start_as_current_span(name, context=parent, kind=trace.SpanKind[kind]):
        yield


def carrier() -> dict[str, dict[str, str]]:
    """Returns the message options that carry the current trace context; empty if tracing is disabled."""
    if not is_enabled():
        return {}
    from opentelemetry import propagate  # noqa: PLC0415

    context: dict[str, str] = {}
    propagate.inject(context)
    return {CARRIER: context}


def suppress() -> AbstractContextManager[None]:
    """Disables tracing in a block, for periodic background queries."""
    if not is_enabled():
        return nullcontext()
    from opentelemetry.instrumentation.utils import suppress_instrumentation  # noqa: PLC0415

    return suppress_instrumentation()


def flush() -> None:
    """Exports pending spans, with a timeout of three seconds, for processes that exit without running `atexit` handlers."""
    if not is_enabled():
        return
    from opentelemetry import trace  # noqa: PLC0415

    provider = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(FLUSH_TIMEOUT_MS)
