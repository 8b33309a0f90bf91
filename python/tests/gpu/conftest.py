"""The GPU path on the simulated driver, where every test ends with nothing found and everything given back.

Tests that need nothing of it run on a real driver too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import simulator
from consumer import Consumer, as_before
from simulator import Simulator


def pytest_sessionstart() -> None:
    try:
        simulator.load()
    except RuntimeError as error:
        pytest.exit(str(error), returncode=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not simulator.REAL:
        return
    for item in items:
        asks = isinstance(item, pytest.Function) and "driver" in inspect.signature(item.function).parameters
        if asks or item.get_closest_marker("simulator"):
            item.add_marker(pytest.mark.skip(reason="needs the simulated driver"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[CALLED] = report.passed
    return report


CALLED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def driver(request: pytest.FixtureRequest) -> Iterator[Simulator | None]:
    """A machine of the test's own. Set up before everything else, so that it is looked at when all else is closed. On a real
    driver there is none, and no test that asks for it."""
    if simulator.REAL:
        yield None
        return
    machine = Simulator()
    machine.begin()
    yield machine
    # What a failed test holds is in its traceback.
    if request.node.stash.get(CALLED, False):
        machine.check()


@pytest.fixture
def borrowed(driver: Simulator | None) -> Callable[[], AbstractContextManager[None]]:
    """Whatever is called inside leaves the thread's context and capture mode as they were."""
    return driver.borrowed if driver else as_before


@pytest.fixture
def delays(driver: Simulator | None) -> Callable[[int], None]:
    """Makes the order of what streams do another one, by a seed. A real driver has its own."""
    return (lambda seed: driver.configure(f"seed={seed}")) if driver else lambda _: None


@pytest.fixture
def consumer(driver: Simulator | None) -> Iterator[Consumer]:
    """A framework that is not ours, on the first device."""
    with Consumer() as framework:
        yield framework
