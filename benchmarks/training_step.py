"""A training step compared with cn_clip's loop, with the same model and batches.

    pip install --no-deps cn_clip && pip install six
    python benchmarks/training_step.py [--device cuda:0] [--model small|ViT-B-16] [--batch N]
        [--accum N] [--precision fp32|bf16|fp16] [--checkpointing] [--compile] [--steps N]
        [--rounds N]

Each round runs each side once, in turns, in a separate process. The medians of seconds per step,
without the first three steps, and the peak memory (on a GPU, torch's) are printed. Texts have 6 to
21 tokens; cn_clip pads them to 52. cn_clip's loop is written for GPUs: on a CPU `.cuda()` returns
the same tensor. It computes in fp32 or fp16, by autocast. torchvision, which it imports only for
preprocessing, is not needed. Dropout is off. For a GPU, batches are in page-locked memory, as those
of a loader.
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
SMALL = (256, VISION, TEXT)
CONTEXT = 52
WARM_UP = 3


def sizes(model: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The width of the embeddings, and the sizes of the towers."""
    if model == "small":
        return SMALL
    from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES

    config = PUBLISHED_SIZES[model]
    vision = {name: getattr(config.vision, name) for name in VISION}
    text = {name: getattr(config.text, name) for name in TEXT}
    return config.embed_dim, vision, text


def batches(options: argparse.Namespace) -> list[Any]:
    """Return pixels and token ids for each part of a step."""
    import torch

    random = torch.Generator().manual_seed(0)
    side = sizes(options.model)[1]["resolution"]
    made = []
    for _ in range(options.accum):
        ids = torch.zeros(options.batch, CONTEXT, dtype=torch.long)
        for row in ids:
            length = int(torch.randint(4, 20, (), generator=random))
            row[0], row[length + 1] = 101, 102
            row[1 : length + 1] = torch.randint(1000, 8000, (length,), generator=random)
        pixels = torch.randn(options.batch, 3, side, side, generator=random)
        on_gpu = options.device != "cpu"
        made.append((pixels.pin_memory(), ids.pin_memory()) if on_gpu else (pixels, ids))
    return made


def now(options: argparse.Namespace) -> float:
    """The time, when everything before is computed."""
    if options.device != "cpu":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def cnclip_seconds(options: argparse.Namespace) -> list[float]:
    import torch

    from cnclip.modeling.clip import MAX_LOGIT_SCALE
    from cnclip.modeling.config import ClipConfig, TextConfig, VisionConfig
    from cnclip.train.loss import Pairs
    from cnclip.train.model import make_optimizer, new_model
    from cnclip.train.options import TrainOptions
    from cnclip.train.process import World
    from cnclip.train.step import Part, Stepper

    def autocast() -> contextlib.AbstractContextManager[None]:
        if options.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float16
        return torch.autocast(device.type, dtype)

    device = torch.device(options.device)
    embed_dim, vision, text = sizes(options.model)
    model = new_model(ClipConfig(embed_dim, VisionConfig(**vision), TextConfig(**text)))
    model.initialize()
    model.train().to(device)
    if options.checkpointing:
        model.recompute_activations()
    optimizer = make_optimizer(model, TrainOptions())
    scaler = torch.amp.GradScaler("cuda", enabled=options.precision == "fp16")
    wrapped = torch.compile(model) if options.compile else model
    stepper = Stepper(wrapped, World(0, 1, device), autocast)
    seconds = []
    made = batches(options)
    for step in range(options.steps):
        begin = now(options)
        parts = []
        for pixels, ids in made:
            ids = ids[:, : int((ids != 0).sum(1).max())].contiguous()  # as the loader cuts them
            keys = torch.arange(options.batch) + step * options.batch
            parts.append(Part(pixels, ids, Pairs(keys, keys, keys[:, None])).to(device))
        optimizer.zero_grad(set_to_none=True)
        stepper.gradients(parts, float(scaler.scale(torch.ones((), device=device))))
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        seconds.append(now(options) - begin)
    return seconds


def cn_clip_seconds(options: argparse.Namespace) -> list[float]:
    import torch

    if options.precision == "bf16" or options.compile:
        sys.exit("cn_clip has neither bf16 nor torch.compile")
    on_gpu = options.device != "cpu"
    embed_dim, vision, text = sizes(options.model)
    accum, steps, batch = options.accum, options.steps, options.batch

    for name in ("torchvision", "torchvision.transforms"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("Compose", "ToTensor", "Normalize", "Resize", "InterpolationMode"):
        setattr(sys.modules["torchvision.transforms"], name, None)
    if not on_gpu:
        torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
        torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    from cn_clip.clip.model import CLIP
    from cn_clip.training.train import train

    model = CLIP(
        embed_dim,
        vision["resolution"],
        vision["layers"],
        vision["width"],
        vision["patch_size"],
        text["vocab_size"],
        0.0,
        "gelu",
        0.0,
        text["width"],
        0.02,
        text["intermediate_width"],
        text["max_positions"],
        text["heads"],
        text["layers"],
        text["type_vocab_size"],
    )
    if options.checkpointing:
        model.set_grad_checkpointing()
    if on_gpu:
        model.cuda()
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
    made = batches(options)

    class Loader:
        num_batches = steps * accum
        num_samples = num_batches * batch

        def __iter__(self) -> Any:
            for index in range(self.num_batches):
                if index % accum == 0:
                    times.append(now(options))
                pixels, ids = made[index % accum]
                yield pixels, ids, torch.zeros(batch, dtype=torch.long)

    arguments = types.SimpleNamespace(
        rank=1,
        local_device_rank=0,
        world_size=1,
        freeze_vision=False,
        accum_freq=accum,
        max_steps=10**9,
        precision="amp" if options.precision == "fp16" else "fp32",
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

    scaler = torch.amp.GradScaler("cuda") if options.precision == "fp16" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(Wrapped(), data, 0, optimizer, scaler, lambda step: None, arguments, 0)
    times.append(now(options))
    return [end - begin for begin, end in itertools.pairwise(times)]


def peak_bytes(options: argparse.Namespace) -> int:
    """The peak memory of this process, on a GPU that of torch's tensors there."""
    if options.device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) << 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    parser.add_argument("--model", default="small", help="small (default) or a published size")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--compile", action="store_true", help="torch.compile, of cnclip's model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--accum", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("cnclip", "cn_clip"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = cnclip_seconds if options.side == "cnclip" else cn_clip_seconds
        seconds = run(options)[WARM_UP:]
        print(json.dumps({"seconds": statistics.median(seconds), "bytes": peak_bytes(options)}))
        return
    sides = ["cnclip"] + (["cn_clip"] if util.find_spec("cn_clip") else [])
    if options.precision == "bf16" or options.compile:
        sides = ["cnclip"]
    samples: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, *sys.argv[1:]],
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
        speed = options.batch * options.accum / values["seconds"]
        print(
            f"{side:8} {values['seconds'] * 1e3:8.1f} ms, {speed:.0f} pairs/s, "
            f"{values['bytes'] / 1e6:.0f} MB{ratios}"
        )


if __name__ == "__main__":
    main()
