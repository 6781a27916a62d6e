"""One process or several: torchrun's environment, and what processes tell each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DeviceError, InvalidInputError


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: Its number; 0 writes and prints.
        size: How many there are.
        device: Where it computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks; each has the same number."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, number: int) -> int:
        """The largest of the numbers that processes have."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def objects(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have in the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, if it did: over nccl on GPUs, else over gloo.

    Args:
        device: `'cpu'`; `'gpu'`, this process's GPU if there is one, else the CPU; or `'cuda:N'`.

    Raises:
        DeviceError: there is no such GPU.
        InvalidInputError: no name of a device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    where = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, where)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield World(rank, size, where)
    finally:
        if own:
            dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "gpu", "cuda") or (number and not number.isdecimal()):
        raise InvalidInputError(f"device: expected 'cpu', 'gpu' or 'cuda:N', got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if number else local_rank
    if kind == "cpu" or (kind == "gpu" and count == 0):
        return torch.device("cpu")
    if index >= count:
        raise DeviceError(f"no device {name!r}: torch finds {count} GPUs here")
    return torch.device("cuda", index)
