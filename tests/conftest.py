"""What every test starts from."""

import random
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_report import FaultReport


def pytest_addoption(parser):
    parser.addoption("--fault_report", help="write what the tests that run tried and lost to this JSON file")


def pytest_configure(config):
    path = config.getoption("--fault_report")
    if path and not hasattr(config, "workerinput"):  # the process that hears of all tests
        command = shlex.join(["pytest", *config.invocation_params.args])
        config.pluginmanager.register(FaultReport(Path(path), command))


@pytest.fixture(autouse=True)
def one_beginning():
    """One thread of torch, and seeds, which an earlier test may have changed: what a test finds is its own doing."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
