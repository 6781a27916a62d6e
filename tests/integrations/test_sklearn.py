"""scikit-learn's interface: parameters, copies, names of columns, pickling, pipelines."""

from __future__ import annotations

import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from cnclip.errors import ImageError, InputTypeError, InvalidInputError, ModelNotFoundError
from tests.integrations.conftest import TEXTS, Rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.base import clone
    from sklearn.compose import ColumnTransformer
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    from cnclip.integrations.sklearn import CnclipTransformer

pytestmark = pytest.mark.filterwarnings("ignore")
pandas = pytest.importorskip("pandas")


def test_transforms(named: Any, images: list[str], image_rows: Rows, text_rows: Rows) -> None:
    transformer = CnclipTransformer(named, device="cpu")
    column = np.array(images, object)
    for items in (
        images,
        column,
        column[:, None],
        pandas.Series(images),
        pandas.DataFrame({"x": images}),
    ):
        found = transformer.fit(items).transform(items)
        assert (type(found), found.dtype) == (np.ndarray, np.float32)
        np.testing.assert_allclose(found, image_rows, atol=1e-6)
    texts = CnclipTransformer(named, kind="text", device="cpu").fit_transform(TEXTS)
    np.testing.assert_allclose(texts, text_rows, atol=1e-6)


def test_names_of_columns(model: Any, images: list[str]) -> None:
    transformer = CnclipTransformer(model)
    names = transformer.get_feature_names_out()
    assert (len(names), names[0], names.dtype) == (128, "cncliptransformer0", object)
    made = transformer.set_output(transform="pandas").transform(
        pandas.Series(images, index=[7, 8, 9])
    )
    assert (made.index.tolist(), made.columns.tolist()) == ([7, 8, 9], names.tolist())


def test_copies_share_the_model(named: Any, images: list[str], image_rows: Rows) -> None:
    transformer = CnclipTransformer(named, kind="image", batch_size=2, device="cpu")
    copy = clone(transformer)
    assert copy is not transformer
    assert copy.get_params() == transformer.get_params()
    assert copy.model is transformer.model
    np.testing.assert_allclose(copy.fit_transform(images), image_rows, atol=1e-6)
    assert clone(copy).set_params(kind="text").fit_transform(TEXTS).shape == (3, 128)
    assert repr(copy).startswith("CnclipTransformer(")


def transformed(transformer: Any, items: list[str]) -> Rows:
    rows: Rows = transformer.transform(items)
    return rows


def test_pickled_by_name(named: Any, images: list[str], image_rows: Rows) -> None:
    transformer = CnclipTransformer(named, batch_size=2, device="cpu").fit(images)
    again = pickle.loads(pickle.dumps(transformer))
    assert isinstance(again.model, str)
    assert (again.batch_size, again.device, again.precision) == (2, "cpu", "fp32")
    # What was pickled is as it was.
    assert transformer.model is named
    np.testing.assert_allclose(again.transform(images), image_rows, atol=1e-6)


@pytest.mark.slow
def test_in_another_process(named: Any, images: list[str], image_rows: Rows) -> None:
    transformer = CnclipTransformer(named, device="cpu")
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        rows = processes.submit(transformed, transformer, images).result()
    np.testing.assert_allclose(rows, image_rows, atol=1e-6)


def test_in_pipelines(named: Any, images: list[str]) -> None:
    labels = ["cat", "dog", "car"]
    steps = make_pipeline(CnclipTransformer(named, device="cpu"), KNeighborsClassifier(1))
    steps.fit(images, labels)
    texts = clone(steps).set_params(cncliptransformer__kind="text")
    assert steps.predict(images).tolist() == labels
    # Texts are in the space of the images.
    knn = steps.named_steps["kneighborsclassifier"]
    rows = texts.named_steps["cncliptransformer"].transform(TEXTS)
    assert knn.predict(rows).tolist() == labels
    assert pickle.loads(pickle.dumps(steps)).predict(images).tolist() == labels
    search = GridSearchCV(steps, {"cncliptransformer__batch_size": [1, 8]}, cv=2)
    search.fit(images * 2, labels * 2)
    assert search.best_score_ == 1


def test_columns_of_a_table(model: Any, images: list[str], image_rows: Rows) -> None:
    transformer = ColumnTransformer(
        [
            ("i", CnclipTransformer(model), "image"),
            ("t", CnclipTransformer(model, kind="text"), ["caption"]),
        ]
    )
    found = transformer.fit_transform(pandas.DataFrame({"image": images, "caption": TEXTS}))
    assert found.shape == (3, 256)
    np.testing.assert_allclose(found[:, :128], image_rows, atol=1e-6)
    assert transformer.get_feature_names_out()[128] == "t__cncliptransformer0"


def test_bad_input(model: Any, images: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="kind: expected 'image' or 'text', got 'video'"):
        CnclipTransformer(model, kind="video").fit(images)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="X: expected one column of items, got 2"):
        CnclipTransformer(model).transform(np.array([images[:2]], object))
    with pytest.raises(InputTypeError, match="X: expected items, got str"):
        CnclipTransformer(model).transform(images[0])
    with pytest.raises(ImageError, match=r"img\[1\]: .*no-such\.png"):
        CnclipTransformer(model).transform([images[0], "no-such.png"])
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        CnclipTransformer("no-such-model").fit(images)
