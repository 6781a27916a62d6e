"""Many callers of one model, in this process and over HTTP.

    python benchmarks/serving.py [--model emoji-cn | --random ViT-B-16] [--precision fp32]
        [--callers N] [--uploads N] [--seconds S] [--rounds N] [--part PART ...]
        [--infinity PYTHON] [--plain PYTHON]

Parts, of which each compares in turns; medians of the rounds are printed:

- texts: so many callers, each with one text of 12 tokens at a time: with `cnclip.serve.Batcher`,
  and each with its own call of the pipeline; compared with batches of 32.
- latency: one caller with one text and with one open image of 640 x 480, with and without the
  batcher, in alternation.
- images: so many uploads, each of the content of a JPEG file of 640 x 480 at a time, compared with
  `iter_embeddings`, the loop of `cnclip embed`, on the same files.
- http-texts, http-latency, http-images: the same of `cnclip serve` on this machine, one request per
  text or file, answered with JSON. Client and server share the cores: the processor time of both
  per item is printed, too.
- servers: `cnclip serve`, infinity and a plain service of FastAPI and transformers, which is
  servers/plain.py, with the same random weights of --random, and the same clients. PYTHON is an
  interpreter of an environment with infinity-emb[server], or with fastapi, transformers, uvicorn.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from servers.load import (
    FILES,
    TEXTS,
    median_times,
    rate_of,
    rate_of_callers,
    write_files,
)
from servers.processes import CnclipServer, InfinityServer, PlainServer, Server

from cnclip import bulk, pipeline
from cnclip.benchmark import random_archive, write_model_directory
from cnclip.benchmark.inputs import make_images
from cnclip.convert import convert
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Batcher

HTTP = ("http-texts", "http-latency", "http-images")
PARTS = ("texts", "latency", "images", *HTTP, "servers")
# The model uses the cores that other processes leave free, as it was in the last second.
_REST = 1.0

Figures = dict[str, float]


class Bench:
    """What is measured in this process, and compared with servers."""

    def __init__(
        self, embedder: MultiModalEmbeddingPipeline, arguments: argparse.Namespace, folder: Path
    ) -> None:
        self.embedder, self.folder = embedder, folder
        self.callers, self.uploads = arguments.callers, arguments.uploads
        self.seconds = arguments.seconds
        self.contents = write_files(folder)

    def batches(self) -> float:
        """Texts per second, in batches of 32."""

        def embed() -> int:
            return len(self.embedder.forward({"text": TEXTS[:32]})["text_embedding"])

        return rate_of(embed, self.seconds)

    def files(self) -> float:
        """Images per second of the loop of `cnclip embed`."""

        def embed() -> int:
            rows = bulk.iter_embeddings(str(self.folder), self.embedder)
            return sum(len(vectors) for _, vectors in rows)

        return rate_of(embed, self.seconds)

    def text_rate(self, embed: Callable[[str], Any]) -> tuple[float, float, int]:
        """The rate of callers with one text each."""
        return rate_of_callers(lambda number: embed(TEXTS[number % 64]), self.callers, self.seconds)

    def image_rate(self, embed: Callable[[bytes], Any]) -> tuple[float, float, int]:
        """The rate of callers with the content of one file each."""
        return rate_of_callers(
            lambda number: embed(self.contents[number % FILES]), self.uploads, self.seconds, FILES
        )


def compare_texts(bench: Bench, batcher: Batcher) -> Figures:
    batches = bench.batches()
    common, wait, _ = bench.text_rate(lambda text: batcher.forward({"text": text}))
    alone, alone_wait, _ = bench.text_rate(lambda text: bench.embedder.forward({"text": text}))
    return {
        "batches of 32, texts/s": batches,
        f"{bench.callers} callers, batcher, texts/s": common,
        f"{bench.callers} callers, batcher, ms": wait,
        f"{bench.callers} callers, pipeline, texts/s": alone,
        f"{bench.callers} callers, pipeline, ms": alone_wait,
        "batcher / batches of 32": common / batches,
    }


def compare_latency(bench: Bench, batcher: Batcher) -> Figures:
    found: Figures = {}
    inputs: dict[str, dict[str, Any]] = {
        "a text": {"text": TEXTS[0]},
        "an image": {"img": make_images(1)},
    }
    for name, given in inputs.items():
        calls: list[Callable[[], Any]] = [
            partial(bench.embedder.forward, given),
            partial(batcher.forward, given),
        ]
        alone, common = median_times(calls, bench.seconds)
        found |= {
            f"{name}, pipeline, ms": alone,
            f"{name}, batcher, ms": common,
            f"{name}, difference, ms": common - alone,
        }
    return found


def compare_images(bench: Bench, batcher: Batcher) -> Figures:
    files = bench.files()
    common, wait, _ = bench.image_rate(lambda content: batcher.forward({"img": content}))
    return {
        "files, cnclip embed, images/s": files,
        f"{bench.uploads} uploads, batcher, images/s": common,
        f"{bench.uploads} uploads, batcher, ms": wait,
        "batcher / cnclip embed": common / files,
    }


def over_http(
    server: Server, what: str, rate: Callable[[], tuple[float, float, int]]
) -> tuple[float, Figures]:
    """The rate of a server, and it with the processor time of both ends."""
    time.sleep(_REST)
    before, own = server.processor_seconds(), time.process_time()
    per_second, wait, count = rate()
    return per_second, {
        f"{what}, per s": per_second,
        f"{what}, ms": wait,
        f"{what}, server's processor ms": (server.processor_seconds() - before) * 1000 / count,
        f"{what}, clients' processor ms": (time.process_time() - own) * 1000 / count,
    }


def compare_http_texts(bench: Bench, server: Server) -> Figures:
    batches = bench.batches()
    what = f"{bench.callers} clients, a text"
    rate, figures = over_http(server, what, lambda: bench.text_rate(server.text))
    return {"batches of 32, per s": batches, **figures, "clients / batches": rate / batches}


def compare_http_latency(bench: Bench, server: Server) -> Figures:
    calls: list[Callable[[], Any]] = [
        lambda: bench.embedder.forward({"text": TEXTS[0]}),
        lambda: server.text(TEXTS[0]),
    ]
    times = []
    for call in calls:  # one after the other: in turns, each would take the other for a neighbour
        time.sleep(_REST)
        times += median_times([call], bench.seconds)
    inside, outside = times
    return {
        "one client, in process, ms": inside,
        "one client, over HTTP, ms": outside,
        "difference, ms": outside - inside,
    }


def compare_http_images(bench: Bench, server: Server) -> Figures:
    files = bench.files()
    what = f"{bench.uploads} clients, an image"
    rate, figures = over_http(server, what, lambda: bench.image_rate(server.image))
    return {"cnclip embed, per s": files, **figures, "uploads / cnclip embed": rate / files}


def compare_servers(bench: Bench, servers: dict[str, Server]) -> Figures:
    """The rates of several servers, and ours divided by each."""
    found: Figures = {}
    for kind in ("texts", "images"):
        rates = {}
        for name, server in servers.items():
            time.sleep(_REST)
            before = server.processor_seconds()
            if kind == "texts":
                rates[name], wait, count = bench.text_rate(server.text)
            else:
                rates[name], wait, count = bench.image_rate(server.image)
            used = (server.processor_seconds() - before) * 1000 / count
            found |= {
                f"{name}, {kind} per s": rates[name],
                f"{name}, {kind}, ms": wait,
                f"{name}, {kind}, processor ms": used,
            }
        for name, rate in rates.items():
            found[f"{kind}: cnclip / {name}"] = rates["cnclip"] / rate
    for name, server in servers.items():
        (found[f"{name}, a text alone, ms"],) = median_times(
            [partial(server.text, TEXTS[0])], bench.seconds / 2
        )
        found[f"{name}, resident MB"] = server.memory() / 1e6
    return found


@contextlib.contextmanager
def model_of(arguments: argparse.Namespace) -> Iterator[str | Path]:
    """The model to measure."""
    if arguments.random is None:
        yield arguments.model
    else:
        with random_archive(arguments.random) as archive:
            yield archive


def others_of(arguments: argparse.Namespace, folder: Path) -> dict[str, Server]:
    """The servers of other software, with the weights of --random."""
    source, model = folder / arguments.random, folder / "huggingface"
    write_model_directory(arguments.random, source)
    convert(source, model, to="huggingface")
    servers: dict[str, Server] = {}
    if arguments.infinity:
        servers["infinity"] = InfinityServer(model, arguments.infinity)
    if arguments.plain:
        servers["plain"] = PlainServer(model, arguments.plain)
    return servers


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-cn")
    parser.add_argument("--random", metavar="ARCHITECTURE", help="a model of a published size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--uploads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=PARTS[:-1])
    parser.add_argument("--infinity", metavar="PYTHON", help="an interpreter that has infinity")
    parser.add_argument("--plain", metavar="PYTHON", help="an interpreter that has transformers")
    arguments = parser.parse_args()
    if "servers" in arguments.part and not arguments.random:
        parser.error("servers: requires --random")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = stack.enter_context(model_of(arguments))
        embedder = pipeline(model=model, device=arguments.device, precision=arguments.precision)
        embedder.forward({"text": TEXTS, "img": make_images(8)})  # warm
        (folder / "files").mkdir()
        bench = Bench(embedder, arguments, folder / "files")
        batcher = stack.enter_context(Batcher(embedder))
        parts: dict[str, Callable[[], Figures]] = {
            "texts": partial(compare_texts, bench, batcher),
            "latency": partial(compare_latency, bench, batcher),
            "images": partial(compare_images, bench, batcher),
        }
        if {*HTTP, "servers"} & set(arguments.part):
            server = CnclipServer(model, arguments.device, arguments.precision)
            stack.callback(server.close)
            parts["http-texts"] = partial(compare_http_texts, bench, server)
            parts["http-latency"] = partial(compare_http_latency, bench, server)
            parts["http-images"] = partial(compare_http_images, bench, server)
            if "servers" in arguments.part:
                servers = {"cnclip": server, **others_of(arguments, folder)}
                for other in servers.values():
                    stack.callback(other.close)
                    other.text(TEXTS[0])
                    other.image(bench.contents[0])
                parts["servers"] = partial(compare_servers, bench, servers)
        for name in arguments.part:
            print_medians([parts[name]() for _ in range(arguments.rounds)])


def print_medians(rounds: list[Figures]) -> None:
    for row in rounds[0]:
        values = [one[row] for one in rounds]
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{row:42} {statistics.median(values):9.2f}   {spread}", flush=True)


if __name__ == "__main__":
    main()
