"""The files for systemd, containers and Kubernetes in the documentation fit the server."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cnclip.cache import cache_directory
from cnclip.cli import serve
from cnclip.serve.options import KEYS_VARIABLE, Keys, ServerOptions
from tests.support.pages import ROOT, blocks_of
from tools import wheels

PAGE = ROOT / "docs/en/howto/serve.md"
CHINESE_PAGE = ROOT / "docs/zh/deployment.md"
PORT = 7860


def block(language: str, page: Path = PAGE) -> str:
    (found,) = [one.code for one in blocks_of(page) if one.language == language]
    return found


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options of a command; an unknown one ends the test."""
    assert arguments[0].endswith("cnclip") and arguments[1] == "serve"
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    return parser.parse_args(arguments[2:])


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(block("ini"))
    return parser


def test_systemd_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = unit()["Service"]
    options = parsed(service["ExecStart"].split())
    assert options.host == "0.0.0.0" and options.port == PORT and options.api_keys
    # systemd kills the process only after the requests in progress had their time.
    assert int(service["TimeoutStopSec"]) > ServerOptions().drain_timeout
    # How the server ends then (tests/serve/test_serve_command.py); systemd would call it a failure.
    assert service["SuccessExitStatus"] == str(128 + signal.SIGTERM)
    name, _, folder = service["Environment"].partition("=")
    assert folder == f"/var/cache/{service['CacheDirectory']}"
    monkeypatch.setenv(name, str(tmp_path))
    assert cache_directory() == tmp_path


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    program = unit()["Service"]["ExecStart"].split()[0]
    file = tmp_path / "cnclip.service"
    file.write_text(block("ini").replace(program, "/bin/true"))
    command = [verify, "verify", "--man=no", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert file.name not in found.stderr and found.returncode == 0, found.stderr


def test_container() -> None:
    code = block("dockerfile")
    match = re.search(r"^ENTRYPOINT (.*)$", code, re.MULTILINE)
    assert match is not None
    options = parsed(json.loads(match[1]))
    assert options.host == "0.0.0.0"
    (model,) = options.served
    copied = re.search(r"^COPY (.*) (/\S+/)$", code, re.MULTILINE)
    assert copied is not None
    assert model in [f"{copied[2]}{Path(one).name}" for one in copied[1].split()]
    assert f"EXPOSE {options.port}\n" in code
    assert block("dockerfile", CHINESE_PAGE) == code


def test_container_installs_one_wheel_of_a_release() -> None:
    code = block("dockerfile")
    python = re.search(r"^FROM python:(3\.\d+)-slim$", code, re.MULTILINE)
    assert python is not None and python[1] in wheels.PYTHONS
    (wheel,) = re.findall(r"dist/(\S+\.whl)", code)
    assert wheel == f"cnclip-*-cp{python[1].replace('.', '')}-*.whl"
    # The image has no compiler: the wheel includes the engine.
    assert re.findall(r"torch==(\S+)", code) == [wheels.TORCH[-1]]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (named,) = re.findall(r"\.whl\)\[([\w,-]+)\]", code)
    assert set(named.split(",")) <= extras["optional-dependencies"].keys()
    # Kubernetes knows of a number only that it is not root.
    (user,) = re.findall(r"^USER (.*)$", code, re.MULTILINE)
    assert int(user) > 0


def test_kubernetes(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    deployment = yaml.safe_load(block("yaml"))
    spec = deployment["spec"]
    pod = spec["template"]
    assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["terminationGracePeriodSeconds"] > ServerOptions().drain_timeout
    (container,) = pod["spec"]["containers"]
    assert container["ports"] == [{"containerPort": PORT}]
    assert container["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    probes = {name: one["httpGet"] for name, one in container.items() if name.endswith("Probe")}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    for probe in probes.values():
        assert probe["port"] == PORT
        # The server of these tests knows the names of this machine only.
        assert api.get(probe["path"], headers={"Host": f"10.1.2.3:{PORT}"}).status_code == 200
    assert f"`{KEYS_VARIABLE}`" in PAGE.read_text(encoding="utf-8")
    monkeypatch.setenv(KEYS_VARIABLE, "a key")
    assert Keys.read(None)


def test_kubernetes_accepts_the_manifest() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    schemas.validate(yaml.safe_load(block("yaml")), schemas.latest_version(), strict=True)
