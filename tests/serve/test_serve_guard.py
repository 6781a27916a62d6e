"""The middleware that protects the application from other hosts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cnclip.serve.guard import POLICY, Guard, is_local, rewrite

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `ui`")
pytest.importorskip("pyarrow", reason="pyarrow is not installed, cnclip's extra `ui`")


def ask(guard: Guard, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """One request's status, headers and body."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **headers}
    pairs = [(key.replace("_", "-").encode(), value.encode()) for key, value in given.items()]
    asyncio.run(guard({"type": "http", "path": path, "headers": pairs}, receive, send))
    start, *rest = sent
    body = b"".join(message.get("body", b"") for message in rest)
    found = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], found, body.decode()


PAGE = """<!doctype html><html
    lang="en" style=""><head><meta charset="utf-8" />
    <meta property="og:url" content="https://gradio.app/" />
    <meta
      name="twitter:image" content="https://elsewhere.example/a.jpg"
    />
    <link rel="preconnect" href="https://fonts.elsewhere.example" crossorigin>
    <script src="https://cdn.elsewhere.example/a.js" async></script>
    <link rel="manifest" href="/manifest.json" />
    <script src="./assets/a.js"></script></head><body>猫</body></html>"""


async def page(scope: Any, receive: Any, send: Any) -> None:
    names = [key for key, _ in scope["headers"]]
    kind = b"text/html; charset=utf-8" if scope["path"].endswith("/") else b"text/plain"
    headers = [(b"content-type", kind), (b"content-length", str(len(PAGE.encode())).encode())]
    assert b"accept-encoding" not in names or not scope["path"].endswith("/")
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    content = PAGE.encode()
    await send({"type": "http.response.body", "body": content[:100], "more_body": True})
    await send({"type": "http.response.body", "body": content[100:]})


def test_root_leads_to_the_browsers_language() -> None:
    guard = Guard(page, local=True)
    for accepted, path in (("en", "/en/"), ("zh", "/zh/"), ("fr", "/zh/")):
        status, headers, _ = ask(guard, "/", accept_language=accepted)
        assert (status, headers["location"]) == (307, path)
    assert ask(guard, "/")[1]["location"] == "/zh/"
    assert ask(guard, "/en")[1]["location"] == "/en/"


def test_page_loads_nothing_from_elsewhere() -> None:
    status, headers, body = ask(Guard(page, local=True), "/zh/", accept_encoding="br")
    assert status == 200
    assert headers["content-security-policy"] == POLICY
    assert int(headers["content-length"]) == len(body.encode())
    assert "elsewhere.example" not in body and "gradio.app" not in body and "manifest" not in body
    assert '<script src="./assets/a.js">' in body and "猫" in body
    assert 'lang="zh-CN"' in body and '["language", "zh-CN"]' in body
    assert 'lang="en"' in rewrite(PAGE, "en")


def test_policy_names_no_other_host() -> None:
    assert "http" not in POLICY and "*" not in POLICY
    assert POLICY.startswith("default-src 'self' data: blob:;")


def test_other_answers_go_through_with_the_policy() -> None:
    status, headers, body = ask(Guard(page, local=True), "/zh/config", accept_encoding="br")
    assert (status, body) == (200, PAGE)
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"


def test_other_host_names_are_refused_where_only_this_machine_listens() -> None:
    assert ask(Guard(page, local=True), "/zh/", host="elsewhere.example:7860")[0] == 403
    assert ask(Guard(page, local=True), "/zh/", host="")[0] == 403
    assert ask(Guard(page, local=False), "/zh/", host="elsewhere.example")[0] == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("a.localhost", True),
        ("[::1]:7860", True),
        ("[::1]", True),
        ("192.168.0.2:7860", False),
        ("localhost.elsewhere.example", False),
        ("127.0.0.1.elsewhere.example", False),
        ("", False),
    ],
)
def test_local_host_names(host: str, local: bool) -> None:
    assert is_local(host) == local
