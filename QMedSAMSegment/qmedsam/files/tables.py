"""Text and tables as a spreadsheet saves them, and numbers as JSON can hold them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ..errors import QMedSAMError
from .paths import existing_file

#: Line of the file where a row ends, and its cells by the names of their columns.
Row = Tuple[int, Dict[str, str]]
_MOST_BYTES = 1 << 30


def read_text(path: Path, what: str) -> str:
    """A text in UTF-8, without the mark that spreadsheets put before it, or in UTF-16 with it ("Unicode text").

    Raises:
        QMedSAMError: no such file (``what`` says what it should be), another encoding, or far too long.
    """
    path = existing_file(path, what)
    if path.stat().st_size > _MOST_BYTES:
        raise QMedSAMError(f"'{path.name}' is too large for {what}.", "Check the path.")
    content = path.read_bytes()
    try:
        return text_of(content).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise QMedSAMError(f"'{path.name}' is not a text in UTF-8.", "Save it as 'CSV UTF-8'.") from None


def text_of(content: bytes) -> str:
    """Bytes in UTF-8, or in UTF-16 with its mark.

    Raises:
        UnicodeDecodeError: in another encoding.
    """
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def table_of(text: str, name: str) -> Tuple[List[str], List[Row]]:
    """A CSV whose first line names the columns; what separates them (``,``, ``;`` or tabs) is told from that line.

    Args:
        text: of the file.
        name: of the file, for messages.

    Returns:
        The names of the columns, in small letters, and the rows that hold anything. Cells come without spaces around them;
        those that a short row lacks are empty, those beyond the last column are dropped.

    Raises:
        QMedSAMError: it is no CSV.
    """
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max("\t;,", key=head.count), restval="")
    try:
        columns = reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader if any(row.values())]
    except csv.Error as error:
        raise QMedSAMError(f"'{name}' is not a CSV file ({error}).", "Save it from a spreadsheet again.") from error
    return columns, [(line, {column: row[column].strip() for column in columns}) for line, row in rows]


def finite(value: Any) -> Any:
    """The same with None for NaN and infinities, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
