"""Reads a folder of images with captions: metadata.jsonl, metadata.csv, Parquet, or a .txt/.caption beside each.

Of Parquet, whose cells may hold the images, captions are read at once and images when needed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow.parquet import ParquetFile

from formats.datasets.images import (
    IMAGE_ENDINGS,
    SIDECARS,
    caption_read,
    cell_text,
    column_names,
    folder_repeats,
    image_column,
    image_folder,
    metadata_rows,
    path_below,
    repeats_by_folder,
    repeats_message,
    sidecars_of,
)
from formats.datasets.parquet import column_values, is_image, is_image_table, is_text, parquet_open
from formats.datasets.rows import DatasetError, value_fault
from formats.datasets.splits import TRAIN, split_chosen
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.data.image_rows import (
    Cell,
    Columns,
    Faults,
    ImageRow,
    ImageRows,
    Source,
    bad_dataset,
    first_names,
    refuse,
)

ChooseSplit = Callable[[Sequence[str]], str]
"""As `Params.split_of`."""


class Tables(NamedTuple):
    """The tables and images of one split of a folder."""

    paths: list[Path]
    """All metadata files, or all Parquet files, of the split; empty: captions are in files beside the images."""
    images: list[Path]
    """Of the split, by the names of their folders."""
    splits: dict[str, int]
    """Images, or Parquet files of images, by split; {} if no names are splits."""
    split: str


def tables_of(folder: Path, split_of: ChooseSplit, column: str) -> Tables:
    """The layout from `formats.datasets.images.image_folder`, limited to the split that `split_of` chooses.

    `column`: of the images in a table. TrainerError BAD_PARAMETERS: the dataset does not have that split.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        layout = image_folder(names, lambda name: is_image_table(folder / name, name, column))
    except DatasetError as error:
        raise bad_dataset(str(error)) from error
    split = _split(layout.splits, split_of)
    images = [folder / name for name in layout.images]
    if layout.tables:
        tables = layout.splits[split] if split else layout.tables
        return Tables([folder / name for name in tables], images, layout.split_counts, split)
    chosen = [folder / name for name in layout.splits[split]] if split else images
    return Tables([], chosen, layout.split_counts, split)


def _split(splits: Mapping[str, Sequence[str]], split_of: ChooseSplit) -> str:
    try:
        return split_of([*splits])
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, str(error)) from None


def images_read(
    folder: Path,
    columns: Columns,
    *,
    trigger_word: str,
    split_of: ChooseSplit = lambda splits: split_chosen(splits, TRAIN),
    faults: Faults | None = None,
) -> ImageRows:
    """All images of one split of `folder` with their captions, in the order of its tables, else by name.

    TrainerError BAD_DATASET names the column, file or row that is missing, or rows with an empty caption and no trigger
    word.
    """
    chosen = tables_of(folder, split_of, columns.image)
    tables, warnings = chosen.paths, _other_splits(chosen)
    if tables and tables[0].suffix == ".parquet":
        dataset = ImageRows([row for path in tables for row in parquet_images(path, columns, faults)], warnings)
    elif tables:
        rows = [row for path in tables for row in table_images(path, columns, faults)]
        dataset = ImageRows(rows, warnings + _unused(chosen, rows))
    else:
        dataset = _from_sidecars(folder, chosen.images, columns, trigger_word, faults)
        dataset = ImageRows(dataset.rows, warnings + dataset.warnings)
    if not dataset.rows and not faults:
        raise bad_dataset(f"expected images ({', '.join(IMAGE_ENDINGS)}), metadata.jsonl or Parquet, found none")
    rows = _with_files(dataset.rows, faults)
    return ImageRows(_with_captions(rows, trigger_word, faults) if columns.caption else rows, dataset.warnings)


def _other_splits(chosen: Tables) -> list[str]:
    if len(chosen.splits) < 2:
        return []
    return [f"the dataset has the splits {', '.join(chosen.splits)}; only {chosen.split} is used"]


def _unused(chosen: Tables, rows: Sequence[ImageRow]) -> list[str]:
    """Images that no table names; with several splits they may belong to another split."""
    named = {source for row in rows for source in (row.source, row.mask)}
    unused = [path.name for path in chosen.images if path not in named]
    tables = ", ".join(dict.fromkeys(path.name for path in chosen.paths))
    if not unused or len(chosen.splits) > 1:
        return []
    return [f"{len(unused)} images are not in {tables} and are not used: {first_names(unused)}"]


def _from_sidecars(
    folder: Path, files: Sequence[Path], columns: Columns, trigger_word: str, faults: Faults | None
) -> ImageRows:
    if files and columns.mask:
        raise bad_dataset(
            f"mask_column={columns.mask!r} needs metadata.jsonl, metadata.csv or Parquet that has it, found none"
        )
    captions = {path: _sidecar(path, faults) for path in files} if columns.caption else dict.fromkeys(files, "")
    names = {path: path.relative_to(folder).as_posix() for path in files}
    missing = [names[path] for path in files if captions[path] is None]
    warnings = [repeats_message(*one) for one in repeats_by_folder([*names.values()]).items() if one[1] > 1]
    if missing and len(missing) == len(files) and trigger_word:
        warnings.append(f"no image has a caption; each is trained with the trigger word {trigger_word!r} alone")
        captions = dict.fromkeys(files, "")
    elif missing:
        kinds = " or ".join(SIDECARS)
        way_out = "; write them" if len(missing) < len(files) else "; write them, or give a trigger_word"
        _refuse_each(
            missing,
            f"{len(missing)} of {len(files)} images have no caption ({kinds} beside them, or metadata.jsonl)",
            way_out,
            faults,
        )
    rows = [
        ImageRow(path, caption, path.name, repeats=folder_repeats(names[path]))
        for path, caption in captions.items()
        if caption is not None
    ]
    return ImageRows(rows, warnings)


def _sidecar(path: Path, faults: Faults | None) -> str | None:
    """None: there is none, or it cannot be read."""
    try:
        file = next((Path(beside) for beside in sidecars_of(str(path)) if Path(beside).is_file()), None)
        return caption_read(file, file.name) if file else None
    except DatasetError as error:
        refuse(str(error), faults)
        return None


def _with_files(rows: Sequence[ImageRow], faults: Faults | None) -> list[ImageRow]:
    def exists(row: ImageRow) -> bool:
        return all(not isinstance(source, Path) or source.is_file() for source in (row.source, row.mask))

    missing = [row.where for row in rows if not exists(row)]
    if missing:
        _refuse_each(missing, f"{len(missing)} of {len(rows)} images are not in the dataset", "", faults)
    return [row for row in rows if exists(row)]


def _with_captions(rows: Sequence[ImageRow], trigger_word: str, faults: Faults | None) -> list[ImageRow]:
    empty = [row.where for row in rows if not row.caption and not trigger_word]
    if empty:
        way_out = "; write them, or give a trigger_word"
        _refuse_each(empty, f"{len(empty)} of {len(rows)} captions are empty", way_out, faults)
    return [row for row in rows if row.caption or trigger_word]


def _refuse_each(names: Sequence[str], what: str, way_out: str, faults: Faults | None) -> None:
    """An error lists the first names; a collected fault lists all of them."""
    refuse(f"{what}: {first_names(names) if faults is None else ', '.join(names)}{way_out}", faults)


def table_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image per row; file names are relative to the table's folder."""
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        for line, row in metadata_rows(path, path.name):
            if isinstance(row, ValueError):
                refuse(f"{path.name} line {line}: {row}", faults)
            else:
                rows.append((line, row))
    except DatasetError as error:
        raise bad_dataset(str(error)) from error
    if not rows:
        return []
    names = column_names(rows)
    columns = columns._replace(image=image_column(columns.image, names))
    columns_check(columns, names, path.name)
    images = (_image_or_fault(path, row, line, columns, faults) for line, row in rows)
    return [image for image in images if image]


def columns_check(columns: Columns, names: Sequence[str], table: str) -> None:
    """Raises TrainerError(BAD_DATASET) that names the parameter and the columns of the table."""
    for parameter, column in zip(("image_column", "caption_column", "mask_column"), columns, strict=True):
        if column is not None and column not in names:
            raise bad_dataset(
                f"{parameter}={column!r} is not a column of {table}; it has {', '.join(map(repr, names))}"
            )


def _image_or_fault(
    table: Path, row: dict[str, Any], line: int, columns: Columns, faults: Faults | None
) -> ImageRow | None:
    place = f"{table.name} line {line}"

    def file(column: str) -> Path:
        return table.parent / path_below("", cell_text(row, column))

    try:
        return ImageRow(
            source=file(columns.image),
            caption=cell_text(row, columns.caption).strip() if columns.caption else "",
            where=f"{row[columns.image]} ({place})",
            mask=file(columns.mask) if columns.mask else None,
        )
    except ValueError as error:
        refuse(f"{place}: {error}", faults)
        return None


def parquet_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image per row: bytes, a struct {bytes, path}, or the name of a file beside the table."""
    try:
        file = parquet_open(path, path.name)
        names = file.schema_arrow.names
        columns = columns._replace(image=image_column(columns.image, names))
        columns_check(columns, names, path.name)
        captions = _captions(file, columns.caption, path)
        images = _sources(file, columns.image, path)
        masks = _sources(file, columns.mask, path) if columns.mask else [None] * len(captions)
    except DatasetError as error:
        raise bad_dataset(str(error)) from error
    rows: list[ImageRow] = []
    for number, (source, caption, mask) in enumerate(zip(images, captions, masks, strict=True), start=1):
        if caption is None:
            refuse(f"{path.name} row {number}: expected text in {columns.caption!r}, got nothing", faults)
        elif fault := value_fault(caption):
            refuse(f"{path.name} row {number}: {fault}", faults)
        else:
            rows.append(ImageRow(source, caption.strip(), f"{path.name} row {number}", mask))
    return rows


def _captions(file: ParquetFile, column: str | None, path: Path) -> list[str | None]:
    if column is None:
        return [""] * int(file.metadata.num_rows)
    kind = file.schema_arrow.field(column).type
    if not is_text(kind):
        raise DatasetError(f"{path.name}: expected text in {column!r}, got {kind}")
    return column_values(file, column, path.name)


def _sources(file: ParquetFile, column: str, path: Path) -> list[Source]:
    kind = file.schema_arrow.field(column).type
    if is_text(kind):
        return [_file(path, name, row) for row, name in enumerate(column_values(file, column, path.name), start=1)]
    if not is_image(kind):
        raise DatasetError(
            f"{path.name}: expected images (bytes, or a struct of bytes and path) in {column!r}, got {kind}"
        )
    return [Cell(path, column, row) for row in range(file.metadata.num_rows)]


def _file(table: Path, name: str | None, row: int) -> Path:
    try:
        return table.parent / path_below("", name or "")
    except ValueError as error:
        raise DatasetError(f"{table.name} row {row}: {error}") from error
