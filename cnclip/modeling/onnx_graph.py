"""The towers as ONNX graphs, built node by node. Needs the package onnx.

A graph computes what the plain modules compute, with the operators of OPSET alone, so that any
runtime may run it. The number of items, and of ids per text, is free. Only the first row of an item
leaves a transformer, so its last layer computes queries for these only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .bert import ACTIVATIONS, Bert, Layer
from .clip import ChineseClip
from .resnet import AttentionPool, Bottleneck, ModifiedResNet
from .vit import Block, VisionTransformer

if TYPE_CHECKING:
    from onnx import NodeProto

# The oldest with LayerNormalization.
OPSET, IR_VERSION = 17, 8
PIXELS, IDS, ROWS = "pixels", "ids", "unit_embedding"
_FLOAT32 = 1  # onnx.TensorProto.FLOAT
# Added to the scores of padding; finite, since not every runtime computes with infinity.
_MASKED = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Weight:
    """A tensor of a graph's file: `tensor`, converted to `dtype` when it is written."""

    tensor: Tensor
    dtype: torch.dtype


@dataclass
class Graph:
    """An ONNX graph. Its methods append nodes, and return the name of the last one's output.

    Attributes:
        half: Store the weights of linear layers, convolutions and tokens as float16; the graph
            widens them.
        nodes: In the order in which they are computed.
        weights: The stored tensors by their names.
    """

    half: bool = False
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; its output is named after it and its number, unless there is a name."""
        from onnx import helper

        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def vector(self, name: str, tensor: Tensor) -> str:
        """A tensor of the model that is always stored as float32."""
        self.weights[name] = Weight(tensor, torch.float32)
        return name

    def matrix(self, name: str, tensor: Tensor) -> str:
        """A tensor of the model that `half` applies to."""
        if not self.half:
            return self.vector(name, tensor)
        self.weights[name] = Weight(tensor, torch.float16)
        return self.add("Cast", name, to=_FLOAT32)

    def constant(self, value: float | list[int]) -> str:
        """A float32 number, or a list as int64. Equal ones are stored once."""
        name = f"constant_{value}"
        tensor = torch.tensor(value)
        self.weights[name] = Weight(tensor, tensor.dtype)
        return name

    def affine(self, x: str, name: str, weight: Tensor, bias: Tensor) -> str:
        """The linear layer `name`, with a weight [out, in], of float [n, rows, in]."""
        x = self.add("MatMul", x, self.matrix(f"{name}.weight", weight.t()))
        return self.add("Add", x, self.vector(f"{name}.bias", bias))

    def linear(self, x: str, name: str, layer: nn.Linear) -> str:
        """The torch.nn.Linear `name`."""
        return self.affine(x, name, layer.weight, layer.bias)

    def norm(self, x: str, name: str, layer: nn.LayerNorm) -> str:
        """The torch.nn.LayerNorm `name`."""
        weight = self.vector(f"{name}.weight", layer.weight)
        bias = self.vector(f"{name}.bias", layer.bias)
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=layer.eps)

    def first_row(self, x: str) -> str:
        """The first row of each item: [n, rows, width] to [n, 1, width]."""
        begin, end, axis = ([0], [1], [1])
        return self.add("Slice", x, *map(self.constant, (begin, end, axis)))

    def attention(self, q: str, k: str, v: str, heads: int, width: int, mask: str = "") -> str:
        """`layers.attention`; the mask is added to the scores, float [n, heads, queries, keys]."""
        by_head = self.constant([0, 0, heads, width // heads])
        q, k, v = (
            self.add("Transpose", self.add("Reshape", x, by_head), perm=order)
            for x, order in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
        )
        scaled = self.add("Mul", q, self.constant((width // heads) ** -0.5))
        scores = self.add("MatMul", scaled, k)
        if mask:
            scores = self.add("Add", scores, mask)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        mixed = self.add("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.add("Reshape", mixed, self.constant([0, 0, width]))


def image_graph(model: ChineseClip, *, half: bool = False) -> Graph:
    """PIXELS, normalised, float32 [n, 3, r, r], to ROWS, float32 [n, embed_dim] of unit length.

    Args:
        model: The model.
        half: See `Graph`.
    """
    graph = Graph(half)
    tower = model.visual
    if isinstance(tower, VisionTransformer):
        x = _vision_transformer(graph, tower)
    else:
        assert isinstance(tower, ModifiedResNet)
        x = _resnet(graph, tower)
    return _with_output(graph, x)


def text_graph(model: ChineseClip, *, half: bool = False) -> Graph:
    """IDS, int64 [n, l], to ROWS, float32 [n, embed_dim] of unit length.

    Padding is masked; the first column never is.

    Args:
        model: The model.
        half: See `Graph`.
    """
    graph = Graph(half)
    x = _bert(graph, model.bert, model.config.pad_id)
    projection = graph.matrix("text_projection", model.text_projection)
    return _with_output(graph, graph.add("MatMul", x, projection))


def _with_output(graph: Graph, x: str) -> Graph:
    """Divide rows by their L2 norms; [n, 1, embed_dim] to [n, embed_dim]."""
    unit = graph.add("Div", x, graph.add("ReduceL2", x, axes=[-1], keepdims=1))
    graph.add("Squeeze", unit, graph.constant([1]), output=ROWS)
    return graph


def _vision_transformer(graph: Graph, tower: VisionTransformer) -> str:
    width, patch = tower.conv1.out_channels, list(tower.conv1.kernel_size)
    kernel = graph.matrix("visual.conv1.weight", tower.conv1.weight)
    x = graph.add("Conv", PIXELS, kernel, kernel_shape=patch, strides=patch)
    patches = tower.positional_embedding.size(0) - 1
    x = graph.add("Reshape", x, graph.constant([0, width, patches]))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    # The row of [CLS] has no patch: zeros, to which its embedding is added with the positions.
    x = graph.add("Pad", x, graph.constant([0, 1, 0, 0, 0, 0]))
    rows = tower.positional_embedding.float().clone()
    rows[0] += tower.class_embedding
    x = graph.add("Add", x, graph.vector("visual.class_and_positional_embedding", rows))
    x = graph.norm(x, "visual.ln_pre", tower.ln_pre)
    for i, block in enumerate(tower.transformer.resblocks):
        assert isinstance(block, Block)
        is_last = i + 1 == len(tower.transformer.resblocks)
        x = _block(graph, x, f"visual.transformer.resblocks.{i}", block, is_last)
    x = graph.norm(x, "visual.ln_post", tower.ln_post)
    return graph.add("MatMul", x, graph.matrix("visual.proj", tower.proj))


def _block(graph: Graph, x: str, name: str, block: Block, is_last: bool) -> str:
    attn, mlp = block.attn, block.mlp
    keys = graph.norm(x, f"{name}.ln_1", block.ln_1)
    queries = graph.first_row(keys) if is_last else keys
    residual = graph.first_row(x) if is_last else x
    weights, biases = attn.in_proj.weight.chunk(3), attn.in_proj.bias.chunk(3)
    q, k, v = (
        graph.affine(rows, f"{name}.attn.{part}", weights[i], biases[i])
        for i, (part, rows) in enumerate((("query", queries), ("key", keys), ("value", keys)))
    )
    mixed = graph.attention(q, k, v, attn.heads, attn.out_proj.in_features)
    x = graph.add("Add", residual, graph.linear(mixed, f"{name}.attn.out_proj", attn.out_proj))
    hidden = graph.norm(x, f"{name}.ln_2", block.ln_2)
    hidden = graph.linear(hidden, f"{name}.mlp.c_fc", mlp.c_fc)
    gate = graph.add("Sigmoid", graph.add("Mul", hidden, graph.constant(1.702)))
    hidden = graph.add("Mul", hidden, gate)
    return graph.add("Add", x, graph.linear(hidden, f"{name}.mlp.c_proj", mlp.c_proj))


def _resnet(graph: Graph, tower: ModifiedResNet) -> str:
    x = PIXELS
    for i in ("1", "2", "3"):
        x = graph.add("Relu", _convolution(graph, x, tower, "visual", f"conv{i}", f"bn{i}"))
    x = _average(graph, x, tower.avgpool)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for number, block in tower.get_submodule(stage).named_children():
            assert isinstance(block, Bottleneck)
            x = _bottleneck(graph, x, f"visual.{stage}.{number}", block)
    assert isinstance(tower.attnpool, AttentionPool)
    return _attention_pool(graph, x, "visual.attnpool", tower.attnpool)


def _bottleneck(graph: Graph, x: str, name: str, block: Bottleneck) -> str:
    out = graph.add("Relu", _convolution(graph, x, block, name, "conv1", "bn1"))
    out = graph.add("Relu", _convolution(graph, out, block, name, "conv2", "bn2"))
    out = _convolution(graph, _average(graph, out, block.avgpool), block, name, "conv3", "bn3")
    if len(block.downsample) > 0:
        x = _average(graph, x, block.shortcut_pool)
        x = _convolution(graph, x, block, name, "downsample.0", "downsample.1")
    return graph.add("Relu", graph.add("Add", out, x))


def _convolution(
    graph: Graph, x: str, module: nn.Module, name: str, conv_name: str, norm_name: str
) -> str:
    """A convolution and a BatchNorm of a module, which has this name in the model."""
    conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    sizes: dict[str, Any] = {
        "kernel_shape": conv.kernel_size,
        "strides": conv.stride,
        "pads": 2 * conv.padding,
    }
    x = graph.add("Conv", x, graph.matrix(f"{name}.{conv_name}.weight", conv.weight), **sizes)
    state = norm.state_dict()
    values = [
        graph.vector(f"{name}.{norm_name}.{part}", state[part])
        for part in ("weight", "bias", "running_mean", "running_var")
    ]
    return graph.add("BatchNormalization", x, *values, epsilon=norm.eps)


def _average(graph: Graph, x: str, pool: nn.Module) -> str:
    if isinstance(pool, nn.Identity):
        return x
    assert isinstance(pool, nn.AvgPool2d) and isinstance(pool.kernel_size, int)
    if pool.kernel_size == 1:
        return x
    size = [pool.kernel_size] * 2
    return graph.add("AveragePool", x, kernel_shape=size, strides=size)


def _attention_pool(graph: Graph, x: str, name: str, pool: AttentionPool) -> str:
    rows, width = pool.positional_embedding.shape
    x = graph.add("Reshape", x, graph.constant([0, width, rows - 1]))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    x = graph.add("Concat", graph.add("ReduceMean", x, axes=[1], keepdims=1), x, axis=1)
    positions = graph.vector(f"{name}.positional_embedding", pool.positional_embedding)
    x = graph.add("Add", x, positions)
    q = graph.linear(graph.first_row(x), f"{name}.q_proj", pool.q_proj)
    k = graph.linear(x, f"{name}.k_proj", pool.k_proj)
    v = graph.linear(x, f"{name}.v_proj", pool.v_proj)
    return graph.linear(graph.attention(q, k, v, pool.heads, width), f"{name}.c_proj", pool.c_proj)


def _bert(graph: Graph, tower: Bert, pad_id: int) -> str:
    name, embeddings = "bert.embeddings", tower.embeddings
    begin, length = graph.constant([0]), graph.add("Shape", IDS, start=1, end=2)
    words = graph.matrix(f"{name}.word_embeddings.weight", embeddings.word_embeddings.weight)
    # All tokens are of the first segment.
    positions = embeddings.position_embeddings.weight.float()
    positions = positions + embeddings.token_type_embeddings.weight[0].float()
    table = graph.vector(f"{name}.position_and_token_type_embeddings", positions)
    x = graph.add("Gather", words, IDS)
    x = graph.add("Add", x, graph.add("Slice", table, begin, length))
    x = graph.norm(x, f"{name}.LayerNorm", embeddings.LayerNorm)
    # What a column adds to the scores if it is padding.
    columns = torch.full([positions.size(0)], _MASKED)
    columns[0] = 0
    masked = graph.add("Slice", graph.vector("masked_columns", columns), begin, length)
    is_padding = graph.add("Equal", IDS, graph.constant([pad_id]))
    mask = graph.add("Where", is_padding, masked, graph.constant(0.0))
    mask = graph.add("Unsqueeze", mask, graph.constant([1, 2]))
    for i, layer in enumerate(tower.encoder.layer):
        assert isinstance(layer, Layer)
        is_last = i + 1 == len(tower.encoder.layer)
        x = _layer(graph, x, f"bert.encoder.layer.{i}", layer, mask, is_last)
    return x


def _layer(graph: Graph, x: str, name: str, layer: Layer, mask: str, is_last: bool) -> str:
    attn, out, place = layer.attention.self, layer.attention.output, f"{name}.attention"
    queries = graph.first_row(x) if is_last else x
    q = graph.linear(queries, f"{place}.self.query", attn.query)
    k = graph.linear(x, f"{place}.self.key", attn.key)
    v = graph.linear(x, f"{place}.self.value", attn.value)
    mixed = graph.attention(q, k, v, attn.heads, attn.query.in_features, mask)
    x = graph.add("Add", graph.linear(mixed, f"{place}.output.dense", out.dense), queries)
    x = graph.norm(x, f"{place}.output.LayerNorm", out.LayerNorm)
    hidden = graph.linear(x, f"{name}.intermediate.dense", layer.intermediate.dense)
    hidden = _activation(graph, hidden, layer.intermediate.activation)
    x = graph.add("Add", graph.linear(hidden, f"{name}.output.dense", layer.output.dense), x)
    return graph.norm(x, f"{name}.output.LayerNorm", layer.output.LayerNorm)


def _activation(graph: Graph, x: str, function: Callable[[Tensor], Tensor]) -> str:
    """One of ACTIVATIONS, in the form that ONNX Runtime fuses."""
    half, one = graph.constant(0.5), graph.constant(1.0)
    name = next(name for name, known in ACTIVATIONS.items() if known is function)
    if name == "relu":
        return graph.add("Relu", x)
    if name == "swish":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if name == "gelu":
        bent = graph.add("Erf", graph.add("Div", x, graph.constant(2**0.5)))
    else:
        assert name == "gelu_new"
        cube = graph.add("Mul", graph.add("Mul", x, x), x)
        cube = graph.add("Mul", cube, graph.constant(0.044715))
        wide = graph.add("Mul", graph.add("Add", x, cube), graph.constant((2 / math.pi) ** 0.5))
        bent = graph.add("Tanh", wide)
    return graph.add("Mul", graph.add("Mul", x, graph.add("Add", bent, one)), half)
