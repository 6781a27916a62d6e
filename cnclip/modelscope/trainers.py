"""The content of `modelscope.trainers`: Chinese-CLIP's trainer, which runs `cnclip.train`.

A run's files are in `WORK_DIR/runs/NUMBER`, see `cnclip.train.run_folder`. Its best weights are
also `WORK_DIR/output`, a model directory that ModelScope opens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_durably
from .._temporaries import scratch_directory, temporary_name
from .._text import counted
from ..checkpoints.config_file import read_json
from ..checkpoints.files import PIPELINE_CONFIG, VISION_CONFIG, layout_of
from ..datasets.pairs import PairData
from ..engine.libtorch import find_torch
from ..errors import InputTypeError, InvalidInputError
from ..models import find_model, read_checkpoint
from ..train.options import TrainOptions
from ..train.run_folder import BEST, STATE
from ._choice import foreign_type, own_name
from ._installed import installed_object
from ._training_data import INBATCH_RECALL, inbatch_recall, pairs_of
from ._training_settings import TrainingSettings, read_settings
from .config import Config
from .metainfo import Trainers
from .msdatasets import MsDataset
from .utils import own_device

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint
    from ..train import TrainReport

__all__ = ["CLIPTrainer", "build_trainer"]

logger = logging.getLogger("cnclip")

NAME = "clip-multi-modal-embedding"
OUTPUT, BEST_OUTPUT, RUNS = "output", "output_best", "runs"
# Hooks that ModelScope's trainer has where the configuration does not name them.
_HOOKS = [
    {"type": "CheckpointHook", "interval": 1},
    {"type": "TextLoggerHook", "interval": 10},
    {"type": "IterTimerHook"},
]
# Arguments that replace a setting in `train`.
_OF_TRAIN = ("work_dir", "max_epochs", "launcher", "use_fp16")
# Arguments that change nothing here.
_UNUSED = ("trust_remote_code", "third_party", "compile_options", "remove_unused_data")
_CONFIGURATION = {
    "framework": "pytorch",
    "task": "multi-modal-embedding",
    "pipeline": {"type": "multi-modal-embedding"},
    "model": {"type": NAME},
}


def build_trainer(
    name: str | None = Trainers.default, default_args: dict[str, Any] | None = None
) -> Any:
    """A trainer by its name: ours for Chinese-CLIP, otherwise one of the installed ModelScope.

    Args:
        name: `Trainers.clip_multi_modal_embedding`.
        default_args: The arguments of `CLIPTrainer`, which also has the exceptions.

    Raises:
        ModelScopeError: it is not Chinese-CLIP, and ModelScope is not installed.
    """
    arguments = default_args or {}
    if name in (None, Trainers.default, NAME) and _is_ours(name, arguments):
        return CLIPTrainer(**arguments)
    return installed_object("modelscope.trainers", "build_trainer")(name, arguments)


def _is_ours(name: str | None, arguments: dict[str, Any]) -> bool:
    """Whether a trainer is that of Chinese-CLIP: the model decides, where it is named."""
    model = arguments.get("model")
    if isinstance(model, str | os.PathLike):
        return foreign_type(os.fspath(model), arguments.get("model_revision")) is None
    return name == NAME or isinstance(getattr(model, "model_dir", None), str | os.PathLike)


class CLIPTrainer:
    """Fine-tunes a Chinese-CLIP by a configuration of ModelScope.

    Attributes:
        cfg: The configuration, a `Config`.
        model_dir: The directory or file of the initial model.
        work_dir: Where files are written.
        train_dataset: The data set for training.
        eval_dataset: The data set for the evaluation.
        metric_values: The result of the last evaluation.
    """

    def __init__(
        self,
        model: Any = None,
        cfg_file: str | os.PathLike[str] | None = None,
        cfg_modify_fn: Callable[[Config], Config | None] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        model_revision: str | None = None,
        seed: int = 42,
        device: Any = None,
        cfg_options: dict[str, Any] | None = None,
        metrics: Any = None,
        **others: Any,
    ) -> None:
        """Read the configuration, and open nothing else than the model's directory.

        Args:
            model: A name on ModelScope's hub, a model directory or file, or a model whose
                `model_dir` is one; by default `pretrained_model.model_name` of the configuration.
            cfg_file: The configuration; by default the model's `configuration.json`.
            cfg_modify_fn: Changes the configuration, and may return another.
            train_dataset: `MsDataset`, or another sequence of dicts with images and texts; by
                default `dataset.name` of the configuration.
            eval_dataset: As `train_dataset`.
            model_revision: A branch, tag or commit on the hub.
            seed: The seed of all random numbers.
            device: `'gpu'`, which is the CPU where there is none; `'cpu'`, `'cuda:0'`.
            cfg_options: Values of the configuration by their paths.
            metrics: `inbatch_recall`.
            others: `work_dir`, `max_epochs`, `launcher`, `use_fp16` are used instead of those in
                `train`; ModelScope's other arguments are ignored and named in a warning.

        Raises:
            CnclipError: the model cannot be found or fetched, or a value cannot be used.
        """
        if not isinstance(model, str | os.PathLike | None):
            model = getattr(model, "model_dir", model)
        if model is None and cfg_file is not None:
            model = Config.from_file(cfg_file).safe_get("pretrained_model.model_name")
        if not isinstance(model, str | os.PathLike):
            reason = f"expected a name, a path or a model, got {type(model).__name__}"
            raise InputTypeError(reason, item="model")
        self.model_dir = find_model(own_name(os.fspath(model)), model_revision)
        self.cfg = _read_config(self._config_path(cfg_file), cfg_modify_fn, cfg_options)
        own = {name: others.pop(name, None) for name in _OF_TRAIN}
        own["work_dir"] = None if own["work_dir"] is None else os.fspath(own["work_dir"])
        given = {f"train.{name}": value for name, value in own.items() if value is not None}
        self.cfg.merge_from_dict(given)
        # Without a number, a process takes the GPU of its rank.
        self._device = "gpu" if device in (None, "gpu", "cuda") else own_device(device)
        self._settings = read_settings(
            self.cfg.to_dict(), on_gpu=self._on_gpu(), file=self.cfg.filename
        )
        self._report_ignored(metrics, others)
        self._seed = seed
        self.work_dir = str(Path(self._settings.work_dir).expanduser())
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.metric_values: dict[str, float] | None = None
        self._weights: Path = self.model_dir

    @property
    def max_epochs(self) -> int:
        """Passes over the pairs."""
        return self._settings.max_epochs

    @property
    def settings(self) -> TrainingSettings:
        """What the configuration means for `cnclip.train`."""
        return self._settings

    def train(self, checkpoint_path: str | os.PathLike[str] | None = None, **_: Any) -> None:
        """Train, and write `WORK_DIR/output`.

        Args:
            checkpoint_path: Weights to start with: a model directory, or a file of tensors. Or the
                `last.pt` of an earlier run, which is continued.

        Raises:
            DatasetError: a data set cannot be used.
            CheckpointError: the weights cannot be used.
            ModelRunError, KeyboardInterrupt, OSError: See `cnclip.train.finetune`.
        """
        find_torch()
        from ..train.process import join_world
        from ..train.run import finetune

        settings = self._settings
        train = self._pairs("train_dataset")
        evaluates = bool(settings.evaluations) and self._has("eval_dataset")
        val = self._pairs("eval_dataset") if evaluates else None
        resumed = checkpoint_path is not None and Path(checkpoint_path).name == STATE
        with join_world(self._device) as world, contextlib.ExitStack() as stack:
            options = self._train_options(len(train.pairs), world.size)
            runs = Path(self.work_dir) / RUNS
            folder = Path(checkpoint_path).parent if resumed and checkpoint_path else None
            folder = world.gather_objects(folder or _new_run(runs, create=world.is_first))[0]
            model = self.model_dir
            if checkpoint_path is not None and not resumed:
                model = stack.enter_context(self._model_with(Path(checkpoint_path)))
            report = finetune(
                model, train, folder, val=val, resume=resumed, **dataclasses.asdict(options)
            )
            if world.is_first:
                self._write_output(report)
            world.barrier()
        self._weights = report.path / BEST

    def evaluate(
        self, checkpoint_path: str | os.PathLike[str] | None = None, **_: Any
    ) -> dict[str, float]:
        """Measure how often a text's image is the most similar one of its batch.

        Args:
            checkpoint_path: A model directory or a file of tensors; by default the trained weights,
                or before the training the initial ones.

        Returns:
            `inbatch_t2i_recall_at_1` as ModelScope counts it, from 0 to 1; and `t2i_recall_at_1`,
            `_5`, `_10`, `i2t_recall_at_1`, ... over the whole data set.

        Raises:
            DatasetError: the data set cannot be used.
            CheckpointError: the weights cannot be used.
        """
        find_torch()
        from ..train.model import new_model, preprocessing_of
        from ..train.process import join_world
        from ..train.validate import Validator

        data = self._pairs("eval_dataset")
        path = self._weights if checkpoint_path is None else Path(checkpoint_path)
        checkpoint = self._read_weights(path)
        with join_world(self._device) as world:
            options = self._train_options(len(data.pairs), world.size)
            model = new_model(checkpoint.config)
            model.load_weights(checkpoint.weights)
            model.eval().to(world.device)
            validator = Validator(
                data,
                preprocessing_of(checkpoint),
                world,
                contextlib.nullcontext,
                options.num_workers or 0,
                options,
            )
            found = validator.embed(model)
        assert found is not None  # nothing cancels it
        if found.skipped:
            shown = found.skipped[0]
            logger.warning(
                "eval_dataset: %s cannot be read; the first: %s",
                counted(len(found.skipped), "images"),
                shown,
            )
        whole = validator.recall(found)
        share = inbatch_recall(
            data.pairs,
            (found.texts, found.text_rows),
            (found.images, found.image_rows),
            self._settings.eval_batch_size,
            drop_last=self._settings.eval_drop_last,
        )
        self.metric_values = {INBATCH_RECALL: share}
        for name, recall in (("t2i", whole.text_to_image), ("i2t", whole.image_to_text)):
            for k in (1, 5, 10):
                self.metric_values[f"{name}_recall_at_{k}"] = recall[f"R@{k}"] / 100
        return self.metric_values

    # --- Settings ---

    def _config_path(self, cfg_file: str | os.PathLike[str] | None) -> Path:
        if cfg_file is not None:
            return Path(cfg_file).expanduser()
        path = self.model_dir / PIPELINE_CONFIG
        if not path.is_file():
            reason = "required, since the model has no configuration.json"
            raise InvalidInputError(reason, item="cfg_file")
        return path

    def _on_gpu(self) -> bool:
        if self._device == "cpu":
            return False
        find_torch()
        import torch

        return torch.cuda.is_available()

    def _report_ignored(self, metrics: Any, others: dict[str, Any]) -> None:
        """Name all that is not used, in one line."""
        names = list(self._settings.ignored)
        if metrics not in (None, [], "inbatch_recall", ["inbatch_recall"]):
            names.append("metrics")
        names += [
            name
            for name, value in others.items()
            if value not in (None, (None, None), [], {}, False) and name not in _UNUSED
        ]
        if names:
            logger.warning("the trainer ignores: %s", ", ".join(dict.fromkeys(names)))

    def _train_options(self, pairs: int, processes: int) -> TrainOptions:
        options = self._settings.train_options(pairs, processes)
        wanted = self._settings.batch_size
        if options.batch_size < wanted:
            logger.warning(
                "train.dataloader.batch_size_per_gpu: %d instead of %d, since there are %s",
                options.batch_size,
                wanted,
                counted(pairs, "pairs"),
            )
        fixed: dict[str, Any] = {"seed": self._seed, "device": self._device}
        fixed |= {"raw_text": True, "duplicates": "negative", "augment": "auto"}
        own = self._settings.options
        dropout = _text_dropout(self.model_dir)
        if dropout is not None:
            fixed["text_dropout"] = dropout
        return dataclasses.replace(
            options, **{name: value for name, value in fixed.items() if name not in own}
        )

    # --- Data ---

    def _has(self, role: str) -> bool:
        return getattr(self, role) is not None or self._named_dataset(role) is not None

    def _named_dataset(self, role: str) -> tuple[str, str] | None:
        """The name and split of a data set that the configuration names."""
        mode = "train" if role == "train_dataset" else "eval"
        name, split = (self.cfg.safe_get(f"dataset.{key}") for key in ("name", f"split_{mode}"))
        return None if not name or not split else (str(name), str(split))

    def _pairs(self, role: str) -> PairData:
        """The pairs of one of the data sets."""
        dataset = getattr(self, role)
        if dataset is None:
            named = self._named_dataset(role)
            if named is None:
                raise InvalidInputError("required", item=role)
            subset = self.cfg.safe_get("dataset.subset")
            dataset = MsDataset.load(named[0], subset_name=subset, split=named[1])
            setattr(self, role, dataset)
        return pairs_of(dataset, role, self._settings.image, self._settings.text)

    # --- Weights ---

    def _read_weights(self, path: Path) -> Checkpoint:
        """The model with the weights of a directory or file."""
        if path.is_file() and (path.parent / VISION_CONFIG).is_file():
            path = path.parent
        if path.is_dir() or path == self.model_dir:
            return read_checkpoint(path)
        if not path.is_file():
            raise InvalidInputError("there is no such file or directory", item="checkpoint_path")
        from ..checkpoints.archive import check_weights
        from ..checkpoints.modelscope import used_tensors
        from ..checkpoints.tensors import read_tensors

        start = read_checkpoint(self.model_dir)
        found = dataclasses.replace(start, weights=used_tensors(read_tensors([path])))
        check_weights(found, path)
        return found

    @contextlib.contextmanager
    def _model_with(self, path: Path) -> Iterator[Path]:
        """A model directory with the weights of a directory or file."""
        if path.is_dir():
            yield path
            return
        from ..checkpoints.modelscope import write_modelscope

        with scratch_directory() as folder:
            write_modelscope(self._read_weights(path), folder)
            yield folder

    def _write_output(self, report: TrainReport) -> None:
        """Write the best weights to `WORK_DIR/output`, a model directory of ModelScope."""
        best = report.path / BEST
        names = {path.name for path in best.iterdir()}
        settings: dict[str, Any] = {}
        if layout_of(names, best).format == "modelscope":
            settings = dict(read_json(best / PIPELINE_CONFIG))
            settings = json.loads(self.cfg.pretty_text) | _CONFIGURATION | settings
        outputs = [OUTPUT, BEST_OUTPUT] if self._settings.keeps_best else [OUTPUT]
        for output in outputs:
            folder = Path(self.work_dir) / output
            folder.mkdir(parents=True, exist_ok=True)
            for name in sorted(names - {PIPELINE_CONFIG}):
                _link(best / name, folder / name)
            if settings:
                text = json.dumps(settings, indent=4, ensure_ascii=False) + "\n"
                write_durably(folder / PIPELINE_CONFIG, text.encode())
        logger.info("%s: the model of the training", Path(self.work_dir) / OUTPUT)


def _read_config(
    path: Path,
    modify: Callable[[Config], Config | None] | None,
    options: dict[str, Any] | None,
) -> Config:
    config = Config.from_file(path)
    config.merge_from_dict({"train.hooks": _HOOKS}, force=False)
    if modify is not None:
        config = modify(config) or config
    if options:
        config.merge_from_dict(options)
    return config


def _text_dropout(model: Path) -> float | None:
    """The dropout of the text tower that ModelScope's configuration of it has."""
    from ..checkpoints.files import TEXT_CONFIG

    path = model / TEXT_CONFIG
    if not path.is_file():
        return None
    value = read_json(path).get("text_hidden_dropout_prob")
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 else None


def _new_run(runs: Path, *, create: bool) -> Path | None:
    """The folder of the next run, which the first process creates."""
    if not create:
        return None
    runs.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(one.name) for one in runs.iterdir() if one.name.isdecimal()), default=0)
    while True:
        try:
            (runs / f"{number:03}").mkdir()
        except FileExistsError:  # another process was faster
            number += 1
        else:
            return runs / f"{number:03}"


def _link(source: Path, target: Path) -> None:
    """Replace a file by a link to another, or by a copy where there are no links."""
    temporary = temporary_name(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
