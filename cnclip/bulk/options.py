"""Options of bulk embedding: one table for the API and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .._checks import check_integer
from ..errors import InvalidInputError
from ..pipelines.stream import IMAGE_BATCH

Kind = Literal["images", "texts"]

KINDS = ("images", "texts")
DTYPES = ("float16", "float32")
MAX_SHARD_ITEMS = 1 << 20


def _option(default: Any, help: str, **rules: Any) -> Any:
    """A field with its help, and with `choices`, `min` and `max`."""
    return field(default=default, metadata={"help": help, **rules})


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `embed`, `iter_embeddings` and `ray_embed`.

    `cnclip embed --help` describes each option.

    Raises:
        InputTypeError: a number of another type; names the option.
        InvalidInputError: a value is not allowed; names the option.
    """

    kind: Kind = _option("images", "kind of the items: images or texts", choices=KINDS)
    dtype: Literal["float16", "float32"] = _option(
        "float16", "type of the stored embeddings", choices=DTYPES
    )
    column: str | None = _option(None, "of tables: the column of images or texts")
    id_column: str | None = _option(None, "of tables: the column of ids")
    batch_size: int = _option(IMAGE_BATCH, "images that go through the model together", min=1)
    shard_items: int = _option(8192, "items of a shard", min=1, max=MAX_SHARD_ITEMS)
    retry: bool = _option(False, "try items again that failed in an earlier run")
    replace: bool = _option(False, "drop embeddings of sources that are not listed")

    def __post_init__(self) -> None:
        """Check every value."""
        for one in fields(self):
            value, rules = getattr(self, one.name), one.metadata
            if "choices" in rules and value not in rules["choices"]:
                reason = f"expected {' or '.join(map(repr, rules['choices']))}, got {value!r:.60}"
                raise InvalidInputError(reason, item=one.name)
            if "min" in rules:
                count = check_integer(value, one.name, rules["min"], rules.get("max"))
                object.__setattr__(self, one.name, count)

    def check_batch_size(self, maximum: int) -> None:
        """Refuse more images of a batch than the device runs together; texts have no such limit.

        Raises:
            InvalidInputError: the batch size is larger than `maximum`.
        """
        if self.kind == "images":
            check_integer(self.batch_size, "batch_size", maximum=maximum)
