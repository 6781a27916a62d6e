"""Write unicode_tables.h, the tables of unicode.h, in this Python's version of Unicode.

Usage: python generate_unicode_tables.py OUT.h

Run at build time by the Python that the extension is built for, so that the C tokenizer and that
Python's `str.lower`, `str.split` and `unicodedata` agree on every code point. Standard library
only.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

CODE_POINTS = 0x110000
BLOCK_SHIFT = 7

# The names of cnclip_unicode_flag, in unicode.h's order of bits.
FLAGS = (
    "REMOVED",
    "SPACE",
    "CJK",
    "PUNCTUATION",
    "NONSPACING",
    "CASED",
    "CASE_IGNORABLE",
    "FOLDS",
)
REMOVED, SPACE, CJK, PUNCTUATION, NONSPACING, CASED, CASE_IGNORABLE, FOLDS = (
    1 << bit for bit in range(len(FLAGS))
)
FOLD_CAPACITY = 8  # CNCLIP_UNICODE_FOLD_CAPACITY

HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)  # decomposed by arithmetic in unicode.c

# The blocks that BERT calls Chinese, unassigned code points included.
CJK_CODE_POINTS = frozenset(
    chain(
        range(0x3400, 0x4DC0),
        range(0x4E00, 0xA000),
        range(0xF900, 0xFB00),
        range(0x20000, 0x2A6E0),
        range(0x2A700, 0x2CEB0),
        range(0x2F800, 0x2FA20),
    )
)


def fold(character: str) -> str:
    """The canonical decomposition of the lower case of one character."""
    return unicodedata.normalize("NFD", character.lower())


def case_flags(character: str) -> int:
    """CASED or CASE_IGNORABLE, seen in what the character does to a final sigma after it.

    `str.lower` makes the sigma final if, walking back over case-ignorable characters, it finds a
    cased one. Only a cased character does so alone; an ignorable one lets the `a` through.
    """
    if (character + "\u03a3").lower().endswith("\u03c2"):
        return CASED
    if ("a" + character + "\u03a3").lower().endswith("\u03c2"):
        return CASE_IGNORABLE
    return 0


def flags_of(code_point: int) -> int:
    """The cnclip_unicode_flag bits of a code point."""
    character = chr(code_point)
    category = unicodedata.category(character)
    flags = case_flags(character)
    if code_point in (0, 0xFFFD) or (category in ("Cc", "Cf") and character not in "\t\n\r"):
        flags |= REMOVED
    if character.isspace():
        flags |= SPACE
    if code_point in CJK_CODE_POINTS:
        flags |= CJK
    if category[0] == "P" or (0x20 < code_point < 0x7F and not character.isalnum()):
        flags |= PUNCTUATION
    if category == "Mn":
        flags |= NONSPACING
    if fold(character) != character:
        flags |= FOLDS
    return flags


def check(code_point: int, flags: int, combining_class: int) -> None:
    """Stop the build where Unicode has something that the C code relies on never to be."""
    if combining_class and flags & (PUNCTUATION | SPACE | CJK):
        # tokenizer.c sorts non-starters inside a word, which these would end.
        raise SystemExit(f"U+{code_point:04X} splits words but is not a starter")
    if flags & (SPACE | CJK) and flags & (CASED | CASE_IGNORABLE) and not flags & REMOVED:
        # tokenizer.c looks for the neighbours of a sigma until such a character ends the word.
        raise SystemExit(f"U+{code_point:04X} ends words but has a case")
    if flags & FOLDS and len(fold(chr(code_point))) > FOLD_CAPACITY:
        raise SystemExit(f"U+{code_point:04X} folds to more than {FOLD_CAPACITY} code points")
    if not flags & SPACE and any(map(str.isspace, fold(chr(code_point)))):
        # tokenizer.c looks for white space before it folds.
        raise SystemExit(f"U+{code_point:04X} folds to white space")


def property_tables() -> tuple[list[int], list[tuple[int, int]]]:
    """For each code point the number of its record, and the records (flags, combining class).

    Record 0 has no property.
    """
    numbers = {(0, 0): 0}
    record_of = []
    for code_point in range(CODE_POINTS):
        flags = flags_of(code_point)
        combining_class = unicodedata.combining(chr(code_point))
        check(code_point, flags, combining_class)
        record_of.append(numbers.setdefault((flags, combining_class), len(numbers)))
    return record_of, list(numbers)


def fold_tables(folding: Sequence[int]) -> tuple[list[int], list[int]]:
    """For each code point where its folding starts in the pool, and the pool.

    A folding in the pool is its length and then its code points; 0 means no folding.
    """
    start_of = [0] * CODE_POINTS
    pool = [0]
    for code_point in folding:
        folded = fold(chr(code_point))
        start_of[code_point] = len(pool)
        pool.append(len(folded))
        pool.extend(map(ord, folded))
    return start_of, pool


def two_stages(values: Sequence[int]) -> tuple[list[int], list[int]]:
    """Cut `values` into blocks, and store equal blocks once: block numbers, and the blocks."""
    size = 1 << BLOCK_SHIFT
    numbers: dict[tuple[int, ...], int] = {}
    block_of = [
        numbers.setdefault(tuple(values[start : start + size]), len(numbers))
        for start in range(0, len(values), size)
    ]
    return block_of, [value for block in numbers for value in block]


def c_array(name: str, values: Sequence[int]) -> str:
    """A C array of the narrowest unsigned type that holds the values."""
    bits = next(bits for bits in (8, 16, 32) if max(values) < 1 << bits)
    lines = [
        "    " + ", ".join(map(str, values[start : start + 24])) + ","
        for start in range(0, len(values), 24)
    ]
    opening = f"static const uint{bits}_t {name}[{len(values)}] = {{"
    return "\n".join([opening, *lines, "};"])


def header() -> str:
    """The text of unicode_tables.h."""
    record_of, records = property_tables()
    folding = [
        code_point
        for code_point, record in enumerate(record_of)
        if records[record][0] & FOLDS and code_point not in HANGUL_SYLLABLES
    ]
    start_of, fold_pool = fold_tables(folding)
    record_block_of, record_blocks = two_stages(record_of)
    fold_block_of, fold_blocks = two_stages(start_of)
    asserts = [
        f'_Static_assert(CNCLIP_UNICODE_{name} == {1 << bit}, "unicode.h has other flags");'
        for bit, name in enumerate(FLAGS)
    ]
    parts = [
        "/* Made by generate_unicode_tables.py from Unicode "
        f"{unicodedata.unidata_version}; for unicode.c alone. */",
        "\n".join(asserts),
        f"_Static_assert(CNCLIP_UNICODE_FOLD_CAPACITY == {FOLD_CAPACITY}, "
        '"unicode.h has another capacity");',
        f"enum {{ TABLE_BLOCK_SHIFT = {BLOCK_SHIFT} }};",
        c_array("record_block_of", record_block_of),
        c_array("record_blocks", record_blocks),
        c_array("record_flags", [flags for flags, _ in records]),
        c_array("record_combining_class", [combining_class for _, combining_class in records]),
        c_array("fold_block_of", fold_block_of),
        c_array("fold_blocks", fold_blocks),
        c_array("fold_pool", fold_pool),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the header to the one argument."""
    if len(arguments) != 1:
        print("usage: python generate_unicode_tables.py OUT.h", file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(header(), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
