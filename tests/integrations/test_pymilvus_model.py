"""pymilvus' interface, with a collection of Milvus Lite."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integrations.conftest import TEXTS, Rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("pymilvus.model", reason="pymilvus[model] is not installed")
    from cnclip.integrations.milvus import CnclipEmbeddingFunction

pytestmark = pytest.mark.filterwarnings("ignore")


def test_embeds(named: Any, images: list[str], image_rows: Rows, text_rows: Rows) -> None:
    function = CnclipEmbeddingFunction(named, device="cpu")
    assert function.dim == 128
    for embed in (function, function.encode_documents, function.encode_queries):
        found = embed(TEXTS)
        assert isinstance(found, list)
        np.testing.assert_allclose(found, text_rows, atol=1e-6)
    np.testing.assert_allclose(function.encode_images(images), image_rows, atol=1e-6)


def test_a_collection(model: Any, images: list[str], tmp_path: Path) -> None:
    pymilvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    function = CnclipEmbeddingFunction(model)
    client = pymilvus.MilvusClient(str(tmp_path / "x.db"))
    client.create_collection("photos", dimension=function.dim, metric_type="COSINE")
    rows = [{"id": n, "vector": row} for n, row in enumerate(function.encode_images(images))]
    client.insert("photos", rows)
    found = client.search("photos", data=function.encode_queries(["狗"]), limit=1)
    assert [hit["id"] for hit in found[0]] == [1]
    client.close()
