"""Cache folders on disks that are full, read-only, broken or too small: every sample comes, or an error says what to do."""

from __future__ import annotations

import platform
import random
import re
import subprocess
from pathlib import Path

import forebay
import photos
import pytest
from children import Child, program
from conftest import SMALL, Dataset, Mount, OpenLoader, samples_of, urls_of
from servers import RangeServer


def test_a_disk_that_fills_up_stops_admission_and_loses_no_sample(
    http: RangeServer, dataset: Dataset, open_loader: OpenLoader, mount: Mount
) -> None:
    urls = urls_of(http, dataset)
    fields = {"jpg": forebay.Bytes("jpg")}
    # Less than the shards take, though cache_limit would allow them.
    with open_loader(urls, fields=fields, shuffle=True, cache_dir=mount("4m") / "cache") as loader:
        for _ in range(2):
            places = []
            for batch in loader:
                for row, place in enumerate(batch.samples[: batch.valid]):
                    assert batch["jpg"][row] == dataset.at(place).jpg
                    places.append(place)
            assert sorted(places) == dataset.everything
        assert loader.stats().cache["admission_stopped"]


def test_a_read_only_cache_dir_is_named(dataset: Dataset, open_loader: OpenLoader, mount: Mount) -> None:
    folder = mount("16m")
    with open_loader(dataset.urls, cache_dir=folder / "cache") as loader:
        samples_of(loader)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for cache_dir in (folder / "cache", folder / "new"):
        with pytest.raises(forebay.CacheError, match=re.escape(str(cache_dir))) as caught:
            open_loader(dataset.urls, cache_dir=cache_dir)
        assert "cache_dir" in str(caught.value)
        assert "Read-only file system" in str(caught.value)


# The kernel itself fails the calls, through a filter (seccomp) over every thread. Without io_uring, whose reads are no calls.
FAIL_READS = """
import ctypes, platform, struct
ERRNO, ALLOW, NO_NEW_PRIVS, SECCOMP = 0x00050000, 0x7FFF0000, 38, {"x86_64": 317, "aarch64": 277}[platform.machine()]
PREAD, IO_URING_SETUP = {"x86_64": 17, "aarch64": 67}[platform.machine()], 425
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("code", ctypes.c_char_p)]
def fail(call, errno):
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, ERRNO | errno), (0x06, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    assert libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.syscall(SECCOMP, 1, 1, ctypes.byref(program)) == 0, os.strerror(ctypes.get_errno())
"""

BROKEN_DISK = """
def rows_of(loader):
    return [row for batch in loader for row in zip(batch.samples[:batch.valid], memoryview(batch["label"]).tolist())]
fail(IO_URING_SETUP, 1)
with open_loader(urls, cache, shuffle=True) as loader:
    rows = rows_of(loader)
loader = open_loader(urls, cache, shuffle=True)
assert loader.stats().io_engine == "blocking"
loader.count()
fail(PREAD, 5)
again = rows_of(loader)
stats = loader.stats()
say(rows == again, len({label for _, label in rows}), stats.cache["disk_state"], stats.bytes_by_tier["origin"] > 0)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter's numbers are not known here")
def test_a_disk_that_fails_reads_loses_no_sample(http: RangeServer, dataset: Dataset, tmp_path: Path) -> None:
    urls = urls_of(http, dataset)
    with Child(FAIL_READS + BROKEN_DISK, tmp_path / "cache", *urls) as child:
        same, labels, disk_state, from_origin = child.hear().split()
        status, _, err = child.finish()
    assert (same, int(labels), from_origin, status) == ("True", len(dataset.everything), "True", 0), err
    assert disk_state in ("degraded", "down")


@pytest.mark.parametrize("in_memory", [False, True])
def test_doctor_says_of_a_folder_what_a_loader_then_uses(
    dataset: Dataset, open_loader: OpenLoader, mount: Mount, tmp_path: Path, in_memory: bool
) -> None:
    folder = (mount("64m") if in_memory else tmp_path) / "cache"
    found = program("doctor", "--cache-dir", folder)
    with open_loader(dataset.urls, fields=SMALL, cache_dir=folder, num_threads=None) as loader:
        samples_of(loader)
        samples_of(loader)
        stats = loader.stats()
    storage = found["storage"]
    assert (storage["io"]["engine"], storage["io"]["direct"]) == (stats.io_engine, stats.io_mode == "direct")
    assert (found["processor"]["simd"], found["cores"]["default_threads"]) == (stats.simd, stats.threads)
    assert (storage["exists"], storage["used_bytes"]) == (False, None)
    after = program("doctor", "--cache-dir", folder)["storage"]
    assert after["exists"]
    assert after["used_bytes"] >= sum(path.stat().st_size for path in dataset.paths), "all of it is cached"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eight shards of eight MB."""
    rng = random.Random(3)
    folder = tmp_path_factory.mktemp("large")
    for shard in range(8):
        members = ((f"{index:03}.bin", rng.randbytes(250_000)) for index in range(32))
        photos.write_tar(folder / f"{shard}.tar", members)
    return [str(folder / f"{shard}.tar") for shard in range(8)]


def test_a_cache_limit_below_the_resident_window_says_the_least_that_works(
    large: list[str], open_loader: OpenLoader, tmp_path: Path
) -> None:
    arguments = {"fields": {"blob": forebay.Bytes("bin")}, "shuffle": True, "batch_size": 4}
    with (
        pytest.raises(forebay.ConfigError, match=r"cache_limit.*least") as caught,
        open_loader(large, cache_limit="18MB", cache_dir=tmp_path / "small", **arguments) as loader,
    ):
        samples_of(loader)
    found = re.search(r"(\d+) bytes is the least", str(caught.value))
    assert found, caught.value
    least = int(found[1])
    assert least < 80_000_000, "no more than the dataset of 64 MB takes as a whole"
    with open_loader(large, cache_limit=least, cache_dir=tmp_path / "least", **arguments) as loader:
        assert sorted(samples_of(loader)) == [(shard, index) for shard in range(8) for index in range(32)]
    with (
        pytest.raises(forebay.ConfigError, match=f"{least} bytes is the least"),
        open_loader(large, cache_limit=least - 1, cache_dir=tmp_path / "less", **arguments) as loader,
    ):
        samples_of(loader)
