"""Random access to the lines of a TSV file finds what reading them in order finds."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip.datasets import Problems
from cnclip.datasets.chinese_clip import TsvData
from cnclip.errors import Where
from cnclip.sources.tsv_files import decode_base64, read_tsv


def encoded(content: bytes) -> bytes:
    return base64.b64encode(content)


field = st.one_of(
    st.binary(max_size=12).map(encoded),
    st.binary(max_size=12).map(base64.urlsafe_b64encode),
    st.binary(max_size=8),
    st.text("AB=+/-_ \t", max_size=9).map(str.encode),
)
line = st.builds(
    lambda before, key, gap, text, end: before + key + gap + text + end,
    st.sampled_from([b"", b"", b" ", b"\xef\xbb\xbf"]),
    st.sampled_from([b"1", b"2", b"3", b"04", b"x y", b"", "图".encode()]),
    st.sampled_from([b"\t", b"\t", b"\t", b" ", b"\t\t"]),
    field,
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b" \n", b"\t\n", b""]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(line, max_size=12), st.sampled_from([None, 8]))
def test_random_access_equals_streaming(lines: list[bytes], longest: int | None) -> None:
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        if longest:
            patched.setattr("cnclip.sources.tables.MAX_LINE", longest)
        place = Path(folder)
        (place / "a_imgs.tsv").write_bytes(b"".join(lines))
        (place / "a_texts.jsonl").write_bytes(b"")
        streamed, located = Problems(), Problems()
        with (place / "a_imgs.tsv").open("rb") as file:
            rows = [
                (image_id, decode_base64(text), Where(file="a_imgs.tsv", line=line.number))
                for line, image_id, text in read_tsv(file, "a_imgs.tsv", streamed)
            ]
        data = TsvData(place, "data", "a")
        store = data.locate(located)
        assert located.found == streamed.found
        assert [
            (store.ids[n], store.content(n), store.where(n)) for n in range(len(store.ids))
        ] == rows
        images = data.images(Problems())
        assert [(row.image_id, row.image.read(), row.where) for row in images] == rows
