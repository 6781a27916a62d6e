"""Runs the fuzzers, each for some seconds, and prints what they did: `make fuzz`.

    python -m tests.fuzz.fuzz_run build/fuzz --seconds 60 --processes 2 [--repeatable] [NAME ...]

Those in C are programs of libFuzzer, those in Python run under atheris, which is libFuzzer as well.
All modules are imported once; each target then runs in a fork of this process. Inputs that reach
new code are kept in FOLDER/inputs/NAME, and an input with a finding next to that folder.

CI runs the targets in Python with --repeatable: it says whether a change is good, and is not where
new findings are looked for.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import re
import resource
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

_INSTRUMENTED = ["cnclip", "tests.support.twins"]
# atheris prints the name of each module.
with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=_INSTRUMENTED),
):
    import cnclip.pipelines  # noqa: F401
    from tests.fuzz import fuzz_files, fuzz_models, fuzz_server, fuzz_twins

HERE = Path(__file__).parent
SEEDS = HERE / "corpus"
TARGETS = fuzz_files.TARGETS | fuzz_models.TARGETS | fuzz_server.TARGETS | fuzz_twins.TARGETS
PROGRAMS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))
# Of memory beyond what the modules take, and of wall time: a machine may be busy.
_MORE_MEMORY = 1 << 30
_TIMEOUT = 25
_FIXED_RATE = 500  # inputs per second of --repeatable
_DONE = re.compile(r"^#\d+\s+DONE\s+cov: (\d+) ft: (\d+)", re.MULTILINE)
_RUNS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def options_of(name: str, folder: Path, seconds: int, *, repeatable: bool) -> list[str]:
    """libFuzzer's options of a target, and its folders of inputs."""
    inputs = folder / "inputs" / name
    fixed = ["-seed=1", f"-runs={_FIXED_RATE * seconds}"]
    found = [
        *(fixed if repeatable and name in TARGETS else [f"-max_total_time={seconds}"]),
        f"-timeout={_TIMEOUT}",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        f"-artifact_prefix={inputs}-",
    ]
    if (words := SEEDS / f"{name}.dict").exists():
        found.append(f"-dict={words}")
    if name in TARGETS:
        found.append(f"-max_len={TARGETS[name].max_len}")
    return [*found, str(inputs), *([str(SEEDS / name)] if (SEEDS / name).exists() else [])]


def fuzz(name: str, options: list[str]) -> None:
    """Run a target in Python in this process, which then ends."""
    target = TARGETS[name]
    fuzz_files.refuse_downloads()
    inputs = Path(next(option for option in options if not option.startswith("-")))
    for number, seed in enumerate(target.seeds()):
        (inputs / f"seed-{number:03}").write_bytes(seed)
        # What is made once, such as models and threads, is made before memory is limited.
        with contextlib.suppress(*target.errors):
            target.run(seed)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Setup([name, *options], lambda content: target.check(content) and 0)
    atheris.Fuzz()


def start(name: str, folder: Path, seconds: int, *, repeatable: bool) -> int:
    """Start a target. Returns the number of its process."""
    (folder / "inputs" / name).mkdir(parents=True, exist_ok=True)
    options = options_of(name, folder, seconds, repeatable=repeatable)
    process = os.fork()
    if process:
        return process
    try:
        log = os.open(folder / "inputs" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if name in PROGRAMS:
            program = folder / "tests" / "fuzz" / f"fuzz_{name}"
            os.execv(program, [str(program), *options])
        fuzz(name, options)
    except SystemExit:  # atheris has a finding, which libFuzzer writes when the process ends
        ctypes.CDLL(None).exit(1)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def report(name: str, folder: Path, status: int, seconds: int) -> bool:
    """Print what a target did. Returns whether it found nothing."""
    log = folder / "inputs" / f"{name}.log"
    text = log.read_text(errors="replace")
    done, runs = _DONE.search(text), _RUNS.search(text)
    if status or not done or not runs:
        print(*text.splitlines()[-60:], sep="\n")
        print(f"{name}: a finding, see {folder / 'inputs' / name}-* and {log}", flush=True)
        return False
    count = int(runs[1])
    print(
        f"{name:12} {count:>10,} inputs {count // max(seconds, 1):>7,}/s  "
        f"{done[1]:>6} edges {done[2]:>6} features  no finding",
        flush=True,
    )
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=[*PROGRAMS, *TARGETS], metavar="NAME")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--processes", type=int, default=2, help="at once")
    parser.add_argument(
        "--repeatable",
        action="store_true",
        help="of targets in Python: the same inputs each time, from an empty FOLDER",
    )
    arguments = parser.parse_intermixed_args()
    folder = arguments.folder.resolve()
    # Targets read files, which are written in memory where there is such a place.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="cnclip-fuzz-", dir=memory) as scratch:
        tempfile.tempdir = os.environ["CNCLIP_CACHE"] = scratch
        return run(
            arguments.names,
            folder,
            arguments.seconds,
            max(1, arguments.processes),
            repeatable=arguments.repeatable,
        )


def run(names: list[str], folder: Path, seconds: int, processes: int, *, repeatable: bool) -> int:
    """Run targets, some at a time. Returns the exit status."""
    waiting, running, good = list(names), dict[int, str](), True
    while waiting or running:
        while waiting and len(running) < processes:
            name = waiting.pop(0)
            running[start(name, folder, seconds, repeatable=repeatable)] = name
        process, status = os.wait()
        good &= report(running.pop(process), folder, status, seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
