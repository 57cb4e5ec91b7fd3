"""How transformers' common tests are run."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The models are so small that the threads of parallel test processes only get in each other's way."""
    torch.set_num_threads(1)
