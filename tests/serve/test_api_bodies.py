"""Bodies that are hostile: encodings, huge numbers, and very many values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from cnclip.serve import inputs
from tests.support.api import served_by

PATH = "/v1/embeddings"
TEXT = "生日蛋糕"


def error_of(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def form(client: Any, path: str, *parts: tuple[str, bytes], charset: str = "") -> Any:
    body = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in parts
    )
    kind = f"multipart/form-data; boundary=B{charset}"
    return client.post(path, content=body + b"--B--\r\n", headers={"Content-Type": kind})


# Encodings


@pytest.mark.parametrize("charset", ["gb18030", "utf-16", "punycode", "idna", "nonsense", '"a b"'])
def test_other_charsets_are_refused(api: Any, charset: str) -> None:
    """Bytes of GB18030 may be valid UTF-8: "猫" would be embedded as other characters."""
    for content in ('{"input": "猫"}'.encode("gb18030"), b'{"input": "a"}'):
        headers = {"Content-Type": f"application/json; charset={charset}"}
        answer = api.post(PATH, content=content, headers=headers)
        assert error_of(answer) == (415, "unsupported_charset", None)
    for path in (PATH, "/v1/search"):
        answer = form(api, path, ("text", b"a9" * 100_000), charset=f"; charset={charset}")
        assert error_of(answer) == (415, "unsupported_charset", None)


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", '; charset="UTF-8"', "; Charset=utf8"])
def test_utf8_is_read(api: Any, charset: str) -> None:
    expected = api.post(PATH, json={"input": TEXT}).json()
    headers = {"Content-Type": f"application/json{charset}"}
    content = json.dumps({"input": TEXT}, ensure_ascii=False).encode()
    assert api.post(PATH, content=content, headers=headers).json() == expected
    assert form(api, PATH, ("input", TEXT.encode()), charset=charset).json() == expected
    both = form(api, PATH, ("input[]", TEXT.encode()), ("input[]", b"a"), charset=charset).json()
    assert len(both["data"]) == 2


def test_text_of_a_form_that_is_not_utf8(api: Any) -> None:
    for value in (TEXT.encode("gb18030"), b"a\xff", b"\xed\xa0\x80"):
        assert error_of(form(api, PATH, ("input", value))) == (400, "malformed", "input")
        assert error_of(form(api, "/v1/search", ("text", value))) == (400, "malformed", "text")


# Numbers


@pytest.mark.parametrize("digits", [1, 19, 400, 4299, 4300, 5000])
def test_huge_numbers(api: Any, digits: int) -> None:
    """Python writes no integer of more than 4300 digits."""
    number = "9" * digits
    headers = {"Content-Type": "application/json"}
    for field in ("k", "offset", "weight", "threshold"):
        for sign in ("", "-"):
            content = f'{{"text": "a", "k": 9, "{field}": {sign}{number}}}'
            answer = api.post("/v1/search", content=content, headers=headers)
            assert answer.status_code in ((200, 422) if digits == 1 else (400, 422)), answer.text
        answer = form(api, "/v1/search", ("text", b"a"), ("k", b"9"), (field, number.encode()))
        assert answer.status_code < 500
    for content in (f'{{"input": "a", "dimensions": {number}}}', f'{{"input": ["a", {number}]}}'):
        answer = api.post(PATH, content=content, headers=headers)
        assert answer.status_code in (400, 422), answer.text


# Very many values


def test_the_number_is_checked_before_the_items(embedder: MultiModalEmbeddingPipeline) -> None:
    part = {"type": "text", "text": "猫"}
    message = {"role": "user", "content": [part] * 3}
    with served_by(embedder, max_items=3) as (client, _):
        for body, param in (
            ({"input": [None] * 4}, "input"),  # none of them is looked at
            ({"messages": [None] * 4}, "messages[0]"),
            ({"messages": [{}] * 4}, "messages"),
            ({"messages": [{"content": [None] * 4}]}, "messages[0].content"),
            ({"messages": [message, message]}, "messages[1].content"),
        ):
            status, code, place = error_of(client.post(PATH, json=body))
            assert (status, code) in ((400, "too_many_items"), (422, "invalid"))
            assert place is not None and place.startswith(param)
        assert client.post(PATH, json={"messages": [message]}).status_code == 200
        ids = client.post(PATH, json={"input": [[1] * 9] * 9})
        assert error_of(ids) == (400, "token_ids", "input")
        files = [("file", b"x")] * 3
        answer = client.post(PATH, files=files, data={"input": "猫"})
        assert error_of(answer)[:2] == (400, "too_many_items")


def test_json_of_very_many_values(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take a hundred times its bytes of memory."""
    monkeypatch.setattr(inputs, "_MAX_VALUES", 1000)
    headers = {"Content-Type": "application/json"}
    content = b'{"input":"a","user":[' + b"1," * 997 + b"1]}"
    assert api.post(PATH, content=content, headers=headers).status_code == 200
    content = b'{"input":"a","user":[' + b"1," * 999 + b"1]}"
    for path in (PATH, "/v1/search", "/v1/classify", "/v1/tokenize"):
        answer = api.post(path, content=content, headers=headers)
        assert error_of(answer) == (413, "too_many_values", None)


def test_forms_of_immich(embedder: MultiModalEmbeddingPipeline) -> None:
    entries = b'{"clip": {"textual": {"modelName": "a"}}}'
    with served_by(embedder, immich=True) as (client, _):
        asked = ("entries", entries)
        assert form(client, "/predict", asked, ("text", b"a")).status_code == 200
        for parts in (
            [asked],
            [asked, ("text", b"a"), ("text", b"b")],
            [asked, asked, ("text", b"a")],
            [("text", b"a")],
            [("entries", entries + b" " * (1 << 16)), ("text", b"a")],
            [("entries", b"[" * 50_000), ("text", b"a")],
            [asked, ("text", b"\xff")],
        ):
            assert form(client, "/predict", *parts).status_code in (400, 422), parts
