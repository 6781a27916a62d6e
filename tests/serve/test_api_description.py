"""The server keeps its own description: requests that schemathesis makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from cnclip import pipeline
from cnclip.serve import open_gallery

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `serve`")
pytest.importorskip("schemathesis")
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.api import served_by

HEADERS = {"Host": "localhost"}
# A string may be no image, and a text may be blank: no description can say so.
UNKNOWN = [positive_data_acceptance]


def test_requests_made_of_the_description() -> None:
    embedder = pipeline(model="emoji-cn", device="cpu")
    with served_by(embedder, collections=(open_gallery(embedder),)) as (client, _):
        schema = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=HEADERS)
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 11
        for operation in operations:

            @settings(
                max_examples=6,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(case=operation.as_strategy())
            def check(case: Any) -> None:
                case.call_and_validate(headers=HEADERS, excluded_checks=UNKNOWN)

            check()
