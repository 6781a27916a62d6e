"""Which engine is used with which torch, and how one is compiled at its first use."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnclip import _core, engine, errors
from cnclip.engine import opening
from cnclip.engine.build import COMPILED, CompilerError, compile_engine, find_compiler, source_files
from cnclip.engine.libtorch import NEWEST, Torch, find_torch, load_cuda, load_libraries

ENGINE = Path(str(engine.find_engine(find_torch())))  # that all tests use

COMPILED_ONCE = ["object"] * len(COMPILED) + ["engine"]  # what `quick_compiler` notes

Run = Callable[..., subprocess.CompletedProcess[str]]

EMBED = (
    "import cnclip\n"
    "p = cnclip.pipeline(model='emoji-cn', device='cpu')\n"
    "print(p.forward({'text': ['猫']})['text_embedding'].shape)\n"
)


def torch_of(directory: Path, version: str) -> Torch:
    return Torch(directory, version, f"__version__ = '{version}'\n")


@pytest.fixture
def fake_torch(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a torch package of a given version.py; returns the folder it is in."""

    def make(version_file: str) -> Path:
        package = tmp_path / "site" / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "version.py").write_text(version_file, encoding="utf-8")
        return package.parent

    return make


@pytest.fixture
def unchosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No engine is chosen or included, and the cache is empty; returns the cache's directory."""
    monkeypatch.delenv("CNCLIP_ENGINE", raising=False)
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "included_engines", dict)
    return tmp_path / "cache"


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compiler that takes a while, notes its calls and writes the engine that the tests use.

    Returns the file of notes.
    """
    notes = tmp_path / "compiled"
    script = tmp_path / "quick-c++"
    script.write_text(
        "#!/bin/sh\n"
        'for last; do test "$previous" = -o && output=$last; previous=$last; done\n'
        f'case $output in *.o) echo > "$output"; sleep 0.2; echo object >> {notes};;\n'
        f"*) cp '{ENGINE}' \"$output\"; echo engine >> {notes};; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return notes


# --- The installed torch --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.8.1", "1.13.0+cu117", "0.4"])
def test_an_old_torch_is_refused(
    run_python: Run, fake_torch: Callable[[str], Path], version: str
) -> None:
    path = fake_torch(f"from typing import Optional\n__version__ = '{version}'\ncuda = None\n")
    done = run_python(EMBED, check=False, PYTHONPATH=str(path))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"cnclip.errors.EngineError: torch {version} is installed, and cnclip needs 2.9 or newer: "
        "pip install 'torch>=2.9'"
    )


@pytest.mark.parametrize(
    ("version_file", "message"),
    [
        ("", "version.py: it names no version of torch; install torch again"),
        ("__version__ = 'next'\n", "version.py: it names no version of torch"),
        ("__version__: str = '2.13.7'\n", "libc10.so: a library of torch cannot be loaded: "),
    ],
)
def test_a_damaged_torch_is_reported(
    run_python: Run, fake_torch: Callable[[str], Path], version_file: str, message: str
) -> None:
    done = run_python(EMBED, check=False, PYTHONPATH=str(fake_torch(version_file)))
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cnclip.errors.EngineError: ")
    assert message in last


def test_what_an_uninstalled_torch_leaves_is_no_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files that pip does not know stay in the folder, which is a namespace package then."""
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(errors.EngineError, match="^torch is not installed: pip install 'torch>="):
        find_torch()


def test_a_torch_without_cuda_has_no_cuda(tmp_path: Path) -> None:
    torch = torch_of(tmp_path, "2.13.0")
    (tmp_path / "lib").mkdir()
    assert not load_cuda(torch)
    # One whose CUDA library cannot be loaded, as where the driver is missing.
    (tmp_path / "lib" / "libtorch_cuda.so").write_bytes(b"not a library")
    assert not load_cuda(torch)


# --- The choice -----------------------------------------------------------------------------------


def test_the_open_engine_is_the_installed_torch() -> None:
    opened = engine.open_engine()
    assert opened is engine.open_engine()
    assert opened.name == f"torch {find_torch().version.partition('+')[0]}"
    assert opened.device_count("xpu") == 0
    with pytest.raises(TypeError):
        opened.device_count(1)  # type: ignore[arg-type]


def test_an_included_engine_is_preferred(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchosen: Path
) -> None:
    found = find_torch()
    monkeypatch.setattr(opening, "included_engines", lambda: {found.minor: tmp_path / "included"})
    assert engine.find_engine(found) == tmp_path / "included"
    monkeypatch.setenv("CNCLIP_ENGINE", "/chosen.so")
    assert engine.find_engine(found) == Path("/chosen.so")


def test_names_of_included_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening, "_PACKAGE", tmp_path)
    for name in ("torch-2.9.so", "torch-2.13.so", "torch-2.so", "torch-2.13.1.so", "other-2.10.so"):
        (tmp_path / name).touch()
    included = {(2, 9): tmp_path / "torch-2.9.so", (2, 13): tmp_path / "torch-2.13.so"}
    assert engine.included_engines() == included


def test_an_included_engine_that_does_not_fit(
    run_python: Run, tmp_path: Path, unchosen: Path, quick_compiler: Path
) -> None:
    (tmp_path / "included.so").write_bytes(b"for another C++ library")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cnclip.engine import opening\n"
        "included = {opening.find_torch().minor: Path(sys.argv[1])}\n"
        "opening.included_engines = lambda: included\n"
        f"{EMBED}"
    )
    done = run_python(code, tmp_path / "included.so")
    assert done.stdout == "(1, 128)\n"
    assert f"the included engine does not fit torch {find_torch().version}: " in done.stderr
    assert quick_compiler.read_text().split() == COMPILED_ONCE


def test_a_second_engine_is_refused(tmp_path: Path) -> None:
    engine.open_engine()
    copy = shutil.copy(ENGINE, tmp_path / "copy.so")
    with pytest.raises(errors.EngineError, match="registering the operators: "):
        _core.Engine(copy)
    assert _core.Engine(ENGINE).name == engine.open_engine().name


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    load_libraries(find_torch())
    text = tmp_path / "text.so"
    text.write_text("not a library")
    for path, reason in ((text, "cannot be loaded"), (tmp_path / "none.so", "cannot be loaded")):
        with pytest.raises(errors.EngineError, match=re.escape(str(path))) as raised:
            _core.Engine(path)
        assert reason in raised.value.reason
    with pytest.raises(errors.EngineError, match="exports no cnclip_engine_get"):
        _core.Engine(_core.__file__)
    with pytest.raises(ValueError, match="null"):
        _core.Engine("a\0b")


def test_an_engine_of_another_version_is_refused(tmp_path: Path) -> None:
    source, stale = tmp_path / "stale.c", tmp_path / "stale.so"
    source.write_text("static int api = 999; void *cnclip_engine_get(void) { return &api; }")
    subprocess.run([find_compiler(), "-shared", "-fPIC", "-xc", source, "-o", stale], check=True)
    with pytest.raises(
        errors.EngineError, match="an engine of interface version 999, and"
    ) as raised:
        _core.Engine(stale)
    assert raised.value.where is not None and raised.value.where.file == str(stale)


# --- Compiled at the first use --------------------------------------------------------------------


def test_compiled_once(
    unchosen: Path, quick_compiler: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch = find_torch()
    assert engine.find_engine(torch) is None
    compiled = engine.compiled_engine(torch)
    assert engine.find_engine(torch) == compiled == engine.compiled_engine(torch)
    assert compiled.parent == unchosen / "engines"
    assert quick_compiler.read_text().split() == COMPILED_ONCE
    lines = [line for line in caplog.messages if "the newest tested" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"compiling the engine for torch {torch.version} with ")
    # Another build of the same version has another engine, and other sources too.
    other = Torch(torch.directory, torch.version, torch.description + "cuda = '13.0'\n")
    assert engine.find_engine(other) is None


def test_the_digest_covers_the_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchosen: Path
) -> None:
    names = {path.name for path in source_files()}
    assert {"torch_engine.cpp", "torch_ops.cpp", "torch_guard.hpp", "engine.h"} <= names
    assert {"status.h", "cpu.h", "linear.h", "attention.h"} <= names
    before = opening._file_name(find_torch())
    changed = tmp_path / "changed.h"
    changed.write_text("/* a change */")
    monkeypatch.setattr(opening, "source_files", lambda: [*source_files(), changed])
    assert opening._file_name(find_torch()) != before


def test_a_newer_torch_is_tried(
    unchosen: Path, quick_compiler: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = torch_of(find_torch().directory, f"{NEWEST[0]}.{NEWEST[1] + 1}.0a0+git/1")
    assert engine.compiled_engine(newer).is_file()
    newest = ".".join(map(str, NEWEST))
    assert f"is newer than {newest}, the newest tested" in caplog.messages[0]


def test_two_processes_compile_once(
    run_python: Run, unchosen: Path, quick_compiler: Path, tmp_path: Path
) -> None:
    code = (
        "from cnclip.engine import compiled_engine\nfrom cnclip.engine.libtorch import find_torch\n"
    )
    command = [sys.executable, "-c", code + "print(compiled_engine(find_torch()))"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert len(printed) == 1 and Path(printed.pop().strip()).is_file()
    assert quick_compiler.read_text().split() == COMPILED_ONCE
    assert not list((unchosen / "engines").glob(".*"))


def test_environments_share_a_cache(
    run_python: Run, unchosen: Path, quick_compiler: Path, tmp_path: Path
) -> None:
    """One engine for the same build of torch, wherever it is, and another for another build."""
    installed = find_torch()
    builds = {"same": installed.description, "other": installed.description + "cuda = '0.0'\n"}
    for name, description in builds.items():
        package = tmp_path / name / "torch"
        package.mkdir(parents=True)
        for file in ("__init__.py", "include", "lib"):
            (package / file).symlink_to(installed.directory / file)
        (package / "version.py").write_text(description, encoding="utf-8")
    code = (
        "from cnclip import _core\n"
        "from cnclip.engine import compiled_engine\n"
        "from cnclip.engine.libtorch import find_torch, load_libraries\n"
        "torch = find_torch()\n"
        "load_libraries(torch)\n"
        "path = compiled_engine(torch)\n"
        "assert _core.Engine(path).name\n"
        "print(torch.directory, path)\n"
    )
    found = {}
    for name in ("same", "other"):
        done = run_python(code, PYTHONPATH=str(tmp_path / name))
        directory, found[name] = map(Path, done.stdout.split())
        assert directory == tmp_path / name / "torch"
    assert found["same"] == engine.compiled_engine(installed) != found["other"]
    assert set((unchosen / "engines").glob("*.so")) == set(found.values())
    assert quick_compiler.read_text().split().count("engine") == 2


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, unchosen: Path) -> None:
    torch = torch_of(find_torch().directory, "2.11.0")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(errors.EngineError) as raised:
        engine.compiled_engine(torch)
    assert raised.value.reason == (
        "this cnclip includes no engine, torch 2.11.0 is installed, and the engine for it cannot "
        "be compiled (no C++ compiler: no-such-compiler is not installed): install g++"
    )
    included = {(2, 13): Path("a"), (2, 14): Path("b")}
    monkeypatch.setattr(opening, "included_engines", lambda: included)
    with pytest.raises(
        errors.EngineError, match="includes engines for torch 2.13 or 2.14 only"
    ) as e:
        engine.compiled_engine(torch)
    assert e.value.reason.endswith(": install torch 2.13 or 2.14, or a compiler")
    assert not list((unchosen / "engines").glob("*.so"))


def test_a_compiler_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchosen: Path
) -> None:
    failing = tmp_path / "failing-c++"
    failing.write_text("#!/bin/sh\necho 'a.cpp:1:2: error: no such thing'\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    message = "failed with status 3: a.cpp:1:2: error: no such thing"
    with pytest.raises(errors.EngineError, match=message):
        engine.compiled_engine(find_torch())
    failing.write_text("not a program")
    with pytest.raises(errors.EngineError, match="cannot be run: .*Exec format error"):
        engine.compiled_engine(find_torch())


def test_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    unchosen: Path,
    quick_compiler: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "file"))
    compiled = engine.compiled_engine(find_torch())
    assert compiled.read_bytes() == ENGINE.read_bytes()
    assert "the cache directory cannot be used" in caplog.text
    shutil.rmtree(compiled.parent)


@pytest.mark.slow
def test_compiled_by_a_real_compiler(run_python: Run, tmp_path: Path) -> None:
    """Two processes at once, from nothing to embeddings; the second one waits for the first."""
    environment = {**os.environ, "CNCLIP_CACHE": str(tmp_path / "cache")}
    environment.pop("CNCLIP_ENGINE", None)
    command = [sys.executable, "-c", EMBED]
    running = [
        subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, encoding="utf-8")
        for _ in range(2)
    ]
    results = [process.communicate(timeout=600) for process in running]
    assert [printed for printed, _ in results] == ["(1, 128)\n"] * 2
    assert sum("compiling the engine" in warned for _, warned in results) == 1
    assert not any("warning: " in warned for _, warned in results)
    (compiled,) = (tmp_path / "cache" / "engines").glob("*.so")
    assert stat.S_IMODE(compiled.stat().st_mode) & 0o022 == 0


def test_a_torch_without_headers(tmp_path: Path) -> None:
    with pytest.raises(CompilerError, match="failed with status"):
        compile_engine(tmp_path, tmp_path / "engine.so")
    assert not (tmp_path / "engine.so").exists()
