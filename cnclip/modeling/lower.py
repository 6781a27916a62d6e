"""Lowers the model to the TorchScript graph of an archive, on the operators of the C core.

The graph computes what the plain modules compute, in another form:
- Rows of all items follow each other without padding, float [rows, width]; `starts`, int64
  [items + 1] on the CPU, has the first row of each item.
- `cnclip::linear` includes the norm before a linear layer and the activation and residual after it.
- Only the first row of an item leaves a tower, so the last layer computes queries for these only.

Tensors keep their types and the checkpoint's names. After an archive is loaded, the C core calls
`prepare(precision)` once, which replaces each tensor by the form in which it is used.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine import open_engine
from . import vit
from .bert import LAYER_NORM_EPSILON, Bert, Layer
from .clip import ChineseClip
from .resnet import AttentionPool, Bottleneck, ModifiedResNet
from .vit import VisionTransformer, checkpoint_name

OPERATORS = ("cnclip::attention", "cnclip::linear", "cnclip::pack_linear")


def lower(model: ChineseClip) -> torch.jit.ScriptModule:
    """The graph of a model: `encode_image`, `encode_text` and `prepare`.

    Args:
        model: The model, which must not be used afterwards: the graph takes its tensors.
    """
    open_engine()  # which registers torch.ops.cnclip
    sources = _prepare_sources(model)
    with torchscript():
        scripted: torch.jit.ScriptModule = torch.jit.script(LoweredClip(model).eval())
        modules: dict[str, Any] = dict(scripted.named_modules())
        for name, source in sources:
            # Layers of the same structure share a class, which may have the method already.
            if not hasattr(modules[name], "prepare"):
                # `define` resolves names such as `float32` in this module.
                modules[name].define(source)
    return scripted


@contextlib.contextmanager
def torchscript() -> Iterator[None]:
    """Silence torch's warnings that TorchScript is deprecated.

    They are DeprecationWarnings up to torch 2.13 and FutureWarnings in 2.14. An archive is
    TorchScript because libtorch loads it without Python, in a tenth of a second; a model that
    `torch.export` compiles is bound to the version of torch and to the machine.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit.* is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit.* is deprecated", FutureWarning)
        yield


# Operators


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: int,
    last: int,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    activation: str = "",
    residual: Tensor | None = None,
) -> Tensor:
    """Columns `first` to `last` of activation(norm(x) weight^T + bias) + residual.

    Args:
        x: float [rows, in].
        weight: [out, in], packed.
        bias: float [out].
        first: The first column.
        last: The column after the last one.
        norm_weight: float [in], of a layer normalisation with an epsilon of 1e-5.
        norm_bias: float [in], of the same normalisation.
        activation: `gelu`, `gelu_new`, `relu`, `swish`, `quick_gelu`, or nothing.
        residual: float [rows, last - first].

    Returns:
        float [rows, last - first]; bfloat16 if the next kernel takes that.
    """
    return torch.ops.cnclip.linear(
        x, weight, bias, first, last, norm_weight, norm_bias, 1e-5, activation, residual
    )


def self_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    heads: int,
    starts: Tensor,
    pooled: bool,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> Tensor:
    """Attention of rows to the rows of their item.

    Args:
        x: float [rows, width].
        weight: Query, key and value, [3 width, width], packed.
        bias: float [3 width].
        heads: Number of heads, which divides the width.
        starts: The first row of each item.
        pooled: Compute queries for each item's first row only.
        norm_weight: float [width], of a layer normalisation before the projection.
        norm_bias: float [width], of the same normalisation.

    Returns:
        float [rows, width], or [items, width] if pooled.
    """
    width = x.size(1)
    if not pooled:
        qkv = linear(x, weight, bias, 0, 3 * width, norm_weight, norm_bias)
        query, key, value = qkv.chunk(3, dim=1)
        return torch.ops.cnclip.attention(query, key, value, heads, starts, starts)
    query = linear(first_rows(x, starts), weight, bias, 0, width, norm_weight, norm_bias)
    kv = linear(x, weight, bias, width, 3 * width, norm_weight, norm_bias)
    query_starts = torch.arange(starts.size(0))
    key, value = kv.chunk(2, dim=1)
    return torch.ops.cnclip.attention(query, key, value, heads, query_starts, starts)


def first_rows(x: Tensor, starts: Tensor) -> Tensor:
    """The first row of each item."""
    return x.index_select(0, starts[:-1].to(x.device))


# Towers


class Tensors(nn.Module):
    """Tensors by their names, in submodules by the parts of the names; it has no forward."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if rest:
                groups.setdefault(first, {})[rest] = tensor
            else:
                setattr(self, name, nn.Parameter(tensor, requires_grad=False))
        for name, group in groups.items():
            setattr(self, name, Tensors(group))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class LoweredBlock(Tensors):
    """A `Block` of the vision transformer on the operators."""

    def __init__(self, block: vit.Block) -> None:
        super().__init__(block.state_dict())
        self.heads, self.width = block.attn.heads, block.attn.out_proj.out_features

    def forward(self, x: Tensor, starts: Tensor, pooled: bool) -> Tensor:
        """Float [rows, width] to the same shape, or to each item's first row if pooled."""
        attn, mlp, ln_1, ln_2, width = self.attn, self.mlp, self.ln_1, self.ln_2, self.width
        mixed = self_attention(
            x,
            attn.in_proj_weight,
            attn.in_proj_bias,
            self.heads,
            starts,
            pooled,
            ln_1.weight,
            ln_1.bias,
        )
        residual = first_rows(x, starts) if pooled else x
        out, up, down = attn.out_proj, mlp.c_fc, mlp.c_proj
        x = linear(mixed, out.weight, out.bias, 0, width, residual=residual)
        hidden = linear(x, up.weight, up.bias, 0, 4 * width, ln_2.weight, ln_2.bias, "quick_gelu")
        return linear(hidden, down.weight, down.bias, 0, width, residual=x)


class LoweredVisionTransformer(Tensors):
    """`VisionTransformer` on the operators."""

    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__(_without(tower.state_dict(), "transformer."))
        self.patch_size = int(tower.conv1.kernel_size[0])
        self.width, self.embed_dim = tower.conv1.out_channels, tower.proj.size(1)
        self.transformer = Tensors({})
        self.transformer.resblocks = nn.ModuleList(
            [LoweredBlock(block) for block in tower.transformer.resblocks]  # type: ignore[arg-type]
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim]."""
        n, size, width = pixels.size(0), self.patch_size, self.width
        # A convolution whose stride is its kernel is a linear layer of patches.
        patches = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
        rows = patches.flatten(3).flatten(0, 2)
        embedded = linear(rows, self.conv1.weight, None, 0, width).view(n, -1, width)
        cls = self.class_embedding.expand(n, 1, -1)
        x = torch.cat([cls, embedded.to(cls.dtype)], dim=1) + self.positional_embedding
        starts = torch.arange(n + 1) * x.size(1)
        x = F.layer_norm(x, [width], self.ln_pre.weight, self.ln_pre.bias, 1e-5).flatten(0, 1)
        for i, block in enumerate(self.transformer.resblocks):
            x = block(x, starts, i + 1 == len(self.transformer.resblocks))
        ln_post = self.ln_post
        return linear(x, self.proj, None, 0, self.embed_dim, ln_post.weight, ln_post.bias)


class LoweredAttentionPool(Tensors):
    """`AttentionPool` on the operators."""

    def __init__(self, pool: AttentionPool) -> None:
        super().__init__(pool.state_dict())
        self.heads = pool.heads
        self.width, self.embed_dim = pool.c_proj.in_features, pool.c_proj.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, width, side, side] to float [n, embed_dim]."""
        width, q, k, v, c = self.width, self.q_proj, self.k_proj, self.v_proj, self.c_proj
        positions = x.flatten(2).transpose(1, 2)
        mean = positions.mean(dim=1, keepdim=True)
        items = torch.cat([mean, positions], dim=1) + self.positional_embedding
        query = linear(items[:, 0], q.weight, q.bias, 0, width)
        rows = items.flatten(0, 1)
        query_starts = torch.arange(items.size(0) + 1)
        pooled = torch.ops.cnclip.attention(
            query,
            linear(rows, k.weight, k.bias, 0, width),
            linear(rows, v.weight, v.bias, 0, width),
            self.heads,
            query_starts,
            query_starts * items.size(1),
        )
        return linear(pooled, c.weight, c.bias, 0, self.embed_dim)


class LoweredLayer(Tensors):
    """A `Layer` of BERT on the operators."""

    def __init__(self, layer: Layer, activation: str) -> None:
        super().__init__(layer.state_dict())
        self.heads, self.activation = layer.attention.self.heads, activation
        self.width, self.inner = layer.output.dense.out_features, layer.output.dense.in_features
        self.epsilon = LAYER_NORM_EPSILON

    def forward(self, x: Tensor, starts: Tensor, pooled: bool) -> Tensor:
        """Float [rows, width] to the same shape, or to each text's first row if pooled."""
        # `prepare` puts all three projections into the query's tensors.
        qkv, out, width = self.attention.self.query, self.attention.output, self.width
        mixed = self_attention(x, qkv.weight, qkv.bias, self.heads, starts, pooled)
        residual = first_rows(x, starts) if pooled else x
        x = linear(mixed, out.dense.weight, out.dense.bias, 0, width, residual=residual)
        x = F.layer_norm(x, [width], out.LayerNorm.weight, out.LayerNorm.bias, self.epsilon)
        up, down = self.intermediate.dense, self.output
        hidden = linear(x, up.weight, up.bias, 0, self.inner, activation=self.activation)
        x = linear(hidden, down.dense.weight, down.dense.bias, 0, width, residual=x)
        return F.layer_norm(x, [width], down.LayerNorm.weight, down.LayerNorm.bias, self.epsilon)


class LoweredBert(Tensors):
    """`Bert` on the operators."""

    def __init__(self, tower: Bert) -> None:
        super().__init__(_without(tower.state_dict(), "encoder."))
        self.width, self.epsilon = tower.config.width, LAYER_NORM_EPSILON
        self.encoder = Tensors({})
        self.encoder.layer = nn.ModuleList(
            [LoweredLayer(layer, tower.config.activation) for layer in tower.encoder.layer]  # type: ignore[arg-type]
        )

    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        """Int64 [n, l] and bool [n, l] (False: padding) to float [n, width]."""
        ends = attended.sum(1).cumsum(0).cpu()
        starts = torch.cat([torch.zeros([1], dtype=torch.long), ends])
        places = attended.flatten().nonzero().flatten()
        e = self.embeddings
        words = F.embedding(ids.flatten().index_select(0, places), e.word_embeddings.weight)
        positions = F.embedding(places % ids.size(1), e.position_embeddings.weight)
        segment = e.token_type_embeddings.weight[0]
        # Only the rows in use are converted: the tables stay as they are stored.
        dtype = e.LayerNorm.weight.dtype
        x = words.to(dtype) + positions.to(dtype) + segment.to(dtype)
        x = F.layer_norm(x, [self.width], e.LayerNorm.weight, e.LayerNorm.bias, self.epsilon)
        for i, layer in enumerate(self.encoder.layer):
            x = layer(x, starts, i + 1 == len(self.encoder.layer))
        return x


def _without(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


class LoweredClip(nn.Module):
    """`ChineseClip` on the operators."""

    def __init__(self, model: ChineseClip) -> None:
        super().__init__()
        self.pad_id = model.config.pad_id
        visual: nn.Module = model.visual
        if isinstance(visual, ModifiedResNet):  # its convolutions are torch's in the archive too
            assert isinstance(visual.attnpool, AttentionPool)
            visual.attnpool = LoweredAttentionPool(visual.attnpool)
        if isinstance(visual, VisionTransformer):
            visual = LoweredVisionTransformer(visual)
        self.visual = visual
        self.bert = LoweredBert(model.bert)
        self.text_projection, self.embed_dim = model.text_projection, model.config.embed_dim
        self.logit_scale = model.logit_scale

    @torch.jit.export
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [n, 3, r, r], to unit rows, float [n, embed_dim]."""
        x = self.visual(pixels)
        return x / x.norm(p=2, dim=-1, keepdim=True)

    @torch.jit.export
    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to unit rows, float [n, embed_dim].

        Padding is left out; the first column never is.
        """
        attended = ids.ne(self.pad_id)
        attended[:, 0] = True
        x = linear(self.bert(ids, attended), self.text_projection, None, 0, self.embed_dim)
        return x / x.norm(p=2, dim=-1, keepdim=True)


# `prepare`

PACK = "torch.ops.cnclip.pack_linear"


def float32(x: Tensor | None) -> Tensor:
    """A tensor as float32."""
    assert x is not None  # BatchNorm2d's statistics are optional to TorchScript
    return x.float()


# Modules that get a method `prepare`.
_PREPARED = (VisionTransformer, vit.Block, ModifiedResNet, Bottleneck, AttentionPool, Bert, Layer)


def _prepare_sources(model: ChineseClip) -> list[tuple[str, str]]:
    """The names of the modules that get a method `prepare`, with its code; the model comes last."""
    units = [name for name, m in model.named_modules() if isinstance(m, _PREPARED)]
    return [(name, _prepare_source(model.get_submodule(name))) for name in [*reversed(units), ""]]


def _prepare_source(unit: nn.Module) -> str:
    """The code of a module's `prepare`: one line per tensor or inner module, in their order."""
    modules = dict(unit.named_modules())
    inner = [name for name, m in modules.items() if isinstance(m, _PREPARED) and name]
    linears = {
        checkpoint_name(f"{name}.weight") for name, m in modules.items() if isinstance(m, nn.Linear)
    }
    unchanged = {f"{name}.weight" for name, m in modules.items() if isinstance(m, nn.Embedding)}
    lines = ["def prepare(self, precision: str) -> None:"]
    for name in unit.state_dict():
        place = _attribute(name)
        owner = next((one for one in inner if name.startswith(one + ".")), None)
        if owner is not None:
            line = f"{_attribute(owner)}.prepare(precision)"
            if line != lines[-1].strip():
                lines.append(f"    {line}")
            continue
        if name in unchanged or name.endswith(("num_batches_tracked", "logit_scale")):
            continue
        if ".self.query." in name:
            parts = [place.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            value = f"torch.cat([{', '.join(parts)}])"
            value = f"{PACK}({value}, precision)" if name in linears else f"float32({value})"
        elif ".self.key." in name or ".self.value." in name:
            value = "torch.empty(0)"
        elif name == "conv1.weight" and isinstance(unit, VisionTransformer):
            value = f"{PACK}({place}.flatten(1), precision)"
        # The last layers have one row per item, and stay in fp32.
        elif name == "c_proj.weight" and isinstance(unit, AttentionPool):
            value = f"{PACK}({place}, 'fp32')"
        elif name in ("proj", "text_projection"):  # [width, embed_dim]
            value = f"{PACK}({place}.t().contiguous(), 'fp32')"
        elif name in linears:
            value = f"{PACK}({place}, precision)"
        else:
            value = f"float32({place})"
        lines.append(f"    {place} = {value}")
    return "\n".join(lines) + "\n"


def _attribute(name: str) -> str:
    """The expression of a tensor or module, such as `self.encoder.layer[0].output`."""
    return "self" + "".join(f"[{p}]" if p.isdecimal() else f".{p}" for p in name.split("."))
