"""The server as replicas on a Ray cluster: the same API and batcher, on many machines.

from ray import serve
from cnclip.serve.ray_app import ray_app

serve.run(ray_app("base.cnclip.pt", replicas=8, cpus=4))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from ..pipelines import pipeline
from ..preprocessors.decoding import Decode
from .application import build_app
from .guard import Application
from .options import Keys, ServerOptions, limit_images
from .served import Served

# Requests that a replica has at a time; the batcher makes batches of them.
_ONGOING = 256


def ray_app(
    model: str | Path,
    *,
    replicas: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    precision: str = "fp32",
    decode: Decode = "exact",
    options: ServerOptions | None = None,
    api_keys: tuple[str, ...] = (),
    name: str = "cnclip",
) -> Any:
    """An application for `ray.serve.run`: each replica has the model, a batcher and the API.

    Ray sends requests to the replicas in turn, and starts a replica again that has ended or whose
    batches do not succeed.

    Args:
        model: As for `pipeline`; each machine opens it, so a path must exist on all of them.
        replicas: The number of replicas.
        cpus: CPUs of a replica, and the threads of its model.
        gpus: GPUs of a replica; with one, the model runs there.
        precision: As for `pipeline`.
        decode: As for `pipeline`.
        options: The limits of each replica.
        api_keys: The keys that clients must send; none: no key is asked for.
        name: The name of the deployment.

    Returns:
        A `ray.serve.Application`.

    Raises:
        MissingExtraError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray-serve", "ray") from error

    def build() -> Application:  # Ray calls a plain function in the replica
        return _build(
            str(model),
            device="gpu" if gpus else "cpu",
            precision=precision,
            decode=decode,
            num_threads=max(1, int(cpus)),
            options=options or ServerOptions(),
            api_keys=api_keys,
        )

    deployment = serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
    )
    return deployment(serve.ingress(build)(_Replica)).bind()


# The application of this process: a replica is a separate process.
_served: list[Served] = []


class _Replica:
    """A replica, in addition to the application: its health."""

    def check_health(self) -> None:
        """Raise an error if batches do not succeed: Ray starts another replica then."""
        for served in _served:
            if (reason := served.not_ready()) is not None:
                raise RuntimeError(reason)


def _build(
    model: str,
    *,
    device: str,
    precision: str,
    decode: Decode,
    num_threads: int,
    options: ServerOptions,
    api_keys: tuple[str, ...],
) -> Application:
    """The application, with the model open; called in the replica."""
    limit_images()
    served = Served(options)
    opened = pipeline(
        model=model, device=device, precision=precision, decode=decode, num_threads=num_threads
    )
    served.add([opened], [])
    _served.append(served)
    return build_app(served, Keys(list(api_keys)), local=False)
