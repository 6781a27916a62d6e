"""Tables of plain text."""

from __future__ import annotations

from cnclip._tables import display_width, format_table


def test_display_width() -> None:
    assert display_width("cat") == 3
    assert display_width("猫脸") == 4
    assert display_width("，A") == 3  # a full-width comma
    assert display_width("e\u0301") == 1
    assert display_width("") == 0


def test_table_is_aligned_in_terminal_columns() -> None:
    table = format_table(
        [["text", "p"], ["猫", "1.0%"], ["红色的车", "100.0%"], ["a", ""]], [False, True]
    )
    assert table.splitlines() == [
        "text           p",
        "--------  ------",
        "猫          1.0%",
        "红色的车  100.0%",
        "a",
    ]
