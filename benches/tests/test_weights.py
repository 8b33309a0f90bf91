"""Loading weights: what is written, that a peer's tensors are compared with it, and what the workload makes of its runs."""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import synthetic
from harness import __main__ as harness
from harness import backed, child, fio, measure, models, s3, schema
from harness.measure import Answer, Failed, execute, rows
from harness.place import Place
from harness.workloads import weights
from harness.workloads.weights import COLD, COUNTS, FEW, FIRST, HOST_TIER, MANY, OURS, RUNAI, WARM

WIDTH = 64
FILES: list[dict[str, models.Shape]] = [{"b": (5, 3), "a": (700, 100)}, {"none": (0, 4), "c": (7,)}]


@pytest.fixture(autouse=True)
def not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "stopped", threading.Event())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(weights, "SMALL_WIDTH", WIDTH)
    for name in ("work", "kept", "logs"):
        (tmp_path / name).mkdir()
    return Place(tmp_path / "work", tmp_path / "kept", tmp_path, tmp_path / "logs", threads=2, rounds=4, small=True)


def parts(file: Path) -> dict[str, tuple[list[int], bytes]]:
    """A file's tensors, each as its shape and its bytes, in the order of their offsets."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    body, found, end = data[8 + length :], {}, 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        assert entry["dtype"] == "BF16"
        assert entry["data_offsets"][0] == end
        start, end = entry["data_offsets"]
        found[name] = (entry["shape"], body[start:end])
    assert end == len(body)
    assert (8 + length) % 8 == 0
    return found


def test_a_file_holds_its_tensors_one_after_the_other_and_checksums_are_of_their_bytes(tmp_path: Path) -> None:
    model = models.write(tmp_path / "model", FILES)
    found = {name: part for file in model.files for name, part in parts(file).items()}
    assert {name: tuple(shape) for name, (shape, _) in found.items()} == FILES[0] | FILES[1]
    assert [len(found[name][1]) for name in "abc"] == [140_000, 30, 14]
    assert (model.tensors, model.nbytes) == (4, 140_044)
    assert json.loads(model.checksums.read_text()) == {name: zlib.crc32(data) for name, (_, data) in found.items()}


def test_what_is_written_is_random_and_another_seed_s_is_another(tmp_path: Path) -> None:
    one, other = (models.write(tmp_path / str(seed), FILES, seed) for seed in (0, 10))
    assert len(zlib.compress(one.files[0].read_bytes())) > 140_000
    assert json.loads(one.checksums.read_text())["a"] != json.loads(other.checksums.read_text())["a"]


def test_tensors_larger_than_a_chunk_and_chunks_larger_than_tensors_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = models.write(tmp_path / "whole", FILES)
    monkeypatch.setattr(models, "CHUNK_BYTES", 1024)
    pieces = models.write(tmp_path / "pieces", FILES)
    assert [file.stat().st_size for file in whole.files] == [file.stat().st_size for file in pieces.files]
    found = {name: zlib.crc32(data) for file in pieces.files for name, (_, data) in parts(file).items()}
    assert json.loads(pieces.checksums.read_text()) == found


def test_models_have_the_tensors_that_are_promised() -> None:
    few, many = models.dense(2048), models.experts(models.BF16_BYTES * sum(sizes(models.dense(2048))))
    assert len(sizes(few)) == 300
    assert len(sizes(many)) == 18_867
    assert 3.5e9 < models.BF16_BYTES * sum(sizes(few)) < 3.6e9
    assert sum(sizes(many)) == pytest.approx(sum(sizes(few)), rel=0.01)
    assert len(set(sizes(many))) == 1


def sizes(files: list[dict[str, models.Shape]]) -> list[int]:
    assert len(files) == models.FILES
    return [int(np.prod(shape)) for file in files for shape in file.values()]


# A peer whose loader the test chooses.
PEER = """
import json, struct, torch
from pathlib import Path
from harness.child import main
from harness.peers.loaded import measure

def load(files):
    found = {{}}
    for file in files:
        data = bytearray(Path(file).read_bytes())
        length = struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8 : 8 + length]).items():
            start, end = entry["data_offsets"]
            body = torch.tensor(list(data[8 + length + start : 8 + length + end]), dtype=torch.uint8)
            found[name] = body.view(torch.bfloat16).reshape(entry["shape"])
    {change}
    return found

main(lambda settings, meter: measure(settings, meter, lambda: load(settings["files"])))
"""


def peer(model: models.Model, log: Path, change: str = "", **more: Any) -> Answer:
    path = os.pathsep.join(str(Path(harness.__file__).parents[1] / part) for part in (".", "../demo"))
    with backed.held(1 << 20) as holder:
        settings = {
            "files": list(map(str, model.files)), "checksums": str(model.checksums), "holder": holder, **more,
        }  # fmt: skip
        command = [sys.executable, "-c", PEER.format(change=change), json.dumps(settings)]
        return execute(command, log, {"PYTHONPATH": path}, longest=120.0)


def test_a_peer_s_tensors_are_those_that_were_written(tmp_path: Path) -> None:
    model = models.write(tmp_path / "model", FILES)
    answer = peer(model, tmp_path / "log", warm_up=True, synced=str(tmp_path))
    assert answer["samples"] == pytest.approx(model.nbytes / 1e9)
    assert answer["tensors"] == 4
    assert 0 < answer["imported_rss_bytes"] <= answer["peak_rss_bytes"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("found['a'][3, 5] = -found['a'][3, 5]", "a has other bytes than were written"),
        ("found['b'] = torch.zeros(5, 3, dtype=torch.bfloat16)", "b has other bytes than were written"),
        ("del found['c']", r"other tensors than were written: \['c'\]"),
        ("found['d'] = found['c']", r"other tensors than were written: \['d'\]"),
        ("found['a'] = found['a'].T", "contiguous: False"),
        ("found['a'] = found['a'].view(torch.int16)", "a tensor is torch.int16"),
    ],
)
def test_a_peer_that_brings_anything_else_has_failed(change: str, said: str, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model", FILES)
    with pytest.raises(Failed, match=said):
        peer(model, tmp_path / "log", change)


def test_memory_is_held_until_it_is_released(tmp_path: Path) -> None:
    with backed.held(64 << 20) as pid:
        assert child.status("VmRSS", pid) >= min(64 << 20, backed.free() // 2)
        backed.release(pid)
        assert child.status("VmRSS", pid) == 0
    with backed.held(1 << 20) as pid:
        ended = os.pidfd_open(pid)
    assert select.select([ended], [], [], 0)[0], "it ends with the block"
    os.close(ended)


FIO = """#!{python}
import json, sys
options = dict(option[2:].partition("=")[::2] for option in sys.argv[1:])
rate = {{"4194304": 3, "1048576": 2}}[options["bs"]]
job = {{"job_runtime": 500 // rate, "usr_cpu": 10.0, "sys_cpu": 20.0, "read": {{"io_bytes": 1_000_000}}}}
json.dump({{"jobs": [job]}}, open(options["output"], "w"))
"""


def test_fio_takes_part_with_the_setting_that_is_fastest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "fio"
    program.write_text(FIO.format(python=sys.executable))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    files = [tmp_path / "a:b", tmp_path / "c"]
    command = fio.whole(files, 1 << 20, 32, tmp_path / "answer")
    assert f"--filename={tmp_path}/a\\:b:{tmp_path}/c" in command
    answer = fio.read(command, tmp_path / "log")
    assert answer == {"value": 0.001 / 0.25, "seconds": 0.25, "cpu_seconds": pytest.approx(0.3 * 0.25)}
    monkeypatch.setattr(fio, "SETTINGS", [(1 << 20, 32), (4 << 20, 16)])
    assert "--bs=4194304" in fio.fastest(files, tmp_path / "answer", tmp_path / "log")


def of_weights(ours: float, cpu: float, peak: int) -> list[Answer]:
    """Three rounds of every contender over which something is promised; peers at 1 GB/s."""
    more = {"samples": 2.0, "imported_rss_bytes": 500_000_000}

    def of(name: str, case: str, value: float, limit: int = weights.LIMIT_BYTES) -> list[Answer]:
        mine = {**more, "cpu_seconds": cpu, "peak_rss_bytes": 2_500_000_000 + limit + peak, "seconds": 2 / value}
        return synthetic.runs(name, [value] * 3, case) if limit == 0 else [
            {**run, **mine} for run in synthetic.runs(name, [value] * 3, case)
        ]  # fmt: skip

    theirs = {"cpu_seconds": 2.0, "seconds": 2.0}
    peers = [{**run, **theirs} for case in (COLD, WARM) for run in synthetic.runs(RUNAI, [1.0] * 3, case)]
    slower = [run for case in (COLD, WARM) for run in synthetic.runs("safetensors", [0.5] * 3, case)]
    copies = 10 if cpu < 1.2 else 100_000
    beyond = 200 if cpu < 1.2 else 300
    crossed = {"tensors": 18_867, "tensor_bytes": 10**8, "h2d_bytes": 10**8 + beyond * 18_867, "h2d_copies": copies}
    device = [run for name in (FEW, MANY) for run in synthetic.runs(name, [1.0], weights.DEVICE, **crossed)]
    return [
        *device, *of(OURS, COLD, ours), *of("fio", COLD, 1.0, 0), *of(OURS, WARM, 1.6 * ours),
        *of(HOST_TIER, WARM, 1.6 * ours, 2_000_000_000), *of(OURS, FIRST, 0.95 * ours),
        *of("rclone copy", FIRST, 1.0, 0), *of("obstore", FIRST, 0.7, 0), *peers, *slower,
        *(run for case in COUNTS.values() for name, value in ((FEW, 1.0), (MANY, 0.85 * ours)) for run in of(name, case, value)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "cpu", "peak", "met"), [(1.0, 1.1, 150_000_000, True), (0.9, 1.3, 250_000_000, False)]
)
def test_weights_are_judged_by_the_disk_the_best_peer_and_what_a_load_takes(
    ours: float, cpu: float, peak: int, met: bool
) -> None:
    runs = of_weights(ours, cpu, peak)
    targets = weights.targets(runs, rows(runs, "GB/s"))
    found = {target["what"]: target for target in targets}
    assert found[f"GB/s over the fastest peer ({RUNAI}), {COLD}"]["reached"] == pytest.approx(ours)
    assert found[f"GB/s over the faster plain download (rclone copy), {FIRST}"]["reached"] == pytest.approx(0.95 * ours)
    assert found["small tensors in a copy over the bus"]["reached"] == pytest.approx(1886.7 if met else 0.18867)
    assert found[f"CPU seconds over that peer's, {COLD}"]["reached"] == pytest.approx(cpu / 2)
    assert found[f"MB of peak RSS over imports + tensors + the host tier's, {WARM}"]["reached"] == peak / 1e6
    bounded = [target for target in targets if target["least"] is not None or target["most"] is not None]
    assert len(bounded) == 15
    assert [target["what"] for target in bounded if target["met"] is not met] == []
    schema.check_workload(synthetic.workload("weights", runs, targets=targets), "weights")


def test_nothing_is_promised_of_what_was_not_measured() -> None:
    assert {target["reached"] for target in weights.targets([], [])} == {None}


def test_every_part_finds_what_it_needs_and_one_without_its_server_leaves_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, set[str]]] = []

    def answers(command: list[str], *_: Any, **__: Any) -> Answer:
        settings = json.loads(command[-1])
        for file in settings.get("files", settings.get("urls", [])):
            assert Path(file).is_file()
        assert Path(settings["checksums"]).is_file()
        module = next(part for part in command if part.startswith("harness.peers.")).removeprefix("harness.peers.")
        if module == "forebay_weights" and (folder := settings["options"].get("cache_dir")):
            Path(folder, "block").write_bytes(b"cached")
        kept.append((module, {path.name for path in place.work.iterdir() if path.is_dir()}))
        more = {"samples": 1.0, "imported_rss_bytes": 1, "peak_rss_bytes": 2, "cpu_seconds": 1.0}
        crossed = {"tensors": 1, "tensor_bytes": 1, "h2d_bytes": 1, "h2d_copies": 1}
        return {"value": 1.0, "seconds": 1.0, **more, **(crossed if module == "forebay_weights_device" else {})}

    def no_server(*_: Any) -> Any:
        raise FileNotFoundError("weed is not installed")

    monkeypatch.setattr(weights, "execute", answers)
    monkeypatch.setattr(fio, "read", lambda *_: {"value": 1.0, "seconds": 1.0, "cpu_seconds": 0.1})
    monkeypatch.setattr(Place, "lacks", lambda *_: None)
    monkeypatch.setattr(backed, "held", NothingHeld)
    monkeypatch.setattr(s3, "serving", no_server)
    (place.bin / "libforebay_fake_cuda.so").touch()
    result = harness.run(weights, place)
    assert result
    head = {"schema": schema.VERSION, "workload": "weights", "title": "It", "small": True}
    schema.check_workload({**head, **result}, "weights")
    by = {(row["case"], row["contender"]): row for row in result["rows"]}
    assert by[FIRST, OURS]["errors"] == ["FileNotFoundError: weed is not installed"]
    assert [by[case, OURS]["runs"] for case in (COLD, WARM)] == [weights.ROUNDS] * 2
    assert by[COLD, "safetensors"]["runs"] == by[WARM, "fastsafetensors"]["runs"] == 1
    assert {by[case, name]["runs"] for case in COUNTS.values() for name in (FEW, MANY)} == {weights.FEWER}
    assert list(dict.fromkeys(case for case, _ in by)) == [COLD, WARM, *COUNTS.values(), FIRST, weights.DEVICE]
    # Never more than the files and a copy.
    assert all(len(folders & {"weights-cache", "weights-many", "weights-first"}) <= 1 for _, folders in kept)
    # The cache is filled by a run that is not one of the rounds.
    assert [module for module, _ in kept].count("forebay_weights") == 1 + weights.ROUNDS * (1 + 2) + weights.FEWER * 4


class NothingHeld:
    """In place of a process that holds memory."""

    def __init__(self, _: int) -> None:
        pass

    def __enter__(self) -> int:
        return 0

    def __exit__(self, *_: object) -> None:
        pass


def test_downloads_take_what_the_objects_are_called(place: Place) -> None:
    server: Any = SimpleNamespace(pid=os.getpid(), url="http://127.0.0.1:1", region="here", storage_options={})
    file = place.work / "model.safetensors"
    file.touch()
    rclone, _ = s3.downloads(place, server, [file], place.work / "files", place.logs / "log")
    assert "--include=*.safetensors" in rclone.command
