"""Read the files of an npm package, through npm itself."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path


def read_package(
    name: str, version: str, folder: Path, only: str | None = None
) -> dict[str, bytes]:
    """Files of the npm package ``name`` at ``version`` by their path inside the package.

    The ``.tgz`` of ``npm pack`` is read from ``folder``; if it is missing, npm downloads it there.
    ``only`` keeps paths that begin with it (and ``package.json``), for packages that are large.

    Raises:
        subprocess.CalledProcessError: npm could not fetch the package.
        ValueError: the archive is of another package or version.
    """
    archive = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as members:
        for member in members:
            path = member.name.partition("/")[2]
            if not member.isfile() or not (
                only is None or path.startswith(only) or path == "package.json"
            ):
                continue
            content = members.extractfile(member)
            if content is not None:
                files[path] = content.read()
    package = json.loads(files["package.json"])
    if (package["name"], package["version"]) != (name, version):
        raise ValueError(f"{archive} holds {package['name']} {package['version']}")
    return files
