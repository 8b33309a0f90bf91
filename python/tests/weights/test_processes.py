"""Weights inside a process and in several: memory, Ctrl-C, fork, exit, kill -9, one cache folder for all."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from children import COUNTING, Child, program, run
from conftest import Mount, wait_for
from faults import Held, times_fetched
from forebay import weights
from models import Model, limits, make
from servers import RangeServer

SETTINGS = """
import zlib
from forebay import weights
settings = dict(cache_dir=cache, cache_limit="1GB", host_memory_limit="64MiB")
def checksum(tensors):
    import torch
    return zlib.crc32(b"".join(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes() for name in sorted(tensors)))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two files of 24 MiB: seven blocks each."""
    return make(tmp_path_factory.mktemp("model"), large=6, mib=4)


@pytest.fixture
def origin(model: Model) -> Iterator[RangeServer]:
    with RangeServer(model.folder) as server:
        yield server


def urls_of(origin: RangeServer, model: Model) -> list[str]:
    return [f"{origin.url}/{path.name}" for path in model.files]


def once(model: Model) -> dict[str, int]:
    """Each byte of each file was asked for once."""
    return {f"/{path.name}": 1 for path in model.files}


def checksum(model: Model) -> int:
    return zlib.crc32(b"".join(model.tensors[name].data for name in sorted(model.tensors)))


MEMORY = """
import random
def resident():
    gc.collect()
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) + int(lines["RssShmem"].split()[0])
def whole(framework):
    loaded = weights.load_file(urls, **settings)
    del loaded
def streamed(framework):
    for _, tensor in weights.stream(urls, framework=framework, **settings):
        del tensor
def shuffled(framework):
    with weights.open(urls, **settings) as opened:
        tensors = list(opened.load(framework=framework).values())
        random.Random(1).shuffle(tensors)
        while tensors:
            tensors.pop()
def given_up(framework):
    tensors = weights.stream(urls, framework=framework, **settings)
    next(tensors)
    del tensors
def sliced(framework):
    with weights.open(urls, **settings) as opened:
        opened.load(framework=framework, slices=lambda name, shape, dtype: (len(shape) - 1, 1, 4) if shape else None)
def leased(framework):
    with weights.open(urls, **settings) as opened:
        for _, tensor in opened.stream(framework=framework, owned=False):
            del tensor
if os.environ["CACHED"] == "no":
    settings = {}
for how in (whole, streamed, shuffled, given_up, sliced, leased):
    for times in range(25):
        how(("pt", "np")[times % 2])
        if times == 4:
            before = resident()
    say(how.__name__, resident() - before)
"""


@pytest.mark.parametrize("cached", ["yes", "no"])
def test_20_loads_and_drops_take_no_more_memory_than_a_few(model: Model, tmp_path: Path, cached: str) -> None:
    with Child(SETTINGS + MEMORY, tmp_path, *model.files, environment={"CACHED": cached}) as child:
        for how in ("whole", "streamed", "shuffled", "given_up", "sliced", "leased"):
            name, grown = child.hear().split()
            assert name == how
            assert int(grown) < 16_000, f"kB more after 20 further times: {how}"
        status, _, err = child.finish()
    assert status == 0, err


COUNTED = """
def counts():
    gc.collect()
    maps = sum(1 for line in open("/proc/self/maps") if "cache" in line or "safetensors" in line or "forebay" in line)
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), maps
def read():
    weights.load_file(urls, **settings)
def mapped():
    weights.load_file(urls, mmap=True, **settings)
def shown():
    with weights.open(urls, **settings) as opened:
        for file in opened.files:
            opened.path(file.name)
def given_up():
    next(weights.stream(urls, **settings))
if os.environ["CACHED"] == "no":
    settings = {}
for how in (read, mapped, shown, given_up):
    for times in range(25):
        how()
        if times == 4:
            before = counts()
    deadline = time.monotonic() + 60
    # What a load that was given up had begun ends by itself.
    while any(now > then for now, then in zip(counts(), before)):
        assert time.monotonic() < deadline, (how, before, counts())
    say(how.__name__)
"""


@pytest.mark.parametrize("cached", ["yes", "no"])
def test_20_loads_and_drops_leave_no_file_thread_or_mapping(model: Model, tmp_path: Path, cached: str) -> None:
    with Child(SETTINGS + COUNTED, tmp_path / "cache", *model.files, environment={"CACHED": cached}) as child:
        status, said, err = child.finish()
    assert status == 0, err
    assert said.split() == ["read", "mapped", "shown", "given_up"]


DROPPED = """
import torch
def mapped():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("Rss:"))
with weights.open(urls) as opened:
    nothing = mapped()
    tensors = opened.load()
    all_of_it = mapped()
    small = {name: tensor for name, tensor in tensors.items() if tensor.nbytes < 10_000}
    del tensors
    gc.collect()
    some_of_it = mapped()
    del small
# What reads go through is let go with the model.
gc.collect()
none_of_it = mapped()
say(*(each - nothing for each in (all_of_it, some_of_it, none_of_it)))
"""


def test_memory_goes_with_its_tensors(model: Model, tmp_path: Path) -> None:
    """Large tensors' with each of them, whatever small ones stay."""
    all_of_it, some_of_it, none_of_it = map(int, run(SETTINGS + DROPPED, tmp_path, *model.files).split())
    assert all_of_it > model.nbytes * 0.9 / 1000 / 1.024
    assert some_of_it < all_of_it / 4
    assert none_of_it < 4_000


INTERRUPTED = """
how = os.environ["HOW"]
try:
    if how == "open":
        say("waiting")
        weights.open(urls, **settings)
    elif how == "load":
        opened = weights.open(urls, **settings)
        say("waiting")
        opened.load()
    elif how != "stream":
        opened = weights.open(urls, **settings)
        say("waiting")
        calls = {"prefetch": opened.prefetch, "verify": opened.verify, "mmap": lambda: opened.load(mmap=True)}
        calls |= {"path": lambda: opened.path(opened.files[0].name)}
        calls[how]()
    else:
        tensors = weights.stream(urls, **settings)
        say("waiting")
        for _ in tensors:
            pass
except KeyboardInterrupt:
    say("interrupted")
opened = tensors = None
gc.collect()
wait()
with weights.open(urls, **settings) as opened:
    say(checksum(opened.load()))
"""


@pytest.mark.parametrize("how", ["open", "load", "stream", "prefetch", "verify", "mmap", "path"])
def test_ctrl_c_ends_a_wait_and_the_process_goes_on(
    origin: RangeServer, model: Model, tmp_path: Path, how: str
) -> None:
    held = Held(origin, after=1000)
    if how != "open":
        # Headers come.
        ask = origin.answer
        origin.answer = lambda handler: not (handler.headers.get("range") or "").startswith("bytes=0-") and ask(handler)
    with Child(SETTINGS + INTERRUPTED, tmp_path, *urls_of(origin, model), environment={"HOW": how}) as child:
        assert child.hear() == "waiting"
        assert held.begun.wait(60)
        child.process.send_signal(signal.SIGINT)
        assert child.hear() == "interrupted"
        origin.answer = None
        held.release()
        child.tell()
        assert int(child.hear()) == checksum(model)
        status, _, err = child.finish()
    assert status == 0, err
    assert not held.gave_up
    assert "not closed in order" not in err


FREED = """
def resident():
    gc.collect()
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
before = resident()
def alarm(*_):
    raise InterruptedError
signal.signal(signal.SIGALRM, alarm)
opened = weights.open(urls, **settings)
opened.load(["1.0.bias"])
warm = resident()
for _ in range(5):
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        while True:
            opened.load()
    except InterruptedError:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
opened.close()
deadline = time.monotonic() + 60
while (now := resident()) > warm + 8_000:
    assert time.monotonic() < deadline, (before, warm, now)
"""


def test_what_an_interrupted_load_took_is_given_back(model: Model, tmp_path: Path) -> None:
    """Also what was being read when the signal came: it ends behind it."""
    run(SETTINGS + FREED, tmp_path, *model.files)


FORK = """
import torch
opened = weights.open(urls, **settings)
begun = opened.stream()
first = dict([next(begun)])
loaded = opened.load()
array = opened.get_tensor("1.0.weight", framework="np")
right = checksum(loaded)
file = weights.safe_open(urls[0], **settings)
part = file.get_slice("1.0.weight")
sys.stdout.flush()
child = os.fork()
if child == 0:
    refused = 0
    for call in (opened.load, opened.stream, lambda: next(begun), lambda: opened.stats, opened.close, lambda: part[0],
                 opened.metadata, lambda: file.get_tensor("1.0.weight")):
        try:
            call()
        except forebay.ForkError as error:
            assert "spawn" in str(error)
            refused += 1
    assert checksum(loaded) == right
    for tensor in loaded.values():
        tensor.fill_(7)
        assert (tensor == 7).all()
    array[:] = 9
    del first, loaded, array, tensor, begun, part, file, opened, call
    gc.collect()
    sys.exit(refused)
_, status = os.waitpid(child, 0)
assert checksum(loaded) == right, "the child's are its own"
say(os.waitstatus_to_exitcode(status), len(list(begun)) + 1 == len(loaded), checksum(opened.load()) == right)
"""


@pytest.mark.parametrize("cached", [True, False])
def test_a_forked_child_has_its_tensors_and_gets_an_error_for_more(model: Model, tmp_path: Path, cached: bool) -> None:
    code = SETTINGS + ("" if cached else "settings = {}\n") + FORK
    assert run(code, tmp_path, *model.files) == "8 True True\n"


def test_a_forked_child_may_open_a_model_of_its_own(model: Model, tmp_path: Path) -> None:
    code = """
opened = weights.open(urls, **settings)
right = checksum(opened.load())
opened.close()
sys.stdout.flush()
child = os.fork()
if child == 0:
    for more in ({**settings, "cache_dir": cache + "-child"}, {}):
        assert checksum(weights.load_file(urls, **more)) == right
    os._exit(0)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(SETTINGS + code, tmp_path / "cache", *model.files) == "0\n"


TWO = """
wait()
say(checksum(weights.load_file(urls, **settings)))
"""


def test_two_processes_that_load_one_model_at_once_fetch_it_once(
    origin: RangeServer, model: Model, tmp_path: Path
) -> None:
    urls = urls_of(origin, model)
    with Child(SETTINGS + TWO, tmp_path, *urls) as one, Child(SETTINGS + TWO, tmp_path, *urls) as two:
        one.tell()
        two.tell()
        assert [int(child.hear()) for child in (one, two)] == [checksum(model)] * 2
    assert times_fetched(origin) == once(model)


KILLED = """
loaded = {}
for name, tensor in weights.stream(urls, **settings):
    say(name)
"""


@pytest.mark.parametrize("after", [1, 4, 9, 17])
def test_a_load_after_kill_9_is_right(origin: RangeServer, model: Model, tmp_path: Path, after: int) -> None:
    """Killed after so many tensors, while blocks are fetched and written: what was kept is right, the rest is fetched again."""
    urls = urls_of(origin, model)
    with Child(SETTINGS + KILLED, tmp_path / "cache", *urls) as child:
        for _ in range(after):
            child.hear()
        child.kill()
    with weights.open(urls, **limits(tmp_path)) as opened:
        assert model.is_whole(opened.load())
    assert max(times_fetched(origin).values()) <= 2

    def is_all_kept() -> bool:
        origin.requests.clear()
        assert model.is_whole(weights.load_file(urls, **limits(tmp_path)))
        return not times_fetched(origin)

    # A block comes back when what was half written has been removed.
    wait_for(is_all_kept)
    assert program("verify", "--cache-dir", tmp_path / "cache")["bad"] == []


@pytest.mark.parametrize("how", ["load_file", "stream", "given up", "half way", "kept", "failed"])
def test_what_was_fetched_is_kept_whatever_way_a_process_ends(
    origin: RangeServer, model: Model, tmp_path: Path, how: str
) -> None:
    """The folder is closed in order, or the log would have it by the next call."""
    urls = urls_of(origin, model)
    code = {
        "load_file": "weights.load_file(urls, **settings)",
        "stream": "list(weights.stream(urls, **settings))",
        "given up": "begun = weights.stream(urls, **settings); next(begun); begun.close(); weights.load_file(urls, **settings)",
        "half way": "weights.load_file(urls, **settings); begun = weights.stream(urls, **settings); next(begun)",
        "kept": "sys.modules['kept'] = [weights.open(urls, **settings)]; sys.modules['kept'][0].load()",
        "failed": """
weights.load_file(urls, **settings)
try:
    weights.open([*urls, urls[0] + ".missing.safetensors"], **settings)
except forebay.NotFoundError:
    pass
""",
    }[how]
    logged = "import logging; logging.basicConfig(format='%(message)s')\n"
    code += "\ngc.collect(); weights.open(os.environ['LOCAL']).close()"
    environment = {"LOCAL": str(model.files[0])}
    with Child(logged + SETTINGS + code, tmp_path / "cache", *urls, environment=environment) as child:
        status, _, err = child.finish()
    assert (status, err) == (0, "")
    origin.requests.clear()
    assert model.is_whole(weights.load_file(urls, **limits(tmp_path)))
    assert not times_fetched(origin)


BESIDE = """
loader = open_loader(os.environ["SHARDS"].split(), cache, host_memory_limit=settings["host_memory_limit"])
running = iter(loader)
labels = list(memoryview(next(running)["label"]))
found = checksum(weights.load_file(urls, **settings))
labels += [label for batch in running for label in memoryview(batch["label"]).tolist()[:batch.valid]]
say(found, len(set(labels)))
loader.close()
say(checksum(weights.load_file(urls, **settings)))
"""


def test_a_loader_and_weights_share_one_folder_in_one_process(
    origin: RangeServer, model: Model, dataset: Any, tmp_path: Path
) -> None:
    environment = {"SHARDS": " ".join(dataset.urls)}
    enough = "settings['host_memory_limit'] = '128MB'\n"
    with Child(SETTINGS + enough + BESIDE, tmp_path, *urls_of(origin, model), environment=environment) as child:
        found, labels = map(int, child.hear().split())
        assert (found, labels) == (checksum(model), len(dataset.everything))
        assert int(child.hear()) == checksum(model)
        status, _, err = child.finish()
    assert status == 0, err
    assert times_fetched(origin) == once(model)


TOO_LITTLE = """
loader = open_loader(os.environ["SHARDS"].split(), cache, host_memory_limit=settings["host_memory_limit"])
running = iter(loader)
next(running)
opened = weights.open(urls, **settings)
try:
    opened.load()
except forebay.ConfigError as error:
    say(error)
loader.close()
del loader, running
gc.collect()
say(checksum(opened.load()))
"""


def test_weights_that_find_no_memory_beside_a_loader_say_how_much_they_need(
    origin: RangeServer, model: Model, dataset: Any, tmp_path: Path
) -> None:
    environment = {"SHARDS": " ".join(dataset.urls)}
    with Child(SETTINGS + TOO_LITTLE, tmp_path, *urls_of(origin, model), environment=environment) as child:
        text = child.hear()
        assert re.search(r"host_memory_limit of 67108864 bytes is too small: \d+ bytes is the least", text), text
        assert int(child.hear()) == checksum(model)
        status, _, err = child.finish()
    assert status == 0, err


def test_another_limit_of_a_folder_that_is_open_is_refused(model: Model, tmp_path: Path) -> None:
    with (
        weights.open(model.folder, **limits(tmp_path)) as opened,
        pytest.raises(ValueError, match=r"already open in this process with host_memory_limit of 128000000"),
    ):
        weights.open(model.folder, **limits(tmp_path, host_memory_limit="1GB"))
    assert opened is not None


def test_other_python_threads_run_while_weights_are_waited_for(
    origin: RangeServer, model: Model, tmp_path: Path
) -> None:
    """The thread begins to count when the origin has stalled."""
    code = COUNTING + "weights.load_file(urls, **settings)"
    held = Held(origin, after=1000)
    with Child(SETTINGS + code, tmp_path, *urls_of(origin, model)) as child:
        assert held.begun.wait(60)
        child.tell()
        assert child.hear() == "counted"
    held.release()


LET_GO = (
    """
opened = weights.open(urls, **settings)
opened.load()
say("loaded")
wait()
"""
    + COUNTING
    + """
say("letting go")
opened = None
"""
)


def test_a_model_that_nobody_closes_ends_without_the_gil(model: Model, tmp_path: Path, mount: Mount) -> None:
    """Its cache folder's end waits for a disk that takes nothing."""
    disk = mount("200M", "ext4")
    thawed = threading.Event()

    def thaw() -> None:
        if not thawed.is_set():
            thawed.set()
            subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)

    with Child(SETTINGS + LET_GO, disk / "cache", *model.files) as child:
        assert child.hear() == "loaded"
        subprocess.run(["fsfreeze", "--freeze", disk], check=True)
        # Who waits for the disk can't be killed, and would wait for ever.
        patience = threading.Timer(60, thaw)
        patience.start()
        try:
            child.tell()
            assert child.hear() == "letting go"
            wait_for(lambda: "D" in states(child.pid))
            child.tell()
            assert child.hear() == "counted"
            assert not thawed.is_set(), "only when the disk went on"
        finally:
            patience.cancel()
            thaw()


def states(pid: int) -> set[str]:
    """Of a process's threads: "D" waits for a disk."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # It has just ended.
            found.add((task / "stat").read_text().rpartition(") ")[2][0])
    return found
