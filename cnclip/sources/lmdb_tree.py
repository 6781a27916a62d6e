"""The file of an LMDB, `data.mdb`, read without trust in its numbers.

liblmdb maps the file into memory and follows its numbers unchecked: a few damaged bytes, or a file
that was cut off, end the process. To read entries takes little, which is here.

The file has pages of one size. A page begins with its number and its kind. The first two are meta
pages; the one of the later transaction has the root of a B+ tree, and its depth. Branches have the
numbers of their children and the first key of each, except for the first child.
Leaves have keys and values. A value that is too long for a leaf has separate pages, one after
another, of which only the first has a header. Keys are in the order of their bytes.

This is the format of LMDB 0.9 on 64-bit little-endian machines. Named databases are not read.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

# Of a meta page: the kind; the magic number and the version; the page size, which the record of the
# tree of free pages has; the flags, the depth and the root of the tree of entries; the transaction.
_META = struct.Struct("<10xH4x II16x I44x 4xHH32xQ 8xQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
# The number, the kind, and the borders of the free space.
_PAGE = struct.Struct("<Q2xHHH")
_HEAD = _PAGE.size
# Of the first page of a long value: the number, the kind, and how many pages there are.
_LONG = struct.Struct("<Q2xHI")
_BRANCH, _LEAF, _LONG_VALUE, _META_PAGE = 1, 2, 4, 8
_KINDS = 0x6F  # the bits of the kind that say what the page is
# Two halves of a number, the flags, the key's size. The number is the value's size, or that of the
# child's page, of which the flags are the upper part.
_NODE = struct.Struct("<HHHH")
_IS_LONG = 1  # of a node
_PAGE_SIZES = tuple(1 << bits for bits in range(8, 16))
_MAX_DEPTH = 32
_NO_ROOT = (1 << 64) - 1


class LmdbTree:
    """The entries of an open file, as they are when this is made.

    All methods raise:
        OSError: the file cannot be read.
        ValueError: it is damaged, or not an LMDB of this kind.
    """

    def __init__(self, descriptor: int) -> None:
        """Read the meta pages of an open file, which stays the caller's."""
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        first = self._meta(0)
        self._page_size = first.page_size
        meta = max(first, self._meta(first.page_size), key=lambda meta: meta.transaction)
        self._root, self._depth = meta.root, meta.depth
        if self._root != _NO_ROOT and not 1 <= self._depth <= _MAX_DEPTH:
            raise ValueError(f"a tree of depth {self._depth}")

    def entries(self, max_value: int) -> Iterator[tuple[bytes, bytes | None]]:
        """All keys in order, each with its value; None for one of more bytes than `max_value`."""
        waiting = [] if self._root == _NO_ROOT else [(self._root, self._depth)]
        # A page is used once. Of branches and leaves, the keys' order shows it.
        bytes_left = self._size
        former: bytes | None = None
        while waiting:
            number, depth = waiting.pop()
            page = self._page(number, is_leaf=depth == 1)
            if depth > 1:
                last = len(page.nodes) - 1
                waiting.extend((page.child(at), depth - 1) for at in range(last, -1, -1))
                continue
            for at in range(len(page.nodes)):
                key, size, flags, start = page.node(at)
                if former is not None and key <= former:
                    raise ValueError(f"keys that are not in order in page {number}")
                former = key
                value = None
                if size <= max_value:
                    value = self._value(page, size, flags, start)
                    bytes_left -= size
                    if bytes_left < 0:
                        raise ValueError("values that use a page twice")
                yield key, value

    def find(self, key: bytes, max_value: int) -> tuple[bool, bytes | None]:
        """Whether there is a key, and its value; None for one of more bytes than `max_value`."""
        number, depth = self._root, self._depth
        if number == _NO_ROOT:
            return False, None
        while depth > 1:
            page = self._page(number, is_leaf=False)
            number = page.child(bisect_right(range(1, len(page.nodes)), key, key=page.key))
            depth -= 1
        page = self._page(number, is_leaf=True)
        at = bisect_left(range(len(page.nodes) - 1), key, key=page.key)
        found, size, flags, start = page.node(at)
        if found != key:
            return False, None
        return True, self._value(page, size, flags, start) if size <= max_value else None

    def _read(self, start: int, size: int) -> bytes:
        if start + size > self._size:
            raise ValueError(f"the file has {self._size} bytes and should have {start + size}")
        content = os.pread(self._descriptor, size, start)
        if len(content) < size:
            raise ValueError("the file became shorter")
        return content

    def _meta(self, start: int) -> _Meta:
        values = _META.unpack(self._read(start, _META.size))
        kind, magic, version, page_size, flags, depth, root, transaction = values
        if not kind & _META_PAGE or magic != _MAGIC:
            raise ValueError("it does not begin as an LMDB")
        if version != _VERSION or page_size not in _PAGE_SIZES or flags:
            raise ValueError(f"version {version}, pages of {page_size} bytes and flags {flags:#x}")
        return _Meta(page_size, depth, root, transaction)

    def _page(self, number: int, *, is_leaf: bool) -> _Page:
        content = self._read(number * self._page_size, self._page_size)
        found, kind, lower, upper = _PAGE.unpack_from(content)
        if found != number or kind & _KINDS != (_LEAF if is_leaf else _BRANCH):
            raise ValueError(f"page {number} is another one")
        if not _HEAD + 2 <= lower <= upper <= self._page_size:
            raise ValueError(f"page {number} has wrong borders")
        nodes = struct.unpack_from(f"<{(lower - _HEAD) // 2}H", content, _HEAD)
        if max(nodes) > self._page_size - _NODE.size:
            raise ValueError(f"page {number} has a node that does not fit")
        return _Page(content, nodes)

    def _value(self, page: _Page, size: int, flags: int, start: int) -> bytes:
        if not flags & _IS_LONG:
            return page.part(start, size)
        (number,) = struct.unpack("<Q", page.part(start, 8))
        head = self._read(number * self._page_size, _LONG.size)
        found, kind, pages = _LONG.unpack(head)
        if found != number or kind & _KINDS != _LONG_VALUE:
            raise ValueError(f"page {number} is another one")
        if _HEAD + size > pages * self._page_size:
            raise ValueError(f"a value of {size} bytes in {pages} pages")
        return self._read(number * self._page_size + _HEAD, size)


class _Meta(NamedTuple):
    page_size: int
    depth: int
    root: int
    transaction: int


class _Page(NamedTuple):
    """A branch or a leaf.

    Attributes:
        content: The page's bytes.
        nodes: The offset of each node, whose first fields are within the page.
    """

    content: bytes
    nodes: tuple[int, ...]

    def node(self, at: int) -> tuple[bytes, int, int, int]:
        """The key of a node, its number, its flags, and the offset of its value."""
        low, high, flags, key_size = _NODE.unpack_from(self.content, self.nodes[at])
        begin = self.nodes[at] + _NODE.size
        return self.part(begin, key_size), low | high << 16, flags, begin + key_size

    def key(self, at: int) -> bytes:
        """The key of a node."""
        return self.node(at)[0]

    def child(self, at: int) -> int:
        """The page of a branch's node."""
        _, number, flags, _ = self.node(at)
        return number | flags << 32

    def part(self, start: int, size: int) -> bytes:
        """Some bytes of the page."""
        if start + size > len(self.content):
            raise ValueError("a page has a node that does not fit")
        return self.content[start : start + size]
