"""A loader inside a process: import, Ctrl-C, fork, exit, memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import COUNTING, Child, run
from conftest import Dataset, urls_of
from faults import Stall, times_fetched
from servers import RangeServer


def test_import_brings_no_numpy_and_no_torch() -> None:
    code = "import sys, forebay; print([name for name in ('numpy', 'torch', 'json', 'dataclasses') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_loader_left_open_does_not_hold_up_the_exit(dataset: Dataset, tmp_path: Path) -> None:
    run("loader = open_loader(urls, cache); it = iter(loader); batch = next(it)", tmp_path, *dataset.urls)


def test_arrays_may_be_dropped_at_exit(dataset: Dataset, tmp_path: Path) -> None:
    code = """
import numpy
sys.modules["keeps"] = [numpy.asarray(batch["label"]) for batch in open_loader(urls, cache)]
cycle = [memoryview(a) for a in sys.modules["keeps"]]; cycle.append(cycle)
"""
    run(code, tmp_path, *dataset.urls)


@pytest.mark.parametrize("shuffle", [False, True])
def test_ctrl_c_ends_a_wait(http: RangeServer, stall: Stall, dataset: Dataset, tmp_path: Path, shuffle: bool) -> None:
    code = f"""
try:
    print("waiting", flush=True)
    next(iter(open_loader(urls, cache, shuffle={shuffle})))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with Child(code, tmp_path, *urls_of(http, dataset)) as child:
        assert child.hear() == "waiting"
        assert stall.begun.wait(60)
        child.process.send_signal(signal.SIGINT)
        status, out, err = child.finish(60)
    assert (status, out) == (0, "interrupted\n"), err


def test_a_loader_is_closed_although_the_origin_stalls(
    http: RangeServer, stall: Stall, dataset: Dataset, tmp_path: Path
) -> None:
    code = """
try:
    with open_loader(urls, cache, timeout=0.2, storage_options={"stall_timeout": "1000s"}) as loader:
        next(iter(loader))
except forebay.TimeoutError:
    say("closed")
"""
    with Child(code, tmp_path, *urls_of(http, dataset)) as child:
        status, out, err = child.finish(60)
    assert stall.begun.is_set()
    assert (status, out) == (0, "closed\n"), err


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_interrupted_loader_can_be_used_again(
    http: RangeServer, stall: Stall, dataset: Dataset, tmp_path: Path, shuffle: bool
) -> None:
    """A signal handler raises in the wait; the origin then works, and no sample is lost."""
    code = f"""
import signal
def alarm(*_):
    raise InterruptedError("alarm")
signal.signal(signal.SIGALRM, alarm)
loader = open_loader(urls, cache, shuffle={shuffle})
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
try:
    next(iter(loader))
except InterruptedError:
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("alarm", flush=True)
wait()
print(sum(batch.valid for batch in loader))
"""
    with Child(code, tmp_path, *urls_of(http, dataset)) as child:
        assert child.hear() == "alarm"
        stall.release()
        child.tell("go")
        status, out, err = child.finish()
    assert (status, out) == (0, "60\n"), err


FORK = """
import numpy
loader = open_loader(urls, cache, fields={"label": forebay.Int("cls"), "blob": forebay.Bytes("bin")})
running = iter(loader)
batch = next(running)
label = batch["label"]
held = [numpy.from_dlpack(label), memoryview(label), label.__dlpack__()]
sys.stdout.flush()
child = os.fork()
if child == 0:
    refused = 0
    for call in (lambda: next(running), lambda: iter(loader), loader.state_dict, loader.stats, loader.close, loader.count,
                 lambda: len(loader), lambda: loader.set_epoch(1), lambda: label.shape, lambda: memoryview(label),
                 lambda: label.__dlpack__(), lambda: label.__array_interface__):
        try:
            call()
        except forebay.ForkError as error:
            assert "spawn" in str(error)
            refused += 1
    del call, held, label, batch, running, loader
    gc.collect()
    sys.exit(refused)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), batch["label"].shape, sum(each.valid for each in running) + batch.valid)
"""


def test_a_forked_child_gets_an_error_and_never_hangs(dataset: Dataset, tmp_path: Path) -> None:
    assert run(FORK, tmp_path, *dataset.urls) == "12 (8,) 60\n"


def test_a_forked_child_may_have_a_loader_of_its_own(dataset: Dataset, tmp_path: Path) -> None:
    code = """
loader = open_loader(urls, cache)
next(iter(loader))
loader.close()
sys.stdout.flush()
child = os.fork()
if child == 0:
    own = open_loader(urls, cache + "-child")
    print(sum(batch.valid for batch in own), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    assert run(code, tmp_path / "cache", *dataset.urls) == "60\n"


def test_other_python_threads_run_while_a_loader_waits(
    http: RangeServer, stall: Stall, dataset: Dataset, tmp_path: Path
) -> None:
    """The thread begins to count when the origin has stalled."""
    code = COUNTING + "next(iter(open_loader(urls, cache)))"
    with Child(code, tmp_path, *urls_of(http, dataset)) as child:
        assert stall.begun.wait(60)
        child.tell()
        assert child.hear() == "counted"


def test_many_epochs_take_no_more_memory_than_a_few(dataset: Dataset, tmp_path: Path) -> None:
    code = """
def resident():
    gc.collect()
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
loader = open_loader(urls, cache, shuffle=True, host_memory_limit="128MB",
                     fields={"image": forebay.Image("jpg", transform=[forebay.RandomResizedCrop(64)])})
for epoch in range(30):
    for batch in loader:
        pass
    if epoch == 9:
        before = resident()
print(resident() - before)
"""
    assert int(run(code, tmp_path, *dataset.urls)) < 16_000, "kB more after 20 further epochs"


def test_two_processes_share_a_cache_folder(http: RangeServer, dataset: Dataset, tmp_path: Path) -> None:
    """Each reads every sample; the origin is asked for each byte once."""
    code = """
loader = open_loader(urls, cache)
say(sum(batch.valid for batch in loader), loader.stats().role)
wait()
"""
    urls = urls_of(http, dataset)
    with Child(code, tmp_path, *urls) as one, Child(code, tmp_path, *urls) as two:
        assert sorted([one.hear(), two.hear()]) == ["60 client", "60 owner"]
    assert times_fetched(http) == dict.fromkeys([f"/{path.name}" for path in dataset.paths], 1)
