"""The commands `cnclip index` and `cnclip search`."""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import os
import re
import shutil
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnclip import bulk, demo
from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Index
from tests.support.search import files, made, run_json, unit

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")

GALLERY = asset_path("gallery")


def test_gallery_is_searched_with_words(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, str(gallery), "猫", "-k", "5")
    assert all(set(one) == {"path", "score"} for one in answer) and len(answer) == 5
    scores = [one["score"] for one in answer]
    assert scores == sorted(scores, reverse=True) and scores[-1] >= -1
    assert files(answer)[0] in {"1f408", "1f431"} and {"1f408", "1f431"} <= set(files(answer))
    assert all(Path(one["path"]).is_file() for one in answer)
    labels = {p.path.stem: p.label for p in demo.load_gallery()}
    for query, wanted in (("蝴蝶", "蝴蝶"), ("大哭", "放声大哭"), ("生日蛋糕", "生日蛋糕")):
        got = [labels[name] for name in files(run_json(capsys, str(gallery), query, "-k", "5"))]
        assert wanted in got
    image = str(GALLERY / "1f408.png")
    alike = run_json(capsys, str(gallery), "--image", image, "-k", "3")
    assert files(alike)[0] == "1f408" and alike[0]["score"] > 0.999
    both = run_json(capsys, str(gallery), "猫", "--image", image, "--threshold", "0.99")
    assert both == []
    assert (
        run_json(capsys, str(gallery), "猫", "--threshold", str(scores[1]), "-k", "9") == answer[:2]
    )


def test_gallery_is_printed_as_a_table(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(gallery), "猫", "-k", "3", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cosine", "share", "found"]
    assert re.fullmatch(r"1 +0\.\d{3} +\d+\.\d% +.*1f4(08|31)\.png", lines[2])
    assert re.search(r"of these 3 \(of 362\) reach 0\.\d{3}", lines[-1])


def test_a_model_that_is_gone_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.index"
    made(unit(5)).save(path)
    assert main(["search", str(path), "猫", "--device", "cpu"]) == 2
    reason = "was made with the model 'some', which was not found; pass its path as --model"
    assert f"{path}: {reason}" in capsys.readouterr().err


def test_page_has_its_images_in_it(
    gallery: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    page = tmp_path / "found.html"
    query = ["search", str(gallery), "<猫>", "-k", "4", "--device", "cpu"]
    assert main([*query, "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert not opened and html.escape("<猫>") in text and "<猫>" not in text
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 4 and all(one.startswith("data:image/webp;base64,") for one in sources)
    with Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))) as image:
        assert image.size == (96, 96)
    assert "http" not in text and text.count('href="file:///') == 4
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    capsys.readouterr()
    assert main([*query, "--open"]) == 0
    assert opened == [Path(capsys.readouterr().out.strip()).as_uri()]
    assert len(list(tmp_path.glob("cnclip-*.html"))) == 1


def test_folder_with_odd_files_is_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(GALLERY / "1f431.png", photos / os.fsdecode(b"\xff cat.png"))
    shutil.copy(GALLERY / "1f697.png", photos / "car\n.png")
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "loop").symlink_to(photos)
    os.mkfifo(photos / "fifo.png")
    monkeypatch.chdir(tmp_path)
    command = ["index", "photos", "-o", "mine.index", "--device", "cpu"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "2 images, exact; model emoji-cn, fp32" in printed.out
    assert all(name in printed.err for name in ("broken.png: ", "fifo.png: "))
    answer = run_json(capsys, "mine.index", "猫")
    assert answer[0]["path"].endswith("%FF%20cat.png")  # a URL of the file
    assert main(["search", "mine.index", "猫", "--device", "cpu", "--html", "x.html"]) == 0
    assert (tmp_path / "x.html").read_text("utf-8").count("<img ") == 2
    assert main(["search", "mine.index", "汽车", "--device", "cpu"]) == 0
    assert "car\\n.png" in capsys.readouterr().out
    (photos / "broken.png").unlink()
    (photos / "fifo.png").unlink()
    shutil.copy(GALLERY / "1f408.png", photos)
    assert main(command) == 0
    assert len(Index.load("mine.index")) == 3
    assert sorted(path.name for path in tmp_path.glob("mine*")) == ["mine.embeddings", "mine.index"]


def test_folder_without_a_readable_image_makes_no_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/broken.png").write_bytes(b"no image")
    command = ["index", "photos", "-o", "mine.index", "--device", "cpu"]
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert "broken.png: cannot be read as an image" in printed
    assert printed.splitlines()[-1] == "cnclip index: mine.embeddings: has no embeddings to index"
    assert not Path("mine.index").exists()
    shutil.copy(GALLERY / "1f408.png", "photos/broken.png")
    assert main(command) == 0
    assert len(Index.load("mine.index")) == 1


def test_embeddings_of_texts_are_searched(
    tmp_path: Path,
    embedder: MultiModalEmbeddingPipeline,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("红色的汽车\n一只猫\n生日蛋糕\n", "utf-8")
    bulk.embed("texts.txt", embedder, "out", bulk.EmbedOptions(kind="texts"))
    assert main(["index", "out", "-o", "texts.index", "--device", "cpu"]) == 0
    answer = run_json(capsys, "texts.index", "猫", "-k", "2")
    assert answer[0]["text"] == "一只猫" and set(answer[0]) == {"path", "score", "text"}
    assert run_json(capsys, "texts.index", "--image", str(GALLERY / "1f382.png"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "no.index", "猫"], "no.index: no such index"),
        (["search", "photo.index", "猫"], "photo.index: not an index"),
        (["search", "empty", "猫"], "empty: a folder, not an index: `cnclip index empty -o"),
        (["search", "{gallery}"], "expected TEXT, --image FILE, or both"),
        (["search", "{gallery}", " "], "empty"),
        (["search", "{gallery}", "猫", "--image", "no.png"], "no.png"),
        (["search", "{gallery}", "猫", "--json", "--open"], "--open"),
        (["search", "{gallery}", "猫", "--json", "--html", "x.html"], "--html"),
        (["search", "{gallery}", "猫", "-k", "0"], "-k"),
        (["search", "{gallery}", "猫", "--threshold", "2"], "--threshold"),
        (["search", "{gallery}", "猫", "--model", "nowhere"], "nowhere"),
        (["index", "nowhere", "-o", "x.index"], "nowhere: no such folder"),
        (["index", "empty", "-o", "x.index"], "empty"),
        (["index", "empty", "-o", "no/x.index"], "no: no such directory"),
        (["index", "empty", "-o", "empty"], "is a directory"),
        (["index", "empty", "-o", "http://127.0.0.1:9"], "--embeddings: expected a folder"),
        (["index", "unfinished", "-o", "x.index"], "not finished"),
    ],
)
def test_bad_usage_is_named(
    arguments: list[str],
    words: str,
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "unfinished.json").touch()
    shutil.copy(GALLERY / "1f408.png", tmp_path / "photo.index")
    capsys.readouterr()
    try:
        status = main([one.format(gallery=gallery) for one in arguments])
    except SystemExit as stopped:  # argparse's own
        status = int(stopped.code or 0)
    printed = capsys.readouterr()
    assert status == 2 and words in printed.err.splitlines()[-1] and printed.out == ""
    assert not (tmp_path / "x.index").exists()


@pytest.mark.parametrize("command", ["index", "search"])
def test_help_imports_neither_faiss_nor_torch(command: str, run_python: Any) -> None:
    code = (
        "import contextlib, sys\n"
        "from cnclip.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main([sys.argv[1], '--help'])\n"
        "print([n for n in ('faiss', 'torch', 'pymilvus', 'pyarrow') if n in sys.modules])\n"
    )
    output = run_python(code, command).stdout
    assert output.startswith("usage: ") and output.endswith("[]\n")


def test_thumbnails_are_printed_where_the_terminal_draws(
    gallery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnclip.search.terminal.protocol", lambda environment, tty: "kitty")
    assert main(["search", str(gallery), "猫", "-k", "2", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert output.count("a=T") == 2 and re.search(r"\n1  0\.\d+  .*png\n\x1b_G", output)


def test_queries_that_the_model_sees_in_part_are_reported(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for query, message in (
        ("长" * 60, "the text is longer than 52 ids: the model does not see the rest"),
        ("🐶", "the text is of characters that the model does not know"),
        ("ＣＡＴ", "'CAT' may be known"),
    ):
        assert main(["search", str(gallery), query, "--device", "cpu"]) == 0
        assert message in capsys.readouterr().err
    assert main(["search", str(gallery), "猫", "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["search", str(gallery), "\u200b\u3000", "--device", "cpu"]) == 2
    assert "expected a text, got an empty one" in capsys.readouterr().err


def test_queries_may_be_normalized(
    gallery: Path, embedder: MultiModalEmbeddingPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    query, straight = "“猫”", '"猫"'
    plain = run_json(capsys, str(gallery), query, "-k", "3")
    normalized = run_json(capsys, str(gallery), query, "-k", "3", "--normalize")
    assert normalized == run_json(capsys, str(gallery), straight, "-k", "3") != plain
    assert run_json(capsys, str(gallery), query, "-k", "3", "--no-normalize") == plain
    index = Index.load(gallery)
    info = embedder.model.info
    trained = replace(info, metadata=info.metadata | {"normalized_texts": True})
    described = copy.copy(embedder)
    described.model = replace(embedder.model, info=trained)
    scores = [hit.score for hit in index.find(described, query, k=3).hits]
    assert scores == [hit["score"] for hit in normalized]
    scores = [hit.score for hit in index.find(described, query, k=3, normalize=False).hits]
    assert scores == [hit["score"] for hit in plain]


def test_hits_below_a_threshold_are_left_out(
    gallery: Path,
    embedder: MultiModalEmbeddingPipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suggested = Index.load(gallery).thresholds["text"]
    scores = [one["score"] for one in run_json(capsys, str(gallery), "猫", "-k", "1500")]
    found = run_json(capsys, str(gallery), "猫", "-k", "1500", "--threshold", "auto")
    assert [one["score"] for one in found] == [score for score in scores if score >= suggested]
    assert 0 < len(found) < len(scores)
    assert main(["search", str(gallery), "猫", "--threshold", "1", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "nothing reaches --threshold\n"
    # There is none for a text and an image together.
    asked = ["search", str(gallery), "猫", "--device", "cpu", "--image", str(GALLERY / "1f697.png")]
    assert main([*asked, "--threshold", "auto"]) == 2
    assert "--threshold: auto: the index has no suggested threshold" in capsys.readouterr().err
    assert main(asked) == 0
    assert "suggested by" not in capsys.readouterr().out
    identity = bulk.model_identity(embedder)
    Index.create(identity["embed_dim"], model=identity).save(tmp_path / "it.index")
    assert main(["search", str(tmp_path / "it.index"), "猫", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "nothing found: the index is empty\n"


def test_an_index_of_embeddings_whose_model_is_not_available(
    embeddings: Path, vit_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", str(embeddings), "-o", str(tmp_path / "it.index"), "--device", "cpu"]
    assert main([*command, "--model", str(vit_directory)]) == 2
    assert "has vectors of emoji-cn (" in capsys.readouterr().err
    manifest = embeddings / "manifest.json"
    content = manifest.read_text()
    digest = json.loads(content)["model"]["digest"]
    manifest.write_text(content.replace(digest, "0" * len(digest)))
    assert main(command) == 0
    message = "has vectors of emoji-cn (000000000000), not of emoji-cn), no threshold is suggested"
    assert message in capsys.readouterr().err
    manifest.write_text(content.replace('"emoji-cn"', '"my-own-model"'))
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "without its model (" in captured.err and "pass --model" in captured.err
    assert "suggested threshold of image queries" in captured.out
    assert "of text queries" not in captured.out
    assert main([*command, "--model", "emoji-cn"]) == 0
    assert "suggested threshold of text queries" in capsys.readouterr().out
