"""CSV files as people and spreadsheets write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from audio.settings import UserError

Row = dict[str, str]


class ManifestError(UserError):
    """A manifest or a split breaks a rule; the message gives the place and the remedy."""


def read_text(path: Path) -> str:
    """Return the text of a table, with or without a byte order mark.

    Raises:
        ManifestError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8.") from None


def read_csv_rows(path: Path) -> tuple[tuple[str, ...], list[tuple[str, Row]]]:
    """Return the columns of a CSV file and its rows, each with `file:line`.

    Cells are parted by commas; where the header has none, by semicolons or tabs. Spaces before and
    after a value do not count, unless quotation marks keep those before it; rows without any value
    do not, either. What a short row lacks is empty.

    Raises:
        ManifestError: it is not UTF-8, a quotation mark is not closed, or a row has more cells than
            the header.
    """
    text = read_text(path)
    header = text.lstrip().partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, Row]] = []
    try:
        for cells in lines:
            values = [cell.rstrip(" ") for cell in cells]
            if not any(values):
                continue
            if not columns:
                columns = tuple(values)
                continue
            where = f"{path}:{lines.line_num}"
            if len(values) > len(columns):
                raise ManifestError(
                    f"{where}: {len(values)} cells, but the header has {len(columns)}; put what "
                    f"holds a {delimiter!r} in quotation marks."
                )
            values += [""] * (len(columns) - len(values))
            rows.append((where, dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        raise ManifestError(
            f"{path}:{lines.line_num}: {error}; is a quotation mark not closed?"
        ) from None
    return columns, rows
