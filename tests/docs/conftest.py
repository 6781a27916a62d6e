"""Fixtures of the tests of the documentation."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def models_opened_once(opened_once: None) -> None:
    """Most tests run commands, and each command opens its model."""
