"""A training run from its first line to its last: `finetune`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.scratch import sizes_of
from ..convert import convert
from ..datasets.pairs import PairData, open_pairs
from ..datasets.problems import Problems
from ..errors import DatasetError, InputTypeError, InvalidInputError, ModelRunError
from ..models import read_checkpoint
from .batch import Part
from .build import inputs_of, make_model, make_teacher, wrapped
from .distributed import World, joined_world
from .export import write_checkpoint
from .interrupts import Interrupts
from .journal import Journal
from .loader import TrainingPairs, training_parts
from .lora import merged_weights
from .optimizer import learning_rate
from .options import TrainOptions
from .run_folder import ARCHIVE, BEST, RunFolder
from .run_state import Recalls, RunState, made_of
from .step import Stepper
from .towers import MAX_LOGIT_SCALE
from .validate import Validation, validate

MAX_WORKERS = 8
SECONDS_BETWEEN_STATES = 300.0


@dataclass(frozen=True)
class TrainReport:
    """What became of a run.

    Attributes:
        path: Its folder.
        steps: Steps made in all, those before a resumption included.
        loss: Of the last interval.
        before: (text to image, image to text) before the first step; None without a validation
            set, and for a model from scratch.
        best: The same of the best weights.
        best_step: The step behind which they were the best.
        skipped: How many times an image could not be read.
    """

    path: Path
    steps: int
    loss: float
    before: Recalls | None
    best: Recalls | None
    best_step: int
    skipped: int


def finetune(
    model: str | Path,
    train: str | Path,
    output: str | Path,
    *,
    val: str | Path | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    from_scratch: bool = False,
    resume: bool = False,
    revision: str | None = None,
    show_progress: bool = True,
    **options: Any,
) -> TrainReport:
    """Train a Chinese-CLIP on pairs of images and texts.

    Under torchrun, all its processes train together: over nccl on GPUs, else over gloo.

    Args:
        model: As `pipeline` takes it. From scratch: a published model's name in cn_clip, such as
            `'ViT-B-16'`, or a directory with ModelScope's configuration files and a vocab.txt.
        train: The data set, see `cnclip.datasets.open_pairs` for its layouts.
        output: The run's folder. `output/best` becomes a ModelScope model directory.
        val: The data set on which recall is measured: R@1, R@5, R@10 over all of it, both ways.
            The weights with the best mean recall are kept; without one, the last.
        train_split: The split, where there are several; by default `train`.
        val_split: The split, where there are several; by default `valid`, `val`, `dev` or `test`.
        from_scratch: Begin with random weights.
        resume: Go on with the run in `output`: from its newest state, with the same losses as if
            it had never been interrupted.
        revision: Of a hub's model.
        show_progress: Tell on stderr how it goes, a line an interval.
        options: Fields of `TrainOptions`.

    Returns:
        What became of it.

    Raises:
        InvalidInputError, InputTypeError: an option cannot be used, or does not go with the run.
        DatasetError: a data set cannot be used.
        CheckpointError, ModelNotFoundError, ...: as of `pipeline`.
        ModelRunError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C; the state was saved.
        OSError: the folder cannot be written.
    """
    chosen = _options(options)
    _check_types(model, train, output, val, from_scratch, resume)
    with joined_world(chosen.device) as world:
        if chosen.precision == "fp16" and world.device.type != "cuda":
            raise InvalidInputError("precision: fp16 is for GPUs; on a CPU take bf16 or fp32")
        folder = RunFolder(Path(output))
        journal = Journal(folder, world, shown=show_progress)
        start = sizes_of(model) if from_scratch else read_checkpoint(model, revision)
        problems = Problems()
        data = open_pairs(train, train_split, role="train", problems=problems)
        checked = None if val is None else open_pairs(val, val_split, role="val", problems=problems)
        for problem in problems.found:
            journal.say(str(problem))
        loop = _Loop(start, data, checked, chosen, world, folder, journal, from_scratch)
        if world.is_first:
            folder.prepare(resume=resume)
        world.wait()
        if resume:
            loop.resume()
        if world.is_first:
            asked = {
                "model": _absolute(model),
                "train": _absolute(train),
                "val": None if val is None else _absolute(val),
                "train_split": train_split,
                "val_split": val_split,
                "from_scratch": from_scratch,
                "revision": revision,
            }
            folder.write_options(asked | dataclasses.asdict(chosen))
        with Interrupts() as interrupts:
            return loop.run(interrupts)


def _options(values: dict[str, Any]) -> TrainOptions:
    unknown = values.keys() - {one.name for one in dataclasses.fields(TrainOptions)}
    if unknown:
        raise InvalidInputError(f"no option {min(unknown)!r}")
    return TrainOptions(**values)


def _check_types(
    model: Any, train: Any, output: Any, val: Any, from_scratch: Any, resume: Any
) -> None:
    paths = {"model": model, "train": train, "output": output}
    for name, path in (paths if val is None else paths | {"val": val}).items():
        if not isinstance(path, str | os.PathLike):
            raise InputTypeError(f"{name}: expected a name or path, got {type(path).__name__}")
    for name, flag in {"from_scratch": from_scratch, "resume": resume}.items():
        if not isinstance(flag, bool):
            raise InputTypeError(f"{name}: expected bool, got {type(flag).__name__}")


def _absolute(name: str | Path) -> str:
    """A path that leads there from everywhere; another name as it is."""
    return os.path.abspath(name) if os.path.exists(name) else str(name)


class _Stopped(Exception):
    """Somebody wants the process to end."""


class _Loop:
    """A run's parts, and the steps that they make together."""

    def __init__(
        self,
        start: Checkpoint,
        data: PairData,
        checked: PairData | None,
        options: TrainOptions,
        world: World,
        folder: RunFolder,
        journal: Journal,
        from_scratch: bool,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options, self.world, self.folder, self.journal = options, world, folder, journal
        self.start, self.data, self.checked = start, data, checked
        self.from_scratch = from_scratch
        self.of = made_of(start, data, checked)
        model = make_model(start, options, from_scratch=from_scratch).to(world.device)
        self.state = RunState(model, options, world)
        self.model = wrapped(model, options, world)
        teacher, taught = make_teacher(options, world, self.autocast)
        self.inputs = (inputs_of(start, options.context_length), *taught)
        self.pairs = TrainingPairs(data, options, self.inputs)
        self.stepper = Stepper(self.model, world, self.autocast, options.duplicates, teacher)
        self.batch = options.batch_size * options.accum_freq * world.size
        epochs = options.max_epochs * self.pairs.size
        self.steps = options.max_steps or math.ceil(epochs / self.batch)
        # Dropout and the choice of patches differ between processes.
        torch.manual_seed(options.seed + world.rank)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.options.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.options.precision == "bf16" else torch.float16
        return torch.autocast(self.world.device.type, dtype)

    def resume(self) -> None:
        """Take the newest state, if there is one."""
        state = self.folder.read_state()
        if state is not None:
            self.journal.skipped = self.state.take(state, self.of)
            self.journal.say(f"resumed behind step {self.state.step} of {self.steps}")

    def run(self, interrupts: Interrupts) -> TrainReport:
        """All steps that are left."""
        state, journal = self.state, self.journal
        parameters = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
        journal.begin(state.step)
        journal.say(
            f"{self.data.name}, {self.data.split}: {len(self.data.pairs)} pairs; batches of "
            f"{self.batch}; {self.steps} steps; {parameters / 1e6:.1f} M parameters are trained on "
            f"{self.world.size} x {self.world.device}"
        )
        if self.options.warmup >= self.steps:
            journal.say(
                f"warmup: {self.options.warmup} steps of {self.steps}: the learning rate never "
                f"reaches {self.options.lr:g}"
            )
        try:
            self._validate_what_is_left(interrupts)
            self._make_steps(interrupts)
        except _Stopped:
            self._save()
            journal.say(
                f"interrupted behind step {state.step}; the state is saved: resume to go on"
            )
            raise KeyboardInterrupt from None
        finally:
            journal.end()
        if self.world.is_first:
            convert(self.folder.path / BEST, self.folder.path / ARCHIVE)
        self.world.wait()
        return TrainReport(
            self.folder.path,
            state.step,
            state.loss,
            state.before,
            state.best,
            state.best_step,
            journal.skipped,
        )

    def _validate_what_is_left(self, interrupts: Interrupts) -> None:
        """Recall before the first step, or that of a step behind which the run was interrupted."""
        state = self.state
        if self.checked is None or state.checked_step == state.step:
            return
        if state.step == 0 and not self.from_scratch:
            found = self._validate(interrupts)
            state.before = (found.text_to_image, found.image_to_text)
        elif state.step > 0 and self._validation_is_due():
            self._choose_best(interrupts)

    def _make_steps(self, interrupts: Interrupts) -> None:
        state = self.state
        loader = training_parts(
            self.pairs,
            self.inputs,
            self.options,
            self.world,
            self._workers(),
            state.step,
            self.steps,
        )
        self.model.train()
        for name, module in state.model.named_modules():
            # Statistics of towers that are not trained stay as they are.
            if isinstance(module, _BatchNorm) and (
                self.options.lora_rank or (self.options.freeze_vision and "visual" in name)
            ):
                module.eval()
        batches = self._batches(iter(loader), interrupts)
        last_save = last_line = time.monotonic()
        while state.step < self.steps:
            rate = self._make_step(next(batches))
            if state.step % self.options.log_interval == 0 or state.step == self.steps:
                seconds = (time.monotonic() - last_line) / len(state.losses)
                self._log(rate, seconds)
                last_line = time.monotonic()
            if self._validation_is_due():
                self._choose_best(interrupts)
                last_line = time.monotonic()
            # All processes do what one wants.
            stop = self.world.largest(interrupts.wanted)
            save = self.world.largest(self._save_is_due(time.monotonic() - last_save))
            if stop and state.step < self.steps:
                raise _Stopped
            if save:
                self._save()
                last_save = time.monotonic()
        if self.checked is None:
            state.best_step = state.step
            self._keep_best()
        self._save()

    def _batches(self, loader: Iterator[Any], interrupts: Interrupts) -> Iterator[list[Part]]:
        """The parts of each batch, on the device."""
        while True:
            parts = []
            for _ in range(self.options.accum_freq):
                try:
                    part, skipped = next(loader)
                except DatasetError as error:
                    # A worker's error comes with a stack in its message.
                    raise DatasetError(str(error).rpartition("DatasetError: ")[2].strip()) from None
                except RuntimeError:
                    if interrupts.wanted and self.world.size == 1:
                        raise _Stopped from None  # what ends us has ended a worker, too
                    raise
                parts.append(part.to(self.world.device))
                self.journal.leave_out(skipped)
            yield parts

    def _make_step(self, parts: list[Part]) -> float:
        options, state = self.options, self.state
        rate = learning_rate(state.step, self.steps, options)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        grow = float(state.scaler.scale(torch.ones((), device=self.world.device)))
        loss = self.stepper.gradients(parts, grow)
        if options.max_grad_norm is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), options.max_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        with torch.no_grad():
            state.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        state.step += 1
        if state.average is not None:
            state.average.add(state.model, state.step)
        state.losses.append(loss)
        return rate

    def _log(self, rate: float, seconds_a_step: float) -> None:
        state = self.state
        state.loss = float(torch.stack(state.losses).mean())
        state.losses = []
        if not math.isfinite(state.loss):
            raise ModelRunError(
                f"the loss is {state.loss} at step {state.step}: take a smaller learning rate; the "
                f"state in {self.folder.path} is from before"
            )
        self.journal.tell_left_out()
        scale = math.exp(float(state.model.logit_scale.detach()))
        epoch = state.step * self.batch / self.pairs.size
        values = {
            "step": state.step,
            "epoch": round(epoch, 4),
            "loss": state.loss,
            "lr": rate,
            "logit_scale": scale,
            "pairs_per_second": round(self.batch / seconds_a_step, 2),
        }
        self.journal.add(values)
        left = _time(seconds_a_step * (self.steps - state.step))
        self.journal.say(
            f"step {state.step}/{self.steps}, epoch {epoch:.2f}: loss {state.loss:.4f}, lr "
            f"{rate:.2e}, scale {scale:.1f}, {self.batch / seconds_a_step:.1f} pairs/s, {left} left"
        )

    # --- Validation ---

    def _validation_is_due(self) -> bool:
        options, step = self.options, self.state.step
        if self.checked is None:
            return False
        if step == self.steps:
            return True
        if options.valid_step_interval:
            return step % options.valid_step_interval == 0
        every = options.valid_epoch_interval * self.pairs.size
        return bool(every) and step * self.batch // every > (step - 1) * self.batch // every

    def _choose_best(self, interrupts: Interrupts) -> None:
        """Measure recall, and keep the weights if they are the best so far."""
        state = self.state
        found = self._validate(interrupts)
        if found.mean_recall > state.best_value:
            state.best_value, state.best_step = found.mean_recall, state.step
            state.best = (found.text_to_image, found.image_to_text)
            self._keep_best()

    def _validate(self, interrupts: Interrupts) -> Validation:
        assert self.checked is not None
        state = self.state
        state.check()
        # Processes have batch norms' statistics of their own; the first one's are kept.
        self.world.copy_from_first(state.kept.buffers())
        found = validate(
            state.kept,
            self.checked,
            self.inputs[0],
            self.world,
            self.autocast,
            self.options.valid_batch_size or self.options.batch_size,
            self._workers(),
            raw_text=self.options.raw_text,
            stop=lambda: interrupts.wanted,
        )
        if found is None:
            raise _Stopped
        state.checked_step = state.step
        self.journal.leave_out(found.skipped if self.world.is_first else [])
        self.journal.tell_left_out()
        self.journal.add(
            {
                "step": state.step,
                "text_to_image": found.text_to_image,
                "image_to_text": found.image_to_text,
            }
        )
        shown = "; ".join(
            f"{title} R@1/5/10 " + "/".join(f"{recall[k]:.2f}" for k in ("R@1", "R@5", "R@10"))
            for title, recall in (
                ("text to image", found.text_to_image),
                ("image to text", found.image_to_text),
            )
        )
        self.journal.say(f"step {state.step}, {self.checked.name}, {self.checked.split}: {shown}")
        return found

    # --- What is kept ---

    def _keep_best(self) -> None:
        """Write the weights as a model directory."""
        self.state.check()
        if self.world.is_first:
            kept = self.state.kept
            weights = merged_weights(kept) if self.options.lora_rank else kept.state_dict()
            self.folder.write_best(lambda path: write_checkpoint(self.start, weights, path))

    def _save(self) -> None:
        """Write the state. All processes call."""
        self.journal.tell_left_out()
        self.state.write(self.folder, self.of, self.journal.skipped)

    def _save_is_due(self, seconds: float) -> bool:
        every = self.options.save_step_frequency
        if every is not None:
            return self.state.step % every == 0
        return self.world.is_first and seconds > SECONDS_BETWEEN_STATES

    def _workers(self) -> int:
        if self.options.num_workers is not None:
            return self.options.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(MAX_WORKERS, (cores or 1) // local))


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
