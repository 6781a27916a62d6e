"""Finds phrases that this project avoids: `python tools/check_prose.py [FILE ...]`.

Without arguments it reads every tracked text file. It prints FILE:LINE, the phrase and what to
write, and exits with status 1 if it found any. `make lint` runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".pyi", ".md", ".c", ".h", ".cpp", ".ipynb", ".toml", ".yaml"}
NAMES = {"Makefile", "run"}

# A regular expression, case-insensitive, and what to write instead.
PHRASES = {
    r"\bpictures?\b|\w_pictures?\b|\bpictures?_\w": "image",
    r"\bdata bases?\b": "database",
    r"\bis told\b|\bare told\b|\btold\b|\btells\b": "reports, prints, says",
    r"\b(stands?|stood) (in|there|above|below|under|at|on|open|twice|alone)\b": "is, is in",
    r"\b(lies?|lay) (in|on|at|there|behind|under|beside|next|near)\b": "is, is stored in",
    r"\bbehind (it|them|each|every|step|that)\b": "after",
    r"\bbehind the (last|first|end|stem|head|others|step)\b": "after",
    r"\b(what|resumed|interrupted|comes?) behind\b": "after",
    r"\banew\b": "again; rebuilt",
    r"\bcomes? again\b": "is repeated",
    r"\b(let|lets) go\b": "drop, remove",
    r"\btaken over\b": "kept",
    r"\bgo(es)? with\b": "requires, belongs to",
    r"\bof (its|their) own\b": "own, separate",
    r"\bbesides?\b": "next to, with, in addition to",
    r"\bleads? out of\b": "is outside",
    r"\bknows? of no\b|\b(has|have) not[.,;:)]": "lacks, does not have",
    r"\bto be had\b": "available",
    r"\bat hand\b|\bin hand\b": "available; in progress",
    r"\bwhoever\b|\bone who\b|\bwhat (there is|lies|stands)\b": "name it: the caller, the rest",
    r"\bas of (a|an|the)\b|\bas of `": "say it",
    r'"""(the same|it)\.(?="|\s|$)': "say it",
    r"\b(house words?|rooms)\b": "module, package, layer",
    r"\b(one|an? actor) an? (core|GPU|type|line|file|process|query|class|node|batch|shard|image"
    r"|text|layout|module|format|call|step|row|thread|command|token|item|group)\b": "one per",
    r"(?-i:\b_?(MOST|LARGEST|LONGEST|LEAST|FEWEST|SMALLEST)_[A-Z])": "MAX_, MIN_",
    r"\bmend(s|ed)?\b": "fix",
}

# Where a phrase is meant: a part of the path, and a part of the line.
ALLOWED = (
    ("tools/check_prose.py", ""),
    ("CHANGELOG.md", "| `"),  # the table of renamed names
    ("cnclip/sources/rows.py", '"picture"'),  # the name of a column
    ("", '"pictures"'),  # the kind in folders of embeddings of earlier versions
)


def is_allowed(path: str, line: str) -> bool:
    """Whether a line of a file may say what it says."""
    return any(place in path and text in line for place, text in ALLOWED)


def tracked_files() -> list[Path]:
    """The repository's text files, as Git lists them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.suffix in SUFFIXES or path.name in NAMES]


def main() -> int:
    """Check the files given as arguments, or all."""
    files = [Path(name).resolve() for name in sys.argv[1:]] or tracked_files()
    patterns = [(re.compile(phrase, re.IGNORECASE), advice) for phrase, advice in PHRASES.items()]
    found = 0
    for file in filter(Path.is_file, files):
        path = str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for pattern, advice in patterns:
                match = pattern.search(line)
                if match and not is_allowed(path, line):
                    print(f"{path}:{number}: {match[0]!r}: {advice}")
                    found += 1
    if found:
        print(f"{found} phrases to rewrite", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
