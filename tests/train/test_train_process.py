"""The processes of a run: which device each takes, and GPUs that they would share."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from cnclip.errors import DeviceError, InvalidInputError  # noqa: E402
from cnclip.train.process import join_world  # noqa: E402


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that this machine has so many GPUs, and that a launcher started this process."""

    def set_up(count: int, rank: int = 0, size: int = 1) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}.items():
            monkeypatch.setenv(name, str(value))

    return set_up


@pytest.mark.parametrize(
    ("count", "name", "device"),
    [
        (0, "gpu", "cpu"),
        (0, "cpu", "cpu"),
        (2, "gpu", "cuda:0"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, "gpu:1", "cuda:1"),
        (2, "cpu", "cpu"),
    ],
)
def test_the_device_of_one_process(gpus: Any, count: int, name: str, device: str) -> None:
    gpus(count)
    with join_world(name) as world:
        assert (world.rank, world.size, world.device) == (0, 1, torch.device(device))


def test_devices_that_are_lacking(gpus: Any) -> None:
    gpus(0)
    with (
        pytest.raises(DeviceError, match="^no device 'cuda:0': torch finds 0 GPUs$"),
        join_world("cuda:0"),
    ):
        pass
    gpus(1, rank=1, size=2)
    message = (
        "^no device 'gpu' for process 2 of this machine: torch finds 1 GPU; start one process for "
        "each GPU$"
    )
    with pytest.raises(DeviceError, match=message), join_world("gpu"):
        pass
    with (
        pytest.raises(InvalidInputError, match="^device: expected 'cpu'"),
        join_world("tpu"),
    ):
        pass


def test_processes_that_share_a_gpu(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """nccl refuses the first exchange; the process group is left."""
    calls: list[str] = []

    def refuse(tensor: object) -> None:
        raise dist.DistBackendError("NCCL error in: a.cpp:94, invalid usage\nLast error:\n...")

    gpus(1, size=2)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(dist, "init_process_group", calls.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))
    monkeypatch.setattr(dist, "all_reduce", refuse)
    with pytest.raises(DeviceError) as raised, join_world("cuda:0"):
        pass
    assert str(raised.value) == (
        "device: nccl cannot connect the processes, each of which needs its own GPU: NCCL error "
        "in: a.cpp:94, invalid usage"
    )
    assert calls == ["nccl", "left"]
