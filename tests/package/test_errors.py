"""What every exception of cnclip carries: a reason, a place, and both in its text."""

from __future__ import annotations

import copy
import pickle

import pytest

from cnclip import errors
from cnclip._text import MAX_REASON, first_line, printable, type_and_line
from cnclip.errors import CnclipError, ImageError, MissingExtraError, Where

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type)]
ERRORS = [kind for kind in CLASSES if issubclass(kind, CnclipError)]


def make(kind: type[CnclipError]) -> CnclipError:
    if issubclass(kind, MissingExtraError):
        return kind("bulk", "pyarrow").at(file="a.parquet", line=3)
    return kind("damaged", file="a.parquet", line=3)


@pytest.mark.parametrize("kind", ERRORS)
def test_text_is_place_and_reason(kind: type[CnclipError]) -> None:
    error = make(kind)
    assert str(error) == f"a.parquet:3: {error.reason}"
    assert str(error.at(item="img[1]")) == f"img[1]: a.parquet:3: {error.reason}"
    assert error.where == Where(file="a.parquet", line=3)
    assert not isinstance(error, OSError) or error.errno is None


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("clone", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles_keep_everything(kind: type[CnclipError], clone: object) -> None:
    error = make(kind)
    other = clone(error)  # type: ignore[operator]
    assert type(other) is kind
    assert (str(other), other.reason, other.where) == (str(error), error.reason, error.where)
    assert vars(other) == vars(error)


def test_at_fills_only_what_is_unknown_and_keeps_the_cause() -> None:
    cause = OSError("x")
    try:
        raise ImageError("damaged", file="inner.png") from cause
    except ImageError as error:
        moved = error.at(item="img[1]", file="outer.tar", line=7)
        assert error.where == Where(file="inner.png")
    assert moved.where == Where("img[1]", "inner.png", 7)
    assert moved.__cause__ is cause
    assert moved.__traceback__ is not None


def test_where_says_file_member_and_line() -> None:
    assert str(Where(file="a.tar", member="cat.jpg")) == "a.tar:cat.jpg"
    assert str(Where("img[0]", "a.zip", 4, "train_imgs.tsv")) == "img[0]: a.zip:train_imgs.tsv:4"
    assert str(Where(line=4)) == "4"
    assert str(Where(file="a\n\ud800")) == "a\\n\\ud800"


def test_first_line_of_foreign_errors() -> None:
    assert first_line(FileNotFoundError(2, "No such file or directory", "/secret")) == (
        "No such file or directory"
    )
    assert first_line(ValueError("\n\n  \x1b[31mred\x1b[0m \x07\nrest")) == "red \\x07"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == MAX_REASON
    assert type_and_line(KeyError("name")) == "KeyError: 'name'"


def test_printable_leaves_chinese_alone() -> None:
    assert printable("猫\u3000狗") == "猫\u3000狗"
    assert printable("猫\t\x1b[2J\udcff") == "猫\\t\\x1b[2J\\udcff"
