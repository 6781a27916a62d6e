"""The towers, the loss and the gradient of a step, against slow twins and the whole batch."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cnclip import pipeline  # noqa: E402
from cnclip.modeling.clip import ChineseClip, half_precision_names  # noqa: E402
from cnclip.modeling.config import ClipConfig, TextConfig, VisionConfig  # noqa: E402
from cnclip.models import read_checkpoint  # noqa: E402
from cnclip.train.loss import (  # noqa: E402
    Pairs,
    contrastive_loss,
    distillation_loss,
    matches,
)
from cnclip.train.model import AverageModel, learning_rate, make_optimizer, new_model  # noqa: E402
from cnclip.train.options import TrainOptions  # noqa: E402
from cnclip.train.process import World  # noqa: E402
from cnclip.train.step import Part, Stepper, Teacher  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TEXT = TextConfig(50, 16, 2, 2, 32, 24, 2)
VIT = ClipConfig(12, VisionConfig(16, 2, 16, 4, head_width=8), TEXT)
RESNET = ClipConfig(12, VisionConfig(32, (1, 1, 1, 1), 4, None, head_width=32), TEXT)
ALONE = World(0, 1, torch.device("cpu"))


def make_model(config: ClipConfig, dropout: float = 0.0, seed: int = 1) -> ChineseClip:
    torch.manual_seed(seed)
    model = new_model(config, dropout).double()
    model.initialize()
    for parameter in model.parameters():  # zeros would hide errors
        with torch.no_grad():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.train()


def make_parts(config: ClipConfig, size: int, parts: int, seed: int = 2) -> list[Part]:
    random = torch.Generator().manual_seed(seed)
    side = config.vision.resolution
    pixels = torch.randn(size, 3, side, side, generator=random, dtype=torch.float64)
    ids = torch.randint(1, 50, (size, 9), generator=random)
    ids[:, 6:] = 0
    # Some equal captions and images, and a text that the data set pairs with another image.
    texts = torch.arange(size) % (size - 2)
    images = torch.arange(size) // 2
    described = torch.stack([texts, (texts + 3) % size], dim=1)
    step = size // parts
    return [
        Part(
            pixels[i : i + step],
            ids[i : i + step],
            Pairs(images[i : i + step], texts[i : i + step], described[i : i + step]),
        )
        for i in range(0, size, step)
    ]


def gradients_of(model: ChineseClip) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_gradients(
    model: ChineseClip, parts: list[Part], duplicates: str
) -> tuple[float, dict[str, Any]]:
    """One pass of the whole batch through the towers, and one call of backward."""
    model.zero_grad()
    images, texts, scale = model(
        torch.cat([part.pixels for part in parts]), torch.cat([part.ids for part in parts])
    )
    pairs = Pairs(
        *(
            torch.cat([getattr(part.pairs, name) for part in parts])
            for name in ("images", "texts", "described")
        )
    )
    right = matches(pairs, pairs, 0)
    loss = contrastive_loss(images, texts, scale, right, duplicates=duplicates)
    loss.backward()
    return float(loss.detach()), gradients_of(model)


def stepper(model: ChineseClip, **more: Any) -> Stepper:
    return Stepper(model, ALONE, contextlib.nullcontext, **more)


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("duplicates", ["positive", "mask", "negative"])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulated_gradient_is_that_of_the_whole_batch(parts: int, duplicates: str) -> None:
    model = make_model(VIT)
    loss, expected = plain_gradients(model, make_parts(VIT, 8, 1), duplicates)
    model.zero_grad()
    found = stepper(model, duplicates=duplicates).gradients(make_parts(VIT, 8, parts))
    assert float(found) == pytest.approx(loss, abs=1e-12)
    assert_equal(gradients_of(model), expected)
    assert float(expected["logit_scale"]) != 0


def test_dropout_and_masked_patches_are_the_same_in_both_passes() -> None:
    """Against finite differences: the gradient is that of the returned loss."""
    model = make_model(VIT, dropout=0.3)
    model.visual.mask_ratio = 0.5
    parts = make_parts(VIT, 8, 4)

    def loss() -> float:
        torch.manual_seed(7)
        return float(stepper(model).gradients(parts))

    model.zero_grad()
    loss()
    found = gradients_of(model)
    for name in ("visual.proj", "bert.encoder.layer.1.output.dense.weight", "logit_scale"):
        parameter = dict(model.named_parameters())[name]
        place = (0,) * parameter.ndim
        delta = 1e-6
        parameter.data[place] += delta
        above = loss()
        parameter.data[place] -= 2 * delta
        below = loss()
        parameter.data[place] += delta
        assert float(found[name][place]) == pytest.approx((above - below) / (2 * delta), rel=1e-4)


def test_batch_norms_count_a_batch_once() -> None:
    whole, split = make_model(RESNET), make_model(RESNET)
    part = make_parts(RESNET, 8, 1)[0]
    whole(part.pixels, part.ids)
    stepper(split).gradients([part, part])
    twice = make_model(RESNET)
    twice(part.pixels, part.ids)
    twice(part.pixels, part.ids)
    mean = "visual.bn1.running_mean"
    torch.testing.assert_close(split.state_dict()[mean], twice.state_dict()[mean])
    assert int(split.visual.bn1.num_batches_tracked) == 2
    assert not torch.allclose(whole.state_dict()[mean], split.state_dict()[mean])


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-rn"])
def test_towers_embed_as_the_pipeline_does(name: str) -> None:
    checkpoint = read_checkpoint(GOLDEN / name)
    model = new_model(checkpoint.config).eval()
    halves = half_precision_names(model)
    model.load_weights(
        {n: w.half().float() if n in halves else w for n, w in checkpoint.weights.items()}
    )
    opened = pipeline(model=GOLDEN / name, device="cpu")
    images = sorted((GOLDEN / "cases" / "images").glob("rgb_*"))[:6]
    inputs = {"img": images, "text": ["猫", "一只戴眼镜的猫在沙发上睡觉", "a B c", ""]}
    arrays, answer = opened.preprocess(inputs), opened.forward(inputs)
    with torch.no_grad():
        found = model.encode_image(torch.from_numpy(arrays["img"]))
        words = model.encode_text(torch.from_numpy(arrays["text"]))
    np.testing.assert_allclose(found.numpy(), answer["img_embedding"], atol=2e-6)
    np.testing.assert_allclose(words.numpy(), answer["text_embedding"], atol=2e-6)
    assert model.state_dict().keys() == checkpoint.weights.keys()


def test_recomputed_activations_change_nothing() -> None:
    plain, recomputed = make_model(VIT), make_model(VIT)
    recomputed.recompute_activations()
    part = make_parts(VIT, 8, 1)
    stepper(plain).gradients(part)
    stepper(recomputed).gradients(part)
    assert_equal(gradients_of(recomputed), gradients_of(plain))


# --- The loss ------------------------------------------------------------------------------------


def slow_loss(
    images: Any,
    texts: Any,
    scale: float,
    pairs: list[tuple[int, int]],
    described: list[set[int]],
    duplicates: str,
) -> float:
    """The loss by its definition, in loops."""
    n = len(pairs)

    def belong(i: int, j: int) -> bool:
        if i == j:
            return True
        image, text = pairs[i][0] == pairs[j][0], pairs[i][1] == pairs[j][1]
        return image or text or pairs[j][1] in described[i]

    total = 0.0
    for rows, columns, swapped in ((images, texts, False), (texts, images, True)):
        for i in range(n):
            logits = [math.exp(scale) * float(rows[i] @ columns[j]) for j in range(n)]
            right = [belong(j, i) if swapped else belong(i, j) for j in range(n)]
            if duplicates == "negative":
                right = [i == j for j in range(n)]
            if duplicates == "mask":
                kept = [j for j in range(n) if j == i or not right[j]]
                right = [i == j for j in range(n)]
            else:
                kept = list(range(n))
            normalizer = math.log(sum(math.exp(logits[j]) for j in kept))
            answers = [j for j in range(n) if right[j]]
            total -= sum(logits[j] - normalizer for j in answers) / len(answers) / (2 * n)
    return total


@pytest.mark.parametrize("duplicates", ["positive", "mask", "negative"])
def test_loss_equals_a_slow_twin(duplicates: str) -> None:
    random = np.random.default_rng(5)
    pairs = [(1, 7), (1, 8), (2, 7), (3, 9), (4, 9), (5, 10), (6, 11)]
    described = [{7, 10}, {8}, {7}, {9, 11}, {9}, {10}, {11, 7}]
    rows = random.normal(size=(2, 7, 6))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    images, texts = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
    width = max(map(len, described))
    keys = Pairs(
        torch.tensor([p for p, _ in pairs]),
        torch.tensor([t for _, t in pairs]),
        torch.tensor(
            [(sorted(d) + [t] * width)[:width] for d, (_, t) in zip(described, pairs, strict=True)]
        ),
    )
    scale = torch.tensor(2.0, dtype=torch.float64)
    found = contrastive_loss(images, texts, scale, matches(keys, keys, 0), duplicates=duplicates)
    expected = slow_loss(rows[0], rows[1], 2.0, pairs, described, duplicates)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_equal_captions_are_not_negatives() -> None:
    """Two equal pairs have the lowest loss when their embeddings are equal."""
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), dim=-1)
    scale = torch.tensor(math.log(100.0))
    keys = Pairs(torch.tensor([1, 2, 3]), torch.tensor([5, 5, 6]), torch.tensor([[5], [5], [6]]))
    right = matches(keys, keys, 0)
    by_kind = {
        kind: float(contrastive_loss(rows, rows, scale, right, duplicates=kind))
        for kind in ("positive", "mask", "negative")
    }
    assert by_kind["mask"] == pytest.approx(0, abs=1e-6)
    # The target is shared by two: the loss is its entropy, the gradient 0.
    assert by_kind["positive"] == pytest.approx(2 / 3 * math.log(2), abs=1e-6)
    leaf = rows.clone().requires_grad_()
    contrastive_loss(leaf, rows, scale, right, duplicates="positive").backward()
    assert float(leaf.grad.abs().max()) < 1e-5
    leaf = rows.clone().requires_grad_()
    contrastive_loss(leaf, rows, scale, right, duplicates="negative").backward()
    assert by_kind["negative"] > 0.4


def test_distillation_loss_is_zero_for_equal_similarities_and_falls_in_training() -> None:
    torch.manual_seed(3)
    teacher = [torch.nn.functional.normalize(torch.randn(6, 20), dim=1) for _ in range(2)]
    scale = torch.tensor(2.0)
    assert float(distillation_loss(*teacher, scale, *teacher, scale)) == pytest.approx(0, abs=1e-6)
    student = [torch.randn(6, 5, requires_grad=True) for _ in range(2)]
    before = None
    for _ in range(200):
        rows = [torch.nn.functional.normalize(row, dim=1) for row in student]
        loss = distillation_loss(*rows, scale, *teacher, scale)
        before = before if before is not None else float(loss.detach())
        for row, gradient in zip(student, torch.autograd.grad(loss, student), strict=True):
            with torch.no_grad():
                row -= 0.5 * gradient
    assert float(loss.detach()) < before / 4


def test_a_teacher_pulls_the_student() -> None:
    part = make_parts(VIT, 8, 1)[0]
    part = Part(part.pixels, part.ids, part.pairs, (part.pixels, part.ids))
    model, taught = make_model(VIT), make_model(VIT, seed=9)

    def rows(one: Part) -> Any:
        assert one.teacher is not None
        with torch.no_grad():
            return taught(*one.teacher)

    plain = float(stepper(model).gradients([part]))
    with_teacher = float(stepper(model, teacher=Teacher(rows, 1.0)).gradients([part]))
    assert with_teacher > plain
    own = float(stepper(taught).gradients([part]))
    same = float(stepper(taught, teacher=Teacher(rows, 1.0)).gradients([part]))
    assert same == pytest.approx(own, abs=1e-9)


# --- Two processes -------------------------------------------------------------------------------

TWO_PROCESSES = """
import contextlib, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from cnclip.train.process import join_world
from cnclip.train.step import Stepper
from tests.train.test_train_step import VIT, make_model, make_parts, make_teacher

with join_world("cpu") as world:
    model = make_model(VIT)
    parts = make_parts(VIT, 8, 4)
    mine = parts[2 * world.rank : 2 * world.rank + 2]
    teacher = make_teacher() if sys.argv[2] == "taught" else None
    model_in_parallel = DistributedDataParallel(model)
    stepper = Stepper(model_in_parallel, world, contextlib.nullcontext, teacher=teacher)
    loss = stepper.gradients(mine)
    if world.is_first:
        torch.save([float(loss), {n: p.grad for n, p in model.named_parameters()}], sys.argv[1])
"""


def make_teacher() -> Teacher:
    """A teacher with random weights."""
    model = make_model(VIT, seed=9)

    def rows(part: Part) -> Any:
        with torch.no_grad():
            return model(part.pixels, part.ids)

    return Teacher(rows, 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "taught"])
def test_two_processes_have_the_gradient_of_the_whole_batch(how: str, tmp_path: Path) -> None:
    script, output = tmp_path / "two.py", tmp_path / "gradients.pt"
    script.write_text(TWO_PROCESSES)
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            "0",
            "--standalone",
            str(script),
            str(output),
            how,
        ],
        check=True,
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    loss, found = torch.load(output)
    model = make_model(VIT)
    if how == "alone":
        expected_loss, expected = plain_gradients(model, make_parts(VIT, 8, 1), "positive")
    else:
        one = stepper(model, teacher=make_teacher())
        expected_loss = float(one.gradients(make_parts(VIT, 8, 1)))
        expected = gradients_of(model)
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    assert_equal(found, expected)


# --- The optimizer -------------------------------------------------------------------------------


def test_no_decay_on_norms_biases_and_vectors() -> None:
    model = make_model(VIT)
    groups = make_optimizer(model, TrainOptions(wd=0.1)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2
        assert decay[id(parameter)] == (0.1 if is_matrix else 0.0), name
    assert not {"bert.embeddings.LayerNorm.weight", "logit_scale"} & {
        name for name, p in model.named_parameters() if decay[id(p)]
    }


def test_learning_rate_is_cn_clips() -> None:
    """`cosine_lr` of cn_clip: lr (step + 1) / warmup, then half a cosine."""
    options = TrainOptions(lr=2e-4, warmup=10)
    rates = [learning_rate(step, 100, options) for step in range(101)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[9] == rates[10] == pytest.approx(2e-4)
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)) * 2e-4)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate(99, 100, TrainOptions(skip_scheduler=True, lr=1e-3)) == 1e-3


def test_average_follows_the_weights() -> None:
    model = torch.nn.BatchNorm1d(3)
    average = AverageModel(model, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    average.add(model, 1000)
    torch.testing.assert_close(average.model.weight.detach(), torch.full((3,), 1.1))
    for step in range(1, 200):
        model.num_batches_tracked += 1
        average.add(model, step)
    torch.testing.assert_close(average.model.weight.detach(), torch.full((3,), 2.0))
    assert int(average.model.num_batches_tracked) == 199


def test_frozen_and_masked_towers() -> None:
    model = make_model(VIT)
    model.visual.requires_grad_(False)
    stepper(model).gradients(make_parts(VIT, 8, 2))
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names == {n for n, _ in model.named_parameters() if not n.startswith("visual.")}

    seen: list[int] = []
    masked = make_model(VIT)
    masked.visual.mask_ratio = 0.75
    masked.visual.transformer.register_forward_pre_hook(lambda m, x: seen.append(x[0].shape[1]))
    part = make_parts(VIT, 8, 1)[0]
    masked(part.pixels, part.ids)
    masked.eval()(part.pixels, part.ids)
    assert seen == [4 + 1, 16 + 1]
