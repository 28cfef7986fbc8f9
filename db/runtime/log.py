"""Logging of every process and its libraries, as text for a terminal or as JSON."""

import logging
import sys
from pathlib import Path
from typing import Any

import structlog
from concurrent_log_handler import ConcurrentRotatingFileHandler
from structlog.typing import EventDict, Processor, WrappedLogger

from db.connection_url import mask_password
from db.settings import Settings

MAX_FILE_BYTES = 10 << 20
MAX_ROTATED_FILES = 5

# Control characters except line feed and tab, and Unicode marks that change the text direction.
_CONTROL_CHARACTERS = {
    code: f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

QUIET_LOGGERS = ("asyncio", "aiohttp.access", "alembic.runtime.plugins", "sqlalchemy")
"""Loggers of libraries whose level is WARNING, or LOG_LEVEL if that is higher."""


def configure(settings: Settings, process: str) -> None:
    """Sends all log lines of this process to standard error, and to LOG_FILE if it is set.

    A second call in the same process changes nothing.
    """
    if any(isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter) for handler in logging.getLogger().handlers):
        return
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_process_name(process),
    ]
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_formatter(settings.log_format, shared, colors=sys.stderr.isatty()))
    if settings.log_file is not None:
        _require_writable(settings.log_file)
        # Several processes write this file. Rotation by the standard library would lose lines of the other processes.
        file = ConcurrentRotatingFileHandler(
            str(settings.log_file), maxBytes=MAX_FILE_BYTES, backupCount=MAX_ROTATED_FILES, encoding="utf-8"
        )
        file.setFormatter(_formatter(settings.log_format, shared, colors=False))
        handlers.append(file)
    for handler in handlers:
        handler.addFilter(lambda record: bool(record.getMessage().strip()))  # periodiq logs empty lines
    logging.raiseExceptions = False  # a signal handler may log in the middle of another line
    logging.basicConfig(level=settings.log_level, handlers=handlers, force=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.addFilter(_is_no_websocket_event)
    logging.getLogger("uvicorn.access").disabled = True  # graph.access logs each request with more fields


def _is_no_websocket_event(record: logging.LogRecord) -> bool:
    """Log filter that drops uvicorn's INFO lines about WebSockets: graph.access logs each connection with one line."""
    return record.levelno > logging.INFO or not record.module.startswith("websockets")


def _require_writable(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise SystemExit(f"LOG_FILE={file} cannot be written: {error.strerror}") from None


def _formatter(form: str, shared: list[Processor], *, colors: bool) -> logging.Formatter:
    render: list[Processor]
    if form == "json":
        render = [structlog.processors.format_exc_info, _mask_passwords, structlog.processors.JSONRenderer(default=str)]
    else:
        console = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)
        # The traceback is rendered first, so that client input in it is escaped as well.
        render = [_shorten_time, structlog.processors.format_exc_info, _mask_passwords, _escape_control_characters, console]
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render], foreign_pre_chain=shared
    )


def _add_process_name(process: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        event.pop("color_message", None)  # uvicorn's colored copy of the message
        return event

    return add


def _escape_control_characters(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escapes control characters, because a message may contain client input."""
    return {key: value.translate(_CONTROL_CHARACTERS) if isinstance(value, str) else value for key, value in event.items()}


def _shorten_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = str(event["timestamp"])[11:23] + "Z"
    return event


def _mask_passwords(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Masks the password of every connection URL."""
    return {key: _mask_value(value) for key, value in event.items()}


def _mask_value(value: Any) -> Any:
    return mask_password(value) if isinstance(value, str) and "://" in value else value
