"""Exports as Arrow and Parquet, with exact decimals and UTC timestamps. Only these formats import pyarrow.

PostgreSQL formats CSV, which pyarrow parses: that is several times faster than values in Python.
"""

import importlib.util
import io
from types import ModuleType
from typing import Any, Final

from db.queries.exports import Export
from db.queries.history_export import ExportFormat
from db.rows import MAX_PRICE_DECIMALS

PRECISION: Final = 38
"""Digits of a decimal128: 20 before the point and MAX_PRICE_DECIMALS after it."""
MIN_GROUP_ROWS: Final = 20_000
"""Rows of a group in Parquet, at least. The file lists its groups at the end, so many small ones make it large."""
_INTEGERS: Final = ("ticks", "watched_s", "opened_ms", "closed_ms", "count", "expected")
_TIMES: Final = ("time", "observed_at")
_REQUIRED: Final = ("ticker", "ts", "time", "price", "source", "count", "expected")


def is_available() -> bool:
    """Whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def _import() -> tuple[ModuleType, ModuleType]:
    import pyarrow as pa  # noqa: PLC0415  optional, and large
    import pyarrow.csv  # noqa: PLC0415

    return pa, pyarrow.csv


def schema(export: Export) -> Any:
    """Returns the Arrow schema of an export. A column has the same type whatever its values."""
    pa, _ = _import()

    def type_of(name: str) -> Any:
        if name in export.price_columns:
            return pa.decimal128(PRECISION, MAX_PRICE_DECIMALS)
        if name in _TIMES:
            return pa.timestamp("us", tz="UTC")
        if name in _INTEGERS:
            return pa.int32()
        return {"ts": pa.int64(), "longest_silence_s": pa.float64()}.get(name, pa.string())

    return pa.schema([pa.field(name, type_of(name), nullable=name not in _REQUIRED) for name in export.columns])


class ArrowEncoder:
    """Encodes the lines of an export. Each call returns the bytes that are complete, so memory holds only one part."""

    def __init__(self, export: Export) -> None:
        """`export.format` is PARQUET or ARROW."""
        pa, self._csv = _import()
        self._schema = schema(export)
        self._sink = io.BytesIO()
        self._concat_tables = pa.concat_tables
        self._pending: list[Any] = []
        self._least_rows = MIN_GROUP_ROWS if export.format is ExportFormat.PARQUET else 1
        if export.format is ExportFormat.PARQUET:
            import pyarrow.parquet  # noqa: PLC0415

            self._writer: Any = pyarrow.parquet.ParquetWriter(self._sink, self._schema, compression="zstd")
        else:
            self._writer = pa.ipc.new_stream(self._sink, self._schema)

    def encode(self, lines: bytes) -> bytes:
        """Adds lines of CSV without a header, and returns the next bytes of the file."""
        if lines:
            names = self._schema.names
            table = self._csv.read_csv(
                io.BytesIO(lines),
                read_options=self._csv.ReadOptions(column_names=names),
                convert_options=self._csv.ConvertOptions(column_types=self._schema, null_values=[""], strings_can_be_null=True),
            )
            self._pending.append(table.cast(self._schema))
            if sum(one.num_rows for one in self._pending) >= self._least_rows:
                self._write_pending()
        return self._take()

    def _write_pending(self) -> None:
        if self._pending:
            self._writer.write_table(self._concat_tables(self._pending))
            self._pending.clear()

    def finish(self) -> bytes:
        """Ends the file, and returns its last bytes."""
        self._write_pending()
        self._writer.close()
        return self._take()

    def _take(self) -> bytes:
        # Parquet's writer counts the position itself, so the sink can be emptied.
        written = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return written
