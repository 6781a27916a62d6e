"""The trainer of ModelScope's interface: its arguments, data sets, weights and files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from cnclip.errors import InputTypeError, InvalidInputError, ModelScopeError  # noqa: E402
from cnclip.modelscope import trainers  # noqa: E402
from cnclip.modelscope.msdatasets import MsDataset  # noqa: E402
from cnclip.modelscope.trainers import CLIPTrainer, build_trainer  # noqa: E402
from tests.modelscope.test_training_settings import CONFIG  # noqa: E402
from tests.support.layouts import make_tsv  # noqa: E402


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "configuration.json"
    loaders = {"batch_size_per_gpu": 4, "workers_per_gpu": 0}
    config = CONFIG | {"evaluation": {"dataloader": loaders}}
    path.write_text(json.dumps(config | {"pretrained_model": {"model_name": "nowhere"}}))
    return path


def test_the_model_is_that_of_the_argument_or_the_configuration(
    configuration: Path, vit_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given: Any
    for given in (str(vit_directory), vit_directory, SimpleNamespace(model_dir=vit_directory)):
        trainer = build_trainer(
            "clip-multi-modal-embedding", {"model": given, "cfg_file": configuration}
        )
        assert isinstance(trainer, CLIPTrainer) and trainer.model_dir == vit_directory
    assert (trainer.max_epochs, trainer.settings.batch_size) == (3, 8)
    named = json.loads(configuration.read_text())
    named["pretrained_model"]["model_name"] = str(vit_directory)
    configuration.write_text(json.dumps(named))
    assert not caplog.messages
    trainer = CLIPTrainer(
        cfg_file=configuration,
        cfg_modify_fn=lambda config: config.merge_from_dict({"train.max_epochs": 7}),
        cfg_options={"train.work_dir": "other"},
        device="cpu",
        metrics=["bleu"],
        data_collator=print,
    )
    assert trainer.model_dir == vit_directory
    assert (trainer.max_epochs, trainer.work_dir) == (7, "other")
    assert caplog.messages == ["the trainer ignores: metrics, data_collator"]


def test_arguments_that_cannot_be_used(configuration: Path, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="model: expected a name, a path or a model, got int"):
        CLIPTrainer(5)
    with pytest.raises(InputTypeError, match="model: .* got NoneType"):
        CLIPTrainer()
    shutil.copy(archive, tmp_path / "alone.cnclip.pt")
    with pytest.raises(InvalidInputError, match=r"cfg_file: required, since the model has no conf"):
        CLIPTrainer(tmp_path / "alone.cnclip.pt")
    for name, arguments in (("other-trainer", {}), (None, {"model": 5})):
        with pytest.raises(ModelScopeError):
            build_trainer(name, arguments)  # type: ignore[arg-type]


def test_evaluation_of_directories_and_files_of_tensors(
    configuration: Path, vit_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = MsDataset.load(str(make_tsv(tmp_path / "data")), split="train")
    trainer = CLIPTrainer(vit_directory, configuration, eval_dataset=data, device="cpu")
    expected = trainer.evaluate()
    assert trainer.metric_values == expected
    weights = next(vit_directory.glob("pytorch_model.bin"))
    shutil.copy(weights, tmp_path / "alone.bin")
    for path in (weights, tmp_path / "alone.bin", str(vit_directory)):
        assert trainer.evaluate(path) == expected
    with pytest.raises(InvalidInputError, match="checkpoint_path: there is no such file"):
        trainer.evaluate(tmp_path / "gone.bin")
    with trainer._model_with(tmp_path / "alone.bin") as folder:
        assert trainer.evaluate(folder) == expected
    assert not folder.exists()
    assert "cannot be read" not in caplog.text
    bad = [{"image": b"no image", "query": "文"}, *(data[n] for n in range(4))]
    CLIPTrainer(vit_directory, configuration, eval_dataset=bad, device="cpu").evaluate()
    assert "eval_dataset: 1 image cannot be read; the first: " in caplog.text


def test_data_sets_that_the_configuration_names(
    configuration: Path, vit_directory: Path, tmp_path: Path
) -> None:
    data = make_tsv(tmp_path / "data")
    trainer = CLIPTrainer(vit_directory, configuration, device="cpu")
    for role in ("train_dataset", "eval_dataset"):
        with pytest.raises(InvalidInputError, match=f"{role}: required"):
            trainer._pairs(role)
        assert not trainer._has(role)
    options = {"dataset.name": str(data), "dataset.split_eval": "train"}
    trainer = CLIPTrainer(vit_directory, configuration, cfg_options=options, device="cpu")
    assert not trainer._has("train_dataset") and trainer._has("eval_dataset")
    assert trainer._pairs("eval_dataset").texts == MsDataset.load(str(data), split="train")["query"]
    assert isinstance(trainer.eval_dataset, MsDataset)


def test_folders_of_runs_have_the_next_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    assert trainers._new_run(runs, create=False) is None and not runs.exists()
    assert trainers._new_run(runs, create=True) == runs / "001"
    (runs / "007").mkdir()
    (runs / "notes").mkdir()
    mkdir = Path.mkdir

    def slower(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "008":  # which another process makes first
            mkdir(path, exist_ok=True)
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", slower)
    assert trainers._new_run(runs, create=True) == runs / "009"


def test_files_are_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    trainers._link(source, target)
    assert target.read_text() == "new" and os.path.samefile(source, target)

    def link(*paths: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    source.unlink()
    source.write_text("newer")
    trainers._link(source, target)
    assert target.read_text() == "newer" and not os.path.samefile(source, target)
    assert len(list(tmp_path.iterdir())) == 2
