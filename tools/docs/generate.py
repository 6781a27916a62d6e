"""Writes the pages of the site that are made from other files: MkDocs calls it before each build.

| page in `docs/en` | made from |
|---|---|
| `reference/commands.md` | the parsers of `cnclip.cli` |
| `reference/api/*.md` | the names in `__all__` of the packages; mkdocstrings adds docstrings |
| `notebooks/*.md`, images | the notebooks that `make notebooks` executed, in `build/notebooks` |

A notebook that was not executed is written without its outputs, and the page says so.
"""

from __future__ import annotations

import argparse
import ast
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "en"
EXECUTED = ROOT / "build" / "notebooks"

# The pages of the API: a package or module, and what its page says first. All names in `__all__`
# are on it, or everything public if there is no `__all__`.
API = {
    "cnclip": "The modules carry ModelScope's names, so that a program moves by changing "
    "`modelscope` to `cnclip` in its imports.",
    "cnclip.pipelines": "The pipeline, and the functions that embed any number of items.",
    "cnclip.preprocessors": "Images and texts to the arrays that the model takes.",
    "cnclip.bulk": "Embeds images and texts of any number, to a folder or to an iterator.",
    "cnclip.search": "Finds images and texts, in an index file or in Milvus.",
    "cnclip.evaluate": "Measures recall of retrieval and accuracy of zero-shot classification.",
    "cnclip.train": "Fine-tunes a model, or trains one from scratch. Requires Python's torch.",
    "cnclip.datasets": "Reads and writes data sets of images and texts.",
    "cnclip.convert": "Writes an archive, or a checkpoint in another format.",
    "cnclip.archive": "Reads the description in an archive, without running its code.",
    "cnclip.serve": "The batcher, which embeds requests of many callers in common batches, and the "
    "collections of the search application.",
    "cnclip.benchmark": "Measures how fast this machine embeds: the library of `cnclip bench`.",
    "cnclip.cn_clip": "The interface of the package cn_clip, for programs that move from it. "
    "Requires Python's torch.",
    "cnclip.errors": "Every exception of the package.",
}


def on_pre_build(config: Any) -> None:
    """Write all pages; the name is that of MkDocs' event."""
    write(PAGES / "reference" / "commands.md", commands_page())
    for module, introduction in API.items():
        name = module.removeprefix("cnclip.")
        write(PAGES / "reference" / "api" / f"{name}.md", api_page(module, introduction))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write_notebook(notebook)


def write(path: Path, content: str | bytes) -> None:
    """Write a file if its content has changed: `mkdocs serve` watches the folder."""
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# --- The command line -----------------------------------------------------------------------------


def commands_page() -> str:
    """Describe every command as its parser does."""
    from cnclip.cli import COMMANDS

    lines = [
        "# Commands",
        "",
        "This page is made from the parsers of the commands; `cnclip COMMAND --help` prints the "
        "same.",
        "",
        "The exit status is 0; 1 if some items failed, each of which is named on stderr; 2 for bad "
        "usage or when nothing was done; 130 after Ctrl-C.",
        "",
    ]
    for name, module in COMMANDS.items():
        summary = f"{module.SUMMARY[:1].upper()}{module.SUMMARY[1:]}."
        parser = argparse.ArgumentParser(prog=f"cnclip {name}", description=summary)
        module.configure(parser)
        lines += described(parser, "##")
    return "\n".join(lines)


def described(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    """Yield the lines that describe a command, and those of its subcommands."""
    yield from (f"{heading} {parser.prog}", "", cell(parser.description or ""), "")
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    yield from ("```text", formatter.format_help().rstrip(), "```", "")
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        ]
        if actions:
            title = {"positional arguments": "argument", "options": "option"}.get(group.title or "")
            yield from (f"| {title or cell(group.title or '')} | |", "|---|---|")
            yield from (f"| {spelling(action)} | {meaning(parser, action)} |" for action in actions)
            yield ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from described(command, f"{heading}#")


def spelling(action: argparse.Action) -> str:
    """Write an argument as the user types it."""
    choices = "|".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    flags = ", ".join(action.option_strings)
    return f"`{flags}`" if action.nargs == 0 else f"`{flags} {value}`"


def meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Expand the help of an argument, as argparse does."""
    return cell(parser._get_formatter()._expand_help(action)) if action.help else ""


def cell(text: str) -> str:
    """Escape a text for Markdown, in a table too."""
    parts = re.split(r"(`[^`]*`)", text)
    escaped = (p if p.startswith("`") else re.sub(r"([<>|*_\[\]{}])", r"\\\1", p) for p in parts)
    return "".join(escaped)


# --- The API --------------------------------------------------------------------------------------


def api_page(module: str, introduction: str) -> str:
    """Name the public objects of a module; mkdocstrings writes their descriptions."""
    objects = exported(module) or [module]
    return "\n\n".join([f"# {module}", introduction, *(f"::: {name}" for name in objects)]) + "\n"


def exported(module: str) -> list[str]:
    """The names in the `__all__` of a package, each with the module that it is imported from."""
    path = ROOT.joinpath(*module.split("."))
    if not path.is_dir():
        return []
    tree = ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
    names: list[str] = []
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + 1]
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            origins |= {alias.name: f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
    return [origins[name] for name in names if name in origins and name != "__version__"]


# --- The notebooks --------------------------------------------------------------------------------


def write_notebook(notebook: Path) -> None:
    """Write a notebook as a page, with the outputs of its last execution."""
    executed = EXECUTED / notebook.name
    source = executed if executed.is_file() else notebook
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    page = PAGES / "notebooks" / f"{notebook.stem}.md"
    lines = []
    for number, part in enumerate(cells):
        text = "".join(part["source"])
        if part["cell_type"] == "markdown":
            # Links from notebooks/ to docs/en/ and to other notebooks become links of the site.
            text = text.replace("](../docs/en/", "](../")
            text = re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", text)
            lines.append(re.sub(r"\]\(#([^)]+)\)", lambda m: f"](#{anchor(m[1])})", text))
        elif text.strip():
            lines.append(fenced(text, "python"))
            for index, output in enumerate(part.get("outputs", [])):
                lines.append(shown(output, page, f"{notebook.stem}-{number}-{index}"))
    if source is notebook:
        lines.append("*These cells were not executed before this page was built.*")
    write(page, "\n\n".join(lines) + "\n")


def anchor(heading: str) -> str:
    """The anchor of a heading in the site, from the one that Jupyter gives it."""
    return slugify(case="lower")(heading.replace("-", " "), "-")


def shown(output: dict[str, Any], page: Path, name: str) -> str:
    """Show an output: the richest of its forms that a page can have."""
    if output["output_type"] == "stream":
        return fenced("".join(output["text"]), "text")
    data = output.get("data", {})
    for kind, suffix in {"image/png": "png", "image/jpeg": "jpg"}.items():
        if kind in data:
            write(page.with_name(f"{name}.{suffix}"), base64.b64decode("".join(data[kind])))
            return f"![]({name}.{suffix})"
    if "text/html" in data:
        # Without empty lines, which would end the block of HTML.
        html = re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))
        return f"<div>{html}</div>"
    return fenced("".join(data.get("text/plain", [])), "text")


def fenced(text: str, language: str) -> str:
    """Put a text in a fence that is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
