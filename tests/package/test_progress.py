"""The progress of long work, with and without tqdm."""

from __future__ import annotations

import sys

import pytest

from cnclip import progress as under_test
from cnclip.progress import progress


def test_a_line_every_ten_seconds_without_tqdm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    clock = iter([0.0, 4.0, 10.0, 19.0, 30.0])
    monkeypatch.setattr(under_test.time, "monotonic", lambda: next(clock))
    with progress("images", 1000, "image", done=200) as advance:
        for count in (40, 60, 10, 190):
            advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "images: 300 of 1000, 10.0/s, 1.2 min left",
        "images: 500 of 1000, 10.0/s, 0.8 min left",
    ]


def test_the_time_left_is_unknown_without_a_total(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    clock = iter([0.0, 20.0])
    monkeypatch.setattr(under_test.time, "monotonic", lambda: next(clock))
    with progress("texts") as advance:
        advance(50)
    assert capsys.readouterr().err == "texts: 50, 2.5/s\n"


def test_a_bar_of_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = pytest.importorskip("tqdm")
    bar = module.tqdm
    monkeypatch.setattr(module, "tqdm", lambda delay, **options: bar(**options))  # at once
    with progress("images", 10, "image", done=2) as advance:
        advance(3)
    assert "images:  50%" in capsys.readouterr().err


def test_nothing_is_printed_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(under_test, "SECONDS_BETWEEN_LINES", 0.0)
    with progress("images", 10, enabled=False) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
