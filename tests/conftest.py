"""What the tests share."""

import os
from pathlib import Path

import pytest


# Read when torch and huggingface_hub are imported: threads only cost time on tiny models, and nothing may be fetched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config: pytest.Config) -> None:
    # Before torch looks for them: a test that is not about GPUs computes what it computes elsewhere, and so do its processes.
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU, and `-m gpu` to see it")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with the sample recordings of the releases; tests that need them are skipped without it."""
    folder = os.environ.get("CMSSL_TEST_DATA")
    if not folder:
        pytest.skip("needs sample recordings: set CMSSL_TEST_DATA to the folder that holds them")
    return Path(folder)
