"""Shortcuts of whole commands."""

import pytest


@pytest.fixture(autouse=True)
def quick(no_curves: None, remembered_exports: object) -> None:
    """Draw no curves, trace each architecture once."""
