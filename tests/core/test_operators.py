"""torch.ops.cnclip: the kernels against torch's operators, which the same calls are elsewhere."""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.engine import open_engine

open_engine()  # which registers torch.ops.cnclip

ACTIVATIONS = ("", "relu", "gelu", "gelu_new", "swish", "quick_gelu")
EPSILON = 1e-5

# How far from float64, for inputs of size 1 and weights of size 1 / sqrt(width), relative and
# absolute: fp32 rounds sums, bf16 its factors and its output to 8 bits, int8 its factors to 8 bits
# of their range.
TOLERANCES = {"fp32": (1e-5, 1e-5), "bf16": (2e-2, 4e-2), "int8": (2e-2, 1.2e-1)}


@pytest.fixture(autouse=True)
def same_numbers_each_time() -> None:
    torch.manual_seed(0)


def pack(weight: Tensor, precision: str) -> Tensor:
    """Of a copy: packing takes the weight's memory."""
    packed: Tensor = torch.ops.cnclip.pack_linear(weight.clone(), precision)
    return packed


def needs_kernels(precision: str) -> None:
    if pack(torch.ones(4, 4), precision).dim() != 1:
        pytest.skip(f"this machine has no kernels for {precision}")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, **around: Any) -> Tensor:
    columns = around.get("last", 0)
    norm: tuple[Tensor | None, Tensor | None] = around.get("norm", (None, None))
    out: Tensor = torch.ops.cnclip.linear(
        x,
        weight,
        bias,
        around.get("first", 0),
        columns or (weight.size(0) if weight.dim() == 2 else around["columns"]),
        norm[0],
        norm[1],
        EPSILON,
        around.get("activation", ""),
        around.get("residual"),
    )
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, starts: Any, keys: Any = None) -> Tensor:
    starts = torch.as_tensor(starts)
    keys = starts if keys is None else torch.as_tensor(keys)
    out: Tensor = torch.ops.cnclip.attention(q, k, v, heads, starts, keys)
    return out


def by_definition(q: Tensor, k: Tensor, v: Tensor, heads: int, starts: Any, keys: Any) -> Tensor:
    """Item by item and head by head in float64."""
    rows = []
    for i in range(len(starts) - 1):
        item = [q[starts[i] : starts[i + 1]], k[keys[i] : keys[i + 1]], v[keys[i] : keys[i + 1]]]
        mixed = []
        for one, two, three in zip(*(t.double().chunk(heads, 1) for t in item), strict=True):
            mixed.append(torch.softmax(one @ two.T / math.sqrt(one.size(1)), 1) @ three)
        rows.append(torch.cat(mixed, 1))
    return torch.cat(rows)


# Linear layers


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40) | st.sampled_from([112, 113, 197, 225]),
    width=st.integers(1, 40).map(lambda n: 4 * n) | st.sampled_from([768, 1024, 3072]),
    columns=st.integers(1, 30).map(lambda n: 4 * n),
    activation=st.sampled_from(ACTIVATIONS),
    parts=st.tuples(*[st.booleans()] * 5),
    seed=st.integers(0, 1000),
)
def test_kernels_are_near_float64(
    precision: str,
    rows: int,
    width: int,
    columns: int,
    activation: str,
    parts: tuple[bool, ...],
    seed: int,
) -> None:
    needs_kernels(precision)
    with_bias, with_norm, with_residual, narrow_input, in_half = parts
    torch.manual_seed(seed)
    weight = torch.randn(columns, width) / width**0.5
    stored = weight.half() if in_half else weight
    x = torch.randn(rows, 2 * width)[:, :width]
    if narrow_input:
        x = x.bfloat16()
    bias = torch.randn(columns) if with_bias else None
    norm = (1 + torch.randn(width) / 4, torch.randn(width) / 4) if with_norm else (None, None)
    residual = torch.randn(rows, columns) if with_residual else None
    around: dict[str, Any] = {"activation": activation}
    packed = pack(stored, precision)
    assert packed.dim() == 1
    found = linear(x, packed, bias, columns=columns, norm=norm, residual=residual, **around)
    expected = linear(
        x.double(),
        stored.double(),
        None if bias is None else bias.double(),
        norm=tuple(None if part is None else part.double() for part in norm),
        residual=None if residual is None else residual.double(),
        **around,
    )
    assert found.shape == expected.shape
    relative, absolute = TOLERANCES[precision]
    torch.testing.assert_close(found.double(), expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("first", "last"), [(0, 32), (64, 160), (40, 96), (5, 6), (130, 160)])
def test_some_columns_are_those_of_all(precision: str, first: int, last: int) -> None:
    needs_kernels(precision)
    x, weight, bias = torch.randn(9, 64), torch.randn(160, 64), torch.randn(160)
    packed = pack(weight, precision)
    every = linear(x, packed, bias, last=160)
    assert torch.equal(linear(x, packed, bias, first=first, last=last), every[:, first:last])


def test_float16_weights_keep_their_memory_and_their_numbers() -> None:
    needs_kernels("fp32")
    weight, x = torch.randn(64, 96).half(), torch.randn(7, 96)
    packed = pack(weight, "fp32")
    assert packed.dtype == torch.float16
    same = linear(x, pack(weight.float(), "fp32"), columns=64)
    assert torch.equal(linear(x, packed, columns=64), same)


@pytest.mark.parametrize(
    ("precision", "half", "in_place"),
    [("fp32", True, True), ("fp32", False, True), ("bf16", True, True), ("bf16", False, False)]
    + [("int8", True, False)],
)
def test_packing_takes_the_memory_of_weights_that_nobody_shares(
    precision: str, half: bool, in_place: bool
) -> None:
    needs_kernels(precision)
    numbers = torch.randn(64, 48)
    weight = numbers.half() if half else numbers.clone()
    expected = pack(weight, precision)
    assert torch.ops.cnclip.pack_linear(weight[:32], precision).dim() == 1
    assert torch.equal(weight, numbers.half() if half else numbers)
    packed = torch.ops.cnclip.pack_linear(weight, precision)
    assert (packed.data_ptr() == weight.data_ptr()) == in_place
    assert torch.equal(packed, expected)


def published_layers() -> set[tuple[int, int]]:
    """The widths of input and output of every linear layer of the published models."""
    layers = {(2048, 2048), (2048, 1024)}  # of the ResNet's pooling
    for size in PUBLISHED_SIZES.values():
        widths = {size.text.width}
        if size.vision.patch_size is not None:
            layers.add((3 * size.vision.patch_size**2, size.vision.width))
            widths.add(size.vision.width)
        for width in widths:
            layers |= {(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)}
    return layers


@pytest.mark.parametrize(("width", "columns"), sorted(published_layers()))
def test_layers_of_the_published_models(width: int, columns: int) -> None:
    needs_kernels("fp32")
    x, weight = torch.randn(7, width), (torch.randn(columns, width) / width**0.5).half()
    norm = (1 + torch.randn(width) / 4, torch.randn(width) / 4)
    expected = linear(
        x.double(), weight.double(), norm=tuple(t.double() for t in norm), activation="quick_gelu"
    )
    for stored in (weight, weight.float()):
        packed = pack(stored, "fp32")
        found = linear(x, packed, columns=columns, norm=norm, activation="quick_gelu")
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("in_half", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_numbers_that_are_not_finite_reach_the_same_results_as_torchs(
    activation: str, in_half: bool, normalized: bool
) -> None:
    needs_kernels("fp32")
    x, weight = torch.randn(12, 44), torch.randn(52, 44) / 8
    x[1, 3], x[3, 0], x[5, 43], x[7] = torch.nan, torch.inf, -torch.inf, 0
    x[9, 40], x[9, 41] = torch.inf, -torch.inf
    weight[7, 5], weight[30, 43] = torch.nan, torch.inf
    norm = (torch.ones(44), torch.zeros(44)) if normalized else (None, None)
    stored = weight.half() if in_half else weight
    expected = linear(x, stored.float(), norm=norm, activation=activation)
    found = linear(x, pack(stored, "fp32"), columns=52, norm=norm, activation=activation)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads() -> None:
    needs_kernels("fp32")
    x, weight = torch.randn(240, 588), torch.randn(100, 588) / 24
    norm = (1 + torch.randn(588) / 4, torch.randn(588) / 4)
    packed, threads = pack(weight, "fp32"), torch.get_num_threads()
    # Not torch.set_num_threads, which also changes how MKL chooses its threads from then on.
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    openmp = ctypes.CDLL(next(line.split()[-1] for line in lines if "libgomp" in line))

    def layer(rows: Tensor) -> Tensor:
        return linear(rows, packed, columns=100, norm=norm, activation="gelu")

    every = layer(x)
    try:
        for first, last, count in [(0, 1, 1), (5, 9, 3), (100, 107, 2), (17, 229, 1), (0, 240, 3)]:
            openmp.omp_set_num_threads(count)
            assert torch.equal(layer(x[first:last]), every[first:last])
    finally:
        openmp.omp_set_num_threads(threads)


def test_rows_that_are_all_one_value_survive_quantisation() -> None:
    needs_kernels("int8")
    x = torch.tensor([0.0, 3.0, -7.5, 1e-30]).unsqueeze(1).expand(4, 32).contiguous()
    weight = torch.randint(-127, 128, (8, 32)).float()
    weight[:, 0] = 127  # so that the weights' own rounding changes nothing
    found = linear(x, pack(weight, "int8"), columns=8).float()
    torch.testing.assert_close(found, x @ weight.T, rtol=2e-2, atol=1e-3)


def test_what_does_not_pack_takes_torchs_operators() -> None:
    for shape in [(8, 6), (6, 8), (3, 3)]:
        weight = torch.randn(*shape)
        packed = pack(weight, "fp32")
        assert torch.equal(packed, weight)
        x = torch.randn(5, shape[1])
        assert torch.equal(linear(x, packed), torch.nn.functional.linear(x, weight))


def test_precisions_without_kernels() -> None:
    weight = torch.randn(3, 3)
    for precision, dtype in [
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("int8", torch.float32),
    ]:
        assert torch.equal(pack(weight, precision), weight.to(dtype))


def test_weights_at_any_address() -> None:
    """Packing takes the memory of a weight only where kernels can read it."""
    needs_kernels("fp32")
    weight = torch.randn(64, 32)
    # Not a view of a tensor, which would share its memory.
    elsewhere = torch.from_numpy(np.empty(64 * 32 + 1, np.float32)[1:].reshape(64, 32))
    elsewhere.copy_(weight)
    packed = torch.ops.cnclip.pack_linear(elsewhere, "fp32")
    assert packed.data_ptr() != elsewhere.data_ptr()
    assert torch.equal(packed, pack(weight, "fp32"))


def test_rows_of_other_layouts_and_types() -> None:
    needs_kernels("fp32")
    weight, x = torch.randn(64, 32), torch.randn(7, 32)
    packed = pack(weight, "fp32")
    wanted = linear(x, packed, columns=64)
    assert torch.equal(linear(x.T.contiguous().T, packed, columns=64), wanted)
    assert torch.equal(linear(x.double(), packed, columns=64), wanted)
    half = linear(x.half(), packed, columns=64)
    assert torch.equal(half, linear(x.half().float(), packed, columns=64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_residuals_of_other_types(dtype: torch.dtype) -> None:
    needs_kernels("fp32")
    x, packed, residual = torch.randn(7, 32), pack(torch.randn(64, 32), "fp32"), torch.randn(7, 64)
    found = linear(x, packed, columns=64, residual=residual.to(dtype))
    wanted = linear(x, packed, columns=64, residual=residual.to(dtype).float())
    assert torch.equal(found, wanted)


def test_an_instruction_set_that_threads_cannot_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread chooses one at its first operator."""
    monkeypatch.setenv("CNCLIP_FORCE_ISA", "none-such")
    with ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            refused = thread.submit(pack, torch.randn(32, 32), "fp32").exception()
            assert isinstance(refused, RuntimeError)
            assert "CNCLIP_FORCE_ISA" in str(refused)
        monkeypatch.undo()
        assert thread.submit(pack, torch.randn(32, 32), "fp32").exception() is None


def test_other_devices_take_torchs_operators() -> None:
    """The shapes alone, on the device that has no memory."""
    weight = pack(torch.randn(64, 32).to("meta"), "fp32")
    x = torch.empty(7, 32, device="meta")
    for activation in ACTIVATIONS:
        found = linear(x, weight, activation=activation)
        assert found.is_meta and found.shape == (7, 64)
    found = attention(x, x, x, 2, [0, 3, 7])
    assert found.is_meta and found.shape == (7, 32)


def test_no_rows() -> None:
    for weight in (torch.randn(32, 8), pack(torch.randn(32, 8), "fp32")):
        assert linear(torch.empty(0, 8), weight, columns=32).shape == (0, 32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_layers_that_are_not_packed(activation: str) -> None:
    torch.manual_seed(1)
    parts = [
        torch.randn(*shape).double().requires_grad_()
        for shape in [(3, 4), (8, 4), (8,), (4,), (4,), (3, 5)]
    ]

    def layer(*tensors: Tensor) -> Tensor:
        x, weight, bias, norm_weight, norm_bias, residual = tensors
        norm = (norm_weight, norm_bias)
        return linear(
            x, weight, bias, first=2, last=7, norm=norm, activation=activation, residual=residual
        )

    assert torch.autograd.gradcheck(layer, parts)


LAYER = (torch.randn(4, 8), torch.randn(64, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.ones(4, 8, 1)},
        {"x": torch.ones(4, 12)},
        {"x": torch.ones(4, 0)},
        {"bias": torch.ones(63)},
        {"bias": torch.ones(64).double()},
        {"bias": torch.ones(128)[::2]},
        {"bias": torch.ones(64, device="meta")},
        {"residual": torch.ones(4, 63)},
        {"residual": torch.ones(3, 64)},
        {"norm": (torch.ones(8), None)},
        {"norm": (torch.ones(7), torch.ones(7))},
        {"activation": "softmax"},
        {"columns": 65},
        {"columns": 0, "last": -1},
        {"first": -1},
        {"first": 64},
        {"first": 3, "residual": torch.ones(4, 61)},
        {"x": torch.ones(4, 8).requires_grad_()},
    ],
    ids=str,
)
def test_misuse_of_packed_layers(change: dict[str, Any]) -> None:
    needs_kernels("fp32")
    call: dict[str, Any] = {"x": LAYER[0], "weight": pack(LAYER[1], "fp32"), "columns": 64} | change
    with pytest.raises(RuntimeError):
        linear(call.pop("x"), call.pop("weight"), call.pop("bias", None), **call)


def test_weights_that_were_not_packed_here() -> None:
    needs_kernels("fp32")
    packed = pack(LAYER[1], "fp32")
    others = [packed[:-1], packed[1:], packed.double(), torch.empty(0), packed[::2]]
    others += [packed.to("meta"), packed.int()]
    if torch.ops.cnclip.pack_linear(torch.ones(4, 4), "bf16").dim() == 2:
        others.append(packed.bfloat16())  # which no kernel of this machine takes
    for weight in others:
        with pytest.raises(RuntimeError):
            linear(LAYER[0], weight, columns=64)
    for wrong in (torch.randn(4), torch.ones(4, 4, dtype=torch.long), torch.randn(2, 2, 2)):
        with pytest.raises(RuntimeError):
            pack(wrong, "fp32")


# Attention


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2)])
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 70)), min_size=1, max_size=5),
    heads=st.integers(1, 3),
    width=st.sampled_from([16, 24, 32, 64, 80]),
    alike=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_attention_is_near_float64(
    dtype: torch.dtype,
    allowed: float,
    lengths: list[tuple[int, int]],
    heads: int,
    width: int,
    alike: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    if alike:
        lengths = [lengths[0]] * len(lengths)
    starts, keys = (
        [0, *torch.tensor(part).cumsum(0).tolist()] for part in zip(*lengths, strict=True)
    )
    size = heads * width
    query = torch.randn(starts[-1], size).to(dtype)
    both = torch.randn(keys[-1], 3 * size).to(dtype)
    key, value = both[:, :size], both[:, 2 * size :]
    found = attention(query, key, value, heads, starts, keys)
    assert found.dtype == dtype
    expected = by_definition(query, key, value, heads, starts, keys)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=allowed)


def test_scores_far_apart_do_not_overflow() -> None:
    query = torch.tensor([[300.0] * 16, [-300.0] * 16])
    key = torch.tensor([[30.0] * 16, [-30.0] * 16, [0.0] * 16])
    value = torch.randn(3, 16)
    found = attention(query, key, value, 1, [0, 2], [0, 3])
    torch.testing.assert_close(found, value[:2])


def test_attention_to_numbers_that_are_not_finite() -> None:
    needs_kernels("fp32")  # torch's operators pad items with rows of their neighbours
    query, key, value = (torch.randn(44, 96) for _ in range(3))
    query[3, 5], query[20, 40] = torch.nan, torch.inf
    key[30, 7], key[31, 70] = -torch.inf, torch.nan
    value[10, 1], value[12, 95] = torch.nan, torch.inf
    starts = [0, 9, 25, 44]
    found = attention(query, key, value, 3, starts)
    expected = by_definition(query, key, value, 3, starts, starts).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(("rows", "width"), [(50, 64), (197, 64), (257, 80), (52, 64)])
def test_attention_of_the_published_models(rows: int, width: int) -> None:
    starts = [0, rows, 2 * rows]
    query, key, value = (torch.randn(2 * rows, 2 * width) for _ in range(3))
    found = attention(query, key, value, 2, starts)
    expected = by_definition(query, key, value, 2, starts, starts)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-6)
    alone = attention(query[rows : rows + 3], key[rows:], value[rows:], 2, [0, 3], [0, rows])
    torch.testing.assert_close(alone, found[rows : rows + 3], rtol=0, atol=1e-6)


def test_gradients_of_ragged_attention() -> None:
    torch.manual_seed(2)
    parts = [torch.randn(5, 4).double().requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, 2, [0, 2, 5]), parts)


def test_attention_learns_in_float32_too() -> None:
    x = torch.randn(5, 32, requires_grad=True)
    attention(x, x, x, 2, [0, 2, 5]).sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)


@pytest.mark.parametrize(
    "starts",
    [[], [0], [0, 4], [1, 5], [0, 3, 2, 5], [0, 5, 5], [-1, 5], [0, 6], [[0, 5]], [0.0, 5.0]],
    ids=str,
)
def test_starts_that_do_not_fit(starts: Any) -> None:
    x = torch.randn(5, 32)
    with pytest.raises(RuntimeError):
        attention(x, x, x, 2, torch.tensor(starts), torch.tensor([0, 5]))
    with pytest.raises(RuntimeError):
        attention(x, x, x, 2, torch.tensor([0, 5]), torch.tensor(starts))


def test_rows_that_do_not_fit() -> None:
    x, starts = torch.randn(5, 32), torch.tensor([0, 5])
    for query, key, value, heads in [
        (x[:, :16], x, x, 2),
        (x, x, x[:4], 2),
        (x, x, x[:, :16], 2),
        (x, x, x, 0),
        (x, x, x, 3),
        (x[None], x, x, 2),
        (x, x[:, :, None], x[:, :, None], 2),
    ]:
        with pytest.raises(RuntimeError):
            attention(query, key, value, heads, starts)
    with pytest.raises(RuntimeError):
        attention(x, x, x, 2, starts.int(), starts)
    for wrong in (torch.tensor([0, 9, 5, 9])[::2], starts.to("meta"), torch.tensor([0, 2, 5])):
        with pytest.raises(RuntimeError):
            attention(x, x, x, 2, wrong, starts)


def test_tensors_of_several_types_and_devices() -> None:
    """They take torch's operator, which refuses them."""
    x, starts = torch.randn(5, 32), torch.tensor([0, 5])
    for other in (x.double(), x.to("meta")):
        for query, key, value in [(x, other, other), (x, x, other), (other, x, x)]:
            with pytest.raises(RuntimeError):
                attention(query, key, value, 2, starts)


def test_gradients_of_each_part_of_attention() -> None:
    tensors = [torch.randn(5, 32) for _ in range(3)]
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_()
        attention(
            *tensors[: i + 1], *(t.detach() for t in tensors[i + 1 :]), 2, [0, 2, 5]
        ).sum().backward()
        assert tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)
        tensor.requires_grad_(False)
        assert not attention(*tensors, 2, [0, 2, 5]).requires_grad
