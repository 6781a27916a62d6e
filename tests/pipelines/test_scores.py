"""Probabilities of texts and images."""

from __future__ import annotations

import numpy as np

from cnclip._text import counted
from cnclip.pipelines.scores import format_score, probabilities


def test_probabilities_are_the_model_cards() -> None:
    images = np.array([[1, 0], [0.6, 0.8]], np.float32)
    texts = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    expected = np.exp(images @ texts.T / 0.05)
    expected /= expected.sum(axis=1, keepdims=True)
    found = probabilities(images @ texts.T, 0.05)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float64


def test_probabilities_of_a_tiny_temperature_are_finite() -> None:
    eye = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(probabilities(eye @ eye.T, 1e-6), eye)


def test_a_score_that_misses_a_threshold_is_not_shown_as_equal_to_it() -> None:
    assert format_score(0.29996, 0.3001) == "0.299"
    assert format_score(0.3001, 0.3001) == format_score(0.29996) == "0.300"
    assert format_score(-0.2004, -0.2001) == "-0.201"
    assert format_score(0.25, 0.3) == "0.250"


def test_singular_and_plural() -> None:
    found = [counted(number, "images") for number in (0, 1, 2)]
    assert found == ["0 images", "1 image", "2 images"]
