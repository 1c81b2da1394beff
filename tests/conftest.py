"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """One thread of torch, which a training in an earlier test may have changed: sums are then bit-equal."""
    torch.set_num_threads(1)
