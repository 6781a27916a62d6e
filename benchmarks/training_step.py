"""A training step compared with cn_clip's loop, with the same small model and batches.

    pip install --no-deps cn_clip && pip install six
    python benchmarks/training_step.py [--batch N] [--accum N] [--steps N] [--rounds N]

Each round runs each side once, in turns, in a separate process. The medians of seconds per step,
without the first three steps, and the peak memory are printed. Texts have 6 to 21 tokens; cn_clip
pads them to 52. cn_clip's loop is written for GPUs: here `.cuda()` returns the same tensor.
torchvision, which it imports only for preprocessing, is not needed. Dropout is off.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
import types
import warnings
from importlib import util
from pathlib import Path
from typing import Any

VISION = {"resolution": 224, "layers": 6, "width": 384, "patch_size": 16}
TEXT = {
    "vocab_size": 21128,
    "width": 384,
    "layers": 4,
    "heads": 6,
    "intermediate_width": 1536,
    "max_positions": 512,
    "type_vocab_size": 2,
}
EMBED_DIM, CONTEXT = 256, 52
WARM_UP = 3


def batches(batch: int, count: int) -> list[Any]:
    """Return pixels and token ids for each part of a step."""
    import torch

    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        ids = torch.zeros(batch, CONTEXT, dtype=torch.long)
        for row in ids:
            length = int(torch.randint(4, 20, (), generator=random))
            row[0], row[length + 1] = 101, 102
            row[1 : length + 1] = torch.randint(1000, 8000, (length,), generator=random)
        made.append((torch.randn(batch, 3, 224, 224, generator=random), ids))
    return made


def cnclip_seconds(batch: int, accum: int, steps: int) -> list[float]:
    import torch

    from cnclip.modeling.clip import MAX_LOGIT_SCALE
    from cnclip.modeling.config import ClipConfig, TextConfig, VisionConfig
    from cnclip.train.loss import Pairs
    from cnclip.train.model import make_optimizer, new_model
    from cnclip.train.options import TrainOptions
    from cnclip.train.process import World
    from cnclip.train.step import Part, Stepper

    model = new_model(ClipConfig(EMBED_DIM, VisionConfig(**VISION), TextConfig(**TEXT)))
    model.initialize()
    model.train()
    optimizer = make_optimizer(model, TrainOptions())
    stepper = Stepper(model, World(0, 1, torch.device("cpu")), contextlib.nullcontext)
    seconds = []
    made = batches(batch, accum)
    for step in range(steps):
        begin = time.perf_counter()
        parts = []
        for pixels, ids in made:
            ids = ids[:, : int((ids != 0).sum(1).max())].contiguous()  # as the loader cuts them
            keys = torch.arange(batch) + step * batch
            parts.append(Part(pixels, ids, Pairs(keys, keys, keys[:, None])))
        optimizer.zero_grad(set_to_none=True)
        stepper.gradients(parts)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        seconds.append(time.perf_counter() - begin)
    return seconds


def cn_clip_seconds(batch: int, accum: int, steps: int) -> list[float]:
    import torch

    for name in ("torchvision", "torchvision.transforms"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("Compose", "ToTensor", "Normalize", "Resize", "InterpolationMode"):
        setattr(sys.modules["torchvision.transforms"], name, None)
    torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    from cn_clip.clip.model import CLIP
    from cn_clip.training.train import train

    model = CLIP(
        EMBED_DIM,
        VISION["resolution"],
        VISION["layers"],
        VISION["width"],
        VISION["patch_size"],
        TEXT["vocab_size"],
        0.0,
        "gelu",
        0.0,
        TEXT["width"],
        0.02,
        TEXT["intermediate_width"],
        TEXT["max_positions"],
        TEXT["heads"],
        TEXT["layers"],
        TEXT["type_vocab_size"],
    )
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    vectors = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=5e-5,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.001,
    )
    times: list[float] = []
    made = batches(batch, accum)

    class Loader:
        num_batches = steps * accum
        num_samples = num_batches * batch

        def __iter__(self) -> Any:
            for index in range(self.num_batches):
                if index % accum == 0:
                    times.append(time.perf_counter())
                pixels, ids = made[index % accum]
                yield pixels, ids, torch.zeros(batch, dtype=torch.long)

    arguments = types.SimpleNamespace(
        rank=1,
        local_device_rank=0,
        world_size=1,
        freeze_vision=False,
        accum_freq=accum,
        max_steps=10**9,
        precision="fp32",
        distillation=False,
        aggregate=False,
        mask_ratio=0,
        report_training_batch_acc=False,
        val_data=None,
        valid_step_interval=None,
        should_save=False,
        log_interval=10**9,
        vision_model="ViT-B-16",
    )
    data = {"train": types.SimpleNamespace(dataloader=Loader(), sampler=None)}

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, *arguments: Any) -> Any:
            return self.module(*arguments)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(Wrapped(), data, 0, optimizer, None, lambda step: None, arguments, 0)
    times.append(time.perf_counter())
    return [end - begin for begin, end in itertools.pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--accum", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("cnclip", "cn_clip"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = cnclip_seconds if options.side == "cnclip" else cn_clip_seconds
        seconds = run(options.batch, options.accum, options.steps)[WARM_UP:]
        status = Path("/proc/self/status").read_text().split()
        peak = int(status[status.index("VmHWM:") + 1]) << 10
        print(json.dumps({"seconds": statistics.median(seconds), "bytes": peak}))
        return
    sides = ["cnclip"] + (["cn_clip"] if util.find_spec("cn_clip") else [])
    samples: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            flags = [f"--{name}={getattr(options, name)}" for name in ("batch", "accum", "steps")]
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, *flags],
                check=True,
                stdout=subprocess.PIPE,
            )
            samples[side].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        side: {name: statistics.median(s[name] for s in some) for name in ("seconds", "bytes")}
        for side, some in samples.items()
    }
    own = medians["cnclip"]
    for side, values in medians.items():
        ratios = (
            f"  {values['seconds'] / own['seconds']:.2f}x time, "
            f"{values['bytes'] / own['bytes']:.2f}x memory"
            if side != "cnclip"
            else ""
        )
        print(f"{side:8} {values['seconds'] * 1e3:8.0f} ms, {values['bytes'] / 1e6:.0f} MB{ratios}")


if __name__ == "__main__":
    main()
