"""`MsDataset` for data sets of images and texts: on ModelScope's hub, in a folder, or in a zip."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .._text import counted, value_text
from ..datasets import Problems, open_retrieval
from ..datasets.layouts import splits_of
from ..errors import (
    DatasetError,
    InputTypeError,
    InvalidInputError,
    ModelScopeError,
    UnknownLayoutError,
)
from ._installed import installed_object
from .dataset_files import (
    download_dataset,
    split_of,
    subset_folder,
    usual_split,
    with_random_access,
)
from .rows import ListPart, Rows, open_rows
from .slices import SplitSlice, parse_splits

__all__ = ["MsDataset"]

logger = logging.getLogger("cnclip")

NAMESPACE = "modelscope"
# Names for a kind of files, with which `data_files` or `data_dir` says where they are.
_KINDS = ("csv", "json", "parquet", "imagefolder", "webdataset")
_REDOWNLOAD = "force_redownload"
_PROBLEMS_SHOWN = 5


class _Given(NamedTuple):
    """The arguments of `MsDataset.load`, in ModelScope's order."""

    dataset_name: Any
    namespace: str | None = NAMESPACE
    target: str | None = None
    version: str | None = None
    hub: Any = None
    subset_name: str | None = None
    split: str | None = None
    data_dir: str | None = None
    data_files: Any = None
    download_mode: Any = None
    cache_dir: str | os.PathLike[str] | None = None


class MsDataset:
    """A data set, as ModelScope's class: rows by their numbers, and their columns.

    Attributes:
        target: The column that iteration yields; None for whole rows.
        is_custom: Always False: the trainer reads the rows.
    """

    is_custom = False

    def __init__(self, ds_instance: Any, target: str | None = None) -> None:
        """Take the rows.

        Args:
            ds_instance: `Rows`, Hugging Face's data set, or another sequence of dicts.
            target: The column that iteration yields.

        Raises:
            InvalidInputError: there is no such column.
        """
        names = getattr(ds_instance, "column_names", None)
        if target is not None and names is not None and target not in names:
            raise InvalidInputError(
                f"no column {target!r}; it has {', '.join(names)}", item="target"
            )
        self._hf_ds, self.target = ds_instance, target

    def __iter__(self) -> Iterator[Any]:
        for row in self._hf_ds:
            yield row if self.target is None else row[self.target]

    def __getitem__(self, key: Any) -> Any:
        """See `Rows`: an index is an int, a slice, several ints, or a column's name."""
        return self._hf_ds[key]

    def __len__(self) -> int:
        return len(self._hf_ds)

    def __repr__(self) -> str:
        return f"MsDataset({self._hf_ds!r})"

    @property
    def ds_instance(self) -> Any:
        """The rows."""
        return self._hf_ds

    @property
    def config_kwargs(self) -> None:
        """ModelScope's settings of another kind of data sets: none."""
        return None

    def to_hf_dataset(self) -> Any:
        """The rows as a `datasets.Dataset`, which copies the images' files into its cache.

        Raises:
            MissingExtraError: datasets is not installed.
            ImageError: an image cannot be read.
        """
        convert = getattr(self._hf_ds, "to_hf_dataset", None)
        return self._hf_ds if convert is None else convert()

    def remap_columns(self, column_mapping: Mapping[str, str]) -> Any:
        """The rows with other names of columns, old names to new ones.

        Raises:
            DatasetError: there is no such column, or two would have the same name.
        """
        return self._hf_ds.rename_columns(dict(column_mapping))

    @classmethod
    def to_ms_dataset(cls, ds_instance: Any, target: str | None = None) -> Any:
        """Wrap rows, or each value of a dict of them; a dict of one gives that one."""
        if isinstance(ds_instance, Mapping):
            found = {name: cls(rows, target) for name, rows in ds_instance.items()}
            return next(iter(found.values())) if len(found) == 1 else found
        return cls(ds_instance, target)

    from_hf_dataset = to_ms_dataset

    @staticmethod
    def load(*arguments: Any, **keywords: Any) -> Any:
        """Open a data set of images and texts.

        A row has the columns `query`, `query_id`, `image` (a PIL image) and `image_id`, where the
        files have no other names for them. A text with several images has several rows.

        The arguments, in this order or by their names, are:

            dataset_name: A folder, zip or file, see `cnclip.datasets.open_retrieval` for the
                layouts; `NAME` or `OWNER/NAME` on ModelScope's hub; `'csv'`, `'json'`,
                `'parquet'`, `'imagefolder'` or `'webdataset'` with `data_files` or `data_dir`; or a
                list of items.
            namespace: The owner on the hub.
            target: The column that iteration yields.
            version: A branch, tag or commit on the hub.
            hub: `'modelscope'`.
            subset_name: A subset of the data set.
            split: A split, such as `train`, with slices as `train[:200]`, `train[10%:20%]`,
                `train+validation`; by default a dict of all splits, or the only one. `validation`
                is also one that is named valid, val or dev.
            data_dir: A folder in the data set.
            data_files: Without a data set, the path of a file, or a dict of paths by splits.
            download_mode: `force_redownload` downloads all files again.
            cache_dir: Where the hub's client stores files.

        ModelScope's other options are ignored and named in a warning.

        Returns:
            MsDataset, or a dict of them.

        Raises:
            InputTypeError, InvalidInputError: an argument cannot be used, or a slice has no rows.
            DatasetError: there is no such data set or split, or nothing in it can be used.
            HubError, MissingExtraError: the files cannot be downloaded.
        """
        given = _Given(*arguments, **{n: v for n, v in keywords.items() if n in _Given._fields})
        options = {name: value for name, value in keywords.items() if name not in _Given._fields}
        if isinstance(given.dataset_name, list):
            column = "target" if given.target is None else given.target
            return MsDataset(Rows([ListPart(given.dataset_name)], [column]), column)
        try:
            _warn_of_ignored(options)
            return _load(given)
        except UnknownLayoutError as error:
            return _load_by_modelscope(given._asdict() | options, error)


def _load(given: _Given) -> Any:
    """The data set of `MsDataset.load`."""
    parts = None if given.split is None else parse_splits(_checked(given.split, "split"))
    wanted = None if parts is None else {usual_split(part.split) for part in parts}
    place, file_splits = _local_place(given.dataset_name, given.data_files)
    if place is None:
        _check_hub(given.hub)
        mode = str(getattr(given.download_mode, "value", given.download_mode))
        place = download_dataset(
            _hub_name(str(given.dataset_name), given.namespace),
            given.version,
            splits=wanted,
            cache_dir=given.cache_dir,
            again=mode == _REDOWNLOAD,
        )
    if given.data_dir is not None:
        place = _inner_folder(place, given.data_dir)
    opened = _DataSet(with_random_access(place, wanted), given.subset_name, file_splits)
    if parts is not None:
        return MsDataset(opened.rows(parts), given.target)
    found = {
        usual_split(name) or "train": opened.rows(parse_splits(name or "train"))
        for name in opened.names
    }
    return MsDataset.to_ms_dataset(found, given.target)


def _load_by_modelscope(arguments: dict[str, Any], error: UnknownLayoutError) -> Any:
    """Another kind of data set, by the installed ModelScope."""
    try:
        theirs = installed_object("modelscope.msdatasets", "MsDataset")
    except ModelScopeError as missing:
        reason = f"{error.reason}; other data sets need ModelScope: {missing.reason}"
        raise UnknownLayoutError(reason, error.where) from error
    return theirs.load(**{name: value for name, value in arguments.items() if value is not None})


# --- Arguments -----------------------------------------------------------------------------------


def _checked(value: Any, item: str) -> str:
    value = str(value) if type(value).__name__ == "NamedSplit" else value  # Hugging Face's
    if not isinstance(value, str):
        raise InputTypeError(f"expected str, got {type(value).__name__}", item=item)
    return value


def _warn_of_ignored(options: Mapping[str, Any]) -> None:
    given = sorted(name for name, value in options.items() if value)
    if given:
        logger.warning("MsDataset.load: ignored: %s", ", ".join(given))


def _check_hub(hub: Any) -> None:
    name = str(getattr(hub, "value", hub or NAMESPACE))
    if name != NAMESPACE:
        reason = f"expected 'modelscope', got {name!r}; download the data set and pass its folder"
        raise InvalidInputError(reason, item="hub")


def _local_place(name: Any, data_files: Any) -> tuple[Path | None, dict[str, Path]]:
    """The path of a data set that is not on a hub, and paths of splits that `data_files` names."""
    if not isinstance(name, str | os.PathLike):
        reason = f"expected a name, a path or a list, got {value_text(name)}"
        raise InputTypeError(reason, item="dataset_name")
    path = Path(name).expanduser()
    if data_files is not None:
        folder = path if path.is_dir() else Path()
        if str(name) not in _KINDS and not path.is_dir():
            reason = f"requires a folder or one of {', '.join(_KINDS)} as dataset_name"
            raise InvalidInputError(reason, item="data_files")
        given = data_files if isinstance(data_files, Mapping) else {"train": data_files}
        paths = {str(split): folder / _only_path(value) for split, value in given.items()}
        return next(iter(paths.values())), paths
    if str(name) in _KINDS and not path.exists():
        return Path(), {}
    return (path, {}) if path.exists() else (None, {})


def _only_path(value: Any) -> str | os.PathLike[str]:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str | os.PathLike):
        reason = f"expected a path for each split, got {value_text(value)}"
        raise InputTypeError(reason, item="data_files")
    return value


def _hub_name(name: str, namespace: str | None) -> str:
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return name
    if "/" in name or not name:
        raise DatasetError("no such data set", file=name)
    return f"{namespace or NAMESPACE}/{name}"


def _inner_folder(place: Path, data_dir: str) -> Path:
    folder = place / _checked(data_dir, "data_dir")
    if not folder.exists():
        raise DatasetError("no such folder in the data set", file=folder)
    return folder


# --- Splits --------------------------------------------------------------------------------------


class _DataSet:
    """A data set that is not open yet.

    Attributes:
        names: The names of its splits, or those of the subset.
    """

    def __init__(self, place: Path, subset: str | None, files: dict[str, Path]) -> None:
        """Find the splits, and those of a subset."""
        self._files, self._prefix = files, ""
        if subset is not None and not files and (inner := subset_folder(place, subset)):
            place, subset = inner, None
        self._place = place
        self.names = list(files) if files else self._splits(subset)

    def _splits(self, subset: str | None) -> list[str]:
        found = splits_of(self._place)
        subsets = sorted({name.partition("/")[0] for name in found if "/" in name})
        if not subsets:
            if subset not in (None, "default"):
                raise DatasetError(f"has no subset {subset!r}", file=self._place)
            return found
        if subset not in subsets:
            shown = ", ".join(subsets)
            raise DatasetError(f"has the subsets {shown}: choose one", file=self._place)
        self._prefix = f"{subset}/"
        return [name.removeprefix(self._prefix) for name in found if name.startswith(self._prefix)]

    def rows(self, parts: list[SplitSlice]) -> Rows:
        """The rows of parts of splits."""
        opened: dict[str, Rows] = {}
        found = []
        for part in parts:
            name = self._name_of(part.split)
            if name not in opened:
                opened[name] = self._open(name)
            rows = opened[name]
            numbers, remark = part.rows(len(rows))
            if remark is not None:
                logger.warning("%s: %s", self._place.name, remark)
            found.append(rows if len(numbers) == len(rows) else rows.select(numbers))
        return found[0] if len(found) == 1 else Rows.joined(found)

    def _name_of(self, split: str) -> str:
        """The split's name in the data set."""
        same = [name for name in self.names if usual_split(name) == usual_split(split)]
        if split in self.names or same:
            return split if split in self.names else same[0]
        if self.names == [""] and split in ("train", "all"):
            return ""
        # Of shards, names such as `my-train.tar` say their split.
        named = [name for name in self.names if name and split_of(name) == usual_split(split)]
        if len(named) == 1:
            return named[0]
        shown = ", ".join(name or "train" for name in self.names)
        raise DatasetError(f"has no split {split!r}; it has {shown}", file=self._place)

    def _open(self, name: str) -> Rows:
        problems = Problems()
        place, split = self._files.get(name, self._place), name
        if self._files:
            split = ""
        data = open_retrieval(place, f"{self._prefix}{split}" or None)
        rows = open_rows(data, problems)
        label = f"{data.name}, {data.split}"
        for problem in problems.found[:_PROBLEMS_SHOWN]:
            logger.warning("%s: %s", label, problem)
        if problems.skipped:
            logger.warning("%s: %s left out", label, counted(problems.skipped, "rows"))
        return rows
