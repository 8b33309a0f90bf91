"""Runs of the harness with workloads of a test's own: what they need, what can go wrong, what is kept."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic
from harness import __main__ as harness
from harness import machine, measure, place, report, results, schema
from harness.measure import Contender, Failed, execute, rows, take_turns
from harness.place import Place
from harness.workloads import cached_reads, eviction

GOOD = """
from harness.measure import Contender, rows, take_turns
TITLE, NEED_BYTES = "{name}", 1000
def run(place):
    with (place.kept / "{name}-ran").open("a") as file:
        file.write("x")
    (place.empty("left") / "behind").touch()
    answer = {{"value": 2.0, "seconds": 1.0, "cpu_seconds": 1.0}}
    contenders = [Contender("forebay", lambda _: dict(answer)){more}]
    runs = take_turns(contenders, place.rounds)
    return {{
        "unit": "images/s", "conditions": "", "settings": {{}}, "commands": {{}}, "targets": [],
        "runs": runs, "rows": rows(runs, "images/s"),
    }}
"""
# Its first run ends; the second writes its number into a pipe, and waits at another one.
WAITS = """
import sys
from harness.measure import execute
def wait(round_):
    if round_ == 0:
        return {{"value": 1.0, "seconds": 1.0}}
    program = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); open(sys.argv[2])"
    return execute([sys.executable, "-c", program, {there!r}, {never!r}], __import__("pathlib").Path({log!r}))
"""


class Harness:
    """The harness in a process of its own, with workloads that are written here."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work, self.results = folder, folder / "work", folder / "results"
        self.workloads = folder / "workloads"
        self.workloads.mkdir()
        (folder / "bin").mkdir()

    def workload(self, name: str, text: str | None = None) -> None:
        (self.workloads / f"{name}.py").write_text(text or GOOD.format(name=name, more=""))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        program = (
            "import sys; from harness import __main__, workloads; "
            f"workloads.__path__[:] = [{str(self.workloads)!r}]; sys.exit(__main__.main())"
        )
        options = [f"--bin={self.folder / 'bin'}", f"--work={self.work}", f"--results={self.results}", *arguments]
        return subprocess.Popen(
            [sys.executable, "-c", program, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(machine.BENCHES)},
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        out, error = process.communicate(timeout=120)
        return process.returncode, error + out

    def read(self) -> results.Run:
        [folder] = self.results.iterdir()
        return results.read(folder)

    def times(self, name: str) -> int:
        """How often a workload has run."""
        return len((self.work / f"{name}-ran").read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.fixture(autouse=True)
def not_stopped() -> Iterator[None]:
    yield
    measure.stopped.clear()


def test_a_run_writes_results_tables_and_report_and_leaves_nothing_else(bench: Harness) -> None:
    bench.workload("one")
    status, said = bench.run("--rounds=3")
    run = bench.read()
    assert (status, run.complete, run.workloads[0]["rows"][0]["runs"]) == (0, True, 3), said
    assert {path.name for path in run.folder.iterdir()} == {"machine.json", "one.json", "report.md", "report.html"}
    assert run.machine["run"] == {"scale": "usual", "rounds": 3, "threads": 2, "workloads": ["one"]}
    assert list((bench.work / "run").iterdir()) == []


def test_a_new_run_keeps_nothing_of_an_older_one(bench: Harness) -> None:
    bench.workload("one")
    bench.workload("two")
    bench.run("--only=one")
    (bench.read().folder / "one.flame.svg").touch()
    bench.run("--only=two")
    assert [result["workload"] for result in bench.read().workloads] == ["two"]
    assert not (bench.read().folder / "one.flame.svg").exists()


def test_small_and_full_runs_have_folders_of_their_own(bench: Harness) -> None:
    bench.workload("one")
    for flag in ("--small", "--full"):
        bench.run(flag)
    folders = {path.name.rpartition("-")[2]: results.read(path).machine["run"] for path in bench.results.iterdir()}
    assert {name: run["rounds"] for name, run in folders.items()} == {"small": 1, "full": 9}


def test_only_a_whole_complete_run_changes_the_page(bench: Harness) -> None:
    bench.workload("one")
    bench.workload("two")
    page = bench.folder / "PAGE.md"
    page.write_text(text := f"{report.BEGIN}\n{report.END}\n")
    for flag in ("--small", "--only=one"):
        bench.run(f"--page={page}", flag)
        assert page.read_text() == text
    bench.run(f"--page={page}")
    assert "### two" in page.read_text()


def test_a_workload_that_fails_is_shown_and_the_rest_goes_on(bench: Harness) -> None:
    bench.workload("bad", 'TITLE, NEED_BYTES = "bad", 0\ndef run(place):\n    raise OSError("no such device")\n')
    bench.workload("good")
    status, said = bench.run()
    assert status == 1
    assert "Failed: OSError: no such device" in said
    assert [result.get("failed") for result in bench.read().workloads] == ["OSError: no such device", None]


def test_a_workload_whose_result_is_not_in_the_format_is_shown_as_failed(bench: Harness) -> None:
    bench.workload("odd", GOOD.format(name="odd", more="").replace('"unit":', '"units":'))
    bench.workload("plain")
    assert bench.run()[0] == 1
    assert [result.get("failed") for result in bench.read().workloads] == ["odd.json: no 'unit'", None]


def test_an_unknown_workload_is_named_with_those_there_are(bench: Harness) -> None:
    bench.workload("one")
    status, said = bench.run("--only=two")
    assert status == 1
    assert "there is no workload 'two'; there are one" in said


def test_an_interrupted_run_is_partial_and_resumes(bench: Harness) -> None:
    fifo, never = bench.folder / "there", bench.folder / "never"
    os.mkfifo(fifo)
    os.mkfifo(never)
    bench.workload("a")
    waits = WAITS.format(there=str(fifo), never=str(never), log=str(bench.folder / "log"))
    bench.workload("b", waits + GOOD.format(name="b", more=', Contender("slow", wait)'))
    bench.workload("c")

    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    process = bench.start()
    assert select.select([reader], [], [], 60)[0], process.communicate(timeout=60)
    waiting = int(os.read(reader, 20))
    os.close(reader)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)

    assert process.returncode == 130, error
    assert "--resume" in error
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)
    run = bench.read()
    assert not run.complete
    assert run.missing == ["c"]
    assert [(result["workload"], "partial" in result) for result in run.workloads] == [("a", False), ("b", True)]
    assert [row["runs"] for row in run.workloads[1]["rows"]] == [1, 1]
    assert "A partial run: it ended before c." in out
    assert "Partial: b: interrupted: fewer runs than planned." in out
    assert "| forebay | 2 | **2** | 2 | 500 | 1 | partial |" in out

    bench.workload("b")
    status, said = bench.run("--resume")
    assert status == 0, said
    assert "finished before: kept" in said
    assert bench.read().complete
    assert [bench.times(name) for name in "abc"] == [1, 2, 1]


def test_a_run_resumes_only_with_the_same_programs_and_settings(bench: Harness) -> None:
    bench.workload("one")
    bench.run("--rounds=2")
    status, said = bench.run("--resume", "--rounds=3")
    assert status == 1
    assert "can't be resumed: its run was" in said
    program = bench.folder / "bin" / "crops"
    program.write_text("another build")
    program.chmod(0o755)
    status, said = bench.run("--resume", "--rounds=2")
    assert status == 1
    assert "can't be resumed: its builds was" in said
    assert bench.times("one") == 1
    assert bench.run("--rounds=2")[0] == 0


def test_a_workload_that_failed_runs_again_when_resumed(bench: Harness) -> None:
    bench.workload("one", 'TITLE, NEED_BYTES = "one", 0\ndef run(place):\n    raise OSError("just now")\n')
    bench.run()
    bench.workload("one")
    assert bench.run("--resume")[0] == 0
    assert bench.read().complete


def test_two_runs_in_one_work_folder_are_refused(bench: Harness) -> None:
    bench.workload("one")
    bench.work.mkdir()
    with place.locked(bench.work):
        status, said = bench.run()
    assert status == 1
    assert "another run uses" in said


def test_a_disk_with_too_little_room_is_said_before_anything_runs(bench: Harness) -> None:
    bench.workload("one", GOOD.format(name="one", more="").replace("1000", str(1 << 60)))
    status, said = bench.run()
    assert status == 1
    assert f"GB free, and {(1 << 60) / 1e9:.1f} GB are needed; name another folder with --work" in said
    assert not bench.results.exists()


def test_the_need_is_the_most_at_any_time_with_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SimpleNamespace(NEED_BYTES=600, KEPT_BYTES=300)
    second = SimpleNamespace(NEED_BYTES=500, FULL_NEED_BYTES=900)
    modules: Any = [first, second]
    for free, full, fits in ((800, False, True), (799, False, False), (1200, True, True), (1199, True, False)):
        monkeypatch.setattr(harness, "free_bytes", lambda _, free=free: free)
        if fits:
            harness.check_room(tmp_path, modules, full)
        else:
            with pytest.raises(SystemExit, match="are needed"):
                harness.check_room(tmp_path, modules, full)


# What a measuring program prints that is told to go without fio, and nothing otherwise.
ALONE = """#!{python}
import json, sys
assert "--without-fio" in sys.argv, "it was to go without fio"
entry = {{"contender": "forebay", "order": "random", "block_bytes": 4096, "round": 0, "value": 1.5, "seconds": 1.0}}
print(json.dumps({{**entry, "disk_bytes_per_byte": 1.0, "checksum_gb_per_s_per_core": 12.0}}))
"""


@pytest.mark.parametrize("workload", [cached_reads, eviction])
def test_without_fio_its_rows_are_left_out_and_forebays_stay(
    workload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    harness.warn({"load": [0.0]})
    assert "fio is not installed (apt-get install fio): its rows are left out" in capsys.readouterr().err
    for name in ("cached", "evicting"):
        (tmp_path / name).write_text(ALONE.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    here = Place(tmp_path / "run", tmp_path, tmp_path, tmp_path, threads=2, rounds=2, small=True)
    result = harness.run(workload, here)
    assert result
    assert "failed" not in result
    schema.check_workload({**synthetic.reads(), **result}, "it")
    by = {row["contender"]: row for row in result["rows"] if row["case"] in ("", "random, 4 KiB")}
    assert (by["forebay"]["runs"], by["forebay"]["median"]) == (1, 1.5)
    assert by["fio"]["left_out"] == "fio is not installed (apt-get install fio)"
    assert {row["runs"] for row in result["rows"] if row["contender"] == "fio"} == {0}


@contextmanager
def no_root() -> Iterator[None]:
    """Without root's capabilities, which go with the effective user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_root_cold_rows_are_left_out_and_the_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Place(tmp_path, tmp_path, tmp_path, tmp_path, threads=2, rounds=2, small=True)

    def cold(_: int) -> dict[str, Any]:
        here.drop_caches()
        return {"value": 1.0}

    with no_root():
        harness.warn({"load": [0.0]})
        runs = take_turns([Contender("cold", cold), Contender("warm", lambda _: {"value": 2.0})], 2)
    said = capsys.readouterr().err
    assert "can't drop the page cache, which needs root: rows that are cold are left out" in said
    table = {row["contender"]: row for row in rows(runs, "reads/s")}
    assert "needs root" in table["cold"]["left_out"]
    assert (table["cold"]["runs"], table["cold"]["errors"]) == (0, [])
    assert table["warm"]["runs"] == 2


def test_a_contender_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    # A process of the contender's holds the pipe's other end, and nothing of the contender's own.
    holder = f"(echo up; exec sleep 600) > {shlex.quote(str(fifo))} & wait"
    with pytest.raises(Failed, match="was ended after 1 s"):
        execute(["sh", "-c", holder], tmp_path / "log", longest=1.0)
    os.set_blocking(reader, True)
    assert os.read(reader, 10) == b"up\n"
    assert select.select([reader], [], [], 60)[0], "somebody still holds the pipe"
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_each_object_is_given_as_it_comes_and_the_last_at_the_end(tmp_path: Path) -> None:
    never = tmp_path / "never"
    os.mkfifo(never)
    # It goes on once the first object was heard.
    program = f"""print('{{"round": 1}}', flush=True); open({str(never)!r}).read(); print('no object'); print('{{"round": 2}}')"""
    heard: list[dict[str, Any]] = []

    def each(answer: dict[str, Any]) -> None:
        heard.append(answer)
        if len(heard) == 1:
            never.open("w").close()

    answer = execute([sys.executable, "-c", program], tmp_path / "log", each=each, longest=60.0)
    assert heard == [{"round": 1}, {"round": 2}]
    assert answer["round"] == 2


def test_the_peak_of_a_process_is_its_own_and_not_that_of_the_harness(tmp_path: Path) -> None:
    never = tmp_path / "never"
    os.mkfifo(never)
    held = bytearray(b"1" * (400 << 20))
    program = (
        f"""held = bytearray(b'1' * (50 << 20)); print('{{"there": 1}}', flush=True); open({str(never)!r}).read()"""
    )

    def each(_: dict[str, Any]) -> None:
        [look] = [thread for thread in threading.enumerate() if isinstance(thread, measure.Peak)]
        deadline = time.monotonic() + 60
        while look.bytes < 50 << 20 and time.monotonic() < deadline:
            look.join(0.01)
        never.open("w").close()

    answer = execute([sys.executable, "-c", program], tmp_path / "log", each=each, longest=60.0)
    assert 50 << 20 < answer["process"]["peak_rss_bytes"] < len(held)


def test_an_interrupt_keeps_what_a_measuring_program_has_said_so_far(tmp_path: Path) -> None:
    def case(entry: dict[str, Any]) -> str:
        if entry["round"] == 1:
            raise KeyboardInterrupt
        return "reads"

    lines = [json.dumps({"contender": "forebay", "round": round_, "value": 1.0}) for round_ in range(2)]
    program = f"import time; print({lines[0]!r}); print({lines[1]!r}, flush=True); time.sleep(600)"
    runs = measure.collect([sys.executable, "-c", program], tmp_path / "log", "GB/s", case)
    assert [(run["contender"], run["case"], run["round"]) for run in runs] == [("forebay", "reads", 0)]
    assert measure.stopped.is_set()


def test_a_contender_takes_part_in_no_more_rounds_than_it_was_given() -> None:
    def go(_: int) -> dict[str, Any]:
        return {"value": 1.0}

    runs = take_turns([Contender("ours", go), Contender("a peer", go, rounds=2)], 5)
    assert {row["contender"]: row["runs"] for row in rows(runs, "images/s")} == {"ours": 5, "a peer": 2}


def test_the_error_of_a_contender_is_what_it_said_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import sys; print('one', file=sys.stderr); sys.exit(3)"
    for _ in range(2):
        with pytest.raises(Failed, match=r"ended with 3: one$"):
            execute([sys.executable, "-c", program], log)
    with pytest.raises(Failed, match=r"ended with 4: it said nothing$"):
        execute([sys.executable, "-c", "raise SystemExit(4)"], log)


def test_figures_where_less_is_better_keep_processor_seconds_of_a_run() -> None:
    runs = [{"contender": "a", "case": "", "round": 0, "value": 0.5, "seconds": 3.0, "cpu_seconds": 6.0}]
    assert rows(runs, "s", better="less")[0]["cpu_seconds_per_unit"] == 6.0
    assert rows(runs, "images/s")[0]["cpu_seconds_per_unit"] == 4.0


def test_an_interrupt_while_a_contender_starts_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Popen(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self.pid)
            measure.Interrupts.arrive()

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        execute([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_after_an_interrupt_no_more_turns_are_taken() -> None:
    def interrupted(_: int) -> dict[str, Any]:
        raise KeyboardInterrupt

    turns = [Contender("a", lambda _: {"value": 1.0}), Contender("b", interrupted)]
    assert [run["contender"] for run in take_turns(turns, 3)] == ["a"]
    assert take_turns(turns, 3) == []
    assert rows([], "images/s") == []
