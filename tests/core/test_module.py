"""The extension module itself: how it is imported, and what its objects refer to."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

import cnclip.errors
from cnclip import _core
from cnclip.engine import open_engine
from cnclip.pipelines import MultiModalEmbeddingPipeline

assert _core.__file__ is not None
FILE = Path(_core.__file__)


def new_module() -> types.ModuleType:
    """Another copy of the module, not yet executed."""
    spec = importlib.util.spec_from_file_location("cnclip._core", FILE)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def execute(module: types.ModuleType) -> None:
    assert module.__spec__ is not None and module.__spec__.loader is not None
    module.__spec__.loader.exec_module(module)


def test_copies_have_their_own_types() -> None:
    other = new_module()
    execute(other)
    assert other.Tokenizer is not _core.Tokenizer
    with pytest.raises(cnclip.errors.VocabularyError):
        other.Tokenizer(b"a")


def test_the_errors_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = new_module()
    monkeypatch.setitem(sys.modules, "cnclip.errors", None)
    with pytest.raises(ImportError, match="cnclip.errors"):
        execute(module)
    names = ["InputTypeError", "InvalidInputError", "VocabularyError", "ArchiveError"]
    for count in range(len(names)):
        fewer = types.ModuleType("cnclip.errors")
        for name in names[:count]:
            setattr(fewer, name, getattr(cnclip.errors, name))
        monkeypatch.setitem(sys.modules, "cnclip.errors", fewer)
        module = new_module()
        with pytest.raises(AttributeError, match=names[count]):
            execute(module)
        gc.get_referents(module)  # of a state that is filled in part
        del module
        gc.collect()


WITHOUT_NUMPY = """
import importlib.util, sys
sys.modules["numpy"] = sys.modules["numpy._core._multiarray_umath"] = None
spec = importlib.util.spec_from_file_location("cnclip._core", sys.argv[1])
try:
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
except ImportError as error:
    print("numpy" in str(error))
"""


def test_numpy_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMPY, FILE], capture_output=True, encoding="utf-8"
    )
    assert done.stdout == "True\n", done.stderr


# exec_dynamic is what the loader calls; the loader itself would need memory too.
NO_MEMORY = """
import gc, importlib.util
import _imp, _testcapi
import cnclip
from cnclip import _core

spec = importlib.util.spec_from_file_location("cnclip._core", _core.__file__)

def execute(module, number):
    # Only `number` allocations succeed.
    error = None
    _testcapi.set_nomemory(number, 0)
    try:
        _imp.exec_dynamic(module)
    except BaseException as caught:
        error = caught
    _testcapi.remove_mem_hooks()
    return error

failures = 0
while True:
    module = importlib.util.module_from_spec(spec)
    error = execute(module, failures)
    if error is None:
        break
    assert isinstance(error, MemoryError), repr(error)
    failures += 1
    gc.get_referents(module)
    del module, error
    gc.collect()
module.Tokenizer(b"[PAD]\\n[UNK]\\n[CLS]\\n[SEP]")
print(failures)
"""


def test_importing_without_memory() -> None:
    """Each allocation of the import fails, with those that follow it."""
    pytest.importorskip("_testcapi")
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY], capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 50


def test_the_collector_sees_what_objects_refer_to(vit: MultiModalEmbeddingPipeline) -> None:
    encoder, tokenizer = vit.model.encoder, vit.preprocessor.tokenizer
    processor = vit.preprocessor.image_processor
    assert any(found is encoder for found in gc.get_referrers(tokenizer))
    for one in (encoder, tokenizer, processor, open_engine()):
        assert any(found is one for found in gc.get_referrers(type(one)))
        assert any(found is _core for found in gc.get_referrers(type(one)))
    for error in (cnclip.errors.InputTypeError, cnclip.errors.VocabularyError):
        assert any(found is _core for found in gc.get_referrers(error))
