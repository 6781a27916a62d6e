"""Runs unmodified ModelScope programs on cnclip.

    python -m cnclip.modelscope SCRIPT [ARGUMENTS]

or `import cnclip.modelscope` as a program's first line, or in a notebook's first cell. From then on
`modelscope` and its submodules are stand-ins: `pipeline`, `Model.from_pretrained`,
`snapshot_download` and what else programs use with Chinese-CLIP runs on cnclip and returns torch
tensors. `import cnclip` alone changes nothing.

What is not Chinese-CLIP goes to the installed ModelScope, which is imported only then. The model
decides, by its configuration. Names that cnclip does not have can be imported in any case: an error
is raised where one of them is used and ModelScope is not installed.

`_finder.py` makes the stand-ins, and has the table of modules; `_placeholders.py` has the names
that are not ours, `_installed.py` the installed ModelScope. Each other module is the content of one
or several of ModelScope's modules: a name is visible to programs if it is in `__all__`.
"""

from ._finder import install

install()
