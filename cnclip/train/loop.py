"""A training run from its first line to its last: `finetune`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.scratch import sizes_of
from ..convert import convert, read_checkpoint
from ..datasets.pairs import PairData, open_pairs
from ..datasets.problems import Problems
from ..errors import InvalidInputError, ModelRunError
from .build import inputs_of, make_model, make_teacher, wrapped
from .curve import TensorBoard
from .distributed import World, joined_world
from .export import write_checkpoint
from .interrupts import Interrupts
from .loader import TrainingPairs, training_parts
from .lora import merged_weights
from .optimizer import WeightAverage, learning_rate, make_optimizer
from .options import TrainOptions
from .run_folder import ARCHIVE, BEST, TENSORBOARD, RunFolder
from .step import Part, Stepper
from .towers import LARGEST_LOGIT_SCALE
from .validate import Recall, Validation, validate

MOST_WORKERS = 8
SECONDS_BETWEEN_STATES = 300.0
# Options that may differ when a run is resumed: they do not change what a step computes.
_FREE = frozenset(
    [
        "max_epochs",
        "max_steps",
        "num_workers",
        "valid_batch_size",
        "valid_step_interval",
        "valid_epoch_interval",
        "save_step_frequency",
        "log_interval",
        "device",
        "compile",
        "grad_checkpointing",
    ]
)


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
        skipped: How many times a picture could not be read, in this process.
    """

    path: Path
    steps: int
    loss: float
    before: tuple[Recall, Recall] | None
    best: tuple[Recall, Recall] | None
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
    """Train a Chinese-CLIP on pairs of pictures and texts.

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
    chosen = TrainOptions(**options)
    with joined_world(chosen.device) as world:
        say = _Teller(world, show_progress)
        if chosen.precision == "fp16" and world.device.type != "cuda":
            raise InvalidInputError("precision: fp16 is for GPUs; on a CPU take bf16 or fp32")
        start = sizes_of(model) if from_scratch else read_checkpoint(model, revision)
        problems = Problems()
        data = open_pairs(train, train_split, role="train", problems=problems)
        checked = None if val is None else open_pairs(val, val_split, role="val", problems=problems)
        for problem in problems.found:
            say(str(problem))
        folder = RunFolder(Path(output))
        if world.is_first:
            folder.prepare(resume=resume)
        world.wait()
        asked = {
            "model": str(model),
            "train": str(train),
            "val": None if val is None else str(val),
            "train_split": train_split,
            "val_split": val_split,
            "from_scratch": from_scratch,
            "revision": revision,
        }
        run = _Run(start, data, checked, chosen, world, folder, say, from_scratch=from_scratch)
        state = folder.read_state() if resume else None
        if state is not None:
            run.resume(state)
        elif world.is_first:
            folder.forget_metrics_behind(-1)
        if world.is_first:
            folder.write_options(asked | dataclasses.asdict(chosen))
        with Interrupts() as interrupts:
            return run.train(interrupts)


class _Teller:
    """Prints lines on stderr, in the first process."""

    def __init__(self, world: World, enabled: bool) -> None:
        self._enabled = enabled and world.is_first

    def __call__(self, line: str) -> None:
        if self._enabled:
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
            print(shown, file=sys.stderr, flush=True)


class _Stopped(Exception):
    """Somebody wants the process to end."""


class _Run:
    """The state of a run: everything that `last.pt` holds."""

    def __init__(
        self,
        start: Checkpoint,
        data: PairData,
        checked: PairData | None,
        options: TrainOptions,
        world: World,
        folder: RunFolder,
        say: Callable[[str], None],
        *,
        from_scratch: bool,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options, self.world, self.folder, self.say = options, world, folder, say
        self.start, self.from_scratch = start, from_scratch
        self.data, self.checked = data, checked
        self.inputs = inputs_of(start, options.context_length)
        self.clip = make_model(start, options, from_scratch=from_scratch).to(world.device)
        self.model = wrapped(self.clip, options, world)
        teacher, taught = make_teacher(options, world, self.autocast)
        self.all_inputs = (self.inputs, *taught)
        self.pairs = TrainingPairs(data, options, self.all_inputs)
        self.stepper = Stepper(self.model, world, self.autocast, options.duplicates, teacher)
        self.optimizer = make_optimizer(self.clip, options)
        self.scaler = torch.amp.GradScaler("cuda", enabled=options.precision == "fp16")
        self.averaged = copy.deepcopy(self.clip) if options.ema_decay else None
        self.average = (
            None
            if self.averaged is None
            else WeightAverage(self.averaged.state_dict(), options.ema_decay)
        )
        self.batch = options.batch_size * options.accum_freq * world.size
        self.steps = options.max_steps or math.ceil(
            options.max_epochs * self.pairs.size / self.batch
        )
        self.step = 0
        self.losses: list[torch.Tensor] = []
        self.loss = math.nan
        self.before: tuple[Recall, Recall] | None = None
        self.best: tuple[Recall, Recall] | None = None
        self.best_value, self.best_step = -math.inf, 0
        self.named: set[str] = set()
        self.skipped = 0
        # Dropout and the choice of patches differ between processes.
        torch.manual_seed(options.seed + world.rank)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.options.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.options.precision == "bf16" else torch.float16
        return torch.autocast(self.world.device.type, dtype)

    # --- What is kept ---

    def save(self) -> None:
        """Write the state. All processes call.

        Raises:
            ModelRunError: the loss is no longer a number: the state before is kept.
        """
        if self.losses:
            self._check_loss(float(self.losses[-1]))
        random = [torch.get_rng_state()]
        if self.world.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.world.device))
        states = self.world.objects(random)
        if not self.world.is_first:
            return
        self.folder.write_state(
            {
                "step": self.step,
                "model": self.clip.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": None if self.averaged is None else self.averaged.state_dict(),
                "random": states,
                "losses": [float(loss) for loss in self.losses],
                "loss": self.loss,
                "before": self.before,
                "best": self.best,
                "best_value": self.best_value,
                "best_step": self.best_step,
                "options": dataclasses.asdict(self.options),
                "data": self.data.fingerprint,
                "processes": self.world.size,
            }
        )

    def resume(self, state: dict[str, Any]) -> None:
        """Take a state.

        Raises:
            InvalidInputError: it is of a run of other options or data.
        """
        mine, theirs = dataclasses.asdict(self.options), state["options"]
        for name in sorted(mine.keys() - _FREE):
            if mine[name] != theirs.get(name):
                raise InvalidInputError(
                    f"{name}: {mine[name]}, but the run to resume has {theirs.get(name)}"
                )
        if state["data"] != self.data.fingerprint:
            raise InvalidInputError(
                f"{self.data.name}: not the training data that the run to resume has, or changed"
            )
        if state["processes"] != self.world.size:
            raise InvalidInputError(
                f"{self.world.size} processes, but the run to resume has {state['processes']}"
            )
        self.clip.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["average"])
        random = state["random"][self.world.rank]
        torch.set_rng_state(random[0])
        if self.world.device.type == "cuda" and len(random) > 1:
            torch.cuda.set_rng_state(random[1], self.world.device)
        self.step = state["step"]
        self.losses = [torch.tensor(loss, device=self.world.device) for loss in state["losses"]]
        self.loss, self.before, self.best = state["loss"], state["before"], state["best"]
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        if self.world.is_first:
            self.folder.forget_metrics_behind(self.step)
        self.say(f"resumed behind step {self.step} of {self.steps}")

    def keep_best(self) -> None:
        """Write the weights as a model directory."""
        if self.world.is_first:
            model = self.averaged or self.clip
            weights = merged_weights(model) if self.options.lora_rank else model.state_dict()
            self.folder.write_best(lambda path: write_checkpoint(self.start, weights, path))

    # --- The loop ---

    def train(self, interrupts: Interrupts) -> TrainReport:
        """All steps that are left."""
        board = TensorBoard(self.folder.path / TENSORBOARD) if self.world.is_first else None
        parameters = sum(p.numel() for p in self.clip.parameters() if p.requires_grad)
        self.say(
            f"{self.data.name}, {self.data.split}: {len(self.data.pairs)} pairs; batches of "
            f"{self.batch}; {self.steps} steps; {parameters / 1e6:.1f} M parameters are trained on "
            f"{self.world.size} x {self.world.device}"
        )
        if self.options.warmup >= self.steps:
            self.say(
                f"warmup: {self.options.warmup} steps of {self.steps}: the learning rate never "
                f"reaches {self.options.lr:g}"
            )
        try:
            self._train(interrupts, board)
        except _Stopped:
            self.save()
            self.say(f"interrupted behind step {self.step}; the state is saved: resume to go on")
            raise KeyboardInterrupt from None
        finally:
            if board is not None:
                board.close()
            if self.world.is_first:
                self.folder.draw_curve()
        if self.world.is_first:
            convert(self.folder.path / BEST, self.folder.path / ARCHIVE)
        self.world.wait()
        return TrainReport(
            self.folder.path,
            self.step,
            self.loss,
            self.before,
            self.best,
            self.best_step,
            self.skipped,
        )

    def _train(self, interrupts: Interrupts, board: TensorBoard | None) -> None:
        if self.step == 0 and self.checked is not None and not self.from_scratch:
            found = self._validate(interrupts, board)
            self.before = (found.text_to_image, found.image_to_text)
        loader = training_parts(
            self.pairs,
            self.all_inputs,
            self.options,
            self.world,
            self._workers(),
            self.step,
            self.steps,
        )
        self.model.train()
        if self.options.freeze_vision:
            self.clip.visual.eval()
        begin = last_save = time.monotonic()
        first = self.step
        batches = self._batches(iter(loader))
        while self.step < self.steps:
            rate = self._make_step(next(batches))
            due = self.step % self.options.log_interval == 0 or self.step == self.steps
            if due:
                passed = (time.monotonic() - begin) / (self.step - first)
                self._log(rate, passed, board)
            if self._validation_is_due():
                self._check(interrupts, board)
            now = time.monotonic()
            wanted = self._save_is_due(now - last_save) + 2 * interrupts.wanted
            wanted = self.world.largest(wanted)
            if wanted >= 2 and self.step < self.steps:
                raise _Stopped
            if wanted:
                self.save()
                last_save = now
        if self.checked is None:
            self.best_step = self.step
            self.keep_best()
        self.save()

    def _batches(self, loader: Iterator[Any]) -> Iterator[list[Part]]:
        """The parts of each batch, on the device."""
        while True:
            parts = []
            for _ in range(self.options.accum_freq):
                part, skipped = next(loader)
                parts.append(part.to(self.world.device))
                for where, what in skipped:
                    self._tell_skipped(where, what)
            yield parts

    def _make_step(self, parts: list[Part]) -> float:
        options = self.options
        rate = learning_rate(self.step, self.steps, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        grow = float(self.scaler.scale(torch.ones((), device=self.world.device)))
        loss = self.stepper.gradients(parts, grow)
        if options.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.clip.parameters(), options.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)
        self.step += 1
        if self.average is not None:
            self.average.add(self.clip.state_dict(), self.step)
        self.losses.append(loss)
        return rate

    def _log(self, rate: float, seconds_a_step: float, board: TensorBoard | None) -> None:
        self.loss = float(torch.stack(self.losses).mean())
        self.losses = []
        self._check_loss(self.loss)
        scale = math.exp(float(self.clip.logit_scale.detach()))
        epoch = self.step * self.batch / self.pairs.size
        values = {
            "step": self.step,
            "epoch": round(epoch, 4),
            "loss": self.loss,
            "lr": rate,
            "logit_scale": scale,
            "pairs_per_second": round(self.batch / seconds_a_step, 2),
        }
        self._add(values, board)
        left = seconds_a_step * (self.steps - self.step)
        self.say(
            f"step {self.step}/{self.steps}, epoch {epoch:.2f}: loss {self.loss:.4f}, lr {rate:.2e}"
            f", scale {scale:.1f}, {self.batch / seconds_a_step:.1f} pairs/s, {_time(left)} left"
        )

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise ModelRunError(
                f"the loss is {loss} at step {self.step}: take a smaller learning rate; the state "
                f"in {self.folder.path} is from before"
            )

    def _add(self, values: dict[str, Any], board: TensorBoard | None) -> None:
        if board is not None:
            self.folder.add_metrics(values)
            board.add(values)

    # --- Validation ---

    def _validation_is_due(self) -> bool:
        if self.checked is None:
            return False
        options = self.options
        if self.step == self.steps:
            return True
        if options.valid_step_interval:
            return self.step % options.valid_step_interval == 0
        every = options.valid_epoch_interval * self.pairs.size
        return (
            bool(every) and self.step * self.batch // every > (self.step - 1) * self.batch // every
        )

    def _check(self, interrupts: Interrupts, board: TensorBoard | None) -> None:
        found = self._validate(interrupts, board)
        if found.mean_recall > self.best_value:
            self.best_value, self.best_step = found.mean_recall, self.step
            self.best = (found.text_to_image, found.image_to_text)
            self.keep_best()

    def _validate(self, interrupts: Interrupts, board: TensorBoard | None) -> Validation:
        assert self.checked is not None
        found = validate(
            self.averaged or self.clip,
            self.checked,
            self.inputs,
            self.world,
            self.autocast,
            self.options.valid_batch_size or self.options.batch_size,
            self._workers(),
            raw_text=self.options.raw_text,
            stop=lambda: interrupts.wanted,
        )
        if found is None:
            raise _Stopped
        for where, what in found.skipped:
            self._tell_skipped(where, what)
        values = {
            "step": self.step,
            "text_to_image": found.text_to_image,
            "image_to_text": found.image_to_text,
        }
        self._add(values, board)
        shown = "; ".join(
            f"{title} R@1/5/10 " + "/".join(f"{recall[k]:.2f}" for k in ("R@1", "R@5", "R@10"))
            for title, recall in (
                ("text to image", found.text_to_image),
                ("image to text", found.image_to_text),
            )
        )
        self.say(f"step {self.step}, {self.checked.name}, {self.checked.split}: {shown}")
        return found

    # --- Small things ---

    def _save_is_due(self, seconds: float) -> bool:
        every = self.options.save_step_frequency
        if every is not None:
            return self.step % every == 0
        return self.world.is_first and seconds > SECONDS_BETWEEN_STATES

    def _tell_skipped(self, where: str, what: str) -> None:
        self.skipped += 1
        if where not in self.named:
            self.named.add(where)
            self.folder.add_skipped(where, what)
            self.say(f"left out: {where}: {what}")

    def _workers(self) -> int:
        if self.options.num_workers is not None:
            return self.options.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(MOST_WORKERS, (cores or 1) // local))


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
