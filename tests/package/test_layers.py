"""Imports point one way, and no code looks into the text of an error."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cnclip
from cnclip.errors import MissingExtraError

PACKAGE = Path(cnclip.__file__).parent
# A module may import its own layer and those above it in this list.
LAYERS = (
    "errors _checks _cores _options _temporaries _text _tables _html _locale",
    "_core version outputs utils assets",
    "progress _files _encoding archive cache engine modeling checkpoints",
    "hub hub_file models convert prepared",
    "preprocessors environment",
    "pipelines cn_clip",
    "sources datasets",
    "bulk",
    "search evaluate benchmark integrations",
    "serve train demo",
    "modelscope",
    "cli __main__",
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
# Modules whose packages the tests may lack.
OPTIONAL = {"fastapi", "httpx", "orjson", "prometheus_client", "uvicorn"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in FILES if not name.endswith("__main__")]


def imports_of(name: str, tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """The modules of the package that a module imports, in functions as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                is_package = FILES[name].name == "__init__.py" if name in FILES else False
                above = name.split(".")
                base = above[: len(above) - node.level + is_package] + base
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                outer = ".".join(base)
                if inner in modules:
                    yield inner
                elif outer in modules:
                    yield outer


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@functools.cache
def graph() -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {name: set(imports_of(name, tree_of(name), set(FILES))) - {name} for name in FILES}


def layer_of(name: str) -> int:
    return LAYER_OF[name.split(".")[1]]


def test_test_files_have_different_names() -> None:
    """Where two have one name, pytest can import only one of them."""
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_every_module_has_a_layer() -> None:
    lacking = {name.split(".")[1] for name in FILES if name != "cnclip"} - set(LAYER_OF)
    assert not lacking


def test_no_module_imports_an_upper_layer() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if "cnclip" not in (name, other) and layer_of(other) > layer_of(name)
    ]
    assert not wrong


def test_preprocessors_know_archives_only() -> None:
    known = {"cnclip.archive", "cnclip.errors", "cnclip._cores", "cnclip._text", "cnclip"}
    known.add("cnclip._files")
    for name, others in graph().items():
        if name.startswith("cnclip.preprocessors"):
            outside = {other for other in others if not other.startswith("cnclip.preprocessors")}
            assert outside <= known, name


def test_no_imports_go_in_a_circle() -> None:
    inner = {name: others - {"cnclip"} for name, others in graph().items() if name != "cnclip"}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_and_relative_imports_are_seen() -> None:
    modules = {"cnclip.bulk.a", "cnclip.bulk.b", "cnclip.errors"}
    tree = ast.parse(
        "from .b import x\ndef f():\n    from ..errors import y\n    import cnclip.errors"
    )
    assert set(imports_of("cnclip.bulk.a", tree, modules)) == {"cnclip.bulk.b", "cnclip.errors"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except MissingExtraError:
        pytest.skip("needs an extra")
    except ModuleNotFoundError as error:
        assert error.name in OPTIONAL, error
        pytest.skip(f"needs {error.name}")


# The text of errors. Facts travel in `reason`, `where` and other fields.


def uses_of_text(tree: ast.AST) -> Iterator[int]:
    """The lines where code reads the text of a caught exception, or looks into a reason."""
    nodes = list(ast.walk(tree))
    caught = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    caught |= {"error", "problem"}

    def is_error(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in caught

    def is_text(node: ast.AST) -> bool:
        """`str(error)`, `f"{error}"`, `error.args`, `error.reason`, `problem.reason`."""
        if isinstance(node, ast.Attribute):
            return node.attr == "reason" or (node.attr == "args" and is_error(node.value))
        if isinstance(node, ast.Call):
            function = node.func
            named = isinstance(function, ast.Name) and function.id in {"str", "repr", "format"}
            return named and any(map(is_error, node.args))
        return isinstance(node, ast.JoinedStr) and any(map(is_formatted, node.values))

    def is_formatted(node: ast.AST) -> bool:
        return isinstance(node, ast.FormattedValue) and is_error(node.value)

    for node in nodes:
        looks_inside = (
            (isinstance(node, ast.Compare) and any(map(is_text, [node.left, *node.comparators])))
            or (isinstance(node, ast.Subscript) and is_text(node.value))
            or (isinstance(node, ast.Attribute) and is_text(node.value))
        )
        makes_another = (
            isinstance(node, ast.Raise)
            and node.exc is not None
            and any(
                is_text(inner) and not isinstance(inner, ast.Attribute)
                for inner in ast.walk(node.exc)
            )
        )
        if looks_inside or makes_another:
            yield node.lineno


@pytest.mark.parametrize("name", FILES)
def test_no_code_looks_into_the_text_of_an_error(name: str) -> None:
    if name == "cnclip._text":
        return
    lines = sorted(set(uses_of_text(tree_of(name))))
    assert not lines, ", ".join(f"{FILES[name]}:{line}" for line in lines)


@pytest.mark.parametrize(
    "code",
    [
        "if 'x' in str(error): pass",
        "str(error).removeprefix('a')",
        "str(error)[:200]",
        "f'{error}'.partition(':')",
        "error.args[0]",
        "problem.reason == 'no image'",
        "error.reason.split(':')",
        "raise ValueError(str(error))",
        "raise type(error)(f'{name}: {error}')",
        "try: pass\nexcept OSError as e: raise ValueError(f'{e}') from e",
    ],
)
def test_uses_of_text_are_found(code: str) -> None:
    assert list(uses_of_text(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["raise error.at(line=3)", "print(error)", "items.append(error.reason)", "first_line(error)"],
)
def test_fields_and_showing_are_allowed(code: str) -> None:
    assert not list(uses_of_text(ast.parse(code)))
