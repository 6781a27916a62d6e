"""A transformer of scikit-learn: images or texts to embeddings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._checks import requires_extra
from ..errors import InputTypeError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from .named_model import ModelInput, NamedModel

with requires_extra("sklearn", "scikit-learn"):
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

KINDS = ("image", "text")


class CnclipTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embeds images or texts; `fit` learns nothing.

    For `Pipeline`, `ColumnTransformer`, `GridSearchCV` and the like. A copy shares the open model.
    A pickled transformer has the model's name or path and the options; of an open pipeline, the
    path of its archive, its device and precision.

    Attributes:
        model: As it was passed.
        kind: `'image'` or `'text'`.
        batch_size: As for `pipeline.forward`.
        device: As for `pipeline`, for a model that is not open.
        precision: As for `pipeline`, for a model that is not open.
        num_threads: As for `pipeline`, for a model that is not open.
    """

    def __init__(
        self,
        model: ModelInput,
        *,
        kind: Literal["image", "text"] = "image",
        batch_size: int | None = None,
        device: str = "gpu",
        precision: str = "fp32",
        num_threads: int | None = None,
    ) -> None:
        """Take parameters, which `fit` and `transform` check.

        Args:
            model: An open pipeline; or a model as `pipeline` opens it, opened when it is first
                used.
            kind: The kind of the items: images as `pipeline.forward` takes them, or texts.
            batch_size: As for `pipeline.forward`.
            device: As for `pipeline`, for a model that is not open.
            precision: As for `pipeline`, for a model that is not open.
            num_threads: As for `pipeline`, for a model that is not open.
        """
        self.model, self.kind, self.batch_size = model, kind, batch_size
        self.device, self.precision, self.num_threads = device, precision, num_threads

    def fit(self, X: Any, y: Any = None) -> CnclipTransformer:
        """Check the parameters and find the model. Nothing is learned of `X`.

        Raises:
            InvalidInputError: `kind` is not one of those above.
            CnclipError: the model cannot be found.
        """
        self._check_kind()
        _ = self._n_features_out
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed items.

        Args:
            X: n images or texts: a list, an array [n] or [n, 1] of str or objects, a uint8 array
                [n, height, width, 3], a column or a data frame of one column.

        Returns:
            float32 [n, d], rows of unit length; a data frame after `set_output`.

        Raises:
            InputTypeError: `X` has several columns.
            CnclipError: as `pipeline.forward`; names the item.
        """
        self._check_kind()
        items = _items(X)
        if self.kind == "text":
            return self._named().embed_texts(items, self.batch_size)
        return self._named().embed_images(items, self.batch_size)

    def _check_kind(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInputError(f"expected 'image' or 'text', got {self.kind!r}", item="kind")

    @property
    def _n_features_out(self) -> int:
        """Columns of the embeddings, for the names of columns."""
        return self._named().dim

    def _named(self) -> NamedModel:
        """The model of the parameters, which `set_params` may have changed."""
        key = (self.model, self.device, self.precision, self.num_threads)
        known: tuple[Any, NamedModel] | None = vars(self).get("_opened")
        if known is not None and known[0] == key:
            return known[1]
        model = NamedModel(
            self.model,
            device=self.device,
            precision=self.precision,
            num_threads=self.num_threads,
        )
        self._opened: Any = (key, model)
        return model

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def __sklearn_clone__(self) -> CnclipTransformer:
        # scikit-learn copies parameters, and an open pipeline cannot be copied.
        copy = type(self)(**self.get_params(deep=False))
        copy._opened = vars(self).get("_opened")
        return copy

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {**super().__getstate__()}
        state.pop("_opened", None)
        named = self._named()
        if isinstance(self.model, MultiModalEmbeddingPipeline):
            state |= {
                "model": named.name,
                "device": named.device,
                "precision": named.precision,
            }
        # Opened here or elsewhere, it must be the same model.
        key = (state["model"], state["device"], state["precision"], state["num_threads"])
        return {**state, "_opened": (key, named)}


def _items(X: Any) -> list[Any]:
    """The n items of a column, a list, or a table of one column."""
    if getattr(X, "ndim", 1) == 2:
        if X.shape[1] != 1:
            reason = f"expected one column of items, got {X.shape[1]}"
            raise InputTypeError(reason, item="X")
        X = X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]
    if isinstance(X, str | bytes) or not hasattr(X, "__iter__"):
        raise InputTypeError(f"expected items, got {type(X).__name__}", item="X")
    return list(X)
