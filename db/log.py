"""One way of logging for every process: its own lines and those of its libraries, for a terminal or as JSON."""

import logging
import sys
from pathlib import Path
from typing import Any

import structlog
from concurrent_log_handler import ConcurrentRotatingFileHandler
from structlog.typing import EventDict, Processor, WrappedLogger

from db.settings import Settings, without_password

FILE_BYTES = 10 << 20
FILES_KEPT = 5

# Controls but for line and tab, and the marks that turn the direction of text.
_OBEYED = {
    code: f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

QUIET = ("asyncio", "aiohttp.access", "alembic.runtime.plugins", "sqlalchemy")
"""Loggers of libraries that are heard from WARNING on, whatever LOG_LEVEL says."""


def configure(settings: Settings, process: str) -> None:
    """Sends all log lines of this process to standard error, and to LOG_FILE where that is set.

    Where it was done before (by a verb of ours, before its library imported the edge) it stays as it was.
    """
    if any(isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter) for handler in logging.getLogger().handlers):
        return
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_formatter(settings.log_format, shared, colors=sys.stderr.isatty()))
    if settings.log_file is not None:
        _require_writable(settings.log_file)
        # Of several processes: the standard library's would rotate the file away under the others, and lose their lines.
        file = ConcurrentRotatingFileHandler(
            str(settings.log_file), maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"
        )
        file.setFormatter(_formatter(settings.log_format, shared, colors=False))
        handlers.append(file)
    for handler in handlers:
        handler.addFilter(lambda record: bool(record.getMessage().strip()))  # periodiq spaces its lines
    logging.raiseExceptions = False  # a signal handler may log in the middle of another line
    logging.basicConfig(level=settings.log_level, handlers=handlers, force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # graph.access writes a line of its own, with more in it


def _require_writable(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise SystemExit(f"LOG_FILE={file} cannot be written: {error.strerror}") from None


def _formatter(form: str, shared: list[Processor], *, colors: bool) -> logging.Formatter:
    render: list[Processor]
    if form == "json":
        render = [structlog.processors.format_exc_info, _struck_out, structlog.processors.JSONRenderer(default=str)]
    else:
        console = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)
        # The traceback becomes text first: it shows what strangers sent, too.
        render = [_short_time, structlog.processors.format_exc_info, _struck_out, _escaped, console]
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render], foreign_pre_chain=shared
    )


def _named(process: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        event.pop("color_message", None)  # uvicorn's line once more, with colours
        return event

    return add


def _escaped(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What a terminal would obey is shown instead, for some of it comes from strangers."""
    return {key: value.translate(_OBEYED) if isinstance(value, str) else value for key, value in event.items()}


def _short_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = str(event["timestamp"])[11:23] + "Z"
    return event


def _struck_out(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No password of an address is ever logged."""
    return {key: _without_password(value) for key, value in event.items()}


def _without_password(value: Any) -> Any:
    return without_password(value) if isinstance(value, str) and "://" in value else value
