"""`POST /v1/embeddings`: each shape of a request, each form of an answer, bad items."""

from __future__ import annotations

import base64
import io
import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnclip.errors import ImageError
from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from cnclip.serve.inputs import decoded_image
from tests.support.api import CAT, as_base64

TEXTS = ["一只猫", "生日蛋糕", "a b c", "雨天"]
PNG = as_base64(CAT.read_bytes())
PATH = "/v1/embeddings"


def rows_of(answer: Any) -> NDArray[np.float32]:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


@pytest.fixture(scope="module")
def cat(embedder: MultiModalEmbeddingPipeline) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = embedder.forward({"img": CAT.read_bytes()})["img_embedding"]
    return rows[0]


# Texts


def test_texts_as_openai_sends_them(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    want = embedder.forward({"text": TEXTS})["text_embedding"]
    answer = api.post(PATH, json={"model": "emoji-cn", "input": TEXTS, "user": "x"})
    content = answer.json()
    assert content["object"] == "list" and content["model"] == "emoji-cn"
    assert [one["index"] for one in content["data"]] == [0, 1, 2, 3]
    assert all(one.keys() == {"object", "index", "embedding"} for one in content["data"])
    assert np.abs(rows_of(answer) - want).max() < 2e-6
    lengths = embedder.preprocessor.tokenize(TEXTS, return_lengths=True)[1]
    assert content["usage"] == {"prompt_tokens": lengths.sum(), "total_tokens": lengths.sum()}
    one = api.post(PATH, json={"input": TEXTS[1]})
    assert np.abs(rows_of(one) - want[1]).max() < 2e-6


def test_base64_and_bytes(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    want = embedder.forward({"text": TEXTS})["text_embedding"]
    answer = api.post(PATH, json={"input": TEXTS, "encoding_format": "base64"}).json()
    rows = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    assert np.abs(np.array(rows) - want).max() < 2e-6
    for dtype, tolerance in (("float32", 2e-6), ("float16", 1e-3)):
        accept = {"Accept": f"application/octet-stream; dtype={dtype}"}
        answer = api.post(PATH, json={"input": TEXTS}, headers=accept)
        shape = tuple(map(int, answer.headers["x-shape"].split(",")))
        assert answer.headers["x-dtype"] == dtype
        rows = np.frombuffer(answer.content, dtype).reshape(shape)
        assert rows.shape == want.shape and np.abs(rows - want).max() < tolerance
    wrong = api.post(
        PATH, json={"input": "猫"}, headers={"Accept": "application/octet-stream;dtype=int8"}
    )
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "Accept"


def test_texts_that_are_cut_are_marked(api: Any) -> None:
    answer = api.post(PATH, json={"input": ["猫" * 51, "猫" * 50]}).json()
    assert [one.get("truncated") for one in answer["data"]] == [True, None]
    assert answer["usage"]["prompt_tokens"] == 52 + 52


def test_curly_quotes_and_capitals(api: Any) -> None:
    """Texts are normalized if the request says so."""
    texts = ["“Cat”", '"cat"']
    plain = rows_of(api.post(PATH, json={"input": texts, "normalize": False}))
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    same = rows_of(api.post(PATH, json={"input": texts, "normalize": True}))
    assert np.abs(same[0] - same[1]).max() < 2e-6


# Images


def data_url(kind: str = "image/png") -> str:
    return f"data:{kind};base64,{PNG}"


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"image": PNG}]},
        {"input": [{"image": data_url()}]},
        {"input": {"image": data_url("image/jpeg")}},
        {"input": [PNG], "modality": "image"},
        {"input": PNG.rstrip("=").replace("+", "-").replace("/", "_"), "modality": "image"},
        {"input": [{"type": "image_url", "image_url": {"url": data_url()}}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_url()}},
                        {"type": "text", "text": ""},
                    ],
                }
            ]
        },
    ],
)
def test_an_image_in_each_shape(api: Any, cat: NDArray[np.float32], body: Any) -> None:
    rows = rows_of(api.post(PATH, json=body))
    assert rows.shape[0] == 1 and np.abs(rows[0] - cat).max() < 2e-6


def test_uploads(api: Any, cat: NDArray[np.float32]) -> None:
    content = CAT.read_bytes()
    answer = api.post(PATH, content=content, headers={"Content-Type": "image/png"})
    assert np.abs(rows_of(answer)[0] - cat).max() < 2e-6
    files = [("file", ("a.png", content)), ("file", ("b.png", content))]
    rows = rows_of(api.post(PATH, files=files, data={"model": "emoji-cn", "input": "猫"}))
    assert rows.shape[0] == 3 and np.abs(rows[1:] - cat).max() < 2e-6
    named = api.post(f"{PATH}?model=nobody", content=content, headers={"Content-Type": "image/png"})
    assert named.status_code == 404


def test_a_mixed_list_keeps_its_order(
    api: Any, embedder: MultiModalEmbeddingPipeline, cat: NDArray[np.float32]
) -> None:
    want = embedder.forward({"text": TEXTS})["text_embedding"]
    items = [{"text": TEXTS[0]}, {"image": PNG}, TEXTS[1], {"image": PNG}, {"text": TEXTS[2]}]
    rows = rows_of(api.post(PATH, json={"input": items}))
    assert np.abs(rows[[1, 3]] - cat).max() < 2e-6
    assert np.abs(rows[[0, 2, 4]] - want[:3]).max() < 2e-6


# Bad requests


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"input": [1, 2, 3]}, 400, "token_ids", "input"),
        ({"input": [[1, 2], [3]]}, 400, "token_ids", "input"),
        ({"input": [1] * 5000}, 400, "token_ids", "input"),
        ({"input": [7, "猫"]}, 422, "invalid", "input[0]"),
        ({"input": ["猫", 7]}, 422, "invalid", "input[1]"),
        ({"input": [[7, "猫"]]}, 422, "invalid", "input[0]"),
        ({"input": [[7], ["猫"]]}, 422, "invalid", "input[0]"),
        ({"input": [[7], []]}, 422, "invalid", "input[0]"),
        ({"input": [7, None]}, 422, "invalid", "input[0]"),
        ({"input": []}, 400, "no_items", "input"),
        ({}, 400, "no_items", "input"),
        ({"input": ["猫", None]}, 422, "invalid", "input[1]"),
        ({"input": ["猫", True]}, 422, "invalid", "input[1]"),
        ({"input": [{"text": 3}]}, 422, "invalid", "input[0]"),
        ({"input": [{"text": "猫", "image": PNG}]}, 422, "invalid", "input[0]"),
        ({"input": "猫", "dimensions": 64}, 400, "invalid", "dimensions"),
        ({"input": "猫", "encoding_format": "binary"}, 422, "invalid", "encoding_format"),
        ({"input": "猫", "model": "nobody"}, 404, "model_not_found", "model"),
        ({"input": ["猫", ""]}, 400, "invalid_item", "input[1]"),
        ({"input": ["猫", "\u200b"]}, 400, "invalid_item", "input[1]"),
        ({"input": ["猫", {"image": "@@@"}]}, 400, "invalid_item", "input[1]"),
        ({"input": [{"image": as_base64(b"no image")}]}, 400, "invalid_item", "input[0]"),
        ({"input": [{"image": "https://example.com/a.png"}]}, 400, "invalid_item", "input[0]"),
        ({"input": [{"image": "/etc/passwd"}]}, 400, "invalid_item", "input[0]"),
        ({"input": [{"image": "file:///etc/passwd"}]}, 400, "invalid_item", "input[0]"),
        ({"messages": [{"content": 3}]}, 422, "invalid", "messages[0].content"),
        ({"messages": [], "input": "猫"}, 400, "invalid", "messages"),
    ],
)
def test_bad_requests_name_the_item(
    api: Any, body: Any, status: int, code: str, param: str
) -> None:
    answer = api.post(PATH, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["message"].startswith(f"{param}: ")


def test_bodies_that_are_no_json(api: Any) -> None:
    for body, status in (
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"input": "\\ud800"}', 400),
        (b'{"input": "\xff"}', 400),
        (b"[]", 422),
    ):
        answer = api.post(PATH, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, (body[:20], answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"
    answer = api.post(PATH, content=b"a", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    for form in (b"", b"--x", b"--x\r\n\r\n"):
        answer = api.post(
            PATH, content=form, headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code == 400, answer.text
    answer = api.post(PATH, content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400


def test_a_bad_item_in_its_place(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    want = embedder.forward({"text": TEXTS[:2]})["text_embedding"]
    bad = io.BytesIO()
    Image.new("RGB", (40, 40)).save(bad, "PNG")
    items = [TEXTS[0], {"image": as_base64(bad.getvalue()[:60])}, "", TEXTS[1]]
    answer = api.post(PATH, json={"input": items, "on_error": "item"}).json()
    data = answer["data"]
    assert [one["index"] for one in data] == [0, 1, 2, 3]
    assert np.abs(np.array([data[0]["embedding"], data[3]["embedding"]]) - want).max() < 2e-6
    assert data[1]["embedding"] is None and data[2]["embedding"] is None
    assert data[1]["error"]["code"] == data[2]["error"]["code"] == "invalid_item"
    assert data[1]["error"]["message"].startswith("input[1]: ")
    accept = {"Accept": "application/octet-stream"}
    raw = api.post(PATH, json={"input": items, "on_error": "item"}, headers=accept)
    assert raw.headers["x-failed"] == "1,2"
    assert np.isnan(np.frombuffer(raw.content, "<f4").reshape(4, -1)[1:3]).all()


def test_nul_and_long_texts(api: Any) -> None:
    rows = rows_of(api.post(PATH, json={"input": ["猫\x00狗", "字" * 90_000]}))
    assert np.isfinite(rows).all()
    answer = api.post(PATH, json={"input": ["字" * 100_001]})
    assert answer.status_code == 400 and "at most 100000" in answer.json()["error"]["message"]


def test_answers_are_strict_json(api: Any) -> None:
    text = api.post(PATH, json={"input": TEXTS}).text
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "latin-1"])
def test_json_is_utf8(api: Any, encoding: str) -> None:
    """Text in another encoding is refused; a byte order mark is passed over."""
    text = "é" if encoding == "latin-1" else "一只猫在睡觉"
    body = f'{{"input": "{text}"}}'
    headers = {"Content-Type": "application/json"}
    answer = api.post(PATH, content=body.encode(encoding), headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "malformed"
    expected = api.post(PATH, json={"input": text}).json()
    assert api.post(PATH, content=body.encode("utf-8-sig"), headers=headers).json() == expected


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/octet-stream", "application/octet-stream"),
        ("APPLICATION/OCTET-STREAM; dtype=float16", "application/octet-stream"),
        ("application/octet-stream, */*;q=0.1", "application/octet-stream"),
        ("application/octet-stream;q=0", "application/json"),
        ("application/json, application/octet-stream;q=0.1", "application/json"),
        ("application/json;q=0.1, application/octet-stream", "application/octet-stream"),
        ("application/octet-stream;q=high", "application/octet-stream"),
        ("*/*", "application/json"),
        (";;,,", "application/json"),
    ],
)
def test_the_type_of_an_answer(api: Any, accept: str, kind: str) -> None:
    answer = api.post(PATH, json={"input": "猫"}, headers={"Accept": accept})
    assert answer.status_code == 200 and answer.headers["content-type"] == kind


@pytest.mark.parametrize(
    "text",
    [
        PNG,
        PNG.rstrip("="),
        PNG.replace("+", "-").replace("/", "_"),
        f" {PNG[:40]}\n{PNG[40:]}\n",
        f"data:image/png;base64,{PNG}",
        f"DATA:image/png; BASE64,{quote(PNG, safe='')}",
        f"data:image/png,{quote(CAT.read_bytes())}",
    ],
)
def test_the_bytes_of_each_string(text: str) -> None:
    assert decoded_image(text) == CAT.read_bytes()


@pytest.mark.parametrize("text", ["", "  ", "data:image/png;base64,", "===", "AAAAA", "猫"])
def test_strings_that_are_no_image(text: str) -> None:
    with pytest.raises(ImageError):
        decoded_image(text)


def test_a_large_image_in_a_string(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    text = as_base64(stream.getvalue())
    assert len(text) > 1 << 20
    rows = rows_of(api.post(PATH, json={"input": [{"image": text}]}))
    want = embedder.forward({"img": stream.getvalue()})["img_embedding"]
    assert np.abs(rows - want).max() < 2e-6


def test_json_that_is_nested_deeply(api: Any) -> None:
    body = '{"input": ' + "[" * 100_000 + "]" * 100_000 + "}"
    answer = api.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"]["message"]
