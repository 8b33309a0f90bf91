"""`make bench-check`: what got worse by more than the noise fails, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic
from harness import compare
from harness.measure import target
from harness.workloads import memory
from synthetic import folder, reads

Check = Any


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    def run(old: list[dict[str, Any]], new: list[dict[str, Any]], **machine: Any) -> tuple[int, str]:
        paths = [folder(tmp_path / "old", *old), folder(tmp_path / "new", *new, **machine)]
        status = compare.main([str(path) for path in paths])
        return status, capsys.readouterr().out

    return run


def test_the_same_is_no_worse(check: Check) -> None:
    status, said = check([reads()], [reads()])
    assert status == 0
    assert "| reads | forebay over a peer | 2 | 2 | +0.0 % | ± 10.0 % | same within the noise |" in said
    assert "0 worse; 2 of 2 judged" in said


def test_better_is_no_worse(check: Check) -> None:
    status, said = check([reads(900)], [reads(1200)])
    assert (status, said.count("better")) == (0, 2)


def test_worse_within_the_noise_of_both_runs_passes(check: Check) -> None:
    # Each run's ratios reach 5 % to both sides.
    status, said = check([reads(900)], [reads(819)])
    assert status == 0
    assert "-9.0 % | ± 10.0 % | same within the noise" in said


def test_worse_beyond_the_noise_fails(check: Check) -> None:
    status, said = check([reads(900)], [reads(801)])
    assert status == 1
    assert "-11.0 % | ± 10.0 % | **worse**" in said
    assert "2 worse; 2 of 2 judged" in said


def test_a_slower_machine_slows_both_sides_and_is_said(check: Check) -> None:
    slower = reads(450, theirs=225)
    for run in slower["runs"]:
        if run["contender"] == "limit: alone":
            run["value"] = 500.0
    status, said = check([reads(900)], [slower], processor="An older one", kernel="5.10")
    assert status == 0
    assert "different machine: processor was A processor and is An older one" in said
    assert "different machine: kernel was 6.1 and is 5.10" in said


def test_where_less_is_better_more_is_worse(check: Check) -> None:
    def start(seconds: float) -> dict[str, Any]:
        found = [*synthetic.runs("forebay", [seconds] * 3), *synthetic.runs("a peer", [2.0, 2.1, 1.9])]
        return synthetic.workload("start", found, better="less", unit="s")

    assert check([start(0.1)], [start(0.2)])[0] == 1


def test_where_less_is_better_less_is_better(check: Check) -> None:
    def start(seconds: float) -> dict[str, Any]:
        return synthetic.workload(
            "start", [*synthetic.runs("forebay", [seconds] * 3), *synthetic.runs("a peer", [2.0] * 3)], better="less"
        )

    status, said = check([start(0.2)], [start(0.1)])
    assert status == 0
    assert "better" in said


def test_a_workload_that_is_missing_or_failed_is_worse(check: Check) -> None:
    other = synthetic.workload("training", synthetic.runs("forebay", [1.0] * 3))
    failed = {name: other[name] for name in ("schema", "workload", "title", "small", "wall_seconds", "targets")}
    status, said = check([reads(), other], [{**failed, "failed": "OSError: no room"}])
    assert status == 1
    assert "| reads | the workload | **missing in NEW** |" in said
    assert "**failed in NEW: OSError: no room**" in said


def test_a_peer_that_failed_is_said_and_no_worse(check: Check) -> None:
    error = {"contender": "a peer", "case": "", "round": 0, "error": "Failed: gone"}
    without = [run for run in reads()["runs"] if run["contender"] != "a peer"]
    status, said = check([reads()], [synthetic.workload("reads", [*without, error])])
    assert status == 0
    assert "a peer has no figure in NEW: Failed: gone" in said


def test_forebay_failing_is_worse(check: Check) -> None:
    error = {"contender": "forebay", "case": "", "round": 0, "error": "Failed: gone"}
    without = [run for run in reads()["runs"] if run["contender"] != "forebay"]
    status, said = check([reads()], [synthetic.workload("reads", [*without, error])])
    assert status == 1
    assert "| reads | forebay |" in said
    assert "**failed in NEW: Failed: gone**" in said


def test_forebay_failing_in_one_of_five_rounds_is_worse(check: Check) -> None:
    broken = reads()
    broken["runs"] = [run for run in broken["runs"] if run["contender"] != "forebay" or run["round"] < 2]
    broken["runs"].append({"contender": "forebay", "case": "", "round": 2, "error": "Failed: killed by signal 9"})
    status, said = check([reads()], [synthetic.workload("reads", broken["runs"])])
    assert status == 1
    assert "**failed in NEW: Failed: killed by signal 9**" in said


def test_forebay_failing_where_nothing_stands_beside_it_is_worse(check: Check) -> None:
    first, second = (synthetic.runs(name, [10.0]) for name in (memory.LARGE, memory.SMALL))
    dead = {"contender": memory.SMALL, "case": "", "round": 0, "error": "Failed: killed by signal 9"}
    old, new = synthetic.workload("memory", [*first, *second]), synthetic.workload("memory", [*first, dead])
    status, said = check([old], [new])
    assert status == 1
    assert f"| memory | {memory.SMALL} |" in said
    assert "**failed in NEW: Failed: killed by signal 9**" in said
    assert "1 worse" in said


def test_forebay_missing_is_worse(check: Check) -> None:
    without = [run for run in reads()["runs"] if run["contender"] != "forebay"]
    status, said = check([reads()], [synthetic.workload("reads", without)])
    assert status == 1
    assert "**failed in NEW: missing**" in said


def test_a_single_round_is_not_judged(check: Check) -> None:
    def once(value: float) -> dict[str, Any]:
        return synthetic.workload("reads", [*synthetic.runs("forebay", [value]), *synthetic.runs("a peer", [1.0])])

    status, said = check([once(2.0)], [once(1.0)])
    assert status == 0
    assert "not judged: a single round measures no noise" in said
    assert "0 worse; 0 of 1 judged" in said


def test_a_target_that_was_met_and_is_missed_is_worse(check: Check) -> None:
    def held(megabytes: float) -> dict[str, Any]:
        found = synthetic.runs("forebay, an epoch", [10.0])
        return synthetic.workload("memory", found, targets=[target("MB over the limit", megabytes, most=300)])

    status, said = check([held(250)], [held(310)])
    assert status == 1
    assert "target: MB over the limit" in said
    assert "**met in OLD, missed in NEW**" in said


def test_a_target_missed_within_the_noise_is_said(check: Check) -> None:
    old = reads(900, targets=[target("over a peer", 2.0, least=1.95)])
    new = reads(860, targets=[target("over a peer", 1.91, least=1.95)])
    status, said = check([old], [new])
    assert status == 0
    assert "met in OLD, missed in NEW, within the noise" in said


def test_a_noisy_peer_excuses_no_missed_target(check: Check) -> None:
    def noisy(value: float) -> dict[str, Any]:
        found = [*reads()["runs"], *synthetic.runs("a noisy peer", [200.0, 900.0, 450.0, 450.0, 450.0])]
        return synthetic.workload("reads", found, targets=[target("over a peer", value, least=1.95)])

    status, said = check([noisy(2.2)], [noisy(1.9)])
    assert status == 1
    assert "± 10.0 % | **met in OLD, missed in NEW**" in said


def test_a_target_s_noise_is_of_its_own_case(check: Check) -> None:
    def cases(value: float) -> dict[str, Any]:
        found = [
            *synthetic.runs("forebay", [0.5, 1.5, 1.0], "random, 4 KiB"),
            *synthetic.runs("fio", [1.0] * 3, "random, 4 KiB"),
            *synthetic.runs("forebay", [0.99, 1.01, 1.0], "random, 1 MiB"),
            *synthetic.runs("fio", [1.0] * 3, "random, 1 MiB"),
        ]
        limits = dict.fromkeys(("random, 4 KiB", "random, 1 MiB"), "fio")
        wanted = [target("GB/s over fio, random, 1 MiB", value, least=0.95)]
        return synthetic.workload("blocks", found, limits=limits, targets=wanted)

    status, said = check([cases(1.0)], [cases(0.9)])
    assert status == 1
    assert "| blocks | target: GB/s over fio, random, 1 MiB | 1 | 0.9 | -10.0 % | ± 2.0 % | **met" in said


def test_partial_and_small_runs_are_said(check: Check) -> None:
    _, said = check([reads(small=True)], [reads(partial="interrupted: fewer runs than planned")])
    assert "OLD is a small run" in said
    assert "NEW is a partial run" in said


def test_folders_that_are_no_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no machine\.json"):
        compare.main([str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="OLD=FOLDER NEW=FOLDER"):
        compare.main([str(tmp_path)])
