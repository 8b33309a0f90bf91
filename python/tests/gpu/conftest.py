"""The GPU path on the simulated driver. Every test ends with nothing found and everything given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import simulator
from consumer import Consumer
from simulator import Simulator


def pytest_sessionstart() -> None:
    try:
        simulator.load()
    except RuntimeError as error:
        pytest.exit(str(error), returncode=4)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[CALLED] = report.passed
    return report


CALLED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def driver(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """A machine of the test's own. Set up before everything else, so that it is looked at when all else is closed."""
    machine = Simulator()
    machine.begin()
    yield machine
    # What a failed test holds is in its traceback.
    if request.node.stash.get(CALLED, False):
        machine.check()


@pytest.fixture
def consumer(driver: Simulator) -> Iterator[Consumer]:
    """A framework that is not ours, on the first device."""
    with Consumer() as framework:
        yield framework
