"""The `.pt` files of cn_clip, published or of a training: weights without a configuration.

Sizes are those of the tensors. The width of an attention head cannot be read from a tensor: it is
that of the published model of the same sizes, or 64 columns if that is the only usual width that
fits. The names that cn_clip uses with flash attention are mapped to its other names.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ..archive import MAX_RESOLUTION
from ..errors import CheckpointError
from ..modeling.config import ClipConfig, TextConfig, VisionConfig
from .checkpoint import Checkpoint, Hints, Weights
from .config_file import MAX_LAYERS, MAX_SIZE
from .files import CheckpointFiles
from .modelscope import used_tensors, write_weights
from .published_sizes import PUBLISHED_SIZES
from .tensors import by_name, read_tensors
from .vocabulary import PUBLISHED_VOCABULARY, tokenizer_of

logger = logging.getLogger("cnclip")

_USUAL_HEAD_WIDTHS = (64, 80)

_FUSED = re.compile(r"(bert\.encoder\.layer\.\d+\.attention)\.self\.(Wqkv|out_proj)\.(\w+)")


def read_cn_clip(found: CheckpointFiles, hints: Hints | None = None) -> Checkpoint:
    """Read a `.pt` file of cn_clip.

    Raises:
        CheckpointError: it is damaged, or not Chinese-CLIP, or it needs `hints` that are missing.
        VocabularyError: the vocabulary cannot be used.
    """
    hints = hints or Hints()
    vocabulary = hints.vocabulary
    if vocabulary is None:
        vocabulary = PUBLISHED_VOCABULARY.read_bytes()
    tokenizer = tokenizer_of(vocabulary, found.path)
    named = plain_names(found.path, read_tensors(found.weights))
    weights = used_tensors(by_name(found.path, named))
    if "text_model.embeddings.word_embeddings.weight" in weights:
        raise CheckpointError(
            "it has the tensors of Hugging Face's ChineseCLIPModel without their config.json; save "
            "them with save_pretrained(), and pass the folder",
            file=found.path,
        )
    config = _Shapes(found.path, weights).config(tokenizer.pad_id, hints)
    if config.text.vocab_size != tokenizer.size:
        raise CheckpointError(
            f"the word embedding has {config.text.vocab_size} rows, the vocabulary "
            f"{tokenizer.size} entries; pass the model's vocab.txt with --vocabulary",
            file=found.path,
        )
    return Checkpoint(config, weights, vocabulary, rounds_to_half=True)


def plain_names(
    path: Path | None, weights: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights by their names without flash attention."""
    for name, value in weights.items():
        match = _FUSED.fullmatch(name)
        if match is None:
            yield re.sub(r"\.attn\.Wqkv\.(weight|bias)$", r".attn.in_proj_\1", name), value
        elif match[2] == "out_proj":
            yield f"{match[1]}.output.dense.{match[3]}", value
        elif value.ndim == 0 or len(value) % 3:
            raise CheckpointError(
                f"{name} of shape {list(value.shape)}, expected as many rows for queries, "
                "keys and values",
                file=path,
            )
        else:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                yield f"{match[1]}.self.{part}.{match[3]}", rows


class _Shapes:
    """Derives the sizes of the towers from the shapes of the tensors."""

    def __init__(self, path: Path | None, weights: Weights) -> None:
        self.path = path
        self.weights = weights

    def of(self, name: str, dimensions: int) -> Sequence[int]:
        """A tensor's shape."""
        if name not in self.weights:
            raise CheckpointError(f"not a Chinese-CLIP: it has no tensor {name}", file=self.path)
        shape = tuple(self.weights[name].shape)
        if len(shape) != dimensions or not all(1 <= size <= MAX_SIZE for size in shape):
            raise CheckpointError(
                f"{name} of shape {list(shape)}, expected {dimensions} dimensions of "
                f"1 to {MAX_SIZE}",
                file=self.path,
            )
        return shape

    def count(self, prefix: str) -> int:
        """The count of different numbers that follow a prefix in the names."""
        length = len(prefix)
        found = {
            name[length:].partition(".")[0] for name in self.weights if name.startswith(prefix)
        }
        if not 1 <= len(found) <= MAX_LAYERS:
            raise CheckpointError(
                f"{len(found)} layers {prefix}N, expected 1 to {MAX_LAYERS}", file=self.path
            )
        return len(found)

    def side(self, name: str) -> int:
        """The side of a position embedding's grid; the embedding has one row more for [CLS]."""
        rows = self.of(name, 2)[0] - 1
        if rows < 1 or math.isqrt(rows) ** 2 != rows:
            raise CheckpointError(
                f"{name} has {rows + 1} rows, expected a square plus one", file=self.path
            )
        return math.isqrt(rows)

    def config(self, pad_id: int, hints: Hints) -> ClipConfig:
        """The configuration that these tensors belong to."""
        is_vit = "visual.class_embedding" in self.weights
        vision = self._vit() if is_vit else self._resnet()
        text_width, embed_dim = self.of("text_projection", 2)
        text_head_width = self._head_width("text", text_width, None, hints.text_head_width)
        known = {
            (one.vision.layers, one.vision.width): one.vision.head_width
            for one in PUBLISHED_SIZES.values()
        }.get((vision.layers, vision.width))
        head_width = self._head_width(
            "vision", vision.feature_width, known, hints.vision_head_width
        )
        return ClipConfig(
            embed_dim,
            dataclasses.replace(vision, head_width=head_width),
            self._text(text_width, text_width // text_head_width),
            pad_id,
        )

    def _vit(self) -> VisionConfig:
        width, _, patch_size, _ = self.of("visual.conv1.weight", 4)
        resolution = self._resolution(patch_size, self.side("visual.positional_embedding"))
        layers = self.count("visual.transformer.resblocks.")
        return VisionConfig(resolution, layers, width, patch_size)

    def _resnet(self) -> VisionConfig:
        width = self.of("visual.conv3.weight", 4)[0]
        resolution = self._resolution(32, self.side("visual.attnpool.positional_embedding"))
        one, two, three, four = (self.count(f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
        return VisionConfig(resolution, (one, two, three, four), width, None)

    def _resolution(self, patch_size: int, side: int) -> int:
        if patch_size * side > MAX_RESOLUTION:
            raise CheckpointError(
                f"images of {patch_size * side} pixels per side, expected at most {MAX_RESOLUTION}",
                file=self.path,
            )
        return patch_size * side

    def _text(self, width: int, heads: int) -> TextConfig:
        embeddings = "bert.embeddings."
        return TextConfig(
            vocab_size=self.of(embeddings + "word_embeddings.weight", 2)[0],
            width=width,
            layers=self.count("bert.encoder.layer."),
            heads=heads,
            intermediate_width=self.of("bert.encoder.layer.0.intermediate.dense.weight", 2)[0],
            max_positions=self.of(embeddings + "position_embeddings.weight", 2)[0],
            type_vocab_size=self.of(embeddings + "token_type_embeddings.weight", 2)[0],
        )

    def _head_width(self, tower: str, width: int, known: int | None, hint: int | None) -> int:
        """Columns of one attention head: the hint, the known, or the only usual width that fits."""
        chosen = hint or known
        candidates = [chosen] if chosen else list(_USUAL_HEAD_WIDTHS)
        fitting = [one for one in candidates if width % one == 0]
        if len(fitting) == 1:
            return fitting[0]
        raise CheckpointError(
            f"the file does not record the width of an attention head in the {tower} "
            f"tower's {width} columns; pass --{tower}-head-width to cnclip convert",
            file=self.path,
        )


def write_cn_clip(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint to a file that `cn_clip.clip.load_from_name` and its training open.

    Raises:
        CheckpointError: cn_clip's format cannot store this checkpoint.
        OSError: the file cannot be written.
    """
    checkpoint.check_normalisation("cn_clip")
    options = _options_to_read(checkpoint)
    if options:
        logger.warning(
            "the file does not record all sizes; pass %s to cnclip convert", " ".join(options)
        )
    if not checkpoint.has_usual_context_length:
        logger.warning(
            "the file does not record that texts are cut at %d ids: readers cut them at %d",
            checkpoint.context_length,
            checkpoint.usual_context_length,
        )
    write_weights(checkpoint, path, epoch=0, step=0, name="cnclip")


def _options_to_read(checkpoint: Checkpoint) -> list[str]:
    """The options with which `cnclip convert` reads the same model from the written file.

    Raises:
        CheckpointError: no options lead to the same model.
    """
    config, shapes = checkpoint.config, _Shapes(None, checkpoint.weights)
    vision_head_width = config.vision.feature_width // config.vision.heads
    text_head_width = config.text.width // config.text.heads
    config = dataclasses.replace(
        config, vision=dataclasses.replace(config.vision, head_width=vision_head_width)
    )
    found = shapes.config(config.pad_id, Hints(vision_head_width, text_head_width))
    for tower in ("vision", "text"):
        stored, read = (dataclasses.asdict(getattr(one, tower)) for one in (config, found))
        for key in stored:
            if stored[key] != read[key]:
                raise CheckpointError(
                    f"cn_clip's format cannot store the {tower} tower's {key}: {stored[key]!r} "
                    f"would be read as {read[key]!r}"
                )
    options = []
    try:
        plain = shapes.config(config.pad_id, Hints())
    except CheckpointError:
        plain = None
    if plain != config:
        options = [
            f"--vision-head-width {vision_head_width}",
            f"--text-head-width {text_head_width}",
        ]
    if checkpoint.vocabulary != PUBLISHED_VOCABULARY.read_bytes():
        options.append("--vocabulary FILE")
    return options
