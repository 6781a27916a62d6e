"""Host names that are those of this machine."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from cnclip.serve.guard import POLICY, is_local


def test_policy_names_no_other_host() -> None:
    assert "http" not in POLICY and "*" not in POLICY and "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none';")


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
