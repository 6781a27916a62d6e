"""Benchmarks: what they count, print and refuse. How fast anything is, no test asks."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnclip
from cnclip import _core, cli
from cnclip.archive import read_archive
from cnclip.benchmark import (
    BenchmarkReport,
    Result,
    Settings,
    format_report,
    image_flops,
    inputs,
    measure_peak,
    random_archive,
    run_benchmark,
    start,
    suite,
    text_flops,
    write_model_directory,
)
from cnclip.benchmark.report import spread
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES, VOCABULARY_SIZE
from cnclip.checkpoints.vocabulary import PUBLISHED_VOCABULARY
from cnclip.engine import cuda_count
from cnclip.environment import describe_processor
from cnclip.modeling.config import ClipConfig, VisionConfig
from cnclip.models import open_archive

TINY = Settings(precisions=("fp32",), batch_sizes=(1, 2), threads=(1,), rounds=2, seconds=1e-3)


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "_TURN_SECONDS", 0.0)


@pytest.fixture(scope="module")
def report() -> BenchmarkReport:
    lines: list[str] = []
    found = run_benchmark("emoji-cn", TINY, progress=lines.append)
    assert lines[-1] == "time limit of 0.001 seconds reached after 1 rounds"
    return found


def test_flops_of_a_vit_by_hand() -> None:
    vision = {"resolution": 4, "layers": 2, "width": 10, "patch_size": 2}
    # 4 patches of 12 numbers and [CLS]: 5 rows. Multiply-adds of the first layer: query, key, value
    # and output 4 * 5 * 100, attention 2 * 25 * 10, feed-forward 2 * 5 * 400. Of the last: key and
    # value 2 * 5 * 100, query and output 2 * 100, attention 2 * 5 * 10, feed-forward 2 * 400.
    first, last = 2000 + 500 + 4000, 1000 + 200 + 100 + 800
    expected = 2 * (4 * 12 * 10 + first + last + 10 * 3)
    assert image_flops({"vision": vision, "embed_dim": 3}) == expected


def test_flops_of_a_text_by_hand() -> None:
    text = {"layers": 2, "width": 10, "intermediate_width": 20}
    first = 4 * 6 * 100 + 2 * 36 * 10 + 2 * 6 * 200
    last = 2 * 6 * 100 + 2 * 100 + 2 * 6 * 10 + 2 * 200
    assert text_flops({"text": text, "embed_dim": 3}, 6) == 2 * (first + last + 10 * 3)


def test_flops_of_a_resnet() -> None:
    # torch.utils.flop_counter's count for the published RN50, all of which the embedding needs.
    vision = {"resolution": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None}
    assert image_flops({"vision": vision, "embed_dim": 1024}) == 11_586_306_048


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_peak(precision: str) -> None:
    one = measure_peak(precision, 1, seconds=0.01)
    two = measure_peak(precision, 2, seconds=0.01)
    assert (one is None) == (two is None)
    assert one is None or (one > 1e6 and two is not None and two > 1e6)


@pytest.mark.parametrize("arguments", [("fp64", 0.1), ("fp32", 0), ("fp32", 61), ("fp32", np.nan)])
def test_peak_refuses(arguments: tuple[str, float]) -> None:
    with pytest.raises(cnclip.errors.InvalidInputError, match="^(precision|seconds): expected"):
        _core.measure_peak(*arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"precisions": ("fp64",)},
        {"precisions": ()},
        {"batch_sizes": ()},
        {"batch_sizes": (0,)},
        {"threads": ()},
        {"threads": (1, 2000)},
        {"rounds": 0},
        {"seconds": 0.0},
        {"seconds": np.nan},
    ],
)
def test_settings_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(cnclip.errors.InvalidInputError, match="expected"):
        Settings(**wrong)


def test_spread() -> None:
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0)


def test_texts_have_the_tokens_that_they_claim(vit_directory: Path) -> None:
    for words in (PUBLISHED_VOCABULARY.read_bytes(), (vit_directory / "vocab.txt").read_bytes()):
        for tokens in inputs.TOKENS:
            _, lengths = _core.Tokenizer(words).encode(inputs.make_texts(40, tokens))
            assert set(lengths) == {tokens}
    assert len(set(inputs.make_texts(8, 12))) == 8


def test_all_rows_are_there(report: BenchmarkReport) -> None:
    names = {row.name for row in report.results}
    assert names == {
        "preprocessing, image 640 x 480",
        "tokenizing, title",
        "start to first image",
        "start to first image and text",
        "peak memory of that process",
        "image 640 x 480",
        "text of 12 tokens",
        "text of 52 tokens",
    }
    embedded = {(row.name, row.batch_size) for row in report.results if row.batch_size}
    assert len(embedded) == 6
    for row in report.results:
        assert row.samples == 1
        assert 0 < row.p25 <= row.median <= row.p75
    assert [(peak["precision"], peak["threads"]) for peak in report.peaks] == [("fp32", 1)]
    assert (
        report.model["parameters"]
        == read_archive(open_archive("emoji-cn").path).metadata["parameters"]
    )


def test_json(report: BenchmarkReport) -> None:
    content = json.loads(json.dumps(report.as_json()))
    assert content["format"] == 1
    assert set(content) == {
        "format", "date", "version", "machine", "model", "settings", "peaks", "results", "skipped",
    }  # fmt: skip
    image = next(row for row in content["results"] if row["name"] == "image 640 x 480")
    assert set(image) == {field.name for field in dataclasses.fields(Result)}
    assert image["flops"] == content["model"]["image_flops"]


def test_table() -> None:
    rows = [
        Result("image", "seconds", 0.1234, 0.12, 0.13, 7, "fp32", 2, 8, None, 10**9, 0.5),
        Result("start", "seconds", 1.5, 1.4, 1.6, 7, "fp32", 2),
        Result("memory", "bytes", 2.5e8, 2.5e8, 2.5e8, 7, "fp32", 2),
        Result("title", "seconds", 2.5e-7, 2.4e-7, 2.6e-7, 7, threads=1),
    ]
    machine: dict[str, str | int] = {
        "processor": "Abacus", "cores": 2, "isa": "serial", "torch": "2.13.0", "python": "3.11.7",
    }  # fmt: skip
    model = {"name": "m", "parameters": 2_000_000, "image_flops": 10**9}
    peaks = [
        {"precision": "fp32", "threads": 2, "flops_per_second": 16e9},
        {"precision": "bf16", "threads": 2, "flops_per_second": None},
    ]
    skipped = [{"precision": "bf16", "reason": "not here"}]
    report = BenchmarkReport("2026-01-01", "9.9", machine, model, {}, peaks, rows, skipped)
    assert format_report(report).splitlines() == [
        "cnclip 9.9, 2026-01-01",
        "Abacus, 2 cores, serial kernels, torch 2.13.0, Python 3.11.7",
        "model m: 2.0 million parameters, 1 Gop per image",
        "arithmetic peak fp32, 2 threads: 16 Gop/s",
        "arithmetic peak bf16, 2 threads: not supported by the processor",
        "skipped bf16: not here",
        "",
        "        precision  threads  batch   median    p25..p75  per s  Gop/s  of peak",
        "image        fp32        2      8   123 ms    120..130   8.10    8.1      50%",
        "start        fp32        2          1.50 s  1.40..1.60",
        "memory       fp32        2          250 MB    250..250",
        "title                    1         0.25 us  0.24..0.26",
    ]


def test_table_of_several_instruction_sets() -> None:
    rows = [
        Result("image", "seconds", 0.3, 0.3, 0.3, 1, "fp32", 2, 1, None, 10**9, 0.5, isa=isa)
        for isa in ("serial", "avx2")
    ]
    machine: dict[str, str | int] = {
        "processor": "Abacus", "cores": 2, "isa": "avx2", "torch": "2.13.0", "python": "3.11.7",
    }  # fmt: skip
    model = {"name": "m", "parameters": 2_000_000, "image_flops": 10**9}
    skipped = [{"isa": "avx512", "reason": "not here"}]
    report = BenchmarkReport("2026-01-01", "9.9", machine, model, {}, [], rows, skipped)
    assert format_report(report).splitlines()[3:] == [
        "skipped avx512: not here",
        "",
        "       kernels  precision  threads  batch  median  p25..p75  per s  Gop/s  of peak",
        "image   serial       fp32        2      1  300 ms  300..300   3.33    3.3      50%",
        "image     avx2       fp32        2      1  300 ms  300..300   3.33    3.3      50%",
    ]


def test_instruction_sets_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run_once(*_: Any) -> start.Start:
        started.append(os.environ["CNCLIP_FORCE_ISA"])
        return start.Start(1.0, 1.0, 1)

    monkeypatch.setattr(start, "run_once", run_once)
    monkeypatch.delenv("CNCLIP_FORCE_ISA", raising=False)
    best = str(describe_processor()["isa"])
    isas = tuple(dict.fromkeys(("serial", best, "avx512_bf16")))
    found = run_benchmark(
        "emoji-cn", dataclasses.replace(TINY, batch_sizes=(1,), isas=isas, rounds=1)
    )
    assert "CNCLIP_FORCE_ISA" not in os.environ
    assert {row.isa for row in found.results} == {None, "serial", best}
    assert set(started) == {"serial", best}
    lacking = [] if best == "avx512_bf16" else ["avx512_bf16"]
    assert [entry.get("isa") for entry in found.skipped] == lacking


def test_table_of_a_gpu() -> None:
    row = Result("image", "seconds", 1e-4, 9e-5, 2e-4, 7, "bf16", 2, 256, None, 4 * 10**10, 0.5)
    machine: dict[str, str | int] = {
        "processor": "Abacus", "cores": 2, "isa": "serial", "torch": "2.13.0", "python": "3.11.7",
        "gpu": "Loom", "cuda": "13.0",
    }  # fmt: skip
    model = {"name": "m", "parameters": 2_000_000, "image_flops": 10**9}
    peaks = [{"precision": "bf16", "threads": 2, "flops_per_second": 8e14}]
    report = BenchmarkReport("2026-01-01", "9.9", machine, model, {}, peaks, [row], [])
    assert format_report(report).splitlines()[2:] == [
        "Loom, CUDA 13.0",
        "model m: 2.0 million parameters, 1 Gop per image",
        "arithmetic peak bf16: 800 Top/s",
        "",
        "       precision  threads  batch  median  p25..p75  per s  Top/s  of peak",
        "image       bf16        2    256  100 us   90..200  10000  400.0      50%",
    ]


def test_settings_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "choose_device", lambda name: {"gpu": "cuda:0"}.get(name, name))
    chosen = suite._complete(Settings(device="gpu"))
    assert chosen.device == "cuda:0"
    assert chosen.precisions == ("fp32", "bf16", "fp16")
    assert chosen.batch_sizes == (1, 2, 4, 8, 16, 256)
    chosen = suite._complete(Settings(precisions=("fp16",), batch_sizes=(3,), device="cuda:0"))
    assert (chosen.precisions, chosen.batch_sizes) == (("fp16",), (3,))
    chosen = suite._complete(Settings())
    assert (chosen.precisions, chosen.batch_sizes) == (("fp32", "bf16", "int8"), (1, 8, 32))


@pytest.mark.skipif(cuda_count() > 0, reason="this machine has a GPU")
def test_a_gpu_that_is_lacking() -> None:
    with pytest.raises(cnclip.errors.DeviceError, match="no device 'cuda:0': torch finds 0 GPUs"):
        run_benchmark("emoji-cn", Settings(device="cuda:0"))
    assert cli.main(["bench", "--device", "cuda:0"]) == 2


def test_precisions_that_are_lacking_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = suite.pipeline

    def refuse(**arguments: Any) -> object:
        if arguments["precision"] == "int8":
            raise cnclip.errors.DeviceError("no int8 today")
        return opened(**arguments)

    monkeypatch.setattr(suite, "pipeline", refuse)
    monkeypatch.setattr(start, "run_once", lambda *_, **__: start.Start(1.0, 1.0, 1))
    both = dataclasses.replace(TINY, precisions=("fp32", "int8"), batch_sizes=(1,))
    found = run_benchmark("emoji-cn", both)
    assert found.skipped == [{"precision": "int8", "reason": "no int8 today"}]
    assert {row.precision for row in found.results} == {None, "fp32"}
    with pytest.raises(cnclip.CnclipError, match="supports none of the precisions: no int8 today"):
        run_benchmark("emoji-cn", dataclasses.replace(both, precisions=("int8",)))


def test_a_process_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(cnclip.CnclipError, match=r"new process could not embed: .*no model"):
        start.run_once(str(tmp_path / "nothing"), "fp32", 1)


def test_random_models(monkeypatch: pytest.MonkeyPatch) -> None:
    words = PUBLISHED_VOCABULARY.read_bytes().removesuffix(b"\n").split(b"\n")
    assert len(words) == len(set(words)) == VOCABULARY_SIZE
    text = dataclasses.replace(
        PUBLISHED_SIZES["ViT-B-16"].text, width=8, heads=2, intermediate_width=16
    )
    tiny = ClipConfig(8, VisionConfig(8, 2, 16, 4, head_width=8), text)
    monkeypatch.setitem(PUBLISHED_SIZES, "tiny", tiny)
    with random_archive("tiny") as archive:
        p = cnclip.pipeline(model=archive, device="cpu")
        answer = p.forward({"img": inputs.make_images(2), "text": inputs.make_texts(2, 12)})
        assert all(np.isfinite(rows).all() and rows.shape == (2, 8) for rows in answer.values())
    assert not archive.parent.exists()


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(
        cnclip.errors.InvalidInputError, match="architecture: expected one of RN50, ViT"
    ):
        write_model_directory("ViT-B-61", tmp_path)


Captured = pytest.CaptureFixture[str]
QUICK = ("--rounds", "1", "--batch-sizes", "1", "--threads", "1", "--precisions", "fp32")


def test_the_command(capsys: Captured, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    assert cli.main(["bench", *QUICK, "--json", str(output)]) == 0
    out, err = capsys.readouterr()
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["model"]["name"] == "emoji-cn"
    assert all(f"\n{row['name']} " in out for row in content["results"])
    assert err.count("round 1 of 1: ") == 1 + 2 + 1 + 3  # peak, core, start, embedding


def test_the_command_with_json_on_stdout(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, report: BenchmarkReport
) -> None:
    monkeypatch.setattr("cnclip.cli.bench.run_benchmark", lambda *_, **__: report)
    assert cli.main(["bench", *QUICK, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_json()))


def test_bad_usage(capsys: Captured, tmp_path: Path) -> None:
    def status_of(*arguments: str) -> int:
        try:
            return cli.main(["bench", *arguments])
        except SystemExit as ended:
            return int(ended.code or 0)

    assert status_of("--rounds", "0") == 2
    assert "rounds: expected 1 or more" in capsys.readouterr().err
    assert status_of("--precisions", "fp64") == 2
    assert status_of("--random", "ViT-B-61") == 2
    assert status_of("emoji-cn", "--random", "RN50") == 2
    assert status_of(str(tmp_path / "nothing")) == 2
    assert status_of("--json", str(tmp_path / "no" / "report.json")) == 2
    assert status_of("--json", str(tmp_path)) == 2
    assert status_of(str(tmp_path / "nothing"), "--json", str(tmp_path / "report.json")) == 2
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": "x"}, {"precisions": "fp32"}, {"batch_sizes": (True,)}, {"threads": 2}],
    ids=str,
)
def test_settings_of_other_types(wrong: dict[str, Any]) -> None:
    with pytest.raises(cnclip.errors.InputTypeError, match=rf"{next(iter(wrong))[:5]}.*: expected"):
        Settings(**wrong)


def test_interruption(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> Callable[[], None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "_run_rounds", interrupt)
    assert cli.main(["bench", *QUICK]) == 130
    assert capsys.readouterr().err.endswith("cnclip bench: interrupted\n")
