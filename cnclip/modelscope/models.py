"""The content of `modelscope.models`: opens a model of its kind."""

from __future__ import annotations

import importlib
from os import PathLike
from typing import Any

from torch import nn

from ._choice import foreign_type
from ._installed import installed_object


class Model:
    """The base of models; `Model.from_pretrained` opens one."""

    def __init__(self, model_dir: Any = None, *_: Any, **__: Any) -> None:
        self.model_dir = model_dir

    def postprocess(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The result of `forward`, unchanged."""
        return inputs

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | PathLike[str],
        revision: str | None = None,
        cfg_dict: Any = None,
        device: Any = None,
        trust_remote_code: bool | None = False,
        **keywords: Any,
    ) -> Any:
        """Open a model: a `CLIPForMultiModalEmbedding`, or ModelScope's class for other models.

        `device` is as for `pipeline`, which also has the exceptions. `cfg_dict`,
        `trust_remote_code` and further keywords are for ModelScope.
        """
        name = str(model_name_or_path)
        if other := foreign_type(name, revision):
            what = f"a model of type {other!r}"
            theirs = installed_object("modelscope.models", "Model", name, what)
            place = (name,) if revision is None else (name, revision)
            given = {"cfg_dict": cfg_dict, "device": device}
            keywords |= {key: value for key, value in given.items() if value is not None}
            keywords |= {"trust_remote_code": True} if trust_remote_code else {}
            return theirs.from_pretrained(*place, **keywords)
        clip = importlib.import_module(f"{__package__}.clip")  # which imports this one
        return clip.CLIPForMultiModalEmbedding(name, revision=revision, device=device)


class TorchModel(Model, nn.Module):
    """The base of models that are torch modules."""

    def __init__(self, model_dir: Any = None, *arguments: Any, **keywords: Any) -> None:
        nn.Module.__init__(self)
        super().__init__(model_dir, *arguments, **keywords)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """`forward`, then `postprocess`."""
        return self.postprocess(nn.Module.__call__(self, *arguments, **keywords))


__all__ = ["Model", "TorchModel"]
