"""`cnclip info --environment`: what a bug report needs, also where something is missing."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from cnclip import __version__, cli, environment, errors
from cnclip.engine import find_engine
from cnclip.engine.libtorch import Torch, find_torch
from cnclip.environment import describe_environment, describe_processor
from cnclip.preprocessors.download_settings import HEADERS
from cnclip.serve.options import KEYS_VARIABLE

REQUIREMENTS = [
    "torch>=2.9",
    "numpy>=2",
    "no-such-package>=1; extra == 'one'",
    "NumPy; extra == 'one'",
    'pillow ; extra == "two"',
    "nothing-either[x]>=2; (python_version < '3.12') and extra == 'three'",
    "cnclip[one]; extra == 'all'",
]


def test_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_TESTED", "a\nb")
    monkeypatch.setenv("UNRELATED_SECRET", "hidden")
    assert cli.main(["info", "--environment"]) == 0
    printed = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert rows["cnclip"] == __version__
    assert rows["numpy"] == np.__version__
    assert rows["torch"].startswith(f"{find_torch().version}, ")
    assert rows["engine"].startswith(f"{find_engine(find_torch())}, ")
    assert "\n" not in rows["variables.CNCLIP_TESTED"]
    assert "hidden" not in printed
    assert cli.main(["info", "--environment", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe_environment()


def test_secrets_are_hidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (KEYS_VARIABLE, HEADERS):
        monkeypatch.setenv(variable, "Cookie: SECRET")
    monkeypatch.setenv("HF_ENDPOINT", "https://user:SECRET@hub.example.com")
    for options in ([], ["--json"]):
        assert cli.main(["info", "--environment", *options]) == 0
        printed = capsys.readouterr().out
        assert KEYS_VARIABLE in printed and HEADERS in printed and "hub.example.com" in printed
        assert "SECRET" not in printed


def test_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIREMENTS)
    assert describe_environment()["extras"] == {
        "one": "lacks no-such-package: pip install 'cnclip[one]'",
        "three": "lacks nothing-either: pip install 'cnclip[three]'",
        "two": "installed",
    }


def test_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert describe_environment()["extras"] == {}


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Torch:
        raise errors.EngineError("torch is not installed: pip install 'torch>=2.9'")

    monkeypatch.setattr(environment, "find_torch", missing)
    described = describe_environment()
    assert described["torch"].startswith("torch is not installed: ")
    assert described["engine"] == "none without torch"


def test_without_an_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # It says what would happen and compiles nothing.
    monkeypatch.delenv("CNCLIP_ENGINE", raising=False)
    monkeypatch.setattr("cnclip.engine.opening.included_engines", dict)
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "sh")
    assert describe_environment()["engine"].startswith("none yet: the first pipeline compiles it")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert (
        "cannot be compiled: no C++ compiler: no-such-compiler" in describe_environment()["engine"]
    )
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_cache_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("CNCLIP_CACHE", str(path))
        assert describe_environment()["cache"] == f"{path}, which cannot be written"


def test_a_forced_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_FORCE_ISA", "serial")
    assert describe_processor()["isa"] == "serial"
    monkeypatch.setenv("CNCLIP_FORCE_ISA", "abacus")
    assert "CNCLIP_FORCE_ISA=abacus: no such instruction set" in str(describe_processor()["isa"])
