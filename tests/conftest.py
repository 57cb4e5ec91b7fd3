"""What the tests share."""

import os
from pathlib import Path

import pytest


# Read when torch and huggingface_hub are imported: threads only cost time on tiny models, and nothing may be fetched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with the sample recordings of the releases; tests that need them are skipped without it."""
    folder = os.environ.get("CMSSL_TEST_DATA")
    if not folder:
        pytest.skip("needs sample recordings: set CMSSL_TEST_DATA to the folder that holds them")
    return Path(folder)
