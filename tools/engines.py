"""Compiles engines for versions of torch that are not installed: `engines.py DIRECTORY VERSION...`

Headers and libraries come from torch's wheels. An engine that is newer than its sources is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "cnclip" / "engine" / "build.py"
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
LIBRARIES = {f"torch/lib/{name}{SUFFIX}" for name in ("libtorch_cpu", "libc10")}


def extract_torch(version: str, directory: Path) -> Path:
    """Download torch's wheel for this Python and extract what the engine is compiled with."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", directory, f"torch=={version}"], check=True)
    (wheel,) = directory.glob("torch-*.whl")
    with zipfile.ZipFile(wheel) as file:
        for name in file.namelist():
            if name.startswith("torch/include/") or name in LIBRARIES:
                file.extract(name, directory)
    return directory / "torch"


def newest_source() -> float:
    """When the sources of the engine were last changed, in seconds since 1970."""
    listed = subprocess.run([sys.executable, BUILD, "--sources"], check=True, capture_output=True)
    csrc = BUILD.parents[2] / "csrc"
    paths = [BUILD, *(csrc / name for name in listed.stdout.decode().splitlines())]
    return max(path.stat().st_mtime for path in paths)


def main() -> None:
    """Compile the engines that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the engines are written")
    parser.add_argument("versions", nargs="+", help="versions of torch, such as 2.13.0")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for version in arguments.versions:
        minor = ".".join(version.split(".")[:2])
        engine = arguments.directory / f"torch-{minor}{SUFFIX}"
        if engine.exists() and engine.stat().st_mtime > newest_source():
            continue
        print(f"compiling the engine for torch {version}", flush=True)
        with tempfile.TemporaryDirectory(prefix="torch-") as directory:
            torch = extract_torch(version, Path(directory))
            command = [sys.executable, BUILD, "--torch", torch, "--output", engine]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
