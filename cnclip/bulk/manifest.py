"""`manifest.json`: what a folder of embeddings was made of and with, and its shards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._files import write_durably
from ..archive import ArchiveInfo
from ..cache import remembered_sha256
from ..errors import EmbeddingsError
from ..pipelines import MultiModalEmbeddingPipeline
from .items import Kind

FORMAT = 1
MANIFEST = "manifest.json"
# The same, of a run that has not come to its end.
UNFINISHED = "unfinished.json"
DTYPES = ("float16", "float32")


def model_identity(pipeline: MultiModalEmbeddingPipeline) -> dict[str, Any]:
    """What tells a model from others: embeddings of one are of no use with another.

    Returns:
        {"name", "digest", "embed_dim", "resolution"}; the digest is of the checkpoint where that is
        known, else of the archive.

    Raises:
        OSError: the archive cannot be read.
    """
    return identity_of(pipeline.model.info)


def identity_of(info: ArchiveInfo) -> dict[str, Any]:
    """The same of an archive."""
    source = info.metadata.get("source")
    origin = source if isinstance(source, dict) else {}
    return {
        "name": str(origin.get("name") or info.path.name),
        "digest": str(origin.get("digest") or remembered_sha256(info.path)),
        "embed_dim": info.embed_dim,
        "resolution": info.resolution,
    }


@dataclass(frozen=True)
class Shard:
    """A run of items: `NAME.npy` and `NAME.parquet`.

    Attributes:
        name: Its number, and the beginning of a checksum of both files: a shard is never changed,
            another one has another name.
        rows: Embeddings.
        items: Lines, those of items that failed included.
        sha256: Of the files, by the ends of their names, "npy" and "parquet".
    """

    name: str
    rows: int
    items: int
    sha256: dict[str, str]


@dataclass
class Manifest:
    """What a folder holds.

    Attributes:
        kind: "images" or "texts".
        model: See `model_identity`.
        precision: What was computed in, such as "fp32".
        dtype: What is stored, "float16" or "float32".
        sources: What was named to embed: absolute paths.
        shard_items: Items of a shard; the last one may have fewer.
        shards: The shards, in the order of the items.
    """

    kind: Kind
    model: dict[str, Any]
    precision: str
    dtype: str
    sources: list[str]
    shard_items: int
    shards: list[Shard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Embeddings in all."""
        return sum(shard.rows for shard in self.shards)

    @property
    def items(self) -> int:
        """Items in all, those that failed included."""
        return sum(shard.items for shard in self.shards)

    def differences(self, other: Manifest) -> list[str]:
        """Where the embeddings of another are not to be mixed with these: "model: ... and ..."."""
        told = []
        for name in ("kind", "model", "precision", "dtype"):
            mine, yours = getattr(self, name), getattr(other, name)
            if name == "model":
                same = mine["digest"] == yours["digest"]
                mine, yours = (f"{one['name']} ({one['digest'][:12]})" for one in (mine, yours))
            else:
                same = mine == yours
            if not same:
                told.append(f"{name}: {mine} and {yours}")
        return told

    def write(self, path: Path) -> None:
        """Put it in its place at once.

        Raises:
            OSError: it cannot be written; names the file.
        """
        value = {"format": FORMAT, **asdict(self), "rows": self.rows, "items": self.items}
        value["shards"] = value.pop("shards")  # the long part last
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        write_durably(path, text.encode())

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest in a file; None where there is no file.

        Raises:
            EmbeddingsError: it is damaged, not a manifest, or of another format.
            OSError: it cannot be read.
        """
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise EmbeddingsError(f"{path}: damaged, not JSON: {str(error)[:200]}") from error
        found = value.get("format") if isinstance(value, dict) else None
        if type(found) is not int or found != FORMAT:
            raise EmbeddingsError(
                f"{path}: not a manifest of embeddings of format {FORMAT}, but {found!r:.40}"
            )
        try:
            return _read(value)
        except (KeyError, TypeError, ValueError) as error:
            raise EmbeddingsError(f"{path}: damaged: {error!r:.200}") from error


def _read(value: dict[str, Any]) -> Manifest:
    model = value["model"]
    shards = [
        Shard(
            _text(one["name"]),
            _count(one["rows"]),
            _count(one["items"]),
            {suffix: _text(one["sha256"][suffix]) for suffix in ("npy", "parquet")},
        )
        for one in value["shards"]
    ]
    for shard in shards:
        if Path(shard.name).name != shard.name or shard.rows > shard.items:
            raise ValueError(shard.name)
    if value["kind"] not in ("images", "texts") or value["dtype"] not in DTYPES:
        raise ValueError(value["kind"], value["dtype"])
    return Manifest(
        value["kind"],
        {
            "name": _text(model["name"]),
            "digest": _text(model["digest"]),
            "embed_dim": _count(model["embed_dim"]),
            "resolution": _count(model["resolution"]),
        },
        _text(value["precision"]),
        value["dtype"],
        [_text(source) for source in value["sources"]],
        _count(value["shard_items"]),
        shards,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value
