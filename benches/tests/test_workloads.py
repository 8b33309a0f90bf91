"""What workloads make of their runs, and the parts of them that need nothing but Forebay."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import photos
import pytest
import synthetic
from harness import machine, measure, schema
from harness.measure import Failed, execute, rows, sections, take_turns
from harness.workloads import dataset_size, jpeg_training, ranks, startup
from servers import RangeServer

REPOSITORY = machine.BENCHES.parent
SAMPLES = 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos.cut(tmp_path_factory.mktemp("photos"), 2, SAMPLES // 2)


@pytest.fixture
def settings(shards: list[Path], tmp_path: Path) -> dict[str, Any]:
    """Of a peer of Forebay's."""
    return {
        "shards": [str(shard) for shard in shards],
        "samples": SAMPLES,
        "batch_size": 8,
        "threads": 2,
        "epochs": 1,
        "host_memory_limit": "256MB",
        "cache_dir": str(tmp_path / "cache"),
    }


def peer(name: str, settings: dict[str, Any], log: Path) -> dict[str, Any]:
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("python", "demo", "benches"))
    ranks_of_a_launcher = {"RANK": "", "WORLD_SIZE": "", "LOCAL_WORLD_SIZE": ""}
    command = [sys.executable, "-m", f"harness.peers.{name}", json.dumps(settings)]
    return execute(command, log, {"PYTHONPATH": path, **ranks_of_a_launcher}, longest=120.0)


def test_ranks_share_an_epoch_and_read_the_origin_once(
    settings: dict[str, Any], shards: list[Path], tmp_path: Path
) -> None:
    sent = []
    for number in (1, 2, 4):
        with RangeServer(shards[0].parent) as origin:
            urls = [f"{origin.url}/{shard.name}" for shard in shards]
            folder = str(tmp_path / f"cache-{number}")
            cold = {**settings, "shards": urls, "cache_dir": folder, "cold": True, "ranks": number}
            answer = peer("forebay_ranks", cold, tmp_path / "log")
            sent.append(origin.sent_bytes)
        assert answer["samples"] == SAMPLES
        assert 0 < answer["pss_bytes"] <= answer["rss_bytes"]
    assert sent[0] >= sum(shard.stat().st_size for shard in shards)
    # Each process asks how large a shard is; none fetches a block that another one has.
    assert max(sent) - sent[0] < 4096


def test_a_rank_that_ends_ends_the_run_with_its_error(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Failed, match="a rank has ended; what it said is above"):
        peer("forebay_ranks", {**settings, "shards": [str(tmp_path / "none.tar")], "ranks": 2}, tmp_path / "log")
    assert "none.tar" in (tmp_path / "log").read_text()


def test_the_first_batch_comes_from_a_state_and_moves_it_on(settings: dict[str, Any], tmp_path: Path) -> None:
    fresh = peer("forebay_first", settings, tmp_path / "log")
    assert fresh["output"] == {"shape": [8, 224, 224, 3], "dtype": "uint8"}
    assert 0 < fresh["from_iter_seconds"] < fresh["value"] == fresh["seconds"]
    state = startup.at(fresh["state"], 10**9 + 5)
    assert state["epoch"] * SAMPLES + state["consumed"] == 10**9 + 5
    resumed = peer("forebay_first", {**settings, "state": state}, tmp_path / "log")["state"]
    assert resumed["epoch"] * SAMPLES + resumed["consumed"] == 10**9 + 5 + 8


def test_an_import_is_timed_alone_in_its_process(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time; time.sleep(0.05)\n"
        "assert 'harness' not in sys.modules and not any(path.endswith('peers') for path in sys.path)"
    )
    program = machine.BENCHES / "harness/peers/importing.py"
    answer = execute([sys.executable, str(program), "slow"], tmp_path / "log", {"PYTHONPATH": str(tmp_path)})
    assert answer["value"] >= 0.05
    assert answer["peak_rss_bytes"] > 1 << 20


def of_startup(later: float) -> list[dict[str, Any]]:
    first = synthetic.runs(startup.OURS, [0.2, 0.25, 0.21], startup.WARM, from_iter_seconds=0.1)
    resumed = synthetic.runs(startup.RESUMED, [0.21 + later] * 3, startup.WARM, from_iter_seconds=0.1)
    plan = [run for name in (startup.OURS, startup.RESUMED) for run in synthetic.runs(name, [0.05] * 3, startup.PLAN)]
    found = [*synthetic.runs(startup.OURS, [0.03] * 3, startup.IMPORT), *first, *resumed, *plan]
    return [*found, *startup.from_iter(found)]


def test_start_up_is_judged_by_its_medians() -> None:
    for later, met in ((0.04, True), (0.06, False)):
        runs = of_startup(later)
        table = rows(runs, "s", "less")
        targets = {target["what"]: target for target in startup.targets(table)}
        assert targets["ms of import forebay"]["reached"] == pytest.approx(30)
        assert targets[f"ms to the {startup.WARM}"]["reached"] == pytest.approx(210)
        assert targets[f"ms to the {startup.WARM}, from iter()"]["reached"] == pytest.approx(100)
        assert targets[f"ms to the {startup.COLD}"]["reached"] is None
        resumed = targets[f"ms later, resumed at 10⁹, {startup.WARM}"]
        assert resumed["reached"] == pytest.approx(later * 1e3)
        assert resumed["met"] is met
        whole = synthetic.workload("startup", runs, better="less", unit="s", targets=list(targets.values()))
        schema.check_workload(whole, "startup")


def of_ranks(eight: float, sent: int) -> list[dict[str, Any]]:
    found = []
    for number, rate, origin in ((1, 1000.0, 700), (2, 1000.0, 700), (8, eight, sent)):
        more = {"processes": number, "pss_bytes": 10**8 * number, "rss_bytes": 2 * 10**8 * number}
        name = ranks.named(number)
        found += synthetic.runs(name, [rate] * 3, ranks.COLD, origin_bytes=origin, **more)
        found += synthetic.runs(name, [rate] * 3, ranks.WARM, **more)
    return found


def test_ranks_are_judged_by_bytes_and_rate_over_one_process() -> None:
    for eight, sent, met in ((960.0, 700, [True, True, True]), (940.0, 710, [False, False, False])):
        runs = of_ranks(eight, sent)
        targets = {target["what"]: target for target in ranks.targets(runs, rows(runs, "images/s"))}
        assert [
            targets["origin bytes of 8 processes over one's"]["met"],
            targets["images/s of 8 processes over one's, from the origin"]["met"],
            targets["images/s of 8 processes over one's, NVMe"]["met"],
        ] == met
        assert targets["origin bytes of 4 processes over one's"]["reached"] is None
        assert targets["MB held (PSS) by 8 of Forebay's processes"]["reached"] == 800
        whole = synthetic.workload("ranks", runs, targets=list(targets.values()), curves=ranks.curves(runs))
        schema.check_workload(whole, "ranks")
        lines = {curve["title"]: curve["lines"] for curve in whole["curves"]}
        rates = lines["Images/s of all processes, NVMe"]["forebay"]
        assert [point["x"] for point in rates] == [1.0, 2.0, 8.0]
        assert lines["Memory of all processes at the end, NVMe"]["forebay, RSS"][-1]["median"] == 1600


def test_cold_training_is_held_against_the_slower_of_decoding_and_the_fastest_download() -> None:
    def table(**medians: float) -> list[dict[str, Any]]:
        names = {"limit": jpeg_training.LIMIT, "rclone": "rclone copy"}
        return [
            {"case": jpeg_training.S3, "contender": names.get(name, name), "median": median}
            for name, median in medians.items()
        ]

    assert jpeg_training.cold_bound(table(limit=3000.0, rclone=2000.0, obstore=4000.0)) == jpeg_training.LIMIT
    assert jpeg_training.cold_bound(table(limit=3000.0, rclone=2500.0, obstore=2000.0)) == "rclone copy"
    assert jpeg_training.cold_bound(table(limit=3000.0)) is None
    targets = jpeg_training.targets(table(forebay=1900.0, limit=3000.0, rclone=2000.0))
    assert targets[-1]["what"] == "images/s over the slower of decoding and the fastest download (rclone copy), cold S3"
    assert (targets[-1]["reached"], targets[-1]["met"]) == (0.95, True)


def test_a_list_that_does_not_fit_into_memory_is_left_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('{\"value\": 1}')"]
    (fits,) = take_turns([dataset_size.sampler(1000, command, tmp_path / "log", 1)], 1)
    assert fits["value"] == 1
    (too_large,) = take_turns([dataset_size.sampler(10**15, command, tmp_path / "log", 5)], 5)
    assert "value" not in too_large
    assert re.fullmatch(r"its list of all numbers takes about 56000000 GB; \d+ GB are free", too_large["left_out"])


def test_the_size_of_a_dataset_is_judged_at_its_largest() -> None:
    def run(case: str, ms: float, index: float) -> dict[str, Any]:
        more = {"us_per_sample": 1.0, "grown_bytes": 5_000_000, "index_bytes_per_member": index}
        return {"contender": "forebay", "case": case, "round": 0, "value": ms, **more}

    small, large = run("10^3", 1.0, 30.0), run("10^9", 40.0, 6.0)
    torch = {**large, "contender": "torch RandomSampler", "value": 9.0}
    assert [entry["reached"] for entry in dataset_size.targets([small, torch, large])] == [40.0, 1.0, 5.0, 6.0]
    assert all(entry["met"] is None for entry in dataset_size.targets([small]) if entry["most"])


def test_a_part_that_can_not_begin_leaves_the_others_and_an_interrupt_what_was_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "stopped", threading.Event())

    def one() -> list[dict[str, Any]]:
        return synthetic.runs("forebay", [1.0])

    def no_server() -> list[dict[str, Any]]:
        raise FileNotFoundError("weed is not installed")

    def interrupted() -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    runs = sections({"a": one, "b": no_server, "c": one, "d": interrupted, "e": one})
    assert [run.get("error") for run in runs] == [None, "FileNotFoundError: weed is not installed", None]
    assert runs[1]["case"] == "b"
    assert measure.stopped.is_set()
