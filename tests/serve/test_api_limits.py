"""Who may ask, how much, and how long: keys, hosts, sizes, time, the beginning and the end."""

from __future__ import annotations

import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from cnclip.bulk import model_identity
from cnclip.errors import (
    BusyError,
    ClosedError,
    DeadlineError,
    ImageError,
    InvalidInputError,
    ModelRunError,
)
from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from starlette.websockets import WebSocketDisconnect

from cnclip.serve.faults import fault_of
from cnclip.serve.options import Keys, ServerOptions
from cnclip.serve.served import Served
from tests.support.api import CAT, served_by

PATH = "/v1/embeddings"
CATS = {"input": "猫"}


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# Keys


def test_keys(embedder: MultiModalEmbeddingPipeline) -> None:
    with served_by(embedder, keys=("one", "two"), local=False) as (client, _):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic one"}):
            answer = client.post(PATH, json=CATS, headers=headers)
            assert code_of(answer) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.post(PATH, json=CATS, headers=headers).status_code == 200
        for path in ("/livez", "/readyz", "/zh/", "/static/app.js", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path
    with served_by(embedder, keys=("one",), root_path="/find") as (client, _):
        for path in (PATH, f"/find{PATH}", f"/find/find{PATH}", f"/find/{PATH}"):
            assert client.post(path, json=CATS).status_code == 401, path
        headers = {"Authorization": "Bearer one"}
        for path in (PATH, f"/find{PATH}"):
            assert client.post(path, json=CATS, headers=headers).status_code == 200
        assert client.post(f"/find/find{PATH}", json=CATS, headers=headers).status_code == 404
        assert (
            client.get("/find/zh/").status_code
            == client.get("/find/static/app.js").status_code
            == 200
        )


def test_other_spellings_of_a_path_need_the_key(embedder: MultiModalEmbeddingPipeline) -> None:
    with served_by(embedder, keys=("one",)) as (client, _):
        for path in ("/v1/embeddings/", "//v1/embeddings", "/V1/embeddings", "/%761/embeddings"):
            assert client.post(path, json=CATS).status_code == 401, path


def test_keys_are_read_from_a_file_or_a_variable(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\none\n\n two \n")
    keys = Keys.read(file)
    assert keys and keys.accept("one") and keys.accept("two") and not keys.accept("# ours")
    assert not keys.accept("") and not keys.accept("猫")
    monkeypatch.setenv("CNCLIP_API_KEYS", "three,four five")
    keys = Keys.read(None)
    assert all(map(keys.accept, ("three", "four", "five"))) and not keys.accept("one")
    monkeypatch.delenv("CNCLIP_API_KEYS")
    assert not Keys.read(None)
    for content in ("", "# none\n"):
        file.write_text(content)
        with pytest.raises(InvalidInputError, match="has no key"):
            Keys.read(file)
    file.write_text("猫\n")
    with pytest.raises(InvalidInputError, match="key 1 has characters"):
        Keys.read(file)


# Hosts and other sites


@pytest.mark.parametrize(
    ("host", "local", "allowed", "status"),
    [
        ("localhost", True, None, 200),
        ("127.0.0.1:7860", True, None, 200),
        ("[::1]:7860", True, None, 200),
        ("elsewhere.example", True, None, 403),
        ("elsewhere.example", False, None, 200),
        ("search.example:443", True, ("search.example",), 200),
        ("Search.Example", False, ("search.example",), 200),
        ("elsewhere.example", False, ("search.example",), 403),
    ],
)
def test_host_names(
    embedder: MultiModalEmbeddingPipeline, host: str, local: bool, allowed: Any, status: int
) -> None:
    with served_by(is_open=False, local=local, allow_host=allowed) as (client, _):
        assert client.get("/zh/", headers={"Host": host}).status_code == status
        # Probes of Kubernetes have the address of the pod.
        assert client.get("/livez", headers={"Host": host}).status_code == 200
        assert client.get("/readyz", headers={"Host": host}).status_code == 503


def test_scripts_of_other_sites(api: Any) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert code_of(api.post(PATH, json=CATS, headers=foreign)) == (403, "cross_site")
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert api.get("/zh/", headers=link).status_code == 200
    answer = api.post(PATH, json=CATS, headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_request_ids(api: Any) -> None:
    given = {"X-Request-ID": "abc-1.2_3"}
    assert api.get("/livez", headers=given).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 65, '"'):
        found = api.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert found != bad and len(found) == 32


# Sizes


def test_bodies(embedder: MultiModalEmbeddingPipeline) -> None:
    with served_by(embedder, max_body=1000, max_bytes=1 << 20) as (client, _):
        body = json.dumps({"input": "猫", "x": "y" * 900}).encode()
        kind = {"Content-Type": "application/json"}
        assert client.post(PATH, content=body, headers=kind).status_code == 200
        longer = body + b" " * 100
        assert code_of(client.post(PATH, content=longer, headers=kind)) == (413, "body_too_large")

        def pieces() -> Iterator[bytes]:  # without Content-Length
            for start in range(0, len(longer), 100):
                yield longer[start : start + 100]

        answer = client.post(PATH, content=pieces(), headers=kind)
        assert code_of(answer) == (413, "body_too_large")
        answer = client.post(PATH, files={"file": CAT.read_bytes() * 2})
        assert code_of(answer) == (413, "body_too_large")


def test_memory_of_all_requests(embedder: MultiModalEmbeddingPipeline) -> None:
    with served_by(embedder, max_bytes=1 << 16) as (client, _):
        answer = client.post(
            PATH, content=b" " * (1 << 17), headers={"Content-Type": "application/json"}
        )
        assert code_of(answer) == (429, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        assert client.post(PATH, json=CATS).status_code == 200


def test_numbers_of_items(embedder: MultiModalEmbeddingPipeline) -> None:
    with served_by(embedder, max_items=3, max_labels=2, max_results=5, max_characters=9) as (
        client,
        _,
    ):
        assert client.post(PATH, json={"input": ["猫"] * 3}).status_code == 200
        assert code_of(client.post(PATH, json={"input": ["猫"] * 4})) == (400, "too_many_items")
        files = [("file", CAT.read_bytes())] * 4
        assert client.post(PATH, files=files).status_code == 400
        assert code_of(client.post(PATH, json={"input": "猫" * 10})) == (400, "invalid_item")
        assert client.post("/v1/tokenize", json={"input": ["猫"] * 4}).status_code == 400


# Time


class Stoppable:
    """An encoder that waits while it is stopped."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.runs = encoder, threading.Event()
        self.runs.set()

    def encode_texts(self, *arguments: Any) -> Any:
        self.runs.wait(20)
        return self.encoder.encode_texts(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


def test_a_request_that_takes_too_long(embedder: MultiModalEmbeddingPipeline) -> None:
    encoder = Stoppable(embedder.model.encoder)
    model = replace(embedder.model, encoder=cast("Any", encoder))
    stoppable = MultiModalEmbeddingPipeline(model, embedder.preprocessor)
    with served_by(stoppable, request_timeout=0.5, batch_timeout=1.0) as (client, _):
        encoder.runs.clear()
        begun = time.monotonic()
        assert code_of(client.post(PATH, json=CATS)) == (504, "timeout")
        assert time.monotonic() - begun < 5
        # The watchdog: no batch succeeds while work waits.
        wait_for(
            lambda: client.get("/readyz").status_code == 503, lambda: client.post(PATH, json=CATS)
        )
        encoder.runs.set()
        wait_for(lambda: client.post(PATH, json=CATS).status_code == 200)
        wait_for(lambda: client.get("/readyz").status_code == 200)


def wait_for(condition: Callable[[], bool], meanwhile: Callable[[], Any] = lambda: None) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.05)


def test_the_clients_own_limit(api: Any) -> None:
    assert api.post(PATH, json=CATS, headers={"X-Request-Timeout": "20"}).status_code == 200
    for bad in ("soon", "0", "-1", "nan", "inf"):
        answer = api.post(PATH, json=CATS, headers={"X-Request-Timeout": bad})
        assert code_of(answer) == (400, "invalid"), bad
    answer = api.post(PATH, json=CATS, headers={"X-Request-Timeout": "0.000001"})
    assert code_of(answer) == (504, "timeout")


# The beginning and the end


def test_a_server_that_opens_or_ends(embedder: MultiModalEmbeddingPipeline) -> None:
    with served_by(is_open=False) as (client, served):
        assert client.get("/livez").status_code == 200
        assert client.get("/zh/").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503 and "opening" in answer.json()["reason"]
        for path in ("/v1/models", "/v1/collections", "/v1/sample"):
            assert code_of(client.get(path)) == (503, "opening"), path
        answer = client.post(PATH, json=CATS)
        assert code_of(answer) == (503, "opening") and answer.headers["retry-after"] == "1"
        served.add([embedder], [])
        assert client.get("/readyz").json() == {"status": "ok"}
        assert client.post(PATH, json=CATS).status_code == 200
        assert code_of(client.post("/v1/search", json={"text": "猫"})) == (
            404,
            "collection_not_found",
        )
        served.is_draining = True
        assert code_of(client.post(PATH, json=CATS)) == (503, "shutting_down")
        assert client.get("/readyz").status_code == 503


# Models, metrics, errors, pages


def test_models_and_metrics(api: Any) -> None:
    (model,) = api.get("/v1/models").json()["data"]
    assert model["id"] == "emoji-cn" and model["dimensions"] == 128 and model["precision"] == "fp32"
    assert api.get("/v1/models/emoji-cn").json() == model
    assert code_of(api.get("/v1/models/other")) == (404, "model_not_found")
    api.post(PATH, json=CATS)
    lines = api.get("/metrics").text.splitlines()
    for name in (
        'cnclip_items_total{kind="text",model="emoji-cn"}',
        'cnclip_queue_length{kind="img",model="emoji-cn"} 0.0',
        'cnclip_batch_size_bucket{kind="text",le="+Inf",model="emoji-cn"}',
        'cnclip_http_requests_total{route="/v1/embeddings",status="200"}',
        "cnclip_decode_seconds_sum",
        "cnclip_bytes_in_flight",
    ):
        assert any(line.startswith(name) for line in lines), name


def test_websockets_are_closed(api: Any) -> None:
    with pytest.raises(WebSocketDisconnect) as closed, api.websocket_connect(PATH):
        pass
    assert closed.value.code == 1000


def test_names_of_models_differ(embedder: MultiModalEmbeddingPipeline) -> None:
    served = Served(ServerOptions())
    digest = model_identity(embedder)["digest"][:8]
    same = [copy.copy(embedder) for _ in range(4)]
    try:
        served.add([same[0], *same[:3]], [])
        assert list(served.models) == ["emoji-cn", "emoji-cn-fp32", f"emoji-cn-{digest}"]
        with pytest.raises(InvalidInputError, match=f"emoji-cn-{digest}: is given twice"):
            served.add(same[3:], [])
    finally:
        served.close()


@pytest.mark.parametrize(
    ("error", "status", "param", "headers"),
    [
        (BusyError("too much", retry_after=2.1), 429, None, {"Retry-After": "3"}),
        (ClosedError("closed"), 503, None, {"Retry-After": "5"}),
        (DeadlineError("late"), 504, None, {}),
        (MemoryError(), 503, None, {}),
        (ImageError("no image", item="input[3]", file="a.png"), 400, "input[3]", {}),
        (InvalidInputError("wrong"), 400, None, {}),
        (ImageError("no image", file="a.png"), 400, None, {}),
        (ModelRunError("failed"), 500, None, {}),
        (KeyError("inner"), 500, None, {}),
    ],
)
def test_answers_to_errors(
    error: BaseException, status: int, param: str | None, headers: dict[str, str]
) -> None:
    fault = fault_of(error)
    assert (fault.status, fault.param, dict(fault.headers)) == (status, param, headers)
    assert "inner" not in fault.reason
    assert fault_of(fault) is fault


def test_unknown_paths_and_methods(api: Any) -> None:
    assert code_of(api.get("/nothing")) == (404, "not_found")
    answer = api.get(PATH)
    assert code_of(answer) == (405, "method_not_allowed") and answer.headers["allow"] == "POST"
    for name in ("..%2Fapplication.py", "index.html", "docs.html", "nothing.js", "%00.js"):
        assert api.get(f"/static/{name}").status_code == 404, name


def test_an_unexpected_error_shows_nothing_of_the_server(
    embedder: MultiModalEmbeddingPipeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("cnclip.serve.embeddings.query_text", fail)
    with served_by(embedder) as (client, _):
        answer = client.post(PATH, json=CATS)
        assert code_of(answer) == (500, "internal_error") and "secret" not in answer.text
        assert "secret" in caplog.text
        assert client.get("/readyz").status_code == 200


def test_access_log(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cnclip.access"):
        api.post(PATH, json=CATS, headers={"X-Request-ID": "mine"})
    line = json.loads(caplog.records[-1].getMessage())
    assert line["id"] == "mine" and line["status"] == 200 and line["path"] == PATH
    assert line["received"] > 10 and line["sent"] > 500 and 0 < line["seconds"] < 60


def test_pages_in_both_languages(api: Any) -> None:
    answer = api.get("/?q=x", headers={"Accept-Language": "en"}, follow_redirects=False)
    assert answer.status_code == 307 and answer.headers["location"] == "en/?q=x"
    for language, tag, title in (("zh", "zh-CN", "图文检索"), ("en", "en", "Image search")):
        page = api.get(f"/{language}/")
        assert f'<html lang="{tag}">' in page.text and f"cnclip · {title}" in page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
    words = api.get("/static/words.js")
    assert words.headers["content-type"].startswith("text/javascript") and "图文检索" in words.text
    again = api.get("/static/words.js", headers={"If-None-Match": words.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/zh/", "/livez", "/readyz", "/v1/models", "/static/api.js"])
def test_head_has_the_headers_of_get(api: Any, path: str) -> None:
    head, get = api.head(path), api.get(path)
    assert head.status_code == get.status_code == 200 and head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert api.head("/v1/embeddings").status_code == 405
