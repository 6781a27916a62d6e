"""Runs that are interrupted, killed or resumed, and the files that they leave."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cnclip._files import lock_folder  # noqa: E402
from cnclip.datasets import write_split  # noqa: E402
from cnclip.errors import (  # noqa: E402
    CheckpointError,
    ImageError,
    InvalidInputError,
    Where,
)
from cnclip.models import read_checkpoint  # noqa: E402
from cnclip.train import TrainReport, finetune  # noqa: E402
from cnclip.train import journal as journal_module  # noqa: E402
from cnclip.train.journal import Journal, _lines  # noqa: E402
from cnclip.train.process import join_world  # noqa: E402
from cnclip.train.validate import Validator  # noqa: E402
from tests.support.fork_server import ForkServer  # noqa: E402
from tests.support.training import (  # noqa: E402
    COMMAND,
    ENVIRONMENT,
    SMALL,
    WORDS,
    losses_of,
    png,
    wait_for_step,
)


@pytest.mark.slow
def test_killed_and_interrupted_runs_resume_with_the_same_losses(
    sizes: Path, data: Path, tmp_path: Path
) -> None:
    more = [
        "--model",
        str(sizes),
        "--train",
        str(data),
        "--val",
        str(data),
        "--max-steps",
        "24",
        "--mask-ratio",
        "0.25",
        "--augment",
        "photo",
        "--save-step-frequency",
        "3",
        "--valid-step-interval",
        "10",
        "--num-workers",
        "1",
        "--ema-decay",
        "0.9",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(
        [*COMMAND, *more, "-o", str(whole)],
        check=True,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    arguments = [*COMMAND, *more, "-o", str(broken)]
    for step, number in ((8, signal.SIGKILL), (16, signal.SIGINT)):
        process = subprocess.Popen(
            arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        wait_for_step(broken, step, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130, errors
            assert "the state is saved" in errors and "Traceback" not in errors
        arguments = [sys.executable, "-m", "cnclip", "train", "--resume", "-o", str(broken)]
    done = subprocess.run(
        arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "resumed after step" in done.stderr
    found, expected = losses_of(broken), losses_of(whole)
    assert sorted(found) == list(range(1, 25))
    assert found == expected
    best = [read_checkpoint(folder / "best").weights for folder in (whole, broken)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert not list(broken.glob(".*"))


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, sizes: Path, data: Path
) -> tuple[Path, dict[str, Any]]:
    """A run with three validations that nothing interrupts: its folder and options."""
    options = SMALL | {
        "max_steps": 6,
        "val": data,
        "valid_step_interval": 2,
        "from_scratch": True,
        "show_progress": False,
    }
    output = tmp_path_factory.mktemp("runs") / "unbroken"
    finetune(sizes, data, output, **options)
    return output, options


def interrupt_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    """Send SIGINT to this process when a method is called for the nth time."""
    function, calls = getattr(owner, name), itertools.count(1)

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_interrupted_validation_is_repeated(
    count: int,
    unbroken: tuple[Path, dict[str, Any]],
    sizes: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the last one: the run ends with the same best weights as without the interruption."""
    unbroken_run, options = unbroken
    run = tmp_path / "broken"
    with monkeypatch.context() as patched:
        interrupt_call(patched, Validator, "measure", count)
        with pytest.raises(KeyboardInterrupt):
            finetune(sizes, data, run, **options)
    finetune(sizes, data, run, resume=True, **options)
    whole, broken = (
        [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "R@1" in line]
        for folder in (unbroken_run, run)
    )
    assert broken == whole
    best = [read_checkpoint(folder / "best").weights for folder in (unbroken_run, run)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_termination_saves_the_state(sizes: Path, data: Path, tmp_path: Path) -> None:
    """SIGTERM to the process group, as batch systems send it: workers do not disturb."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            *COMMAND,
            "--model",
            str(sizes),
            "--train",
            str(data),
            "-o",
            str(run),
            "--max-steps",
            "100000",
            "--num-workers",
            "2",
        ],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_step(run, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the state is saved" in errors, errors
    assert (run / "last.pt").exists()


def test_runs_are_not_mixed_up(
    trained: tuple[Path, TrainReport], sizes: Path, data: Path, tmp_path: Path
) -> None:
    output, _ = trained
    with pytest.raises(InvalidInputError, match="contains a run already"):
        finetune(sizes, data, output, from_scratch=True, show_progress=False, **SMALL)
    run = tmp_path / "run"
    options = SMALL | {"max_steps": 2}
    finetune(sizes, data, run, from_scratch=True, show_progress=False, **options)
    with pytest.raises(InvalidInputError, match=r"lr: 0.5, but the run to resume has 0.001"):
        finetune(
            sizes,
            data,
            run,
            from_scratch=True,
            resume=True,
            show_progress=False,
            **options | {"lr": 0.5},
        )
    with pytest.raises(InvalidInputError, match="^train: differs from that of the run"):
        finetune(
            sizes,
            data,
            run,
            train_split="valid",
            from_scratch=True,
            resume=True,
            show_progress=False,
            **options,
        )
    # The number of steps may change.
    more = finetune(
        sizes,
        data,
        run,
        from_scratch=True,
        resume=True,
        show_progress=False,
        **options | {"max_steps": 4},
    )
    assert more.steps == 4 and sorted(losses_of(run)) == [1, 2, 3, 4]


def test_a_damaged_state_is_named(sizes: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be read"):
        finetune(sizes, data, run, from_scratch=True, resume=True, show_progress=False, **SMALL)
    torch.save({"step": 1}, run / "last.pt")
    (run / "metrics.jsonl").write_text('5\n[1]\n{"loss": 1}\n{"st')
    with pytest.raises(CheckpointError, match="state of the run is damaged"):
        finetune(sizes, data, run, from_scratch=True, resume=True, show_progress=False, **SMALL)
    (run / "last.pt").unlink()
    finetune(
        sizes,
        data,
        run,
        from_scratch=True,
        resume=True,
        show_progress=False,
        **SMALL | {"max_steps": 1},
    )
    assert list(losses_of(run)) == [1]


def test_a_full_disk_is_an_oserror(
    sizes: Path, data: Path, tmp_path: Path, fork_server: ForkServer
) -> None:
    script = (
        "import resource, sys; from cnclip.train import finetune\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: finetune(sys.argv[1], sys.argv[2], sys.argv[3], from_scratch=True, max_steps=2,\n"
        "              batch_size=8, num_workers=0, device='cpu', save_step_frequency=1)\n"
        "except OSError as error: print('OSError', error.errno)\n"
    )
    done = fork_server.run(script, sizes, data, tmp_path / "run", timeout=60, OMP_NUM_THREADS="1")
    assert done.stdout.startswith("OSError 27"), done
    assert not list((tmp_path / "run").glob(".*"))


def test_a_curve_that_cannot_be_written_is_reported(
    sizes: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    write = journal_module.write_durably

    def fail(path: Path, content: bytes) -> None:
        if path.name == "curve.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        write(path, content)

    run, options = tmp_path / "run", SMALL | {"max_steps": 1, "show_progress": False}
    monkeypatch.setattr(journal_module, "write_durably", fail)
    with pytest.raises(OSError, match=r"curve\.png"):
        finetune(sizes, data, run, from_scratch=True, **options)
    monkeypatch.undo()
    finetune(sizes, data, run, from_scratch=True, resume=True, **options)
    assert (run / "curve.png").exists() and (run / "best.cnclip.pt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_metrics_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with join_world("cpu") as world:
        journal = Journal(tmp_path, world, show_progress=False)
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
            journal.add_metrics({"step": 1, "loss": 2.0})


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_metrics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with join_world("cpu") as world:
        journal = Journal(tmp_path, world, show_progress=False)
        (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")  # there is none at address 0
        with (
            pytest.raises(OSError, match=r"Input/output error: .*metrics\.jsonl"),
            journal.drawn(),
        ):
            pass


def test_files_of_others_are_unchanged(sizes: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    (run / "best" / "mine.txt").write_text("mine")
    (run / ".notes.tmp").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"contains a run already \(best\)"):
        finetune(sizes, data, run, from_scratch=True, show_progress=False, **SMALL)
    (run / "best").rename(run / "other")
    finetune(sizes, data, run, from_scratch=True, show_progress=False, **SMALL | {"max_steps": 1})
    assert (run / ".notes.tmp").read_text() == (run / "other" / "mine.txt").read_text() == "mine"


def test_counts_of_skipped_images_continue_when_resumed(sizes: Path, tmp_path: Path) -> None:
    images = [(i, png(i)) for i in range(8)] + [(9, b"broken")]
    write_split(tmp_path / "data", "train", images, [(i, WORDS[i], [i]) for i, _ in images])
    options = SMALL | {"batch_size": 9, "from_scratch": True, "show_progress": False}
    run = tmp_path / "run"
    first = finetune(sizes, tmp_path / "data", run, **options, max_steps=2)
    second = finetune(sizes, tmp_path / "data", run, **options, max_steps=4, resume=True)
    assert 0 < first.skipped < second.skipped
    assert len((run / "skipped.jsonl").read_text().splitlines()) == 1


def test_a_run_that_still_trains_is_not_resumed(
    sizes: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, refused = tmp_path / "run", []
    options = SMALL | {"max_steps": 1, "from_scratch": True, "show_progress": False}
    measure = Validator.measure

    def resume_meanwhile(*arguments: Any, **named: Any) -> Any:
        with pytest.raises(InvalidInputError, match="run: another run writes to it") as error:
            finetune(sizes, data, run, resume=True, **options)
        refused.append(error.value)
        return measure(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Validator, "measure", resume_meanwhile)
        finetune(sizes, data, run, val=data, **options)
    assert refused
    # The lock ended with the run.
    finetune(sizes, data, run, val=data, resume=True, **options | {"max_steps": 2})


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    forked, started = os.pipe()
    lock = lock_folder(tmp_path)
    worker = os.fork()
    if worker == 0:
        os.write(started, b"1")
        os.close(write)
        os.read(read, 1)  # until the parent closes its end
        os._exit(0)
    try:
        os.read(forked, 1)  # the worker runs, and has closed its copies of locks
        with lock, pytest.raises(BlockingIOError):
            lock_folder(tmp_path)
            # As if this process were killed: its descriptor is closed, and nothing is unlocked.
        with lock_folder(tmp_path):
            pass
    finally:
        os.close(write)
        os.waitpid(worker, 0)
        for descriptor in (read, forked, started):
            os.close(descriptor)


def test_the_journal_of_a_crashed_run_continues(tmp_path: Path) -> None:
    """Lines of repeated work and incomplete lines are dropped."""
    recall = {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}
    metrics = [
        {"step": 0, "text_to_image": recall, "image_to_text": recall},
        {"step": 1, "loss": 2.0, "lr": 0.1},
        {"step": 1, "text_to_image": recall, "image_to_text": recall},
        {"step": 2, "loss": 1.0, "lr": 0.1},
    ]
    lines = "".join(json.dumps(line) + "\n" for line in metrics)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 3')
    (tmp_path / "skipped.jsonl").write_text('{"where": "a", "what": "is empty"}\n{"where": "b')
    with join_world("cpu") as world:
        journal = Journal(tmp_path, world, show_progress=False)
        with journal.drawn():
            journal.begin(1, 0)  # after step 1, where recall was not yet measured
            journal.add_skipped([ImageError("is empty", Where(file=place)) for place in ("a", "b")])
    assert list(_lines(tmp_path / "metrics.jsonl")) == metrics[:2]
    skipped = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"] for line in skipped] == ["a", "b"]


def test_a_state_is_not_newer_than_its_metrics(
    sizes: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash of the system, the lines of all steps before the state are there."""
    flushed: list[tuple[str, int]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        flushed.append((name, os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    run = tmp_path / "run"
    options = SMALL | {"max_steps": 1, "from_scratch": True, "show_progress": False}
    finetune(sizes, data, run, **options)
    names = [name for name, _ in flushed]
    state = next(place for place, name in enumerate(names) if name.startswith(".last.pt."))
    assert ("metrics.jsonl", (run / "metrics.jsonl").stat().st_size) in flushed[:state]
