"""Every exception that cnclip raises on purpose, and where in the input it happened.

Each derives from CnclipError and from the built-in exception that it resembles, so that programs
may catch either. The C core looks its classes up here.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from ._text import printable, printable_lines


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the input; its text is `ITEM: FILE:LINE`, of the parts that are known.

    Attributes:
        item: The item of a call, such as `img[1]`.
        file: A path or URL.
        line: The line or row of the file, from 1.
        member: The name of a member of an archive, or a key of a database.
        index: The position of the item in the request, from 0, if a `Batcher` embeds it.
    """

    item: str | None = None
    file: str | None = None
    line: int | None = None
    member: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        inner = (self.file, self.member, None if self.line is None else str(self.line))
        in_file = ":".join(part for part in inner if part is not None)
        return printable(": ".join(part for part in (self.item, in_file) if part))

    def within(self, outer: Where) -> Where:
        """This place, with what `outer` knows and this one does not."""
        unknown = [field.name for field in fields(self) if getattr(self, field.name) is None]
        return replace(self, **{name: getattr(outer, name) for name in unknown})


class CnclipError(Exception):
    """Base of all exceptions below. Its text is `WHERE: REASON`.

    Attributes:
        reason: What happened, and what to do.
        where: The place in the input, or None.
    """

    def __init__(
        self,
        reason: str,
        where: Where | None = None,
        *,
        item: str | None = None,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        member: str | None = None,
    ) -> None:
        """Say what happened. The place is a `where`, or made of the other arguments."""
        super().__init__(reason)
        self.reason = reason
        self.where = _where(item, file, line, member) if where is None else where

    def __str__(self) -> str:
        reason = printable_lines(self.reason)
        return reason if self.where is None else f"{self.where}: {reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,), self.__dict__

    def at(
        self,
        where: Where | None = None,
        *,
        item: str | None = None,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        member: str | None = None,
    ) -> Self:
        """The same error with a place; parts of the place that it has already stay."""
        outer = _where(item, file, line, member) if where is None else where
        moved = copy.copy(self)
        if outer is not None:
            moved.where = outer if self.where is None else self.where.within(outer)
        moved.__cause__, moved.__suppress_context__ = self.__cause__, True
        return moved.with_traceback(self.__traceback__)


def _where(
    item: str | None, file: str | os.PathLike[str] | None, line: int | None, member: str | None
) -> Where | None:
    if (item, file, line, member) == (None, None, None, None):
        return None
    return Where(item, None if file is None else os.fspath(file), line, member)


class InputTypeError(CnclipError, TypeError):
    """An input has a type that cannot be used."""


class InvalidInputError(CnclipError, ValueError):
    """An input or option has a value that cannot be used."""


class OutputDirectoryError(InvalidInputError, FileNotFoundError):
    """The directory of a file to write does not exist."""


class OutputExistsError(InvalidInputError, FileExistsError):
    """A directory to write exists and is not empty, or is a file."""


class ImageError(CnclipError, OSError):
    """An image cannot be fetched, read or decoded."""


class FormatOffError(ImageError):
    """An image is in a format that is not among those that are opened, see `ImageOptions`.

    Attributes:
        format: The format.
    """

    format: str = ""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file at an image's path."""


class ModelNotFoundError(CnclipError, FileNotFoundError):
    """No model has the given name or path."""


class CheckpointError(CnclipError, ValueError):
    """A checkpoint is incomplete, damaged or of another architecture."""


class MissingExtraError(CnclipError, ImportError):
    """A package is needed that is not installed, or that cannot be imported.

    Attributes:
        extra: The extra of cnclip that installs it.
        package: The package.
        problem: Why it cannot be imported although it is installed; None if it is not installed.
    """

    def __init__(self, extra: str, package: str, problem: str | None = None) -> None:
        reason = f"{package} is not installed: pip install 'cnclip[{extra}]'"
        if problem is not None:
            reason = f"{package} is installed and cannot be imported: {problem}"
        super().__init__(reason)
        self.extra, self.package, self.problem = extra, package, problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.extra, self.package, self.problem), self.__dict__


class ModelScopeError(CnclipError, ImportError):
    """A program needs a part of ModelScope that cnclip lacks, and cannot get it from ModelScope.

    `where.item` is the part, such as `modelscope.models.nlp.SbertModel`, or a model.
    """

    @property
    def name(self) -> str | None:  # type: ignore[override]
        """The part, where an ImportError has the module."""
        return None if self.where is None else self.where.item


class HubError(CnclipError, OSError):
    """A model cannot be fetched from its hub."""


class DatasetError(CnclipError, ValueError):
    """A data set has no known layout, or a row of it cannot be used."""


class UnknownLayoutError(DatasetError):
    """The files of a data set have no known layout."""


class IndexFileError(CnclipError, ValueError):
    """A file is not an index, is truncated or damaged, or of another format version."""


class IndexNotFoundError(IndexFileError, FileNotFoundError):
    """There is no index at a path."""


class ModelMismatchError(CnclipError, ValueError):
    """Vectors or a query come from another model than a collection."""


class MilvusError(CnclipError, ConnectionError):
    """Milvus does not respond, or not as expected."""


class EmbeddingsError(CnclipError, ValueError):
    """A folder of embeddings is unfinished, damaged, or holds something else."""


class VocabularyError(CheckpointError):
    """A vocab.txt is not UTF-8 or lacks one of [PAD], [UNK], [CLS], [SEP]."""


class ArchiveError(CnclipError, ValueError):
    """A file is not a cnclip archive, is damaged, or is of another format version."""


class DeviceError(CnclipError, RuntimeError):
    """The device does not exist on this machine, or does not support the precision."""


class EngineError(CnclipError, ImportError):
    """torch is missing, or no engine fits it and none can be compiled."""


class ModelRunError(CnclipError, RuntimeError):
    """The engine failed while it ran the model."""


class OutOfMemoryError(CnclipError, MemoryError):
    """The memory of the CPU or the GPU is too small for a batch. Smaller ones may still run."""


class ForkedProcessError(CnclipError, RuntimeError):
    """The model was used before a fork and again in the child, which lacks its threads."""


class BusyError(CnclipError, RuntimeError):
    """A `Batcher` holds as much work as it may.

    Attributes:
        retry_after: Seconds after which the request should be accepted.
    """

    def __init__(self, reason: str, *, retry_after: float = 1.0, **place: Any) -> None:
        super().__init__(reason, **place)
        self.retry_after = retry_after


class DeadlineError(CnclipError, TimeoutError):
    """A request was not embedded within its time."""


class ClosedError(CnclipError, RuntimeError):
    """A `Batcher` was closed before it could embed a request."""


class ServerError(CnclipError, ConnectionError):
    """A server of `cnclip serve` cannot be reached, or fails."""
