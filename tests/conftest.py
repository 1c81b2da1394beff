"""What every test starts from."""

import shlex
from pathlib import Path

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
def one_thread():
    """One thread of torch, which a training in an earlier test may have changed: sums are then bit-equal."""
    torch.set_num_threads(1)
