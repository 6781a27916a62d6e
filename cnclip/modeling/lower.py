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

import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _core
from .bert import LAYER_NORM_EPSILON, Bert
from .clip import ChineseClip
from .resnet import AttentionPool, ModifiedResNet
from .vit import VisionTransformer, checkpoint_name

assert _core  # its import registers torch.ops.cnclip


def lower(model: ChineseClip) -> torch.jit.ScriptModule:
    """The graph of a model: `encode_image`, `encode_text` and `prepare`.

    Args:
        model: The model, which must not be used afterwards: the graph takes its tensors.
    """
    source = _prepare_source(model)  # `define` finds the functions that it calls in this module
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated", DeprecationWarning)
        scripted: torch.jit.ScriptModule = torch.jit.script(LoweredClip(model).eval())
        # Modules of the same structure share a class, which may have the method already.
        if not hasattr(scripted, "prepare"):
            scripted.define(source)
    return scripted


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
        x: Float [rows, in].
        weight: [out, in], packed.
        bias: Float [out].
        first: The first column.
        last: The column after the last one.
        norm_weight: Float [in], of a layer normalisation with an epsilon of 1e-5.
        norm_bias: Float [in], of the same normalisation.
        activation: `gelu`, `gelu_new`, `relu`, `swish`, `quick_gelu`, or nothing.
        residual: Float [rows, last - first].

    Returns:
        Float [rows, last - first]; bfloat16 if the next kernel takes that.
    """
    out: Tensor = torch.ops.cnclip.linear(
        x, weight, bias, first, last, norm_weight, norm_bias, 1e-5, activation, residual
    )
    return out


def attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, query_starts: Tensor, key_starts: Tensor
) -> Tensor:
    """Attention of float [queries, width] to float [keys, width], each item within itself."""
    out: Tensor = torch.ops.cnclip.attention(query, key, value, heads, query_starts, key_starts)
    return out


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
        x: Float [rows, width].
        weight: Query, key and value, [3 width, width], packed.
        bias: Float [3 width].
        heads: Number of heads, which divides the width.
        starts: The first row of each item.
        pooled: Compute queries for each item's first row only.
        norm_weight: Float [width], of a layer normalisation before the projection.
        norm_bias: Float [width], of the same normalisation.

    Returns:
        Float [rows, width], or [items, width] if pooled.
    """
    width = x.size(1)
    if not pooled:
        all3 = linear(x, weight, bias, 0, 3 * width, norm_weight, norm_bias)
        return attention(
            all3[:, :width], all3[:, width : 2 * width], all3[:, 2 * width :], heads, starts, starts
        )
    query = linear(first_rows(x, starts), weight, bias, 0, width, norm_weight, norm_bias)
    both = linear(x, weight, bias, width, 3 * width, norm_weight, norm_bias)
    ones = torch.arange(starts.size(0))
    return attention(query, both[:, :width], both[:, width:], heads, ones, starts)


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
            tensors = Tensors(group)
            # The numbered parts of a list become a list again.
            numbered = all(part.isdecimal() for part in tensors._modules)
            parts = list(tensors.children())
            setattr(self, name, nn.ModuleList(parts) if parts and numbered else tensors)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class LoweredVisionTransformer(Tensors):
    """`VisionTransformer` on the operators."""

    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__(tower.state_dict())
        self.patch_size = int(tower.conv1.kernel_size[0])
        self.width = tower.conv1.out_channels
        self.heads = int(tower.transformer.resblocks[0].attn.heads)  # type: ignore[union-attr,arg-type]

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
            pooled = i + 1 == len(self.transformer.resblocks)
            attn, mlp, ln_1, ln_2 = block.attn, block.mlp, block.ln_1, block.ln_2
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
            out = attn.out_proj
            x = linear(mixed, out.weight, out.bias, 0, width, residual=residual)
            hidden = linear(
                x,
                mlp.c_fc.weight,
                mlp.c_fc.bias,
                0,
                4 * width,
                ln_2.weight,
                ln_2.bias,
                "quick_gelu",
            )
            x = linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias, 0, width, residual=x)
        x = F.layer_norm(x, [width], self.ln_post.weight, self.ln_post.bias, 1e-5)
        out_rows: Tensor = x @ self.proj
        return out_rows


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
        ones = torch.arange(items.size(0) + 1)
        pooled = attention(
            query,
            linear(rows, k.weight, k.bias, 0, width),
            linear(rows, v.weight, v.bias, 0, width),
            self.heads,
            ones,
            ones * items.size(1),
        )
        return linear(pooled, c.weight, c.bias, 0, self.embed_dim)


class LoweredBert(Tensors):
    """`Bert` on the operators."""

    def __init__(self, tower: Bert) -> None:
        super().__init__(tower.state_dict())
        config = tower.config
        self.width, self.inner, self.heads = config.width, config.intermediate_width, config.heads
        self.activation, self.epsilon = config.activation, LAYER_NORM_EPSILON

    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        """Int64 [n, l] and bool [n, l] (False: padding) to float [n, width]."""
        width, e = self.width, self.embeddings
        ends = attended.sum(1).cumsum(0).cpu()
        starts = torch.cat([torch.zeros([1], dtype=torch.long), ends])
        places = attended.flatten().nonzero().flatten()
        words = F.embedding(ids.flatten().index_select(0, places), e.word_embeddings.weight)
        positions = F.embedding(places % ids.size(1), e.position_embeddings.weight)
        segment = e.token_type_embeddings.weight[0]
        # Only the rows in use are converted: the tables stay as they are stored.
        dtype = e.LayerNorm.weight.dtype
        x = words.to(dtype) + positions.to(dtype)
        x = self.norm(x + segment.to(dtype), e.LayerNorm.weight, e.LayerNorm.bias)
        for i, layer in enumerate(self.encoder.layer):
            pooled = i + 1 == len(self.encoder.layer)
            # `prepare` puts all three projections into the query's tensors.
            qkv = layer.attention.self.query
            mixed = self_attention(x, qkv.weight, qkv.bias, self.heads, starts, pooled)
            residual = first_rows(x, starts) if pooled else x
            out = layer.attention.output
            x = linear(mixed, out.dense.weight, out.dense.bias, 0, width, residual=residual)
            x = self.norm(x, out.LayerNorm.weight, out.LayerNorm.bias)
            up, down = layer.intermediate.dense, layer.output
            hidden = linear(x, up.weight, up.bias, 0, self.inner, activation=self.activation)
            x = linear(hidden, down.dense.weight, down.dense.bias, 0, width, residual=x)
            x = self.norm(x, down.LayerNorm.weight, down.LayerNorm.bias)
        return x

    def norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Layer normalisation of float [rows, width]."""
        return F.layer_norm(x, [self.width], weight, bias, self.epsilon)


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
        self.text_projection = model.text_projection
        self.logit_scale = model.logit_scale

    @torch.jit.export
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [n, 3, r, r], to unit rows, float [n, embed_dim]."""
        x = self.visual(pixels)
        out: Tensor = x / x.norm(p=2, dim=-1, keepdim=True)
        return out

    @torch.jit.export
    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to unit rows, float [n, embed_dim].

        Padding is left out; the first column never is.
        """
        attended = ids.ne(self.pad_id)
        attended[:, 0] = True
        x = self.bert(ids, attended) @ self.text_projection
        out: Tensor = x / x.norm(p=2, dim=-1, keepdim=True)
        return out


# `prepare`


def pack(weight: Tensor, precision: str) -> Tensor:
    """A weight, float [out, in], in the form with which `linear` computes in `precision`."""
    packed: Tensor = torch.ops.cnclip.pack_linear(weight, precision)
    return packed


def float32(x: Tensor | None) -> Tensor:
    """A tensor as float32."""
    assert x is not None  # BatchNorm2d's statistics are optional to TorchScript
    return x.float()


def _prepare_source(model: ChineseClip) -> str:
    """The code of `prepare`: one assignment per tensor, in the order of the model."""
    modules = dict(model.named_modules())
    linears = {
        checkpoint_name(f"{name}.weight") for name, m in modules.items() if isinstance(m, nn.Linear)
    }
    unchanged = {f"{name}.weight" for name, m in modules.items() if isinstance(m, nn.Embedding)}
    unchanged |= {"logit_scale"}
    lines = ["def prepare(self, precision: str) -> None:"]
    for name in model.state_dict():
        place = _attribute(name)
        if name in unchanged or name.endswith("num_batches_tracked"):
            continue
        if ".self.query." in name:
            parts = [place.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            value = f"torch.cat([{', '.join(parts)}])"
            value = f"pack({value}, precision)" if name in linears else f"float32({value})"
        elif ".self.key." in name or ".self.value." in name:
            value = "torch.empty(0)"
        elif name == "visual.conv1.weight" and isinstance(model.visual, VisionTransformer):
            value = f"pack({place}.flatten(1), precision)"
        elif name == "visual.attnpool.c_proj.weight":  # one row per image, and the last layer
            value = f"pack({place}, 'fp32')"
        elif name in linears:
            value = f"pack({place}, precision)"
        else:
            value = f"float32({place})"
        lines.append(f"    {place} = {value}")
    return "\n".join(lines) + "\n"


def _attribute(name: str) -> str:
    """The expression of a tensor, such as `self.bert.encoder.layer[0].output.dense.weight`."""
    return "self" + "".join(f"[{p}]" if p.isdecimal() else f".{p}" for p in name.split("."))
