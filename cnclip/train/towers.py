"""Both towers as they are trained: whole batches, torch's own operators, gradients throughout.

`cnclip.modeling` holds the same model as it embeds: rows without padding, on operators of the core.
Here every layer is a module of torch's own kind, so that autocast, activation checkpointing,
torch.compile, DistributedDataParallel and peft see what they know. Names of parameters are those of
the checkpoints but for attention's projection, which is a layer here (`_RENAMED`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..modeling.config import ClipConfig, TextConfig, VisionConfig
from ..modeling.resnet import ModifiedResNet

MAX_LOGIT_SCALE = math.log(100.0)
FIRST_LOGIT_SCALE = math.log(1 / 0.07)
BERT_STD = 0.02

_RENAMED = re.compile(r"\.attn\.in_proj_(weight|bias)$")
_STORED = re.compile(r"\.attn\.in_proj\.(weight|bias)$")


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Multi-head attention, [n, queries, width] among [n, keys, width]; mask: bool [n, keys]."""

    def by_head(x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), heads, -1).transpose(1, 2)

    wide = None if mask is None else mask[:, None, None, :]
    q, k, v = by_head(query), by_head(key), by_head(value)
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        # torch's own takes heads one by one there, 2 to 8 times as slow as this.
        scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
        if wide is not None:
            scores = scores.masked_fill(~wide, -torch.inf)
        mixed = scores.softmax(dim=-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=wide)
    rows: Tensor = mixed.transpose(1, 2).flatten(-2)
    return rows


class _Stack(nn.Module):
    """Layers in a row, each recomputed in the backward pass where that is asked for."""

    recompute = False

    def _through(self, layers: nn.ModuleList, x: Tensor, *more: Tensor | None) -> Tensor:
        for layer in layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, *more, use_reentrant=False)
            else:
                x = layer(x, *more)
        return x


# --- Images ------------------------------------------------------------------------------------


class _VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.in_proj(x).chunk(3, dim=-1)
        out: Tensor = self.out_proj(_attend(query, key, value, self.heads, None))
        return out


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.c_fc(x)
        out: Tensor = self.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        return out


class _VisionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _VisionAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = _FeedForward(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _Transformer(_Stack):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([_VisionBlock(width, heads) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        return self._through(self.resblocks, x)


class VisionTransformer(nn.Module):
    """CLIP's vision transformer.

    Attributes:
        mask_ratio: The share of patches that each image loses in training, chosen at random, as
            in FLIP (Li et al. 2023, arXiv:2212.00794).
    """

    mask_ratio = 0.0

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        assert isinstance(config.layers, int) and config.patch_size is not None
        width = config.width
        rows = (config.resolution // config.patch_size) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(rows, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(width, config.layers, config.heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim]."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2) + self.positional_embedding[1:]
        if self.training and self.mask_ratio > 0:
            x = _some_rows(x, self.mask_ratio)
        first = self.class_embedding + self.positional_embedding[0]
        x = torch.cat([first.to(x.dtype).expand(x.size(0), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x))
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out

    def start(self) -> None:
        """Random weights, as CLIP draws them."""
        width = self.conv1.out_channels
        layers = len(self.transformer.resblocks)
        scale = width**-0.5
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=scale)
        for block in self.transformer.resblocks:
            assert isinstance(block, _VisionBlock)
            nn.init.normal_(block.attn.in_proj.weight, std=scale)
            nn.init.normal_(block.attn.out_proj.weight, std=scale * (2 * layers) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=scale * (2 * layers) ** -0.5)
            for linear in (
                block.attn.in_proj,
                block.attn.out_proj,
                block.mlp.c_fc,
                block.mlp.c_proj,
            ):
                nn.init.zeros_(linear.bias)


def _some_rows(x: Tensor, left_out: float) -> Tensor:
    """A random choice of each item's rows, in their order: [n, kept, width]."""
    kept = max(1, round(x.size(1) * (1 - left_out)))
    chosen = torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :kept].sort(dim=1).values
    return x.gather(1, chosen[..., None].expand(-1, -1, x.size(2)))


class _AttentionPool(nn.Module):
    def __init__(self, side: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(side**2 + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)
        rows = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
        rows = rows + self.positional_embedding
        mixed = _attend(
            self.q_proj(rows[:, :1]), self.k_proj(rows), self.v_proj(rows), self.heads, None
        )
        out: Tensor = self.c_proj(mixed[:, 0])
        return out


class ResNet(ModifiedResNet):
    """CLIP's ModifiedResNet, with a pooling of torch's own operators.

    Channels lie beside each other in memory, which a CPU convolves 1.4 times as fast.
    """

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__(config, embed_dim)
        self.attnpool = _AttentionPool(  # type: ignore[assignment]
            config.resolution // 32, config.feature_width, config.heads, embed_dim
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim]."""
        out: Tensor = super().forward(pixels.contiguous(memory_format=torch.channels_last))
        return out

    def start(self) -> None:
        """Random weights, as CLIP draws them."""
        pool = self.attnpool
        assert isinstance(pool, _AttentionPool)
        width = pool.q_proj.in_features
        nn.init.normal_(pool.positional_embedding, std=width**-0.5)
        for linear in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
            nn.init.normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                nn.init.zeros_(block.bn3.weight)


# --- Texts ---------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "swish": F.silu,
}


class _Embeddings(nn.Module):
    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.size(1)]
        out: Tensor = self.dropout(self.LayerNorm(x + self.token_type_embeddings.weight[0]))
        return out


class _TextAttention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return _attend(self.query(x), self.key(x), self.value(x), self.heads, mask)


class _ResidualOutput(nn.Module):
    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class _Attention(nn.Module):
    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.self = _TextAttention(config)
        self.output = _ResidualOutput(config.width, config.width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(x, mask), x)
        return out


class _Intermediate(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.intermediate_width)
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class _TextLayer(nn.Module):
    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(config, dropout)
        self.intermediate = _Intermediate(config)
        self.output = _ResidualOutput(config.intermediate_width, config.width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class _Encoder(_Stack):
    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_TextLayer(config, dropout) for _ in range(config.layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self._through(self.layer, x, mask)


class Bert(nn.Module):
    """BERT without its pooler. Dropout as BERT's: behind the embeddings and each output layer."""

    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config, dropout)
        self.encoder = _Encoder(config, dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Int64 [n, l], bool [n, l] (False: padding) to the state of [CLS], float [n, width]."""
        out: Tensor = self.encoder(self.embeddings(ids), mask)[:, 0]
        return out

    def start(self) -> None:
        """Random weights: embeddings as BERT draws them, layers by their width, as CLIP does.

        BERT's 0.02 for all is too little for layers that are much narrower than its own.
        """
        width = self.embeddings.word_embeddings.embedding_dim
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=BERT_STD)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=width**-0.5)
                nn.init.zeros_(module.bias)


# --- Both ----------------------------------------------------------------------------------------


class TrainableClip(nn.Module):
    """Chinese-CLIP (Yang et al. 2022, arXiv:2211.01335) in training.

    Attributes:
        config: Its sizes.
    """

    def __init__(self, config: ClipConfig, text_dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        tower = VisionTransformer if isinstance(config.vision.layers, int) else ResNet
        self.visual = tower(config.vision, config.embed_dim)
        self.bert = Bert(config.text, text_dropout)
        self.text_projection = nn.Parameter(torch.empty(config.text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty([]))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [n, 3, r, r], to unit rows, float32 [n, embed_dim]."""
        return _unit(self.visual(pixels))

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to unit rows, float32 [n, embed_dim]."""
        mask = ids.ne(self.config.pad_id)
        mask[:, 0] = True
        return _unit(self.bert(ids, mask) @ self.text_projection)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of images and of texts, and the logit scale: all that has a gradient."""
        return self.encode_image(pixels), self.encode_text(ids), self.logit_scale.view(())

    def start(self) -> None:
        """Random weights in place of a checkpoint's."""
        self.visual.start()
        self.bert.start()
        nn.init.normal_(self.text_projection, std=self.config.text.width**-0.5)
        nn.init.constant_(self.logit_scale, FIRST_LOGIT_SCALE)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take a checkpoint's weights, by cn_clip's names.

        Batch norms' counts of batches may be missing, all else is there: `read_checkpoint` checks.
        """
        renamed = {_RENAMED.sub(r".attn.in_proj.\1", name): w for name, w in weights.items()}
        missing, unknown = self.load_state_dict(renamed, strict=False)
        assert not unknown and all(name.endswith("num_batches_tracked") for name in missing)

    def recompute_activations(self) -> None:
        """Keep no layer's activations for the backward pass (gradient checkpointing)."""
        for module in self.modules():
            if isinstance(module, _Stack):
                module.recompute = True


def _unit(rows: Tensor) -> Tensor:
    """Rows of unit length, in float32 where autocast made them narrower."""
    wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    return F.normalize(wide, dim=-1)


def stored_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `TrainableClip` under the names of checkpoints."""
    return {_STORED.sub(r".attn.in_proj_\1", name): weight for name, weight in weights.items()}
