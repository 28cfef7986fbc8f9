"""Traces, by OpenTelemetry and as its own environment variables say; where none asks for them it is not even imported.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Literal

ASKING: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Whichever is set asks for traces; `OTEL_TRACES_EXPORTER=none` and `OTEL_SDK_DISABLED=true` say no."""
DEFAULTS: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "none",  # there is Prometheus
    "OTEL_LOGS_EXPORTER": "none",  # and there are lines of JSON
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "3",  # seconds: a collector that hangs keeps no process from ending
    "OTEL_PROPAGATORS": "tracecontext",
}
FLUSHED_MS: Final = 3_000
CARRIER: Final = "trace"
"""The option of a message that holds the context of who sent it."""


def are_wanted() -> bool:
    """Whether the environment asks for traces."""
    says_no = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not says_no and any(os.environ.get(name) for name in ASKING)


def begin(service: str) -> bool:
    """Begins to trace this process, its SQL and its calls over HTTP, if that is wanted; whether it is.

    Ends the process with a line that says what to install where OpenTelemetry is not.
    """
    if not are_wanted():
        return False
    try:
        from opentelemetry.instrumentation import auto_instrumentation  # noqa: PLC0415  not where nobody wants it
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider  # noqa: PLC0415
    except ImportError:
        raise SystemExit(
            "OTEL_… asks for traces, and OpenTelemetry is not installed: "
            "`pip install -r requirements-traces.lock`, or set OTEL_SDK_DISABLED=true"
        ) from None
    if isinstance(get_tracer_provider(), ProxyTracerProvider):  # else `opentelemetry-instrument` has done it
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            os.environ.setdefault("OTEL_SERVICE_NAME", service)
        auto_instrumentation.initialize(swallow_exceptions=False)
    return True


@contextmanager
def span(
    name: str, kind: Literal["INTERNAL", "PRODUCER", "CONSUMER"] = "INTERNAL", sent: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A span as long as the block runs, below who `sent` that, if anybody did. Only where tracing has begun."""
    from opentelemetry import propagate, trace  # noqa: PLC0415

    above = propagate.extract(sent) if sent else None
    with trace.get_tracer("tickgraph").start_as_current_span(name, context=above, kind=trace.SpanKind[kind]):
        yield


def carrier() -> dict[str, dict[str, str]]:
    """The options by which a message takes the present span with it; none where nothing is traced."""
    if not are_wanted():
        return {}
    from opentelemetry import propagate  # noqa: PLC0415

    context: dict[str, str] = {}
    propagate.inject(context)
    return {CARRIER: context}


def unseen() -> AbstractContextManager[None]:
    """A block whose SQL and calls are not traced: what a process asks all the time by itself."""
    if not are_wanted():
        return nullcontext()
    from opentelemetry.instrumentation.utils import suppress_instrumentation  # noqa: PLC0415

    return suppress_instrumentation()


def end() -> None:
    """Sends what was not sent yet, within some seconds, for processes that end without Python's usual leave."""
    if not are_wanted():
        return
    from opentelemetry import trace  # noqa: PLC0415

    provider = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(FLUSHED_MS)
