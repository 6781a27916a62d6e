"""Slices of splits, as the library `datasets` reads them."""

from __future__ import annotations

import pytest

from cnclip.errors import InvalidInputError
from cnclip.modelscope.slices import parse_splits


@pytest.mark.parametrize(
    ("text", "count", "start", "stop"),
    [
        ("train", 10, 0, 10),
        ("train[:3]", 10, 0, 3),
        ("train[2:5]", 10, 2, 5),
        ("train[-3:]", 10, 7, 10),
        ("train[:-3]", 10, 0, 7),
        ("train[1_0:2_0]", 30, 10, 20),
        ("train[:10%]", 250, 0, 25),
        ("train[33%:66%]", 10, 3, 7),  # rounded to the nearest row
        ("train[-10%:]", 250, 225, 250),
        ("train[10:50%]", 100, 10, 50),
        ("train[:33%](pct1_dropremainder)", 999, 0, 297),
        (" train [ 2 : 5 ] ".replace(" [", "["), 10, 2, 5),
        ("my-set/train[:2]", 10, 0, 2),
    ],
)
def test_rows_of_a_slice(text: str, count: int, start: int, stop: int) -> None:
    (part,) = parse_splits(text)
    assert part.rows(count) == (range(start, stop), None)


def test_several_parts() -> None:
    parts = parse_splits("train[:2]+validation[50%:]")
    assert [part.split for part in parts] == ["train", "validation"]
    assert [part.rows(8)[0] for part in parts] == [range(2), range(4, 8)]


@pytest.mark.parametrize("text", ["train[:500]", "train[-500:]"])
def test_a_slice_beyond_the_split_is_reported(text: str) -> None:
    found, remark = parse_splits(text)[0].rows(10)
    assert found == range(10)
    assert remark == f"{text}: the split has only 10 rows"


@pytest.mark.parametrize("text", ["train[10:]", "train[5:5]", "train[3:1]", "train[:0]"])
def test_a_slice_without_rows(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no rows, since the split has 10 rows") as caught:
        parse_splits(text)[0].rows(10)
    assert caught.value.where is not None and caught.value.where.item == "split"


@pytest.mark.parametrize(
    "text", ["", "train[", "train[a:b]", "train[:5", "train[5]", "+train", "train[%:]", "a b"]
)
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a n"):
        parse_splits(text)


def test_more_than_all() -> None:
    with pytest.raises(InvalidInputError, match="-100% to 100%, got 120%"):
        parse_splits("train[:120%]")
