"""The report: everything that was measured is in it, what failed or is partial is marked, and it asks nobody for anything."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import forebay
import photos
import pytest
import synthetic
from harness import browser, machine, report, results
from harness.measure import target
from harness.page import overview
from harness.page.trace import read as trace_of
from PIL import Image

PLOTS = {
    "shares",
    "first-batch",
    "bars:training",
    "curve:training:0",
    "timeline:training",
    "bars:blocks",
    "curve:blocks:0",
    *(f"bars:start:{10**power}" for power in range(3, 10)),
    "curve:start:0",
}

needs_chromium = pytest.mark.skipif(
    browser.find() is None, reason="Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = synthetic.everything(tmp_path / "run")
    report.write(folder)
    return folder / "report.html"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each figure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, str] = {}
        self.text = ""
        self._figure = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "figure":
            self._figure = dict(attributes)["data-plot"] or ""
            self.figures[self._figure] = ""

    def handle_endtag(self, tag: str) -> None:
        self._figure = "" if tag == "figure" else self._figure

    def handle_data(self, data: str) -> None:
        self.text = " ".join([*self.text.split(), *data.split()])
        if self._figure:
            self.figures[self._figure] += f" {data}"


def test_every_plot_is_there_with_its_axes(page: Path) -> None:
    figures = Page(page.read_text()).figures
    assert figures.keys() == PLOTS
    assert "% of the limit" in figures["shares"]
    assert "images/s" in figures["bars:training"]
    assert "bytes per read" in figures["curve:blocks:0"]
    assert "GB/s" in figures["curve:blocks:0"]
    assert all(f"10{power}" in figures["curve:start:0"] for power in "³⁴⁵⁶⁷⁸⁹")
    names = ("read", "decode 0", "decode 1", "resize", "seconds", "fetch: 20 at most", "batch 7")
    assert all(name in figures["timeline:training"] for name in names)


def test_nothing_from_outside_is_named_and_nothing_of_a_result_becomes_markup(page: Path) -> None:
    text = page.read_text()
    tags = Page(text).tags
    assert "script" not in {tag for tag, _ in tags}
    links = [value for _, given in tags for name, value in given.items() if name in ("src", "href", "xlink:href")]
    assert {link for link in links if link and not link.startswith(("#", "data:"))} == {"training.flame.svg"}
    assert "url(" not in text
    assert "@import" not in text


def test_what_failed_was_left_out_or_is_partial_is_said_in_plots_and_tables(page: Path) -> None:
    figures = Page(page.read_text()).figures
    tables = (page.parent / "report.md").read_text()
    for text in (figures["bars:training"], figures["shares"], tables):
        assert "<script>alert('no')</script>" in text
        assert "left out: dropping the page cache needs root" in text
        assert "failed after 3 runs: Failed: killed by signal 9" in text
    assert "MemoryError" in figures["curve:start:0"]
    assert "partial" in figures["curve:start:0"]
    assert figures["bars:start:1000"].count("partial") == 2
    assert "Partial: The workload start: interrupted" in tables
    assert "| 1000 | forebay | 0.0475 | **0.05** | 0.0525 | 3e+03 | 105 | 5 | partial |" in tables
    assert "failed: OSError: no room" in tables


def test_how_long_each_workload_took_is_in_both_reports(page: Path) -> None:
    for text in (page.read_text(), (page.parent / "report.md").read_text()):
        assert "0.8 minutes: blocks 12 s, broken 12 s, start 12 s, training 12 s" in text
        assert text.count("Took 12 s in all.") == 3


def test_a_workload_that_never_ran_makes_the_run_partial(tmp_path: Path) -> None:
    planned = {**synthetic.MACHINE["run"], "workloads": ["reads", "training"]}
    folder = synthetic.folder(tmp_path / "run", synthetic.reads(), run=planned)
    assert not results.read(folder).complete
    assert "A partial run: it ended before training." in report.write(folder)
    assert "A partial run: it ended before training." in (folder / "report.html").read_text()


def test_the_share_of_the_limit_is_of_the_rounds_of_both(tmp_path: Path) -> None:
    folder = synthetic.folder(tmp_path / "run", synthetic.reads(ours=800.0))
    report.write(folder)
    shares = Page((folder / "report.html").read_text()).figures["shares"]
    assert re.search(r"forebay: 76\.0 – 80\.0 – 84\.0, 5 runs", shares)
    assert "limit: alone" not in shares


def test_a_file_that_is_no_trace_is_said_and_the_rest_drawn(tmp_path: Path) -> None:
    for content in ("no json", "{}", '{"traceEvents": [{"ph": "X", "name": "a"}]}', "[1]", '{"traceEvents": []}'):
        folder = synthetic.everything(tmp_path / "run")
        (folder / "training.trace.json").write_text(content)
        report.write(folder)
        figures = Page((folder / "report.html").read_text()).figures
        assert "✗" in figures["timeline:training"], content
        assert figures.keys() == PLOTS


def test_a_trace_of_the_loader_is_drawn_with_a_lane_for_each_thread_and_stage(tmp_path: Path) -> None:
    folder = synthetic.everything(tmp_path / "run")
    trace = folder / "training.trace.json"
    photos.write_tar(tmp_path / "a.tar", ((f"{number}.cls", b"7") for number in range(200)))
    with forebay.DataLoader(
        tmp_path / "a.tar",
        batch_size=20,
        fields={"label": forebay.Int("cls")},
        num_threads=1,
        cache_dir=tmp_path / "cache",
        trace=trace,
    ) as loader:
        assert sum(1 for _ in loader) == 10
    found = trace_of(trace)
    lanes = found.threads
    assert {"planner", "assembly", "forebay-decode-0", "consumer"} == {lane.split(" ")[0] for lane in lanes}
    assert sum(stage == "decode" for _, _, stage in lanes["forebay-decode-0"]) == 200
    assert len(found.overlapping["batch"]) == 10
    assert len(found.overlapping["read"]) == 200
    assert {stage for _, _, stage in found.overlapping["read"]} <= {"read: origin", "read: nvme", "read: memory"}
    report.write(folder)
    figure = Page((folder / "report.html").read_text()).figures["timeline:training"]
    assert "✗" not in figure
    assert all(text in figure for text in ("forebay-decode-0", "read: ", "batch 9"))


def test_a_trace_of_single_instants_is_drawn(tmp_path: Path) -> None:
    folder = synthetic.everything(tmp_path / "run")
    event = {"ph": "X", "name": "read", "pid": 1, "tid": 7, "ts": 5, "dur": 0}
    (folder / "training.trace.json").write_text(json.dumps([event]))
    report.write(folder)
    assert "✗ the trace has no spans" in Page((folder / "report.html").read_text()).figures["timeline:training"]


def test_the_tables_go_between_the_marks_of_a_page_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    report.include(page, "new")
    assert page.read_text() == f"above\n{report.BEGIN}\n\nnew\n{report.END}\nbelow\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="has no lines"):
        report.include(page, "new")


def test_an_overview_has_a_line_for_each_promise_with_the_case_that_is_furthest_from_it(tmp_path: Path) -> None:
    over = [target(f"GB/s over fio, {case}", reached, least=0.95) for case, reached in (("4 KiB", 1.2), ("1 MiB", 0.9))]
    unmeasured = [target("ms later, cold", None, most=50), target("ms later, warm", 60, most=50), target("ms", 3)]
    head = {name: synthetic.reads()[name] for name in ("schema", "title", "small", "wall_seconds")}
    folder = synthetic.folder(
        tmp_path / "run",
        synthetic.workload("cached_reads", synthetic.runs("forebay", [1.0]), targets=[*over, *unmeasured]),
        {**head, "workload": "jpeg_training", "failed": "OSError: no room", "targets": []},
    )
    text = Page(overview.html(results.read(folder))).text
    assert "GB/s over fio, the worst of 2: 1 MiB 0.900 ≥ 0.95 ✗ missed" in text
    assert "ms later, the worst of 2: cold not measured ≤ 50 not measured" in text
    assert "jpeg_training OSError: no room not measured ✗ failed" in text


def test_an_overview_shows_loaders_and_sizes_of_the_published_run() -> None:
    for published in (machine.BENCHES / "results").glob("*/machine.json"):
        page = Page(overview.html(results.read(published.parent)))
        bars = {
            f"bars:{case}" for case in ("jpeg_training:NVMe", "jpeg_training:cold S3", "weights:cold", "weights:warm")
        }
        assert page.figures.keys() == bars | {"curve:cached_reads", "curve:dataset_size"}
        for name in ("forebay", "DALI (CPU)", "WebDataset + Pillow", "SPDL", "limit: crop decode + resize alone"):
            assert name in page.figures["bars:jpeg_training:NVMe"]


@needs_chromium
def test_the_picture_of_an_overview_is_cut_to_its_contents_and_small(tmp_path: Path) -> None:
    published = next((machine.BENCHES / "results").glob("*/machine.json")).parent
    assert browser.main([str(published), str(tmp_path / "overview.png")]) == 0
    with Image.open(tmp_path / "overview.png") as image:
        assert image.mode == "P"
        assert image.width == browser.WIDTH
        assert 800 < image.height < 2 * browser.WIDTH
        lowest = image.convert("L").crop((0, image.height - 2 * browser.MARGIN, image.width, image.height))
        assert lowest.getextrema()[0] < 250, "nothing but ground at the end"
    assert (tmp_path / "overview.png").stat().st_size < 200_000


# What a browser makes of each plot: its size, and how many texts stick out of it.
PROBE = """<script>document.body.dataset.seen = JSON.stringify([...document.querySelectorAll("figure")].map(figure => {
  const frame = figure.querySelector("svg").getBoundingClientRect();
  const out = [...figure.querySelectorAll("svg text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
  }).map(text => text.textContent);
  return [figure.dataset.plot, Math.round(frame.width), Math.round(frame.height), out];
}))</script>"""


@needs_chromium
def test_chromium_shows_every_plot_with_its_texts_inside(page: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    # The report forbids scripts, which this one is.
    probe.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text()).replace("</body>", f"{PROBE}</body>"))
    seen = re.search(r'data-seen="([^"]*)"', browser.dom(probe))
    assert seen
    plots = json.loads(seen.group(1).replace("&quot;", '"'))
    assert {name for name, *_ in plots} == PLOTS
    assert all(width > 500 and height > 60 for _, width, height, _ in plots), plots
    assert [texts for *_, texts in plots if texts] == []


@needs_chromium
def test_chromium_asks_for_nothing_outside(page: Path, tmp_path: Path) -> None:
    assert browser.requests(page) == []
    # It is seen if it does.
    asking = tmp_path / "asking.html"
    asking.write_text('<img src="http://forebay.test/a.png">')
    assert browser.requests(asking) == ["http://forebay.test/a.png"]
    # And the report's own rule holds it back.
    held = tmp_path / "held.html"
    held.write_text(page.read_text().replace("</body>", '<img src="http://forebay.test/a.png"></body>'))
    assert browser.requests(held) == []
