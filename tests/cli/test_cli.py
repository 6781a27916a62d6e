"""The command line: what it prints where, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnclip import __version__, cli, pipeline
from cnclip._files import replaced_atomically
from cnclip.archive import read_archive
from cnclip.cli._arguments import check_output_file, open_browser
from cnclip.errors import InvalidInputError
from cnclip.pipelines import MultiModalEmbeddingPipeline

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def cnclip(capsys: Captured) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; gives its exit status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse's way out
            status = int(ended.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


Command = Callable[..., tuple[int, str, str]]


def test_version_and_help(cnclip: Command) -> None:
    assert cnclip("--version") == (0, f"cnclip {__version__}\n", "")
    status, out, _ = cnclip("--help")
    assert status == 0
    for name in cli.COMMANDS:
        assert f"\n    {name} " in out
        assert cnclip(name, "--help")[0] == 0
    _, out, _ = cnclip("embed", "--help")
    assert "(default: fp32)" in out and "record, else" not in " ".join(out.split())
    _, out, _ = cnclip("search", "--help")
    assert "record, else the bundled emoji-cn" in " ".join(out.split())


def test_options_are_named_as_they_are_typed(cnclip: Command, tmp_path: Path) -> None:
    files = ("a.jpg", "-o", tmp_path / "out", "--model", "emoji-cn")
    status, _, err = cnclip("embed", *files, "--shard-items", "0")
    assert (status, err) == (2, "cnclip embed: --shard-items: expected 1 or more, got 0\n")
    run = ("--train", tmp_path, "-o", tmp_path / "run", "--model", "emoji-cn")
    status, _, err = cnclip("train", *run, "--freeze-vision", "--mask-ratio", "0.5")
    assert status == 2
    assert err.startswith("cnclip train: --mask-ratio: requires a trained")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["convert"], ["info"], ["info", "a", "b"], ["info", "a", "--environment"]],
)
def test_bad_usage(cnclip: Command, arguments: list[str]) -> None:
    status, out, err = cnclip(*arguments)
    assert (status, out) == (2, "")
    assert "usage: cnclip" in err


def test_convert(
    cnclip: Command, vit_directory: Path, vit: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    output = tmp_path / "out.cnclip.pt"
    output.write_text("what was there before")
    status, out, _ = cnclip("convert", vit_directory, "-o", output)
    assert status == 0
    assert out == f"{output} ({output.stat().st_size / 1e6:.1f} MB)\n"
    umask = os.umask(0)
    os.umask(umask)
    assert output.stat().st_mode & 0o777 == 0o666 & ~umask
    found = pipeline(model=output, device="cpu").forward({"text": "猫"})["text_embedding"]
    assert np.array_equal(found, vit.forward({"text": "猫"})["text_embedding"])
    assert list(tmp_path.iterdir()) == [output]


def test_convert_what_ships(cnclip: Command, tmp_path: Path) -> None:
    # Names of commands are no commands where a file's name is meant.
    assert cnclip("convert", "emoji-cn", "-o", tmp_path / "demo")[0] == 0
    assert read_archive(tmp_path / "demo").embed_dim == 128


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("nowhere", "a.pt", "no model 'nowhere'"),
        ("{data}/cases", "a.pt", "cases: not a model directory: it has neither vision"),
        (
            "{data}/tiny-vit/vocab.txt",
            "a.pt",
            "vocab.txt: truncated, damaged, or not a TorchScript archive",
        ),
        ("{data}/tiny-vit", "no/such/a.pt", "no/such"),
        ("{data}/tiny-vit", ".", "is a directory, expected a file name"),
    ],
)
def test_convert_refuses(
    cnclip: Command,
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    output: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = cnclip("convert", source.format(data=golden), "-o", output)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("cnclip convert: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_info(cnclip: Command, archive: Path, vit_directory: Path) -> None:
    status, out, _ = cnclip("info", archive)
    assert status == 0
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["archive"] == str(archive)
    assert rows["bytes"] == str(archive.stat().st_size)
    assert rows["prepared"] == "none"
    assert rows["embed_dim"] == "64"
    assert rows["architecture.vision.head_width"] == "16"
    assert rows["source.name"] == "tiny-vit"
    assert cnclip("info", vit_directory)[1] == out

    status, out, _ = cnclip("info", archive, "--json")
    assert json.loads(out) == read_archive(archive).metadata


def test_info_refuses(cnclip: Command, vit_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.cnclip.pt").write_bytes(b"PK\x03\x04")
    for path, message in {
        vit_directory / "vocab.txt": "truncated, damaged, or not a TorchScript archive",
        tmp_path / "cut.cnclip.pt": "truncated, damaged, or not a TorchScript archive",
        tmp_path / "nothing": "no model",
    }.items():
        status, out, err = cnclip("info", path)
        assert (status, out) == (2, "")
        assert err.startswith("cnclip info: ")
        assert message in err
        assert str(path) in err


def test_a_reader_that_has_enough(archive: Path) -> None:
    command = f'"{sys.executable}" -m cnclip info "{archive}" --json | head -n 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_interrupted(cnclip: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.info, "run", interrupt)
    assert cnclip("info", "anything") == (130, "", "cnclip info: interrupted\n")


def test_output_files_are_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_output_file(tmp_path / "new.json")
    with pytest.raises(InvalidInputError, match="is a directory"):
        check_output_file(tmp_path)
    with pytest.raises(InvalidInputError, match="no such directory"):
        check_output_file(tmp_path / "no" / "new.json")
    # The tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InvalidInputError, match=r"new\.json: permission denied"):
        check_output_file(tmp_path / "new.json")


def test_help_lists_the_commands(cnclip: Command) -> None:
    status, out, _ = cnclip("help")
    assert status == 0 and all(f"\n    {name} " in out for name in cli.COMMANDS)
    status, _, err = cnclip()
    assert status == 2 and all(f"\n    {name} " in err for name in cli.COMMANDS)
    assert cnclip("help", "search") == cnclip("search", "--help")
    assert cnclip("help", "eval", "zeroshot") == cnclip("eval", "zeroshot", "--help")


@pytest.mark.parametrize(
    ("arguments", "usage", "message"),
    [
        (["serch", "x"], "cnclip [-h]", "no command serch: did you mean search?"),
        (["qqq"], "cnclip [-h]", "no command qqq\n"),
        (["embed", "a", "--ouput", "b"], "cnclip embed", "--ouput: did you mean --output?"),
        (["embed", "a", "-o", "b", "--txts"], "cnclip embed", "--txts: did you mean --texts?"),
        (["info", "a", "--jsn=1"], "cnclip info", "--jsn: did you mean --json?"),
        (["eval", "zeroshot", "a", "--lables", "b"], "cnclip eval zeroshot", "mean --labels?"),
        (["info", "a", "--qqqqqqqq"], "cnclip info", "no option --qqqqqqqq\n"),
        (["convert", "a", "-o", "b", "c"], "cnclip convert", "unrecognized arguments: c"),
    ],
)
def test_mistyped(cnclip: Command, arguments: list[str], usage: str, message: str) -> None:
    status, out, err = cnclip(*arguments)
    assert (status, out) == (2, "")
    assert f"usage: {usage}" in err and message in err


@pytest.mark.parametrize(
    ("arguments", "name", "words"),
    [
        (["search", "x", "猫"], "query", ["猫"]),
        (["search", "x", "-k", "3", "猫"], "query", ["猫"]),
        (["search", "-k", "3", "x", "红色", "猫"], "query", ["红色", "猫"]),
        (["search", "x", "红色", "-k", "3", "猫"], "query", ["红色", "猫"]),
        (["search", "x", "-k", "3", "--", "-猫"], "query", ["-猫"]),
        (["search", "x", "--image", "a.png"], "query", []),
        (["embed", "a", "-o", "out", "b"], "sources", ["a", "b"]),
        (["embed", "-o", "out", "-"], "sources", ["-"]),
        (["demo", "-k", "3", "猫", "-o", "x.png", "狗"], "queries", ["猫", "狗"]),
        (["serve", "a", "--immich", "b"], "served", ["a", "b"]),
    ],
)
def test_words_after_options(
    cnclip: Command,
    arguments: list[str],
    name: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []

    def run(parsed: object) -> int:
        found.append(list(getattr(parsed, name)))
        return 0

    monkeypatch.setattr(cli.COMMANDS[arguments[0]], "run", run)
    assert cnclip(*arguments)[0] == 0
    assert found == [words]


def test_errors_of_the_system_have_no_numbers(
    cnclip: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(error: OSError) -> str:
        def fail(arguments: object) -> int:
            raise error

        monkeypatch.setattr(cli.info, "run", fail)
        status, _, err = cnclip("info", "anything")
        assert status == 2
        return err

    place = tmp_path / "a.json"
    message = f"cnclip info: {place}: file exists\n"
    assert run(FileExistsError(17, "File exists", str(place))) == message
    assert run(OSError(28, "No space left on device")) == ("cnclip info: No space left on device\n")
    assert run(OSError("no numbers")) == "cnclip info: no numbers\n"


def test_temporary_names_are_not_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(OSError) as raised, replaced_atomically(path) as temporary:
        raise OSError(28, "No space left on device", str(temporary))
    assert raised.value.filename == str(path)
    with pytest.raises(OSError) as raised, replaced_atomically(tmp_path / "no" / "b"):
        pass
    assert raised.value.filename == str(tmp_path / "no" / "b")


def test_what_follows_two_dashes_is_no_option(cnclip: Command) -> None:
    status, _, err = cnclip("info", "a", "--", "--qqqqqqqq")
    assert status == 2 and "unrecognized arguments: " in err and "no option" not in err


def test_no_browser(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", asked.append)  # returns None: none was started
    open_browser("serve", "http://127.0.0.1:7860/")
    assert asked == ["http://127.0.0.1:7860/"]
    message = "cnclip serve: no browser could be started; open http://127.0.0.1:7860/\n"
    assert capsys.readouterr().err == message


def test_the_environment_is_printed(cnclip: Command) -> None:
    status, out, _ = cnclip("info", "--environment", "--json")
    found = json.loads(out)
    assert status == 0 and found["cnclip"] == __version__
    status, out, _ = cnclip("info", "--environment")
    assert status == 0 and out.splitlines()[0].split() == ["cnclip", __version__]
