"""The processes of a run: those that train together, and signals that ask one to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._text import counted, first_line
from ..errors import DeviceError, InvalidInputError


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    All processes must call a method that communicates, in the same order.

    Attributes:
        rank: The number of this process; process 0 writes files and prints.
        size: The number of processes.
        device: The device on which this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of all processes in the order of their ranks.

        Each process has the same number of rows.
        """
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; `values` is overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def max(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def gather_objects(self, value: Any) -> list[Any]:
        """The picklable values of all processes in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with their values in process 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, if any: over nccl on GPUs, else over gloo.

    Args:
        device: `'cpu'`; `'gpu'`, this process's GPU if there is one, else the CPU; or `'cuda:N'`.

    Raises:
        DeviceError: there is no such GPU, or nccl cannot connect the processes.
        InvalidInputError: the name is not that of a device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    joined_here = not dist.is_initialized()
    if joined_here:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        if chosen.type == "cuda":
            _connect(chosen)
        yield World(rank, size, chosen)
    finally:
        if joined_here:
            dist.destroy_process_group()


def _connect(device: torch.device) -> None:
    """Have nccl connect the processes now, which it would do at the first exchange.

    Raises:
        DeviceError: it cannot.
    """
    try:
        dist.all_reduce(torch.zeros(1, device=device))
        torch.cuda.synchronize(device)
    except dist.DistBackendError as error:
        reason = "nccl cannot connect the processes, each of which needs its own GPU"
        raise DeviceError(f"{reason}: {first_line(error)}", item="device") from error


def _device(name: str, local_rank: int) -> torch.device:
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "gpu", "cuda") or (number and not number.isdecimal()):
        raise InvalidInputError(f"expected 'cpu', 'gpu' or 'cuda:N', got {name!r}", item="device")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if number else local_rank
    if kind == "cpu" or (kind == "gpu" and count == 0):
        return torch.device("cpu")
    if index >= count:
        which = "" if number or not index else f" for process {index + 1} of this machine"
        hint = "; start one process for each GPU" if which else ""
        raise DeviceError(f"no device {name!r}{which}: torch finds {counted(count, 'GPUs')}{hint}")
    return torch.device("cuda", index)


@dataclass
class Interrupts:
    """Whether a signal asked this process to stop."""

    requested: bool = False


@contextlib.contextmanager
def catch_signals(interrupts: Interrupts) -> Iterator[None]:
    """Set a flag on the first SIGINT or SIGTERM, so that the step ends and the state is saved.

    A second signal raises KeyboardInterrupt at once.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupts.requested:
            raise KeyboardInterrupt
        interrupts.requested = True

    # Python sets signal handlers, and raises KeyboardInterrupt, only in the main thread.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the generators that training on a device uses: the CPU's, and a GPU's."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Restore the states that `random_state` returned; those of another kind of device partly."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
