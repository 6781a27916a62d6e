"""What is built and shipped: the extension, sdist and wheel, and what the READMEs print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cnclip import _core
from cnclip.engine import find_engine
from cnclip.engine.build import source_files
from cnclip.engine.libtorch import find_torch
from tests.support.pages import blocks_of

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = Path(_core.__file__)
ENGINE = find_engine(find_torch())
READMES = ("README.md", "README.zh-CN.md")
# What a working copy holds and no distribution may.
LITTER = ("cnclip/left.so", "cnclip/cli/left.pyc", "cnclip/__pycache__/left.py", "csrc/base/left.o")

needs_elf = pytest.mark.skipif(sys.platform != "linux", reason="readelf and nm read ELF files")


def output_of(*command: str | Path, **options: object) -> str:
    """What a command prints; fails with all of it where the command fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, encoding="utf-8", **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without what would let the checkout's own package be found."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CNCLIP_", "PYTHON"))}
    return {**kept, "PYTHONIOENCODING": "utf-8", **more}


# --- The extension --------------------------------------------------------------------------------


@needs_elf
def test_libraries_that_are_needed() -> None:
    def needed(file: Path) -> set[str]:
        return set(re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-d", file)))

    foreign = re.compile("torch|c10|omp|python|cuda|stdc")
    assert not {name for name in needed(EXTENSION) if foreign.search(name)}
    # torch's by name: they are loaded from the installed torch before the engine.
    found = {name for name in needed(ENGINE) if foreign.search(name)}
    assert found == {"libtorch_cpu.so", "libc10.so", "libstdc++.so.6"}
    for file in (EXTENSION, ENGINE):
        assert not re.search("R(?:UN)?PATH.*torch", output_of("readelf", "-d", file))


@needs_elf
def test_the_process_has_one_openmp_library(tmp_path: Path) -> None:
    code = (
        "from cnclip.engine import open_engine\n"
        "open_engine()\n"
        "print(open('/proc/self/maps').read())\n"
    )
    maps = output_of(sys.executable, "-c", code, cwd=tmp_path)
    mapped = {line.split()[-1] for line in maps.splitlines() if re.search(r"lib[gi]?omp", line)}
    assert len(mapped) == 1 and "/torch/lib/" in mapped.pop()


@needs_elf
def test_one_function_is_exported() -> None:
    for file, name in ((EXTENSION, "PyInit__core"), (ENGINE, "cnclip_engine_get")):
        symbols = output_of("nm", "-D", "--defined-only", file).splitlines()
        assert [line.split()[-1] for line in symbols] == [name]


def test_headers_of_torch_and_python_are_included_in_their_folders_only() -> None:
    csrc = ROOT / "csrc"
    suffixes = {".c", ".cpp", ".h", ".hpp"}
    sources = [path for path in csrc.rglob("*") if path.suffix in suffixes]

    def folders_including(names: str) -> set[Path]:
        including = re.compile(rf"^\s*#\s*include\s*[<\"](?:{names})", re.MULTILINE)
        return {path.parent for path in sources if including.search(path.read_text())}

    torch = {csrc / "engine" / "torch", csrc / "engine" / "torch" / "cuda"}
    assert {path.parent for path in sources if path.suffix in {".cpp", ".hpp"}} == torch
    assert folders_including("torch/|ATen/|c10/|caffe2/") == torch
    assert folders_including(r"Python\.h|numpy/") == {csrc / "python"}


def test_engine_header_is_c11(tmp_path: Path) -> None:
    source = tmp_path / "header.c"
    source.write_text('#include "engine/engine.h"\nint used(void) { return CNCLIP_OK; }\n')
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wstrict-prototypes", "-Werror", "-fsyntax-only"]
    output_of(os.environ.get("CC", "cc"), *flags, f"-I{ROOT / 'csrc'}", source)


# --- sdist and wheel ------------------------------------------------------------------------------


def package_files() -> set[str]:
    """The files of the package that are shipped, by their paths in the checkout."""
    package = ROOT / "cnclip"
    files = {path for path in package.rglob("*.py") if "__pycache__" not in path.parts}
    files |= {package / "py.typed", package / "_core.pyi"}
    files |= {package / "checkpoints" / name for name in ("vocab.txt", "VOCABULARY.md")}
    files |= {package / "evaluate" / "published_results.json"}
    for folder in ("assets/emoji-cn", "assets/gallery", "assets/fonts"):
        files |= set((package / folder).iterdir())
    for folder in ("evaluate/labels", "evaluate/templates", "serve/static"):
        files |= set((package / folder).iterdir())
    return {path.relative_to(package.parent).as_posix() for path in files}


def engine_files() -> set[str]:
    """The sources of the engine, by their paths in csrc/."""
    return {path.relative_to(ROOT / "csrc").as_posix() for path in source_files()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, committed to a repository, with litter in it."""
    folder = tmp_path_factory.mktemp("checkout")
    listing = output_of("git", "-C", ROOT, "ls-files", "-zco", "--exclude-standard")
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("docs/", "notebooks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ("git", "-C", folder, "-c", "user.name=cnclip", "-c", "user.email=cnclip@localhost")
    output_of("git", "init", "--quiet", folder)
    output_of(*git, "add", "--all")
    output_of(*git, "commit", "--quiet", "--message", "A copy")
    for name in LITTER:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


def build_sdist(checkout: Path, directory: Path) -> Path:
    directory.mkdir()
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    code = f"import mesonpy; mesonpy.build_sdist({str(directory)!r})"
    output_of(sys.executable, "-c", code, cwd=checkout, env=clean_environment(PATH=tools))
    (archive,) = directory.iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of the copy."""
    return build_sdist(checkout, tmp_path_factory.mktemp("sdist") / "dist")


@pytest.mark.slow
def test_sdist_holds_the_sources_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as file:
        names = {m.name.partition("/")[2] for m in file.getmembers() if m.isfile()}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in {".c", ".cpp", ".cu", ".h", ".hpp", ".md", ".py"}
        or path.name == "meson.build"
    }
    top = {"pyproject.toml", "meson.build", "meson.options", "LICENSE", "CHANGELOG.md", *READMES}
    assert names - {"PKG-INFO"} == package_files() | sources | top


@pytest.mark.slow
def test_sdist_is_reproducible(sdist: Path, checkout: Path, tmp_path: Path) -> None:
    again = build_sdist(checkout, tmp_path / "dist")
    assert again.name == sdist.name and again.read_bytes() == sdist.read_bytes()


def test_every_c_file_is_compiled() -> None:
    """csrc/meson.build lists the files by their names, unlike the package's Python files."""
    listed = set(re.findall(r"'(\w+/\w+\.c)'", (ROOT / "csrc" / "meson.build").read_text()))
    assert listed == {
        path.relative_to(ROOT / "csrc").as_posix() for path in (ROOT / "csrc").glob("*/*.c")
    }
    for folder, prefix in (("c", "test_"), ("fuzz", "fuzz_")):
        tests = ROOT / "tests" / folder
        named = set(re.findall(r"'([a-z0-9_]+)'", (tests / "meson.build").read_text()))
        assert {path.stem.removeprefix(prefix) for path in tests.glob("*.c")} <= named


def isolated_environment(folder: Path) -> Path:
    """A virtual environment with the one torch whose CPU build pip is not to replace."""
    output_of(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    pip_install(python, "torch==2.13.0")
    return python


def pip_install(python: Path, *what: str) -> None:
    flags = ("--quiet", "--no-input", "--disable-pip-version-check")
    environment = clean_environment()
    output_of(python, "-m", "pip", "install", *flags, *what, env=environment, cwd=python.parent)


def build_wheel(source: Path, directory: Path) -> Path:
    """A wheel, built in an environment of pip's own."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-input", source]
    output_of(*command, cwd=directory, env=clean_environment())
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the source distribution."""
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it."""
    python = isolated_environment(tmp_path_factory.mktemp("installed") / "venv")
    pip_install(python, str(wheel))
    return python


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of what is installed, in which its first use compiles the engine."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["sdist", "checkout"])
def test_wheel_holds_the_package_and_nothing_else(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if source == "sdist":
        wheel = request.getfixturevalue("wheel")
    else:
        wheel = build_wheel(request.getfixturevalue("checkout"), tmp_path)
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        licences = {Path(name).name for name in file.namelist() if ".dist-info/licenses/" in name}
    extensions = {name for name in names if name.endswith(".so")}
    assert len(extensions) == 1
    engine = {f"cnclip/engine/csrc/{name}" for name in engine_files()}
    assert names - extensions == package_files() | engine
    assert licences == {"LICENSE", "OFL.txt"}


@pytest.mark.slow
def test_demo_of_a_fresh_install(installed: Path, cache: Path, tmp_path: Path) -> None:
    environment = clean_environment(CNCLIP_CACHE=str(cache))
    for command in ([installed, "-m", "cnclip.demo"], [installed.with_name("cnclip"), "demo"]):
        printed = output_of(*command, "-o", "sheet.png", cwd=tmp_path, env=environment)
        assert "生日蛋糕" in printed
        assert (tmp_path / "sheet.png").stat().st_size > 10_000
        (tmp_path / "sheet.png").unlink()


# --- What the READMEs print -----------------------------------------------------------------------


def test_both_readmes_have_the_same_blocks() -> None:
    """The Chinese page has the same code; comments may differ."""
    for language in ("python", "diff", "console"):
        english, chinese = (
            [
                re.sub(r"\s*#.*", "", b.code)
                for b in blocks_of(ROOT / name)
                if b.language == language
            ]
            for name in READMES
        )
        assert english and english == chinese


@pytest.mark.slow
def test_readme_runs(installed: Path, cache: Path, tmp_path: Path) -> None:
    """The examples run with the wheel; tests/docs runs all other pages with the checkout."""
    pip_install(installed, "faiss-cpu", "pyarrow")  # of the extra `search`
    environment = clean_environment(CNCLIP_CACHE=str(cache))
    pages, folder = ROOT / "tests" / "support" / "pages.py", tmp_path / "files"
    folder.mkdir()
    command = [installed, "-P", "-W", "error", pages, ROOT / "README.md", folder]
    assert "examples ran" in output_of(*command, cwd=tmp_path, env=environment)


def test_relative_links_lead_somewhere() -> None:
    """Of pages outside the site; MkDocs checks those inside."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("csrc/*.md"), *ROOT.glob("tests/*.md")]
    assert len(pages) >= 6
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_makefile_says_what_each_target_does() -> None:
    printed = output_of("make", "-s", "-C", ROOT, "help")
    targets = ("demo", "test", "test-slow", "lint", "format", "typing", "asan", "fuzz", "bench")
    for target in (*targets, "notebooks", "docs"):
        assert re.search(rf"^ +make {target} +\S", printed, re.MULTILINE), target
