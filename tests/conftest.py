"""What the tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with the sample recordings of the releases; tests that need them are skipped without it."""
    folder = os.environ.get("CMSSL_TEST_DATA")
    if not folder:
        pytest.skip("needs sample recordings: set CMSSL_TEST_DATA to the folder that holds them")
    return Path(folder)
