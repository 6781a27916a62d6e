"""The states in which a crash can leave a folder, computed from the operations of a run.

A process that is killed loses nothing that it has done, and may have done a part of its last write.
When the system crashes,

- the content of a file is on the disk up to the file's last fsync. Of what was written after it,
  nothing may be there, or a half; or the file has its new size, with zeros in place of the content;
- names (creations, renames, removals) are on the disk in the order in which they were changed, up
  to some point after the last change in a folder that was flushed.

So do ext4, XFS and Btrfs. A file's fsync does not count for its name, although it does on them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.reliability.operations import Operation

# The content of each file by its path relative to the folder; None for a directory.
State = Mapping[str, bytes | None]
# What a crash does to content that is not on the disk.
LOSSES = ("nothing", "half", "zeros")
_NAMES = "CDNLUE"


@dataclass(eq=False)
class _File:
    """A file with what has been written to it.

    Attributes:
        synced: Its content at the last fsync.
        now: Its content.
    """

    synced: bytes = b""
    now: bytes = b""

    def lost(self, loss: str) -> bytes:
        """Its content after a crash."""
        return _lost(self.synced, self.now, loss)


# Thousands of states have the same few contents. Python hashes an object of bytes once, so that a
# content which is the same object is found at once, and takes memory once.
@functools.lru_cache(1 << 12)
def _lost(old: bytes, new: bytes, loss: str) -> bytes:
    if loss == "nothing":
        return old
    if loss == "zeros":
        return old[: len(new)] + b"\0" * (len(new) - len(old))
    if len(old) == len(new):
        return new[: len(new) // 2] + old[len(new) // 2 :]
    return new[: (len(old) + len(new)) // 2]


@functools.lru_cache(1 << 12)
def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass
class Disk:
    """A folder while a run writes to it.

    Attributes:
        names: The files by their paths; None for a directory.
        durable: What `names` was at the last flush of a folder, with all changes since, in order.
    """

    names: dict[str, _File | None]
    changes: list[tuple[Operation, _File | None]] = field(default_factory=list)

    def __init__(self, start: State) -> None:
        self.names = {
            path: None if content is None else _File(content, content)
            for path, content in start.items()
        }
        self._durable = dict(self.names)
        self.changes = []

    def apply(self, operation: Operation) -> None:
        """Do what a run did."""
        if operation.letter in _NAMES:
            file = _File() if operation.letter == "C" else None
            self.changes.append((operation, file))
            _rename(self.names, operation, file)
            return
        if operation.letter == "R":
            return
        if operation.letter == "F" and self.names.get(operation.path) is None:
            self._flush_names(operation.path)
            return
        file = self.names[operation.path]
        assert file is not None, operation
        if operation.letter == "F":
            file.synced = file.now
        elif operation.letter == "T":
            file.now = file.now[: operation.number].ljust(operation.number, b"\0")
        else:
            start, end = operation.number, operation.number + len(operation.data)
            file.now = file.now[:start].ljust(start, b"\0") + operation.data + file.now[end:]

    def _flush_names(self, folder: str) -> None:
        """All changes up to the last one in a folder are on the disk."""
        touched = [
            number
            for number, (operation, _) in enumerate(self.changes, 1)
            if folder in {_parent(path) for path in (operation.path, operation.second) if path}
        ]
        count = max(touched, default=0)
        for operation, file in self.changes[:count]:
            _rename(self._durable, operation, file)
        del self.changes[:count]

    def content(self) -> dict[str, bytes | None]:
        """What a process finds, and what is left when it is killed."""
        return {path: None if file is None else file.now for path, file in self.names.items()}

    def crashes(self) -> Iterator[dict[str, bytes | None]]:
        """What may be left when the system crashes.

        With each number of changes of names: the contents of all files that were not flushed are
        there, or lost, in each way. With all names: one file's content is lost.
        """
        names = dict(self._durable)
        for count in range(len(self.changes) + 1):
            if count > 0:
                _rename(names, *self.changes[count - 1])
            dirty = [file for file in names.values() if file and file.now != file.synced]
            yield _contents(names, (), "")
            for loss in LOSSES:
                yield _contents(names, dirty, loss)
        for file in dirty:
            for loss in LOSSES:
                yield _contents(names, (file,), loss)


def _contents(
    names: Mapping[str, _File | None], lossy: Iterable[_File], loss: str
) -> dict[str, bytes | None]:
    damaged = set(map(id, lossy))
    return {
        path: None if file is None else file.lost(loss) if id(file) in damaged else file.now
        for path, file in names.items()
    }


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _rename(names: dict[str, _File | None], operation: Operation, file: _File | None) -> None:
    """Apply a change of names."""
    path, second = operation.path, operation.second
    if operation.letter in "CD":
        names[path] = file
    elif operation.letter == "L":
        names[second] = names[path]
    elif operation.letter in "UE":
        del names[path]
    else:
        names[second] = names.pop(path)
        for inner in [one for one in names if one.startswith(f"{path}/")]:
            names[second + inner[len(path) :]] = names.pop(inner)


def crash_states(start: State, operations: Sequence[Operation]) -> Iterator[tuple[str, State]]:
    """Every distinct state in which a crash during a run can leave the folder.

    Args:
        start: The folder before the run.
        operations: The operations of the run.

    Yields:
        A description of the crash, and the state.
    """
    seen: set[bytes] = set()
    disk = Disk(start)
    for number in range(len(operations) + 1):
        where = f"{number} of {len(operations)} operations"
        found = [(f"killed after {where}", disk.content())]
        if number > 0:  # before the first, nothing has happened
            found += [(f"system crash after {where}", one) for one in disk.crashes()]
        if number < len(operations):
            found += _torn(disk, operations[number], where)
        for description, state in found:
            digest = digest_of(state)
            if digest not in seen:
                seen.add(digest)
                yield description, state
        if number < len(operations):
            disk.apply(operations[number])


def _torn(disk: Disk, operation: Operation, where: str) -> list[tuple[str, State]]:
    """The state after a half of the next write."""
    if operation.letter != "W" or len(operation.data) < 2:
        return []
    state = disk.content()
    content = state[operation.path]
    assert content is not None
    half = operation.data[: len(operation.data) // 2]
    start, end = operation.number, operation.number + len(half)
    state[operation.path] = content[:start].ljust(start, b"\0") + half + content[end:]
    return [(f"killed within a write, after {where}", state)]


def digest_of(state: State) -> bytes:
    """A digest of a state."""
    digest = hashlib.sha256()
    for path, content in sorted(state.items()):
        kind = b"d" if content is None else _sha256(content)
        digest.update(path.encode(errors="surrogateescape") + b"\0" + kind)
    return digest.digest()
