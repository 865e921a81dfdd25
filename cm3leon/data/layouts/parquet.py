"""Editing data as parquet files: what InstructPix2Pix and MagicBrush publish, by their columns."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cm3leon.data.examples import Example, Examples
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.images import decode_picture

COLUMNS = (  # picture before, instruction, picture after
    ("original_image", "edit_prompt", "edited_image"),  # InstructPix2Pix
    ("input_image", "edit_prompt", "edited_image"),  # its samples
    ("source_img", "instruction", "target_img"),  # MagicBrush
)


class Row(NamedTuple):
    """One row of a group of a parquet file."""

    id: str
    path: Path
    columns: tuple[str, str, str]
    group: int
    row: int

    def digest(self) -> str:
        """As `ExamplePart.digest`."""
        return joined([self.id, *self._values()])

    def load(self) -> tuple[str, Example | Skipped]:
        """As `ExamplePart.load`."""
        before, instruction, after = values = self._values()
        digest = joined([self.id, *values])
        try:
            pictures = {
                "image1": decode_picture(before, self.id),
                "image2": decode_picture(after, self.id),
            }
        except UserError as error:
            return digest, Skipped(self.id, str(error))
        return digest, Example.of(self.id, pictures, [{"instruction": instruction}])

    def seen(self) -> tuple[list[Path], list[str]]:
        """As `ExamplePart.seen`."""
        return [self.path], [self.id]

    def _values(self) -> tuple[bytes, str, bytes]:
        table = _group(self.path, self.columns, self.group)
        before, instruction, after = (table[name][self.row] for name in self.columns)
        return _bytes(before), instruction or "", _bytes(after)


def parquet_edits(path: str | Path) -> Examples:
    """The rows of a parquet file, or of all in a folder.

    Raises UserError without pyarrow, for a file that is damaged and for columns of no layout known.
    """
    path, parts = Path(path), []
    for file in sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]:
        found = _open(file)
        names = set(found.schema_arrow.names)
        columns = next((one for one in COLUMNS if set(one) <= names), None)
        if columns is None:
            known = "; ".join(", ".join(one) for one in COLUMNS)
            raise UserError(f"{file} has the columns {', '.join(sorted(names))}; read are {known}")
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for group in range(found.num_row_groups):
            rows = found.metadata.row_group(group).num_rows
            parts += [
                Row(f"{name}:{group}:{row}", file, columns, group, row) for row in range(rows)
            ]
    return Examples("parquet-edits", parts)


def _open(path: Path):
    try:
        from pyarrow import lib
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            f"{path.name} needs pyarrow, which is not installed: pip install pyarrow"
        ) from None
    try:
        return ParquetFile(path)
    except (lib.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged, or no parquet file: {reason}") from None


@lru_cache(maxsize=1)
def _group(path: Path, columns: tuple[str, ...], group: int) -> dict[str, list]:
    """The wanted columns of one group of rows."""
    return _open(path).read_row_group(group, list(columns)).to_pydict()


def _bytes(picture) -> bytes:
    """A picture's bytes as they are stored: by themselves, or beside their path."""
    if isinstance(picture, dict):
        picture = picture.get("bytes")
    return picture or b""
