"""Malformed checkpoints: each is a small change to one that opens. Each test run writes them.

`python -m tests.support.corpus DIRECTORY` writes them for inspection.
"""

from __future__ import annotations

import json
import os
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
BOMB = bytes(128 << 20)  # twice the memory that test_malformed.py allows
WEIGHTS = "pytorch_model.bin"
PREPROCESSOR = "preprocessor_config.json"


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
    """Change the tensors of a pickle of torch."""

    def damage(model: Path) -> None:
        path = model / WEIGHTS if model.is_dir() else model
        weights = torch.load(path, weights_only=True)
        weights = weights.get("state_dict", weights)
        torch.save(change({k.removeprefix("module."): v for k, v in weights.items()}), path)

    return damage


def change_zip(change: Callable[[str, bytes], tuple[str, bytes]], method: int = 0) -> Damage:
    """Change the parts of a file of torch, which is a zip."""

    def damage(model: Path) -> None:
        path = model / WEIGHTS if model.is_dir() else model
        with zipfile.ZipFile(path) as file:
            parts = [change(name, file.read(name)) for name in file.namelist()]
        # The fastest level: two of the parts are mostly zeros.
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
            for name, content in parts:
                file.writestr(name, content)

    return damage


def change_pickle(pickle: bytes) -> Damage:
    """Replace the pickle in a file of torch."""
    return change_zip(lambda name, content: (name, pickle if name.endswith(".pkl") else content))


def call(function: str, argument: bytes) -> bytes:
    """The pickle of a call; `function` is a module and a name, with a space between."""
    return b"c" + function.replace(" ", "\n").encode() + b"\n(" + argument + b"tR"


def of_one_number(*shape: int) -> torch.Tensor:
    return torch.zeros(1).expand(*shape)


def enlarge(name: str, size: int) -> Damage:
    """Extend a file with zeros, which take no space on the disk."""

    def damage(model: Path) -> None:
        os.truncate(model / name if model.is_dir() else model, size)

    return damage


def claim_size(content: bytes, size: int) -> bytes:
    """Set both sizes in the first entry of a zip's directory."""
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
    """Change values of the first tensor in a safetensors header."""
    name = next(name for name in header if name != "__metadata__")
    return header | {name: header[name] | values}


def as_pickle(tensors: dict[str, torch.Tensor]) -> Damage:
    """Write the weights of a Hugging Face directory as a pickle, some of them replaced."""

    def damage(model: Path) -> None:
        from safetensors.torch import load_file

        path = model / "model.safetensors"
        torch.save(load_file(path) | tensors, model / WEIGHTS)
        path.unlink()

    return damage


def with_index(name: str) -> Damage:
    """Replace the weights by an index that names one file; without a name, one of 100 GB."""

    def damage(model: Path) -> None:
        index = model / "model.safetensors.index.json"
        (model / "model.safetensors").unlink()
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        if not name:
            os.truncate(index, HUNDRED_GIGABYTES)

    return damage


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


def of_bombs() -> Iterator[tuple[str, Damage]]:
    """Pickles of 300 bytes that use all memory, or never end, where they are executed."""
    gigabytes = call("builtins bytearray", b"\x8a\x05" + (100 << 30).to_bytes(5, "little"))
    yield "a bytearray", change_pickle(b"\x80\x02" + gigabytes + b".")
    for function in ("collections Counter", "builtins set", "torch Size", "torch FloatTensor"):
        yield f"{function} of it", change_pickle(b"\x80\x02" + call(function, gigabytes) + b".")
    storage = call("torch.storage UntypedStorage", b"\x8a\x05" + (100 << 30).to_bytes(5, "little"))
    yield "a storage", change_pickle(b"\x80\x02" + storage + b".")
    doubled = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    yield "a tuple", change_pickle(b"\x80\x02}K\x01\x85q\x00" + doubled + b"K\x01s.")
    yield "a loop of marks", change_pickle(b"\x80\x02" + b"(" * 1000 + b"t" * 2000 + b".")


def of_sizes() -> Iterator[tuple[str, Damage]]:
    """Views of one number, in place of tensors whose shapes give the sizes."""
    for name, shape in {
        "bert.embeddings.word_embeddings.weight": (HUNDRED_GIGABYTES // 128, 32),
        "bert.embeddings.position_embeddings.weight": (1 << 31, 32),
        "bert.encoder.layer.0.intermediate.dense.weight": (1 << 57, 32),
        "text_projection": (1 << 31, 1 << 31),
        "visual.proj": (48, 1 << 30),
        "visual.conv1.weight": (1 << 40, 3, 8, 8),
    }.items():
        yield (
            f"{name} of one number",
            change_tensors(lambda w, n=name, s=shape: {**w, n: of_one_number(*s)}),
        )


def of_layouts() -> Iterator[tuple[str, Damage]]:
    """Tensors that are not dense floats."""
    for what, make in {
        "sparse": lambda: torch.zeros(48, 24).to_sparse(),
        "compressed": lambda: torch.zeros(48, 24).to_sparse_csr(),
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(48, 24)]),
        "on no device": lambda: torch.empty(48, 24, device="meta"),
        "quantised": lambda: torch.quantize_per_tensor(torch.zeros(48, 24), 0.1, 0, torch.qint8),
        "float8": lambda: torch.zeros(48, 24).to(torch.float8_e4m3fn),
    }.items():
        yield what, change_tensors(lambda w, m=make: {**w, "visual.proj": m()})


def of_pickles() -> Iterator[tuple[str, Damage]]:
    yield from of_bombs()
    yield from of_sizes()
    yield from of_layouts()
    name = "logit_scale"
    yield "a name twice", change_tensors(lambda w: {f"module.{name}": torch.ones(()), **w})
    yield "a name that rings", change_tensors(lambda w: {**w, "a\x1b[31m\n\a": torch.zeros(3)})
    yield "a name of a megabyte", change_tensors(lambda w: {**w, "a" * 1000000: torch.zeros(3)})
    yield "no temperature", change_tensors(lambda w: {**w, name: torch.tensor(1000.0)})
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
    yield (
        "half the prefixes",
        change_tensors(
            lambda w: {("module." if i % 2 else "") + k: v for i, (k, v) in enumerate(w.items())}
        ),
    )
    yield (
        "a bomb",
        change_zip(lambda n, c: (n, BOMB if n.endswith("/data/0") else c), zipfile.ZIP_DEFLATED),
    )
    yield (
        "a pickle that is a bomb",
        change_zip(
            lambda n, c: (n, c + BOMB if n.endswith("data.pkl") else c),
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
    yield "offsets of words", safetensors_header(lambda h: with_entry(h, data_offsets="ab"))
    yield (
        "offsets of lists",
        safetensors_header(lambda h: {name: {"data_offsets": [0, "x"]} for name in h}),
    )
    yield "negative offsets", safetensors_header(lambda h: with_entry(h, data_offsets=[-4, 4]))
    yield "dtype unknown", safetensors_header(lambda h: with_entry(h, dtype="F7"))
    yield "dtype whole", safetensors_header(lambda h: with_entry(h, dtype="I32"))
    yield "shape negative", safetensors_header(lambda h: with_entry(h, shape=[-1]))
    yield "100 GB of zeros after it", enlarge(name, HUNDRED_GIGABYTES)
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
    yield "vocab of 100 GB", enlarge("vocab.txt", HUNDRED_GIGABYTES)
    yield "vocab with a byte order mark", rewrite("vocab.txt", lambda c: b"\xef\xbb\xbf" + c)
    yield "vocab with a token twice", rewrite("vocab.txt", lambda c: c + b"[PAD]\n")
    yield "settings of 100 GB", enlarge(vision, HUNDRED_GIGABYTES)
    yield "weights of 100 GB", enlarge(WEIGHTS, HUNDRED_GIGABYTES)
    yield "vocab not UTF-8", rewrite("vocab.txt", lambda c: c + b"\xff\xfe\n")


def huggingface() -> Iterator[tuple[str, Damage]]:
    yield from for_every_file(["config.json", "vocab.txt", "model.safetensors"])
    for key in ("vision_config.hidden_size", "vision_config.image_size", "vision_config"):
        yield from of_settings("config.json", [key])
    yield from of_settings("config.json", ["text_config.num_hidden_layers", "projection_dim"])
    yield from of_settings(PREPROCESSOR, ["image_mean", "size"])
    yield from of_safetensors()
    attention = "vision_model.encoder.layers.0.self_attn."
    for what, tensor in {
        "queries, keys and values of one number": of_one_number(1 << 30, 25),
        "a number for queries, keys and values": torch.ones(()),
        "float8 for queries, keys and values": torch.zeros(48, 48).to(torch.float8_e4m3fn),
    }.items():
        yield what, as_pickle({f"{attention}{part}_proj.weight": tensor for part in "qkv"})
    projection = {"text_projection.weight": of_one_number(1 << 30, 25)}
    yield "a projection of one number", as_pickle(projection)
    yield "an index of 100 GB", with_index("")
    yield "an index with a long name", with_index("x" * 300)


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
    fused = "bert.encoder.layer.0.attention.self.Wqkv.weight"
    yield "a number for fused rows", change_tensors(lambda w: {**w, fused: torch.ones(())})
    yield "fused rows of no three", change_tensors(lambda w: {**w, fused: torch.ones(95, 32)})
    twice = "visual.transformer.resblocks.0.attn."
    yield (
        "fused rows with separate ones",
        change_tensors(lambda w: {**w, f"{twice}Wqkv.weight": w[f"{twice}in_proj_weight"]}),
    )
    yield "100 GB of zeros after it", enlarge("", HUNDRED_GIGABYTES)


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
