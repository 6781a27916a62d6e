"""The processes of a run: which device each takes, and GPUs that they would share."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from cnclip.errors import DeviceError, InvalidInputError  # noqa: E402
from cnclip.train.model import learning_rate  # noqa: E402
from cnclip.train.options import TrainOptions  # noqa: E402
from cnclip.train.process import Interrupts, catch_signals, join_world  # noqa: E402
from cnclip.train.run_folder import prepare_folder  # noqa: E402


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


def test_the_second_signal_interrupts_at_once() -> None:
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), catch_signals(interrupts):
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.requested  # and the step ends
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    handlers: list[Any] = []

    def run() -> None:
        with catch_signals(Interrupts()):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("has_best", [True, False])
def test_a_run_that_was_killed_while_it_replaced_the_best_weights(
    has_best: bool, tmp_path: Path
) -> None:
    for name, exists in (("best", has_best), (".best.old", True)):
        if exists:
            (tmp_path / name).mkdir()
            (tmp_path / name / "weights").write_text(name)
    with prepare_folder(tmp_path, resume=True):
        assert (tmp_path / "best" / "weights").read_text() == ("best" if has_best else ".best.old")
        assert not (tmp_path / ".best.old").exists()


def test_rates_of_steps() -> None:
    options = TrainOptions(lr=0.5, warmup=4)
    rates = [learning_rate(step, 12, options) for step in range(13)]
    assert rates[:4] == [0.125, 0.25, 0.375, 0.5]
    assert rates[4] == 0.5 and rates[8] == pytest.approx(0.25) and rates[12] == 0
    flat = TrainOptions(lr=0.5, warmup=4, skip_scheduler=True)
    assert [learning_rate(step, 12, flat) for step in (0, 4, 12)] == [0.125, 0.5, 0.5]
