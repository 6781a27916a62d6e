"""Runs the examples of a page: `python tests/support/pages.py PAGE FOLDER`, or `run_page`.

A page is Markdown. Its blocks run in order, in one folder: ```python blocks in one namespace, the
commands of ```console and ```bash blocks (the lines after `$`) by the command line's `main`, or by
a shell if they are more than a command of cnclip. Blocks in other languages are not examples.

HTML comments before a block say what it needs:

| comment | meaning |
|---|---|
| `<!-- setup: NAME ... -->` | make these files first: the names of `SETUPS` |
| `<!-- not run: REASON -->` | only check the syntax of the next block, and its options |
| `<!-- requires: PACKAGE ... -->` | the next block runs where these packages can be imported |
| `<!-- status: N -->` | the commands of the next block end with this exit status |
| `<!-- output -->` | the next block is what the block before it prints |
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("python", "console", "bash")
_FENCE = re.compile(r"^( *)(`{3,})([\w+-]*)[^\n]*\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (setup|not run|requires|status|output)(?:: (.*?))? -->", re.DOTALL)
_SHELL = re.compile(r"[|&;<>$`(){}~]")


@dataclass
class Block:
    """A fenced block of a page, with the comments before it."""

    place: str
    language: str
    code: str
    comments: dict[str, str] = field(default_factory=dict)

    @property
    def is_example(self) -> bool:
        """Whether the block is to run."""
        return self.language in LANGUAGES

    @property
    def commands(self) -> list[str]:
        """The commands of a console block, each on one line."""
        lines = re.sub(r"\\\n(?:> )?\s*", "", self.code).splitlines()
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def blocks_of(page: Path, name: str | None = None) -> list[Block]:
    """Read the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    end = 0
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        comments = dict(_COMMENT.findall(text, end, match.start()))
        code = re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)
        blocks.append(Block(f"{name or page.name}:{line}", match[3], code, comments))
        end = match.end()
    return blocks


# --- Files that pages need ------------------------------------------------------------------------

MODELSCOPE = "damo/multi-modal_clip-vit-base-patch16_zh"
HUGGINGFACE = "OFA-Sys/chinese-clip-vit-base-patch16"
PHOTOS = {
    "cat": "1f408",
    "dog": "1f415",
    "car": "1f697",
    "cake": "1f382",
    "house": "1f3e0",
    "apple": "1f34e",
}


def _photos(folder: Path) -> None:
    from cnclip.assets import asset_path

    (folder / "photos").mkdir()
    for name, code in PHOTOS.items():
        shutil.copy(asset_path("gallery") / f"{code}.png", folder / "photos" / f"{name}.png")


def _muge(folder: Path) -> None:
    from cnclip.assets import asset_path
    from cnclip.datasets import write_split

    valid = {"猫": "1f408", "汽车": "1f697", "蛋糕": "1f382", "苹果": "1f34e"}
    for split, names in (("train", valid | {"狗": "1f415"}), ("valid", valid)):
        files = {
            n: asset_path("gallery") / f"{code}.png" for n, code in enumerate(names.values(), 1)
        }
        images = [(n, file.read_bytes()) for n, file in files.items()]
        texts = [(n, text, [n]) for n, text in enumerate(names, 1)]
        write_split(folder / "MUGE", split, images, texts)


def _cifar10(folder: Path) -> None:
    from cnclip.assets import asset_path

    for name, code in {"cat": "1f408", "automobile": "1f697", "dog": "1f415"}.items():
        (folder / "cifar10" / "test" / name).mkdir(parents=True)
        shutil.copy(asset_path("gallery") / f"{code}.png", folder / "cifar10" / "test" / name)


def _shards(folder: Path) -> None:
    (folder / "shards").mkdir()
    for number, name in enumerate(("cat", "dog", "car")):
        with tarfile.open(folder / "shards" / f"{number:03}.tar", "w") as tar:
            tar.add(folder / "photos" / f"{name}.png", f"{name}.png")


def _parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    contents = [(folder / "photos" / f"{name}.png").read_bytes() for name in ("cake", "house")]
    pyarrow.parquet.write_table(pyarrow.table({"image": contents}), folder / "more.parquet")


def _titles(folder: Path) -> None:
    lines = [json.dumps({"id": n, "title": text}) for n, text in enumerate(("连衣裙", "运动鞋"))]
    (folder / "titles.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _convert(source: Path, output: Path, **options: str) -> None:
    from cnclip.convert import convert

    output.parent.mkdir(parents=True, exist_ok=True)
    convert(source, output, **options)


def _write_cn_clip(output: Path) -> None:
    # The format has no vocabulary and no width of heads: those of the published models.
    from tests.support.small_vit import write_directory

    published = (ROOT / "cnclip/checkpoints/vocab.txt").read_text(encoding="utf-8").split("\n")
    with tempfile.TemporaryDirectory() as folder:
        directory = write_directory(
            Path(folder),
            vision={"vision_width": 64, "vision_head_width": 64},
            text={"text_hidden_size": 64, "text_num_attention_heads": 1, "vocab_size": 21128},
            vocabulary=published[:-1],
        )
        _convert(directory, output, to="cn_clip")


def _emoji_cn() -> Path:
    from cnclip.assets import asset_path

    return asset_path("emoji-cn")


def _command(*arguments: str) -> None:
    from cnclip.cli import main

    assert main(list(arguments)) == 0, arguments


# What makes the file or folder of each name, and which others must exist before.
SETUPS: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "base.cnclip.pt": ((), lambda at: _convert(_emoji_cn(), at / "base.cnclip.pt")),
    "epoch_latest.pt": ((), lambda at: _write_cn_clip(at / "epoch_latest.pt")),
    "clip_cn_vit-b-16.pt": ((), lambda at: _write_cn_clip(at / "clip_cn_vit-b-16.pt")),
    # A directory of the hub id's name comes before the hub.
    MODELSCOPE: ((), lambda at: _convert(_emoji_cn(), at / MODELSCOPE, to="modelscope")),
    HUGGINGFACE: (
        (),
        lambda at: _convert(ROOT / "tests/data/emoji-vit", at / HUGGINGFACE, to="huggingface"),
    ),
    "photos": ((), _photos),
    "shards": (("photos",), _shards),
    "more.parquet": (("photos",), _parquet),
    "titles.jsonl": ((), _titles),
    "MUGE": ((), _muge),
    "cifar10": ((), _cifar10),
    "photos.embeddings": (
        ("photos", "base.cnclip.pt"),
        lambda at: _command(
            "embed", "photos", "-o", "photos.embeddings", "--model", "base.cnclip.pt"
        ),
    ),
    "photos.index": (
        ("photos.embeddings",),
        lambda at: _command(
            "index", "photos.embeddings", "-o", "photos.index", "--model", "base.cnclip.pt"
        ),
    ),
}
SETUPS["foreign"] = (("photos", "base.cnclip.pt"), lambda at: _clip_retrieval(at))
# A program for ModelScope.
SETUPS["program.py"] = (
    (),
    lambda at: shutil.copy(ROOT / "tests/support/programs/image_text_match.py", at / "program.py"),
)
SETUPS["cat.png"] = ((), lambda at: _copy_photo(at, "cat"))
SETUPS["photo.jpg"] = ((), lambda at: _photo(at / "photo.jpg"))
SETUPS["car.png"] = ((), lambda at: _copy_photo(at, "car"))


def _clip_retrieval(folder: Path) -> None:
    """A folder as clip-retrieval writes it, which does not record the model."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    from cnclip import pipeline

    photos = [str(path) for path in sorted((folder / "photos").iterdir())]
    rows = pipeline(model=folder / "base.cnclip.pt").forward({"img": photos})["img_embedding"]
    for name in ("img_emb", "metadata"):
        (folder / "foreign" / name).mkdir(parents=True)
    np.save(folder / "foreign" / "img_emb" / "img_emb_0.npy", rows.astype(np.float16))
    table = pyarrow.table({"image_path": photos})
    pyarrow.parquet.write_table(table, folder / "foreign" / "metadata" / "metadata_0.parquet")


def _photo(path: Path) -> None:
    from tests.support.photos import jpeg

    path.write_bytes(jpeg(1200, 900))


def _copy_photo(folder: Path, name: str) -> None:
    from cnclip.assets import asset_path

    shutil.copy(asset_path("gallery") / f"{PHOTOS[name]}.png", folder / f"{name}.png")


def set_up(names: str, folder: Path) -> None:
    """Make the named files in the current folder, unless they exist."""
    for name in names.split():
        required, make = SETUPS[name]
        set_up(" ".join(required), folder)
        if not (folder / name).exists():
            make(folder)


# --- Running --------------------------------------------------------------------------------------


class Session:
    """Runs the blocks of one page; the current folder is its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.printed: str | None = ""  # None after a block that did not run

    def run(self, block: Block) -> None:
        """Run a block, or check it if it is not to run.

        Raises:
            AssertionError: a command failed, or the output is another.
        """
        set_up(block.comments.get("setup", ""), self.folder)
        if "output" in block.comments and self.printed is not None:
            assert self.printed.rstrip() == block.code.rstrip(), f"{block.place}: {self.printed}"
        if not block.is_example:
            return
        required = block.comments.get("requires", "").split()
        if "not run" in block.comments or not all(map(is_installed, required)):
            check(block)
            self.printed = None
            return
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block.language == "python":
                code = compile(block.code, block.place, "exec")
                exec(code, self.namespace)
            else:
                for command in block.commands:
                    status = run_command(command, self.folder)
                    wanted = int(block.comments.get("status", 0))
                    assert status == wanted, f"{block.place}: {command}: status {status}"
        self.printed = printed.getvalue()


def is_installed(name: str) -> bool:
    """Whether a module can be imported; a folder without code, as `tests/datasets`, is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its package is missing
        return False
    return spec is not None and spec.origin is not None


def run_command(command: str, folder: Path) -> int:
    """Run a command of a page, and return its exit status."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["pip", "install"]:
        check_command(command)
        return 0
    if words[0] == "export":
        os.environ.update(word.split("=", 1) for word in words[1:])
        return 0
    if words[0] != "cnclip" or _SHELL.search(" ".join(words)):
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": programs}
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
        return done.returncode
    from cnclip.cli import main

    return main(words[1:])


def check(block: Block) -> None:
    """Check a block that does not run: that it compiles, that its commands have these options."""
    if block.language == "python":
        compile(block.code, block.place, "exec")
    for command in block.commands if block.language != "python" else ():
        check_command(command)


def check_command(command: str) -> None:
    """Parse a command without running it; `pip install` may name existing extras only.

    Raises:
        AssertionError: an option, a Make target or an extra does not exist.
    """
    words = shlex.split(command, comments=True)
    if "cnclip" in words[:1] or words[:1] == ["torchrun"]:
        arguments = words[words.index("cnclip") + 1 :]
        parse(arguments)
    elif words[:2] == ["pip", "install"]:
        with open(ROOT / "pyproject.toml", "rb") as file:
            extras = tomllib.load(file)["project"]["optional-dependencies"]
        for named in re.findall(r"(?:cnclip|\.)\[([\w,]+)\]", command):
            assert set(named.split(",")) <= set(extras), f"{command}: no such extra"
    elif words[:1] == ["make"]:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in words[1:] if "=" not in word]
        for target in targets:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{command}: no such target"
    elif words[:1] == ["python"] and len(words) > 1 and not words[1].startswith("-"):
        assert (ROOT / words[1]).exists(), f"{command}: no such script"


def parse(arguments: list[str]) -> None:
    """Parse the arguments of a command of cnclip."""
    import argparse

    from cnclip.cli import COMMANDS

    parser = argparse.ArgumentParser(prog=arguments[0], exit_on_error=False)
    COMMANDS[arguments[0]].configure(parser)
    try:
        parser.parse_args(arguments[1:])
    except SystemExit:
        raise AssertionError(f"cnclip {shlex.join(arguments)}: no such arguments") from None


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Make a folder the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_page(page: Path, folder: Path) -> int:
    """Run all blocks of a page.

    Returns:
        The number of examples.
    """
    session = Session(folder)
    blocks = blocks_of(page)
    with in_folder(folder):
        for block in blocks:
            try:
                session.run(block)
            except Exception as error:
                error.add_note(f"in the example {block.place}")
                raise
    return sum(block.is_example for block in blocks)


if __name__ == "__main__":
    print(run_page(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()), "examples ran")
