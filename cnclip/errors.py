"""Every exception that cnclip raises on purpose.

Each derives from CnclipError and from the built-in exception that it resembles, so that programs
may catch either. This module imports nothing: the C core looks its classes up here.
"""


class CnclipError(Exception):
    """Base of all exceptions below."""


class InputTypeError(CnclipError, TypeError):
    """An input is of a type that cannot be embedded; the message names the item."""


class InvalidInputError(CnclipError, ValueError):
    """An input or option has a value that cannot be used; the message names it."""


class ImageError(CnclipError, OSError):
    """An image cannot be fetched, read or decoded; the message names it and says why."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file at an image's path."""


class ModelNotFoundError(CnclipError, FileNotFoundError):
    """There is no model under the given name or path."""


class CheckpointError(CnclipError, ValueError):
    """A checkpoint is incomplete, damaged or of another architecture; the message says where."""


class MissingExtraError(CnclipError, ImportError):
    """A package is needed that is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(extra, package)  # as pickle gives them back

    def __str__(self) -> str:
        extra, package = self.args
        return f"{package} is not installed, which is needed here: pip install 'cnclip[{extra}]'"


class HubError(CnclipError, OSError):
    """A model cannot be fetched from its hub; the message names both and says why."""


class DatasetError(CnclipError, ValueError):
    """A data set is of no known layout, or a row of it cannot be used; the message names it."""


class IndexFileError(CnclipError, ValueError):
    """A file is not an index, is truncated or damaged, or of another format version."""


class IndexNotFoundError(IndexFileError, FileNotFoundError):
    """There is no index at a path."""


class ModelMismatchError(CnclipError, ValueError):
    """Vectors or a query are of another model than a collection's; the message names both."""


class MilvusError(CnclipError, ConnectionError):
    """Milvus does not answer, or not as expected; the message names it."""


class EmbeddingsError(CnclipError, ValueError):
    """A folder of embeddings is unfinished, damaged, or of something else; names the file."""


class VocabularyError(CheckpointError):
    """A vocab.txt is not UTF-8 or lacks one of [PAD], [UNK], [CLS], [SEP]."""


class ArchiveError(CnclipError, ValueError):
    """A file is not a cnclip archive, is damaged, or is of another format version."""


class DeviceError(CnclipError, RuntimeError):
    """The device does not exist on this machine, or does not compute in the precision."""


class ModelRunError(CnclipError, RuntimeError):
    """libtorch failed while it ran the model."""


class ForkedProcessError(CnclipError, RuntimeError):
    """The model was used before a fork and again in the child, where its threads are gone."""
