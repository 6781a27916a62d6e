"""The requests of `make soak` get the statuses that it expects."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil")
pytest.importorskip("httpx", reason="httpx is not installed, cnclip's extra `serve`")

SOAK = Path(__file__).parents[2] / "tools" / "soak.py"


def test_each_request_of_the_soak(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("cnclip_soak", SOAK)
    assert spec is not None and spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, soak)  # its dataclasses look it up
    monkeypatch.syspath_prepend(str(SOAK.parents[1]))
    spec.loader.exec_module(soak)
    requests = soak.requests()
    assert len(requests) > 20
    for one in requests:
        answer = api.request(one.method, one.path, **one.arguments)
        assert answer.status_code == one.status, (one.path, one.arguments, answer.text)
