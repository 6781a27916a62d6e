"""Builds the release into dist/: the sdist, and a wheel for each CPython that this machine has.

The wheels are built from the sdist. They include engines for several versions of torch, and none of
torch's libraries.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "wheels"
ENGINES = BUILD / "engines"
PYTHONS = ("3.11", "3.12", "3.13")
TORCH = ("2.13.0", "2.14.1")
OF_TORCH = ("libtorch*", "libc10*", "libgomp*")
MAX_BYTES = 15 << 20


def run(*command: str | Path) -> None:
    """Run a command; end with its status if it fails."""
    print("+", *command, flush=True)
    status = subprocess.run([str(part) for part in command], cwd=ROOT).returncode
    if status != 0:
        sys.exit(status)


def find_python(version: str) -> Path | None:
    """A CPython of a minor version: on the path, or installed by pyenv."""
    found = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    for python in found:
        # What pyenv puts on the path fails if the version is not selected.
        command = [str(python), "-c", "import pip, venv"]
        if python is not None and subprocess.run(command, capture_output=True).returncode == 0:
            return Path(python)
    return None


def build_wheel(python: Path, sdist: Path, directory: Path) -> Path:
    """Build a wheel from the sdist, in an environment of pip, and repair it.

    Returns:
        The repaired wheel, in dist/.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    engines = ",".join(map(str, sorted(ENGINES.iterdir())))
    settings = f"--config-settings=setup-args=-Dengines={engines}"
    pip = [python, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", directory, settings, sdist)
    (built,) = directory.glob("*.whl")
    repaired = directory / "repaired"
    exclude = [f"--exclude={name}" for name in OF_TORCH]
    run(sys.executable, "-m", "auditwheel", "repair", *exclude, "--wheel-dir", repaired, built)
    (wheel,) = repaired.glob("*.whl")
    return Path(shutil.copy(wheel, sdist.parent))


def check_wheel(wheel: Path) -> None:
    """Refuse a wheel that is too large or bundles libraries."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    bundled = [name for name in names if ".libs/" in name]
    if bundled:
        sys.exit(f"{wheel.name} bundles {', '.join(bundled)}")
    if wheel.stat().st_size > MAX_BYTES:
        sys.exit(f"{wheel.name} has {wheel.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    run(sys.executable, "-m", "auditwheel", "show", wheel)


def main() -> None:
    """Build what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="directory (dist/)")
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="minor versions of Python")
    parser.add_argument("--torch", nargs="+", default=TORCH, help="versions of torch")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.output, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", arguments.output)
    (sdist,) = arguments.output.resolve().glob("*.tar.gz")
    run(sys.executable, ROOT / "tools" / "engines.py", ENGINES, *arguments.torch)
    wheels = []
    for version in arguments.python:
        python = find_python(version)
        if python is None:
            print(f"no CPython {version}: no wheel for it", flush=True)
            continue
        wheels.append(build_wheel(python, sdist, BUILD / version))
    for wheel in wheels:
        check_wheel(wheel)
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, *wheels)
    for path in (sdist, *wheels):
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path}")


if __name__ == "__main__":
    main()
