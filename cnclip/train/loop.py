"""The steps of a training run, its validations, and what it writes between them."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._cores import usable_cores
from .._text import counted
from ..checkpoints.checkpoint import Checkpoint
from ..convert import convert
from ..datasets.pairs import PairData
from ..errors import ModelRunError
from ..modeling.clip import MAX_LOGIT_SCALE
from .journal import Journal
from .loader import TrainingPairs, training_parts
from .model import (
    learning_rate,
    make_model,
    make_teacher,
    merged_weights,
    preprocessing_of,
    with_context_length,
    wrap_model,
    write_checkpoint,
)
from .options import TrainOptions
from .process import Interrupts
from .run_folder import ARCHIVE, BEST, STATE, write_best
from .run_state import Recalls, RunState, digests_of
from .step import Part, Stepper
from .validate import Validation, Validator

MAX_WORKERS = 8
SECONDS_BETWEEN_STATES = 300.0


@dataclass(frozen=True)
class TrainReport:
    """The result of a run.

    Attributes:
        path: The run's folder.
        steps: The number of steps, including those before the run was resumed.
        loss: The mean loss of the last log interval.
        before: Recall, (text to image, image to text), before the first step; None without a
            validation set, and for a model from scratch.
        best: Recall of the best weights; None without a validation set.
        best_step: The step after which the weights were best.
        skipped: How many times an image could not be read.
        left_out: Rows of the data sets that could not be used.
    """

    path: Path
    steps: int
    loss: float
    before: Recalls | None
    best: Recalls | None
    best_step: int
    skipped: int
    left_out: int = 0


class _StopRequested(Exception):
    """A signal asked the run to stop."""


class TrainingLoop:
    """The parts of a run, and the loop over its steps."""

    def __init__(
        self,
        initial: Checkpoint,
        data: PairData,
        validation: PairData | None,
        options: TrainOptions,
        folder: Path,
        journal: Journal,
        *,
        from_scratch: bool,
    ) -> None:
        """Build the model and prepare the data sets.

        Raises:
            InvalidInputError: an option does not apply to the model.
            DatasetError: a data set has no pairs, or a file of it was removed.
            MissingExtraError: peft is not installed.
        """
        torch.manual_seed(options.seed)
        self.options, self.journal, self.interrupts = options, journal, Interrupts()
        self.world, self.folder = journal.world, folder
        world = self.world
        self.data, self.from_scratch = data, from_scratch
        self.initial = initial = with_context_length(initial, options.context_length)
        self.digests = digests_of(initial, data, validation)
        model = make_model(initial, options, from_scratch=from_scratch).to(world.device)
        self.state = RunState(model, options, world)
        self.model = wrap_model(model, options, world)
        teacher, of_teacher = make_teacher(options, world, self.autocast)
        preprocessing = (preprocessing_of(initial), *of_teacher)
        self.pairs = TrainingPairs(data, options, preprocessing)
        self.stepper = Stepper(self.model, world, self.autocast, options.duplicates, teacher)
        self.pairs_per_step = options.batch_size * options.accum_freq * world.size
        epochs = options.max_epochs * self.pairs.size
        self.steps = options.max_steps or math.ceil(epochs / self.pairs_per_step)
        self.workers = _default_workers() if options.num_workers is None else options.num_workers
        self.validation = validation
        self.validator = None
        if validation is not None:
            self.validator = Validator(
                validation, preprocessing[0], world, self.autocast, self.workers, options
            )
        # Each process draws other numbers for dropout and masked patches.
        torch.manual_seed(options.seed + world.rank)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the towers run."""
        if self.options.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.options.precision == "bf16" else torch.float16
        return torch.autocast(self.world.device.type, dtype)

    def resume(self) -> None:
        """Restore the newest state, if there is one.

        Raises:
            InvalidInputError: it belongs to a run with other options, data, model or processes.
            CheckpointError: it is damaged.
        """
        path = self.folder / STATE
        if path.exists():
            self.journal.skipped = self.state.restore(path, self.digests)
            self.journal.print(f"resumed after step {self.state.step} of {self.steps}")

    def run(self) -> TrainReport:
        """Run the remaining steps.

        Raises:
            DatasetError: too many images in a row cannot be read.
            ModelRunError: the loss is no longer finite.
            KeyboardInterrupt: a signal asked to stop; the state was saved.
            OSError: the folder cannot be written.
        """
        state, journal = self.state, self.journal
        journal.begin(state.step, state.checked_step)
        self._print_plan()
        with journal.drawn():
            try:
                self._validate_before_steps()
                self._run_steps()
            except _StopRequested:
                self._save()
                journal.print(
                    f"interrupted after step {state.step}; the state is saved: resume to continue"
                )
                raise KeyboardInterrupt from None
        if self.world.is_first:
            convert(self.folder / BEST, self.folder / ARCHIVE)
        self.world.barrier()
        return TrainReport(
            self.folder,
            state.step,
            state.loss,
            state.before,
            state.best,
            state.best_step,
            journal.skipped,
        )

    def _print_plan(self) -> None:
        options = self.options
        parameters = sum(p.numel() for p in self.state.model.parameters() if p.requires_grad)
        if self.world.is_first:
            for message in self.pairs.count_texts().messages():
                self.journal.print(message)
        self.journal.print(
            f"{self.data.name}, {self.data.split}: {counted(len(self.data.pairs), 'pairs')}; "
            f"batches of {self.pairs_per_step}; {counted(self.steps, 'steps')}; "
            f"{parameters / 1e6:.1f} M trained parameters; "
            f"{self.world.size} x {self.world.device}"
        )
        if self.pairs_per_step > self.pairs.size:
            self.journal.print(
                f"batch_size: each batch has some of the {self.pairs.size} pairs more than once; "
                f"choose {self.pairs.size} or less"
            )
        if options.warmup >= self.steps:
            self.journal.print(
                f"warmup: {options.warmup} of {self.steps} steps: the learning rate does not "
                f"reach {options.lr:g}"
            )

    # --- Steps ---

    def _run_steps(self) -> None:
        state = self.state
        self._set_training_mode()
        batches = self._batches()
        last_save = last_line = time.monotonic()
        while state.step < self.steps:
            rate = self._step(next(batches))
            if state.step % self.options.log_interval == 0 or state.step == self.steps:
                seconds = (time.monotonic() - last_line) / len(state.losses)
                self._log(rate, seconds)
                last_line = time.monotonic()
            if self._validation_is_due():
                self._validate_and_keep_best()
                last_line = time.monotonic()
            # If one process has to stop or save, all do.
            stop = self.world.max(self.interrupts.requested)
            save = self.world.max(self._save_is_due(time.monotonic() - last_save))
            if stop and state.step < self.steps:
                raise _StopRequested
            if save:
                self._save()
                last_save = time.monotonic()
        if self.validator is None:
            state.best_step = state.step
            self._write_best()
        self._save()

    def _set_training_mode(self) -> None:
        """Train, but leave the batch norms' statistics of a frozen tower as they are."""
        self.model.train()
        for name, module in self.state.model.named_modules():
            if isinstance(module, _BatchNorm) and (
                self.options.lora_rank or (self.options.freeze_vision and "visual" in name)
            ):
                module.eval()

    def _batches(self) -> Iterator[list[Part]]:
        """The parts of each remaining batch, on the device."""
        parts = training_parts(self.pairs, self.world, self.workers, self.state.step, self.steps)
        while True:
            batch = []
            for _ in range(self.options.accum_freq):
                try:
                    part, skipped = next(parts)
                except RuntimeError:
                    if self.interrupts.requested and self.world.size == 1:
                        raise _StopRequested from None  # the signal ended a worker process, too
                    raise
                batch.append(part.to(self.world.device))
                self.journal.add_skipped(skipped)
            yield batch

    def _step(self, parts: list[Part]) -> float:
        """Make a step; returns its learning rate."""
        options, state = self.options, self.state
        rate = learning_rate(state.step, self.steps, options)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        factor = float(state.scaler.scale(torch.ones((), device=self.world.device)))
        loss = self.stepper.gradients(parts, factor)
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

    def _log(self, rate: float, seconds_per_step: float) -> None:
        state = self.state
        state.loss = float(torch.stack(state.losses).mean())
        state.losses = []
        if not math.isfinite(state.loss):
            raise ModelRunError(
                f"the loss is {state.loss} at step {state.step}: use a smaller learning rate; the "
                f"state in {self.folder} is from an earlier step"
            )
        self.journal.report_skipped()
        scale = math.exp(float(state.model.logit_scale.detach()))
        epoch = state.step * self.pairs_per_step / self.pairs.size
        if self.options.max_steps is None:
            epoch = min(epoch, self.options.max_epochs)  # the last batch may begin another epoch
        speed = self.pairs_per_step / seconds_per_step
        self.journal.add_metrics(
            {
                "step": state.step,
                "epoch": round(epoch, 4),
                "loss": state.loss,
                "lr": rate,
                "logit_scale": scale,
                "pairs_per_second": round(speed, 2),
            }
        )
        left = _format_time(seconds_per_step * (self.steps - state.step))
        self.journal.print(
            f"step {state.step}/{self.steps}, epoch {epoch:.2f}: loss {state.loss:.4f}, lr "
            f"{rate:.2e}, scale {scale:.1f}, {speed:.1f} pairs/s, {left} left"
        )

    # --- Validation ---

    def _validate_before_steps(self) -> None:
        """Measure recall before the first step, or repeat a validation that was interrupted."""
        state = self.state
        if self.validator is None or state.checked_step == state.step:
            return
        if state.step == 0 and not self.from_scratch:
            found = self._validate()
            state.before = (found.text_to_image, found.image_to_text)
        elif state.step > 0 and self._validation_is_due():
            self._validate_and_keep_best()

    def _validation_is_due(self) -> bool:
        options, step = self.options, self.state.step
        if self.validator is None:
            return False
        if step == self.steps:
            return True
        if options.valid_step_interval:
            return step % options.valid_step_interval == 0
        every = options.valid_epoch_interval * self.pairs.size
        pairs = step * self.pairs_per_step
        return bool(every) and pairs // every > (pairs - self.pairs_per_step) // every

    def _validate_and_keep_best(self) -> None:
        """Measure recall, and write the weights if they are the best so far."""
        state = self.state
        found = self._validate()
        if found.mean_recall > state.best_value:
            state.best_value, state.best_step = found.mean_recall, state.step
            state.best = (found.text_to_image, found.image_to_text)
            self._write_best()

    def _validate(self) -> Validation:
        assert self.validator is not None and self.validation is not None
        state = self.state
        state.check_weights()
        # Each process has its own statistics of batch norms; those of process 0 are written.
        self.world.broadcast(state.saved_model.buffers())
        found = self.validator.measure(state.saved_model, stop=lambda: self.interrupts.requested)
        if found is None:
            raise _StopRequested
        state.checked_step = state.step
        self.journal.add_skipped(found.skipped if self.world.is_first else [])
        self.journal.report_skipped()
        recalls = {"text_to_image": found.text_to_image, "image_to_text": found.image_to_text}
        self.journal.add_metrics({"step": state.step, **recalls})
        shown = "; ".join(
            f"{name.replace('_', ' ')} R@1/5/10 "
            + "/".join(f"{recall[k]:.2f}" for k in ("R@1", "R@5", "R@10"))
            for name, recall in recalls.items()
        )
        data = self.validation
        self.journal.print(f"step {state.step}, {data.name}, {data.split}: {shown}")
        return found

    # --- Files ---

    def _write_best(self) -> None:
        """Write the weights as a model directory."""
        self.state.check_weights()
        if self.world.is_first:
            model = self.state.saved_model
            weights = merged_weights(model) if self.options.lora_rank else model.state_dict()
            normalized = not self.options.raw_text

            def write(path: Path) -> None:
                write_checkpoint(self.initial, weights, path, normalized_texts=normalized)

            write_best(self.folder, write)

    def _save(self) -> None:
        """Write the state. All processes call."""
        self.journal.report_skipped()
        self.journal.flush()
        self.state.write(self.folder / STATE, self.digests, self.journal.skipped)

    def _save_is_due(self, seconds: float) -> bool:
        every = self.options.save_step_frequency
        if every is not None:
            return self.state.step % every == 0
        return self.world.is_first and seconds > SECONDS_BETWEEN_STATES


def _default_workers() -> int:
    """One per core that this process may use, at most MAX_WORKERS, shared by local processes."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_WORKERS, usable_cores() // local))


def _format_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
