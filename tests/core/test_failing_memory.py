"""Every allocation that the core, the engine and Python make for a call fails once.

tests/c/test_out_of_memory.c does the same without Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the functions of glibc are replaced"),
    pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="a sanitizer has its own malloc"),
]

# What is called. Prints, for each entry, how many of its allocations failed.
CODE = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
from PIL import Image
import cnclip
from cnclip import _core
from cnclip.engine import find_engine, open_engine
from cnclip.engine.libtorch import find_torch
from cnclip.errors import ArchiveError, ModelRunError

golden, prepared, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
vocabulary = (golden / "tiny-vit" / "vocab.txt").read_bytes()
tokenizer = _core.Tokenizer(vocabulary)
small = b"[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\na\\n##a\\n"
processor = _core.ImageProcessor(16)
image = Image.new("RGB", (200, 300), (1, 2, 3))
Image.core.set_block_size(4096)
in_blocks = Image.new("RGB", (200, 300), (3, 2, 1))
Image.core.set_block_size(16 << 20)  # as it was
pixels = np.asarray(image)
model = cnclip.pipeline(model=golden / "tiny-vit", device="cpu", num_threads=1).model
encoder, info, engine = model.encoder, model.info, open_engine()
engine_path = find_engine(find_torch())
encoder.save_prepared(prepared)
tensors = np.zeros((2, 3, 32, 32), np.float32)
four_bytes = np.zeros((2, 32, 32, 4), np.uint8)
ids = np.arange(1, 13).reshape(4, 3)
texts = ["\\u732b and a dog", "a" * 40, "", "\\u4e2d\\u6587" * 9]

rows = np.full((300, 4), 7, np.float32)  # numbers of three hundred rows: some are new objects

def refused(kind, call):
    try:
        call()
    except kind:
        return 1
    raise AssertionError("no " + kind.__name__)

refused(ValueError, in_blocks.__arrow_c_array__)  # its rows are not contiguous

def new_encoder(path, is_prepared):
    made = _core.Encoder(
        engine, path, tokenizer, info.embed_dim, info.context_length, num_threads=1,
        is_prepared=is_prepared,
    )
    return made.encode_texts(texts, 2)

nowhere = _core.Encoder(
    engine, info.path, tokenizer, info.embed_dim, info.context_length, "meta"
)  # a device that computes nothing

entries = {
    "Tokenizer": lambda: _core.Tokenizer(small).encode(["aa"], 8),
    "Tokenizer.encode": lambda: tokenizer.encode(texts, 8),
    "ImageProcessor": lambda: _core.ImageProcessor(16).process([pixels]),
    "ImageProcessor.process": lambda: processor.process([image, pixels, pixels[::-1, ::2]]),
    "ImageProcessor.process, several blocks": lambda: processor.process([in_blocks]),
    "ImageProcessor.resize": lambda: processor.resize([image, pixels]),
    "Engine": lambda: _core.Engine(engine_path) and 1,
    "Encoder": lambda: new_encoder(info.path, False),
    "Encoder, prepared": lambda: new_encoder(prepared, True),
    "Encoder.save_prepared": lambda: encoder.save_prepared(prepared),
    "Encoder.encode_texts": lambda: encoder.encode_texts(texts, 2),
    "Encoder.encode_ids": lambda: encoder.encode_ids(ids, 2),
    "Encoder.encode_pixels": lambda: encoder.encode_pixels(tensors),
    "Encoder.encode_pixels, bytes": lambda: encoder.encode_pixels(four_bytes),
    "Encoder.encode_pixels, copied": lambda: encoder.encode_pixels(tensors[..., ::-1]),
    "Encoder.encode_ids, copied": lambda: encoder.encode_ids(ids.astype(np.int32)),
    "unusable_rows": lambda: _core.unusable_rows(rows, 0.01),
    "an item refused": lambda: refused(TypeError, lambda: tokenizer.encode(["a", 1])),
    "an id refused": lambda: refused(ValueError, lambda: encoder.encode_ids(-ids)),
    "a file refused": lambda: refused(ImportError, lambda: _core.Engine("/no-such-file")),
    "an image refused": lambda: refused(ValueError, lambda: processor.process([pixels[:0]])),
}
# Errors of libtorch. Here the strings that libstdc++ allocates fail too, also libtorch's.
errors = {
    "an archive refused": lambda: refused(ArchiveError, lambda: new_encoder("/no-file", False)),
    "a run refused": lambda: refused(ModelRunError, lambda: nowhere.encode_texts(["a"])),
}

if how == "malloc":
    del entries["Encoder.save_prepared"]  # a constructor of c10::Dict that is noexcept allocates
    memory = ctypes.CDLL(sys.argv[4])
    memory.memory_calls.restype = ctypes.c_long
    def watch(*names):
        with open("/proc/self/maps") as maps:
            for line in maps:
                if any("/" + name in line for name in names):
                    first, last = (ctypes.c_size_t(int(x, 16)) for x in line.split()[0].split("-"))
                    memory.memory_add_range(first, last)
    watch(Path(_core.__file__).name, engine_path.name)
    start = memory.memory_fail
    def stop(number):
        called = memory.memory_calls()
        memory.memory_fail(0)
        return called < number  # the call is over: no such allocation
else:
    import _testcapi
    def start(number):
        _testcapi.set_nomemory(number - 1, 0)  # this one and all later ones
    def stop(number):
        _testcapi.remove_mem_hooks()
        return None

def same(found, wanted):
    if isinstance(wanted, tuple):
        return all(map(same, found, wanted))
    return np.array_equal(found, wanted)

def fail_each(name, call):
    wanted, failures, number = call(), 0, 0
    while True:
        number += 1
        found = error = None
        kept = [[] for _ in range(100)]  # so that Python has no lists to use again
        start(number)
        try:
            found = call()
        except MemoryError as caught:
            error = caught
        except BaseException as caught:
            over = stop(number)
            raise AssertionError(f"{name}: allocation {number}: {caught!r}") from caught
        over = stop(number)
        if error is None:
            assert same(found, wanted), f"{name}: allocation {number}: another answer"
            if over is None or over:
                return failures
        failures += 1
        error = None
        assert same(call(), wanted), f"{name}: after the failure of allocation {number}"

failures = {name: fail_each(name, call) for name, call in entries.items()}
if how == "malloc":
    watch("libstdc++.so")
failures |= {name: fail_each(name, call) for name, call in errors.items()}
print(json.dumps(failures))
"""


@pytest.fixture(scope="module")
def failing_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes allocations fail, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).parents[1] / "support" / "failing_memory.c"
    library = tmp_path_factory.mktemp("memory") / "failing_memory.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Werror", "-fPIC", "-fexceptions", "-shared"]
    subprocess.run([compiler, *flags, source, "-o", library, "-lstdc++"], check=True)
    return library


@pytest.mark.parametrize("how", ["python", pytest.param("malloc", marks=pytest.mark.slow)])
def test_each_allocation_fails(
    how: str, golden: Path, archive: Path, failing_memory: Path, tmp_path: Path
) -> None:
    """MemoryError, or the right answer; and the right answer from the next call."""
    if how == "python":
        pytest.importorskip("_testcapi")
    done = subprocess.run(
        [sys.executable, "-c", CODE, golden, tmp_path / "prepared", how, failing_memory],
        env=os.environ | ({"LD_PRELOAD": str(failing_memory)} if how == "malloc" else {}),
        capture_output=True,
        encoding="utf-8",
        timeout=900,  # without optimization, for its coverage, it takes minutes
    )
    assert done.returncode == 0, done.stderr[-3000:]
    failures = json.loads(done.stdout)
    print(f"{how}: {sum(failures.values())} allocations failed: {failures}")
    assert failures["Tokenizer"] > 2 and failures["Encoder"] > 2
    assert failures["a run refused"] > 2
