"""Several processes on one cache folder: owners that are killed, readers that are stopped, and the program beside them."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import photos
import pytest
from children import Child, program
from faults import times_fetched
from servers import RangeServer

SHARDS, PER_SHARD, SAMPLE_BYTES = 8, 32, 250_000
BLOCK = 4 << 20

# Reads an epoch batch by batch, one for every line that it is told, or the rest of it; says its role and what came.
READER = """
loader = open_loader(urls, cache, batch_size=4, fields={"blob": forebay.Bytes("bin")}, **eval(os.environ["SETTINGS"]))
running = iter(loader)
def read(most):
    samples = []
    for batch in running:
        for (shard, index), blob in zip(batch.samples[:batch.valid], batch["blob"]):
            assert blob[:8] == b"%03d-%03d;" % (shard, index), (shard, index, blob[:8])
            samples.append((shard, index))
        if len(samples) >= most:
            break
    return samples
say(loader.stats().role)
for line in sys.stdin:
    say(json.dumps(read(int(line))))
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """Shards of eight MB, three blocks each, over HTTP. Every sample says in its first bytes which it is."""
    folder = tmp_path_factory.mktemp("shards")
    rng = random.Random(5)
    for shard in range(SHARDS):
        members = (
            (f"{index:03}.bin", b"%03d-%03d;" % (shard, index) + rng.randbytes(SAMPLE_BYTES))
            for index in range(PER_SHARD)
        )
        photos.write_tar(folder / f"{shard}.tar", members)
    with RangeServer(folder) as server:
        yield server


@pytest.fixture
def origin(shards: RangeServer) -> RangeServer:
    """The server of `shards`, its log empty."""
    shards.requests.clear()
    return shards


def urls_of(origin: RangeServer, numbers: range = range(SHARDS)) -> list[str]:
    return [f"{origin.url}/{number}.tar" for number in numbers]


EVERYTHING = [(shard, index) for shard in range(SHARDS) for index in range(PER_SHARD)]


def start(stack: ExitStack, cache: Path, origin: RangeServer, count: int, **settings: Any) -> list[Child]:
    """Readers on one folder; the first of them owns it."""
    children = []
    for number in range(count):
        environment = {"SETTINGS": repr({"shuffle": True, "seed": number, **settings})}
        child = stack.enter_context(Child("import json" + READER, cache, *urls_of(origin), environment=environment))
        assert child.hear() == ("client" if number else "owner")
        children.append(child)
    return children


def read(child: Child, most: int) -> list[tuple[int, int]]:
    """Lets a reader read until it has so many samples more."""
    child.tell(str(most))
    return heard(child)


def heard(child: Child) -> list[tuple[int, int]]:
    return [(shard, index) for shard, index in json.loads(child.hear())]


def forebay(cache: Path, *arguments: str) -> Any:
    """What the program says beside a job."""
    return program(*arguments, "--cache-dir", cache)


def test_an_owner_killed_in_mid_epoch_costs_at_most_one_more_fetch_of_a_block(
    origin: RangeServer, tmp_path: Path
) -> None:
    """What was entered in the index before is never fetched. Of the rest each owner fetches a byte once: with one kill, twice at
    most, and that only of blocks which the killed one had not entered."""
    cached = range(SHARDS // 2)
    forebay(tmp_path, "prefetch", *urls_of(origin, cached))
    origin.requests.clear()
    with ExitStack() as stack:
        owner, *others = start(stack, tmp_path, origin, 4)
        begun = [read(child, 40) for child in (owner, *others)]
        owner.kill()
        for child, before in zip(others, begun[1:], strict=True):
            assert sorted(before + read(child, len(EVERYTHING))) == EVERYTHING
    fetched = times_fetched(origin)
    assert sorted(fetched) == [f"/{shard}.tar" for shard in range(SHARDS) if shard not in cached]
    assert max(fetched.values()) <= 2


@pytest.mark.parametrize("owner_is_killed", [False, True])
def test_a_stopped_process_does_not_hold_up_others_who_need_room(
    origin: RangeServer, tmp_path: Path, owner_is_killed: bool
) -> None:
    """The folder holds less than the dataset. When the owner is killed too, its successor evicts nothing before the stopped one
    has spoken, and passes through what finds no room."""
    with ExitStack() as stack:
        settings = {"shuffle": False, "cache_limit": "40MB"}
        children = start(stack, tmp_path, origin, 3, **settings)
        begun = {child: read(child, 40) for child in children}
        owner, stopped, other = children
        stopped.process.send_signal(signal.SIGSTOP)
        finishing = [owner, other]
        if owner_is_killed:
            owner.kill()
            finishing = [other]
        for child in finishing:
            assert begun[child] + read(child, len(EVERYTHING)) == EVERYTHING
        stopped.process.send_signal(signal.SIGCONT)
        assert begun[stopped] + read(stopped, len(EVERYTHING)) == EVERYTHING


def test_the_program_works_beside_a_running_job(origin: RangeServer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        (owner,) = start(stack, tmp_path, origin, 1)
        before = read(owner, 40)
        status = forebay(tmp_path, "status")
        assert {each["location"] for each in status["objects"]} <= set(urls_of(origin))
        assert status["used_bytes"] > 0
        verified = forebay(tmp_path, "verify")
        assert verified["checked_blocks"] == verified["total_blocks"] > 0
        assert verified["bad"] == []
        listed = forebay(tmp_path, "ls", *urls_of(origin))
        assert listed["samples"] == len(EVERYTHING)
        assert listed["fields"][0]["suffix"] == "bin"
        assert forebay(tmp_path, "evict", "--all")["freed_bytes"] >= BLOCK, "what nobody reads just now"
        assert sorted(before + read(owner, len(EVERYTHING))) == EVERYTHING
        forebay(tmp_path, "status")
        owner.process.stdin.close()
        assert owner.process.wait(60) == 0
    assert forebay(tmp_path, "verify")["bad"] == []
