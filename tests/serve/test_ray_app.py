"""Replicas on a real Ray cluster of this machine, one of which is killed under load."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnclip.errors import MissingExtraError
from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("httpx", reason="httpx is not installed, cnclip's extra `serve`")
from starlette.testclient import TestClient

from cnclip.serve import ray_app as under_test
from cnclip.serve.options import ServerOptions
from cnclip.serve.ray_app import ray_app
from tests.support.api import callers

PORT = 18765
TEXTS = ["一只猫", "生日蛋糕", "雨天"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"cnclip\[ray-serve\]"):
        ray_app("emoji-cn")


def test_the_application_of_a_replica(
    embedder: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_served", [])
    monkeypatch.setattr(under_test, "limit_images", lambda: None)  # of the whole process
    app = under_test._build(
        "emoji-cn",
        device="cpu",
        precision="fp32",
        decode="exact",
        num_threads=1,
        options=ServerOptions(max_items=3),
        api_keys=("key",),
    )
    (served,) = under_test._served
    replica = under_test._Replica()
    with TestClient(app, headers={"Authorization": "Bearer key"}) as client:
        answer = client.post("/v1/embeddings", json={"input": TEXTS})
        rows = np.array([one["embedding"] for one in answer.json()["data"]])
        want = embedder.forward({"text": TEXTS})["text_embedding"]
        assert np.abs(rows - want).max() < 2e-6
        assert client.post("/v1/embeddings", json={"input": [*TEXTS, "x"]}).status_code == 400
        client.headers.clear()
        assert client.post("/v1/embeddings", json={"input": TEXTS}).status_code == 401
        replica.check_health()
    served.close()
    with pytest.raises(RuntimeError, match="emoji-cn: no batch was embedded within"):
        replica.check_health()


@pytest.mark.slow
def test_a_replica_is_killed_under_load(
    embedder: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine, the process of Ray's proxy takes longer than its five seconds to start.
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: starved by other tests
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token to ~/.ray
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve", reason="ray.serve cannot be imported")
    want = embedder.forward({"text": TEXTS})["text_embedding"]
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    answers: list[int] = []

    def ask(client: Any) -> None:
        answer = client.post("/v1/embeddings", json={"input": TEXTS})
        if answer.status_code == 200:
            rows = np.array([one["embedding"] for one in answer.json()["data"]])
            assert np.abs(rows - want).max() < 2e-6
        answers.append(answer.status_code)
        time.sleep(0.02)  # leaves time to the replica that starts

    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(ray_app("emoji-cn", replicas=2, cpus=0.5))
        with callers(f"http://127.0.0.1:{PORT}", *[ask] * 4, timeout=60) as failures:

            def wait_for(condition: Callable[[], bool]) -> None:
                deadline = time.monotonic() + 120
                while not condition():
                    assert time.monotonic() < deadline and not failures, failures
                    time.sleep(0.1)

            wait_for(lambda: answers.count(200) > 20)
            first = replicas(ray)
            assert len(first) == 2
            ray.kill(ray.get_actor(first[0], namespace="serve"))
            # The other replica answers meanwhile; then there are two again.
            wait_for(lambda: running(serve) < 2)
            count = answers.count(200)
            wait_for(lambda: answers.count(200) > count + 20)
            wait_for(lambda: running(serve) == 2 and first[0] not in replicas(ray))
        # Requests of the killed replica may fail; the others go on.
        assert answers.count(200) > 0.8 * len(answers) and answers[-1] == 200
    finally:
        serve.shutdown()
        ray.shutdown()


def running(serve: Any) -> int:
    """The number of replicas that take requests."""
    deployment = serve.status().applications["default"].deployments["cnclip"]
    return deployment.replica_states.get("RUNNING", 0)


def replicas(ray: Any) -> list[str]:
    """The names of the replicas' actors that are alive."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(one["name"] for one in named if "SERVE_REPLICA" in one["name"])
