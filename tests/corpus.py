"""Malformed checkpoints: each a small change to one that opens. Made anew by each run of the tests.

`python -m tests.corpus DIRECTORY` writes them for a look.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

# Changes a model directory, or a .pt file, in place.
Damage = Callable[[Path], None]

HUNDRED_GIGABYTES = 100 << 30
WEIGHTS = "pytorch_model.bin"


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(model: Path) -> None:
        path = model / name if model.is_dir() else model
        path.write_bytes(change(path.read_bytes()))

    return damage


def set_value(name: str, key: str, value: Any) -> Damage:
    def damage(model: Path) -> None:
        content = json.loads((model / name).read_text())
        part, _, last = key.rpartition(".")
        (content[part] if part else content)[last] = value
        (model / name).write_text(json.dumps(content))

    return damage


def change_tensors(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Of a pickle of torch's."""

    def damage(model: Path) -> None:
        path = model / WEIGHTS if model.is_dir() else model
        weights = torch.load(path, weights_only=True)
        weights = weights.get("state_dict", weights)
        torch.save(change({k.removeprefix("module."): v for k, v in weights.items()}), path)

    return damage


def change_zip(change: Callable[[str, bytes], tuple[str, bytes]], method: int = 0) -> Damage:
    """Of a pickle of torch's, which is a zip."""

    def damage(model: Path) -> None:
        path = model / WEIGHTS if model.is_dir() else model
        with zipfile.ZipFile(path) as file:
            parts = [change(name, file.read(name)) for name in file.namelist()]
        with zipfile.ZipFile(path, "w", method) as file:
            for name, content in parts:
                file.writestr(name, content)

    return damage


def claim_size(content: bytes, size: int) -> bytes:
    """The first entry of a zip's directory says that it has so many bytes."""
    at = content.index(b"PK\x01\x02")
    return content[: at + 20] + struct.pack("<II", size, size) + content[at + 28 :]


def safetensors_header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def edit(content: bytes) -> bytes:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        text = json.dumps(change(header)).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + size :]

    return rewrite("model.safetensors", edit)


def with_entry(header: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The first tensor of a safetensors header says something else."""
    name = next(name for name in header if name != "__metadata__")
    return header | {name: header[name] | values}


def for_every_file(names: list[str]) -> Iterator[tuple[str, Damage]]:
    for name in names:
        yield f"{name} empty", rewrite(name, lambda _: b"")
        yield f"{name} cut in half", rewrite(name, lambda content: content[: len(content) // 2])
        yield f"{name} of zeros", rewrite(name, lambda content: bytes(len(content)))
        yield f"{name} of noise", rewrite(name, lambda content: content[::-1])
        yield f"{name} a directory", lambda model, name=name: replace_by_directory(model / name)
        yield f"{name} a loop", lambda model, name=name: replace_by_loop(model / name)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def of_settings(name: str, keys: list[str]) -> Iterator[tuple[str, Damage]]:
    for key in keys:
        for value in (None, -1, 0, "x", [], {}, 1e300, 10**40, True):
            yield f"{name} {key} {str(value)[:6]}", set_value(name, key, value)


def of_pickles() -> Iterator[tuple[str, Damage]]:
    name = "logit_scale"
    yield "no tensors", change_tensors(lambda w: {})
    yield "a list", change_tensors(lambda w: list(w))
    yield "a tensor missing", change_tensors(lambda w: {k: w[k] for k in w if k != name})
    yield "a tensor too many", change_tensors(lambda w: {**w, "more": torch.zeros(3)})
    yield "an integer among them", change_tensors(lambda w: {**w, name: 3})
    yield "whole numbers", change_tensors(lambda w: {**w, name: torch.tensor(3)})
    yield "complex numbers", change_tensors(lambda w: {**w, name: torch.tensor(3j)})
    yield "another shape", change_tensors(lambda w: {**w, name: torch.zeros(2, 2)})
    yield "NaN", change_tensors(lambda w: {**w, name: torch.tensor(torch.nan)})
    yield "infinity", change_tensors(lambda w: {k: v / 0 if v.ndim else v for k, v in w.items()})
    yield "names that are numbers", change_tensors(lambda w: dict(enumerate(w.values())))
    huge = HUNDRED_GIGABYTES // 4
    claim = "bert.embeddings.word_embeddings.weight"
    yield (
        "100 GB of one number",
        change_tensors(lambda w: {**w, claim: torch.zeros(1).expand(huge // 32, 32)}),
    )
    yield (
        "half the prefixes",
        change_tensors(
            lambda w: {("module." if i % 2 else "") + k: v for i, (k, v) in enumerate(w.items())}
        ),
    )
    yield (
        "a bomb",
        change_zip(
            lambda n, c: (n, bytes(1 << 29) if n.endswith("/data/0") else c), zipfile.ZIP_DEFLATED
        ),
    )
    yield (
        "a pickle that is a bomb",
        change_zip(
            lambda n, c: (n, c + bytes(1 << 29) if n.endswith("data.pkl") else c),
            zipfile.ZIP_DEFLATED,
        ),
    )
    yield "no pickle", change_zip(lambda n, c: (n.replace("data.pkl", "date.pkl"), c))
    yield "no storage", change_zip(lambda n, c: (n.replace("/data/1", "/data/x1"), c))
    yield "short storages", change_zip(lambda n, c: (n, c[:2] if "/data/" in n else c))
    yield "a pickle of noise", change_zip(lambda n, c: (n, c[::-1] if n.endswith(".pkl") else c))
    yield (
        "a part of 4 GB",
        lambda model: rewrite(WEIGHTS, lambda content: claim_size(content, 0xFFFFFFF0))(model),
    )


def of_safetensors() -> Iterator[tuple[str, Damage]]:
    name = "model.safetensors"
    yield (
        "header of 100 GB",
        rewrite(name, lambda c: HUNDRED_GIGABYTES.to_bytes(8, "little") + c[8:]),
    )
    yield "no header", rewrite(name, lambda c: bytes(8))
    yield "header not JSON", rewrite(name, lambda c: c[:8] + b"[" + c[9:])
    yield "shape of 100 GB", safetensors_header(lambda h: with_entry(h, shape=[1 << 34]))
    yield (
        "offsets beyond",
        safetensors_header(
            lambda h: with_entry(h, shape=[25 << 30], data_offsets=[0, HUNDRED_GIGABYTES])
        ),
    )
    yield "offsets back to front", safetensors_header(lambda h: with_entry(h, data_offsets=[9, 0]))
    yield "negative offsets", safetensors_header(lambda h: with_entry(h, data_offsets=[-4, 4]))
    yield "dtype unknown", safetensors_header(lambda h: with_entry(h, dtype="F7"))
    yield "dtype whole", safetensors_header(lambda h: with_entry(h, dtype="I32"))
    yield "shape negative", safetensors_header(lambda h: with_entry(h, shape=[-1]))
    yield "header a list", safetensors_header(lambda h: list(h))
    yield "no tensors", safetensors_header(lambda h: {})


def modelscope() -> Iterator[tuple[str, Damage]]:
    vision, text = "vision_model_config.json", "text_model_config.json"
    yield from for_every_file([vision, text, "vocab.txt", WEIGHTS])
    yield from of_settings(vision, ["embed_dim", "image_resolution", "vision_layers"])
    yield from of_settings(vision, ["vision_width", "vision_patch_size"])
    yield from of_settings(text, ["vocab_size", "text_hidden_size", "text_num_hidden_layers"])
    yield from of_settings(text, ["text_num_attention_heads", "text_hidden_act"])
    yield from of_pickles()
    yield "vocab without [SEP]", rewrite("vocab.txt", lambda c: c.replace(b"[SEP]", b"[sep]"))
    yield (
        "vocab too long",
        rewrite("vocab.txt", lambda c: c + b"".join(b"x%d\n" % i for i in range(99))),
    )
    yield "vocab not UTF-8", rewrite("vocab.txt", lambda c: c + b"\xff\xfe\n")


def huggingface() -> Iterator[tuple[str, Damage]]:
    yield from for_every_file(["config.json", "vocab.txt", "model.safetensors"])
    for key in ("vision_config.hidden_size", "vision_config.image_size", "vision_config"):
        yield from of_settings("config.json", [key])
    yield from of_settings("config.json", ["text_config.num_hidden_layers", "projection_dim"])
    yield from of_settings("preprocessor_config.json", ["image_mean", "size"])
    yield from of_safetensors()


def cn_clip() -> Iterator[tuple[str, Damage]]:
    for what, change in {
        "empty": lambda c: b"",
        "cut in half": lambda c: c[: len(c) // 2],
        "cut at its end": lambda c: c[:-1],
        "of zeros": lambda c: bytes(len(c)),
        "of noise": lambda c: c[::-1],
        "of text": lambda c: b"not a model\n" * 100,
    }.items():
        yield what, rewrite("", change)
    yield from of_pickles()


CORPUS = {"modelscope": modelscope, "huggingface": huggingface, "cn_clip": cn_clip}


def write(kind: str, model: Path, directory: Path) -> Iterator[tuple[str, Path]]:
    """Copies of a model of one format, each damaged in one way, as `(what, path)`."""
    for number, (what, damage) in enumerate(CORPUS[kind]()):
        path = directory / f"{kind}-{number:03}{model.suffix}"
        if model.is_dir():
            shutil.copytree(model, path)
        else:
            shutil.copy(model, path)
        damage(path)
        yield what, path


if __name__ == "__main__":
    from cnclip.convert import convert

    output = Path(sys.argv[1])
    output.mkdir(exist_ok=True)
    for kind in CORPUS:
        model = output / ("cn_clip.pt" if kind == "cn_clip" else kind)
        convert("emoji-cn", model, to=kind)
        for what, path in write(kind, model, output):
            print(path, what)
