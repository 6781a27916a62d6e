"""`python -m cnclip.modelscope` runs a program as `python` does."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

import cnclip
from cnclip.errors import CheckpointError, ModelScopeError
from cnclip.modelscope import _finder, root
from cnclip.modelscope._choice import MAX_SETTINGS, type_of
from cnclip.modelscope._placeholders import Placeholder
from cnclip.modelscope.metainfo import Models
from tests.modelscope.conftest import Run

SHOW = """
import os, sys
print(sys.argv, __name__, globals().get("__file__"), __spec__, __doc__, __package__)
print(os.path.realpath(sys.path[0] or "."), sorted({*globals()} - {"__annotations__"}))
import pickle
class Mine: pass
print(type(pickle.loads(pickle.dumps(Mine()))) is Mine)
"""
FAIL = """
def inner():
    raise ValueError("of the program")
inner()
"""


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (SHOW + FAIL, 1),
        ("import sys\nsys.exit(3)", 3),
        ("x = (", 1),
        ("raise KeyboardInterrupt", 1),
    ],
    ids=["error", "exit", "syntax", "interrupt"],
)
def test_a_script(code: str, status: int, run_command: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "program.py").write_text(code)
    arguments = (folder / "program.py", "-x", "--long=1", "text")
    ours = run_command(*arguments, folder=tmp_path)
    theirs = run_command(*arguments, plain=True, folder=tmp_path)
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    assert ours.returncode == theirs.returncode
    assert status == 1 or ours.returncode == status


def test_a_module_and_standard_input(run_command: Run, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(SHOW.replace("__spec__", "__spec__.name") + FAIL)
    ours = run_command("-m", "package", "a", folder=tmp_path)
    theirs = run_command("-m", "package", "a", plain=True, folder=tmp_path)
    assert ours.stdout == theirs.stdout
    assert ours.returncode == theirs.returncode == 1
    assert "runpy" not in ours.stderr and "ValueError: of the program" in ours.stderr
    code = "import sys\nprint(sys.argv, __name__, repr(sys.path[0]))"
    ours = run_command("-", "a", stdin=code, folder=tmp_path)
    theirs = run_command("-", "a", stdin=code, plain=True, folder=tmp_path)
    assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, 0)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_program_of_several_files(kind: str, run_command: Run, tmp_path: Path) -> None:
    place = tmp_path / "program"
    code = "import importlib.util, other, sys\nprint(other.NAME, sys.argv[1:], __name__)\n"
    code += "print(importlib.util.find_spec('in_the_working_directory'))\n"
    (tmp_path / "in_the_working_directory.py").touch()
    files = {"__main__.py": code + FAIL}
    files["other.py"] = "NAME = 'other'\n"
    if kind == "folder":
        place.mkdir()
        for name, code in files.items():
            (place / name).write_text(code)
    else:
        with zipfile.ZipFile(place, "w") as archive:
            for name, code in files.items():
                archive.writestr(name, code)
    ours = run_command(place, "-x", folder=tmp_path)
    theirs = run_command(place, "-x", plain=True, folder=tmp_path)
    assert ours.stdout == theirs.stdout == "other ['-x'] __main__\nNone\n"
    assert ours.returncode == theirs.returncode == 1
    assert ours.stderr.splitlines()[-1] == "ValueError: of the program"
    assert "cnclip" not in ours.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "SCRIPT [ARGUMENTS]"),
        (("nothing.py",), 2, "can't open file"),
        (("-m", "no_such_module"), 1, "No module named no_such_module"),
        (("-m",), 2, "argument expected"),
        (("--unknown",), 2, "unknown option --unknown"),
        (("empty",), 1, "cnclip.modelscope: can't find '__main__' module in 'empty'"),
        (("-m", "empty.inner"), 1, "No module named empty.inner"),
    ],
)
def test_what_cannot_be_run(
    arguments: tuple[str, ...], status: int, message: str, run_command: Run, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = run_command(*arguments, folder=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_line_of_a_program(run_command: Run, tmp_path: Path) -> None:
    code = (
        "import sys, cnclip\n"
        "assert not any(type(one).__module__.startswith('cnclip') for one in sys.meta_path)\n"
        "import cnclip.modelscope, cnclip.modelscope\n"
        "from modelscope.utils.constant import Tasks\n"
        "import modelscope.hub.snapshot_download, modelscope.models.nlp.bert as bert\n"
        "from modelscope.hub import snapshot_download\n"
        "print(Tasks.multi_modal_embedding, snapshot_download.__name__, bert.Model)\n"
        "print('torch' in sys.modules, 'modelscope_hub' in sys.modules)\n"
    )
    done = run_command("-c", code, plain=True, folder=tmp_path)
    assert done.stdout.splitlines() == [
        "multi-modal-embedding snapshot_download <modelscope.models.nlp.bert.Model, which cnclip "
        "does not have>",
        "False False",
    ], done.stderr


# A package that is named as ModelScope and counts what is asked of it.
INSTALLED = {
    "modelscope/__init__.py": "print('imported')\n",
    "modelscope/pipelines/__init__.py": "from .builder import pipeline\n",
    "modelscope/pipelines/builder.py": (
        "def pipeline(task=None, model=None, **others):\n"
        "    import modelscope.models.nlp\n"
        "    return 'theirs', task, model, others, modelscope.models.nlp.Bert.kind\n"
    ),
    "modelscope/models/__init__.py": (
        "class Model:\n"
        "    @classmethod\n"
        "    def from_pretrained(cls, *arguments, **keywords):\n"
        "        return arguments, keywords\n"
    ),
    "modelscope/models/nlp.py": "class Bert:\n    kind = 'bert'\n",
}
MIXED = """
import sys
from modelscope.models import Model
from modelscope.models.nlp import Bert, Missing
from modelscope.pipelines import pipeline
own, other = sys.argv[1:]
pipe = pipeline("multi-modal-embedding", model=own)
print("modelscope.models.nlp" in sys.modules, type(sys.modules["modelscope"]).__name__)
print(pipeline("multi-modal-embedding", model=other, model_revision="v1", use_fp16=True))
print(Model.from_pretrained(other, "v1", device="cpu"))
class Mine(Bert):
    pass
print(Mine.kind, isinstance(Mine(), Bert), Bert().kind)
from modelscope.pipelines import pipeline as again
from modelscope.models.nlp import Bert as theirs
print(again is pipeline, theirs is Mine.__mro__[1])
print(type(again("multi-modal-embedding", model=own).forward({"text": "x"})["text_embedding"]))
try:
    Missing()
except ImportError as error:
    print(type(error).__name__, error.where.item)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed ModelScope."""
    for name, code in INSTALLED.items():
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    return tmp_path / "site"


def test_the_installed_modelscope(
    run_command: Run,
    installed: Path,
    vit_directory: Path,
    vit: object,
    other_models: dict[str, Path],
) -> None:
    other = next(iter(other_models.values()))
    done = run_command("-c", f"import sys\nsys.path.append({str(installed)!r})\n{MIXED}",
                       vit_directory, other)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True StandIn",
        "imported",
        str(
            (
                "theirs",
                "multi-modal-embedding",
                str(other),
                {"model_revision": "v1", "use_fp16": True},
                "bert",
            )
        ),
        str(((str(other), "v1"), {"device": "cpu"})),
        "bert True bert",
        "True True",
        "<class 'torch.Tensor'>",
        "ModelScopeError modelscope.models.nlp.Missing",
    ]


def test_a_modelscope_that_cannot_be_imported(
    run_command: Run, installed: Path, other_models: dict[str, Path], vit_directory: Path
) -> None:
    (installed / "modelscope" / "__init__.py").write_text("import decord_that_is_missing\n")
    other = next(iter(other_models.values()))
    code = (
        f"import sys\nsys.path.append({str(installed)!r})\n"
        "from modelscope.pipelines import pipeline\n"
        "for model in sys.argv[1:]:\n"
        "    try:\n"
        "        print(type(pipeline('multi-modal-embedding', model=model)).__name__)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "from modelscope import Tasks\n"
        "print(type(sys.modules['modelscope']).__name__)\n"
    )
    done = run_command("-c", code, other, vit_directory)
    first, *rest = done.stdout.splitlines()
    assert str(other) in first and "pip install decord_that_is_missing" in first, done.stderr
    assert rest == ["MultiModalEmbeddingPipeline", "StandIn"]


def test_modelscope_was_imported_before(run_command: Run, installed: Path) -> None:
    code = f"import sys\nsys.path.append({str(installed)!r})\nimport modelscope, cnclip.modelscope"
    done = run_command("-c", code, plain=True)
    assert done.stderr.splitlines()[-1].startswith("cnclip.errors.ModelScopeError: modelscope: ")
    assert done.returncode == 1


def test_names_of_stand_ins() -> None:
    module = _finder.StandIn("modelscope.utils.config")
    assert module.__all__ == ["Config", "ConfigDict"]
    assert {"Config", "ConfigDict", "__name__"} <= set(dir(module))
    assert module.Config.__name__ == "Config" and isinstance(module.Other, Placeholder)
    for name in ("_private", "__release_datetime__"):
        with pytest.raises(AttributeError, match=f"'modelscope.utils.config' has no.*{name}"):
            getattr(module, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        root.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="_nothing"):
        Models._nothing  # noqa: B018
    with pytest.raises(ModelScopeError, match="Models"):
        Models.bert  # noqa: B018


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"model": {"type": "clip"}}, "clip"),
        ({"model": {"type": 5}}, None),
        ({"model": "clip"}, None),
        ([], None),
        ({"plugins": ["x"], "task": "some-task"}, "some-task"),
        (b"{", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'"' + b"x" * (MAX_SETTINGS + 1) + b'"', "has more than"),
    ],
)
def test_the_type_of_a_model(content: Any, kind: str | None, tmp_path: Path) -> None:
    assert type_of(tmp_path) is None
    path = tmp_path / "configuration.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"configuration\.json: {kind}"):
            type_of(tmp_path)
    else:
        path.write_text(json.dumps(content))
        assert type_of(tmp_path) == kind


def test_placeholders() -> None:
    one = Placeholder("modelscope.models.nlp", "Bert")
    assert (one | None) is one and (int | one) is one and bool(one)
    uses = [
        lambda: one(),
        lambda: one.name,
        lambda: one[0],
        lambda: list(one),
        lambda: isinstance(1, one),  # type: ignore[arg-type]
        lambda: issubclass(int, one),  # type: ignore[arg-type]
        lambda: os.fspath(one),
        lambda: one + "/x",
        lambda: "x" in one,
        lambda: len(one),
    ]
    for use in uses:
        with pytest.raises(ModelScopeError) as raised:
            use()
        assert raised.value.where.item == "modelscope.models.nlp.Bert"
    with pytest.raises(AttributeError):
        _ = one._repr_html_


@pytest.fixture(autouse=True)
def without_stand_ins() -> None:
    """Importing `cnclip.modelscope` here has installed them in the tests' own process."""
    _finder.remove()


def test_every_module_of_the_table_exists() -> None:
    for content in set(_finder._CONTENT.values()):
        assert (Path(cnclip.__file__).parent / "modelscope" / f"{content}.py").is_file()
