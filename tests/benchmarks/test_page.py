"""The page of a report: what it is made of, and what a person sees of it in a browser, where one is installed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_results import answers, cell, head, measured, needle, perplexity, recall, ruler, skip
from fake_results import write as write_result

from farfield.benchmarks.reports.page import page
from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import Curve, Measured, Result

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<!-- \u2028 'quoted' &amp; \\u003c"
)
VOID = {"meta", "link", "img", "br", "input"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def made(results: list[Result]) -> str:
    return page(results, tables(results, 0.856))


def hostile(folder: Path) -> Result:
    tasks = {"single": {"scoring": "generate", "placed": True}}
    got = answers([0.0], 256, 0.5, outputs=[HOSTILE], answers=[HOSTILE], excerpts=[f"{HOSTILE} ⟦{HOSTILE}⟧ end"])
    records = [cell("single", got, 256, 0.5)]
    return write_result(folder / "needle.jsonl", head("needle", "<b>bold & 'quoted'", tasks, depths=[0.5]), records)


class Elements(HTMLParser):
    """Checks that elements are closed in order, and keeps the attributes and texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.texts.setdefault(self.open[-1], []).append(data)


def hashed(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_page_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    text = made([hostile(tmp_path), recall(tmp_path, "small", 8)])
    elements = Elements(text)
    assert not [name for _, name, _ in elements.attributes if name in ("src", "href", "srcset", "action")]
    data, script = elements.texts["script"]
    (style,) = elements.texts["style"]
    (policy,) = [
        value for tag, name, value in elements.attributes if (tag, name) == ("meta", "content") and "src" in str(value)
    ]
    assert policy == f"default-src 'none'; style-src '{hashed(style)}'; script-src '{hashed(script)}'"
    # Nothing is made of text but text, and nothing is asked of a network.
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "fetch(",
        "XMLHttp",
        "import(",
    ):
        assert forbidden not in script
    assert not re.findall(r"url\(|@import", style)
    assert json.loads(data)["results"][0]["name"] == "<b>bold & 'quoted'"


def test_what_a_model_wrote_stays_data(tmp_path: Path) -> None:
    elements = Elements(made([hostile(tmp_path)]))
    data, _ = elements.texts["script"]
    assert "<" not in data
    (only,) = json.loads(data)["cells"]
    assert (only["outputs"], only["answers"]) == ([HOSTILE], [HOSTILE])
    assert not [tag for tag, *_ in elements.attributes if tag == "img"]


def test_a_half_of_a_pair_does_no_harm(tmp_path: Path) -> None:
    tasks = {"single": {"scoring": "generate"}}
    got = answers([0.0], 256, outputs=["half \ud83e of a pair"])
    found = write_result(tmp_path / "needle.jsonl", head("needle", "m", tasks), [cell("single", got, 256)])
    data, _ = Elements(made([found])).texts["script"]
    assert json.loads(data)["cells"][0]["outputs"] == ["half \ud83e of a pair"]
    assert made([found]).encode("utf-8")


def test_settings_and_versions_are_there(tmp_path: Path) -> None:
    data, _ = Elements(made([recall(tmp_path, "small", 8)])).texts["script"]
    facts = dict(json.loads(data)["results"][0]["facts"])
    assert facts["packages"] == '{"numpy": "2"}'
    assert facts["suite.seed"] == "0"
    assert facts["commit"].startswith("0123456789")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: the system's, or the one that Playwright has installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        found = next(filter(None, map(shutil.which, BROWSERS)), None) or running.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("no Chromium on this machine: `playwright install chromium`, or the system's package")
        started = running.chromium.launch(executable_path=found)
        yield started
        started.close()


class Opened:
    """A report in a page of the browser, with what it asked for and what went wrong."""

    def __init__(self, browser: Any, results: list[Result], folder: Path, **options: Any) -> None:
        path = folder / "report.html"
        path.write_text(made(results), encoding="utf-8")
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found

    def close(self) -> None:
        self.page.close()
        assert self.wrong == []
        assert len(self.asked) == 1


def test_the_heat_map_is_seen_filtered_and_opened(browser: Any, tmp_path: Path) -> None:
    results = [needle(tmp_path, "far", 9, samples=4, depths=3), needle(tmp_path, "near", 0.3, samples=4, depths=3)]
    opened = Opened(browser, results, tmp_path)
    page = opened.page
    assert opened.texts(".map h3") == ["far, single", "near, single"]
    assert page.locator(".map button.cell").first.is_visible()
    assert opened.texts(".map >> nth=0 >> tbody th") == [
        "0 %",
        "50 %",
        "100 %",
        "gold only",
        "no context",
        "memory off",
    ]
    box = page.locator(".map button.cell").first.bounding_box()
    assert min(box["width"], box["height"]) > 20
    page.select_option("#filter-model", "near")
    assert opened.texts(".map h3") == ["near, single"]
    page.select_option("#filter-length", "4096")
    assert page.locator(".map button.cell").count() == 6
    assert page.locator("#samples .sample").count() == sum(
        score < 1
        for at, got in results[1].cells.items()
        if at.length == 4096 and at.condition == "full"
        for score in got.scores
    )
    page.get_by_role("button", name="near, single, 0 %, 4k tokens").click()
    assert (
        page.locator("#samples [role=status]")
        .inner_text()
        .startswith("near, single, 4k tokens, depth 0 %: 4 failed of 4")
    )
    assert page.locator("button.cell[aria-pressed=true]").count() == 1
    page.locator("#samples summary").first.click()
    assert page.locator("#samples mark").inner_text() == "The number of key-0 is 7000000."
    assert "7000000" in page.locator("#samples dd").first.inner_text()
    page.uncheck("#filter-failed")
    assert page.locator("#samples [role=status]").inner_text() == "12 of 12 samples"
    opened.close()


def test_cells_are_reached_and_opened_by_the_keyboard(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, [needle(tmp_path, "near", 0.3, samples=2, depths=3)], tmp_path)
    page = opened.page
    page.locator("button.cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("near, single, 50 %, 512 tokens")
    page.keyboard.press("Enter")
    assert page.locator("button.cell[aria-pressed=true]").get_attribute("aria-label") == focused
    assert page.locator("#samples [role=status]").inner_text().startswith("near, single, 512 tokens, depth 50 %")
    opened.close()


def test_what_a_model_wrote_is_shown_and_does_not_run(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, [hostile(tmp_path)], tmp_path)
    opened.page.locator("#samples summary").first.click()
    gold, output, prompt, *_ = [" ".join(text.split()) for text in opened.texts("#samples dd")]
    assert gold == output == " ".join(HOSTILE.split())
    assert prompt == f"{gold} {gold} end"
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img").count() == 0
    opened.close()


def test_every_suite_is_drawn_on_a_phone_and_in_the_dark(browser: Any, tmp_path: Path) -> None:
    results = [ruler(tmp_path, "small", 0.8, samples=3, tasks=("vt", "cwe")), recall(tmp_path, "small", 8)]
    results.append(perplexity(tmp_path, "small", 0.1))
    opened = Opened(browser, results, tmp_path, viewport={"width": 360, "height": 700}, color_scheme="dark")
    page = opened.page
    for suite, charts, maps in (("ruler", 3, 1), ("recall", 3, 1), ("perplexity", 8, 0)):
        page.select_option("#filter-suite", suite)
        assert (page.locator(".chart svg").count(), page.locator(".map").count()) == (charts, maps)
        assert page.locator("#tables table").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert sum(map(int, re.findall(r"\d+", ground))) < 150 < 500 < sum(map(int, re.findall(r"\d+", ink)))
    opened.close()


def test_ten_thousand_samples_are_drawn_a_few_at_a_time(browser: Any, tmp_path: Path) -> None:
    tasks = {"single": {"scoring": "generate"}}
    records = [cell("single", answers([0.0] * 2000, length), length) for length in (256, 512, 1024, 2048, 4096)]
    opened = Opened(browser, [write_result(tmp_path / "needle.jsonl", head("needle", "m", tasks), records)], tmp_path)
    page = opened.page
    assert page.locator("#samples [role=status]").inner_text() == "10,000 failed of 10,000 samples"
    assert page.locator(".sample").count() == 40
    page.get_by_role("button", name="show 40 more").click()
    assert page.locator(".sample").count() == 80
    assert page.locator(".sample dd").count() == 0
    opened.close()


def test_positions_have_ticks_at_powers_of_two_and_no_label_is_cut(browser: Any, tmp_path: Path) -> None:
    positions = [32 * 2 ** (at + 0.5) for at in range(6)]  # the middles of ranges, the last 1,448.15
    curves = {"loss_by_position": Curve(positions, [2.0 - 0.1 * at for at in range(6)], [], "position, tokens", "nats")}
    records = [measured("block", Measured({"bits": 1.5}, {}, {}, [], curves, []), at) for at in (999_983, 1_999_993)]
    result = write_result(tmp_path / "perplexity.jsonl", head("perplexity", "m", {"block": {}}), records)
    opened = Opened(browser, [result], tmp_path)
    values, positions_chart = opened.page.locator(".chart").all()
    assert positions_chart.locator(".across").all_text_contents() == ["64", "128", "256", "512", "1k"]
    assert values.locator(".across").all_text_contents() == ["999983", "1999993"]
    for chart in (values, positions_chart):
        whole = chart.bounding_box()
        for label in chart.locator(".across").all():
            box = label.bounding_box()
            assert whole["x"] <= box["x"]
            assert box["x"] + box["width"] <= whole["x"] + whole["width"] + 0.5
    opened.close()


def test_small_values_are_written_short_and_not_cut(browser: Any, tmp_path: Path) -> None:
    records = [measured("gain", Measured({"gain": at * 5e-6}, {}, {}, [], {}, []), 256 * at) for at in (1, 2, 4)]
    about = head("perplexity", "m", {"gain": {}}, lengths=[256, 512, 1024])
    opened = Opened(browser, [write_result(tmp_path / "perplexity.jsonl", about, records)], tmp_path)
    chart = opened.page.locator(".chart").first
    labels = chart.locator("text:not(.across)").all()
    assert [label.text_content() for label in labels][:3] == ["1e-5", "1.5e-5", "2e-5"]
    assert min(label.bounding_box()["x"] for label in labels) >= chart.bounding_box()["x"]
    opened.close()


def test_a_sample_tells_what_was_written_and_what_is_right(browser: Any, tmp_path: Path) -> None:
    got = answers([0.0, 0.0], 256, outputs=['"What is my map!" The child', ""], answers=["office", "garden"])
    tasks = {"single": {"scoring": "generate"}}
    opened = Opened(
        browser,
        [write_result(tmp_path / "needle.jsonl", head("needle", "m", tasks), [cell("single", got, 256)])],
        tmp_path,
    )
    first, second = [" ".join(text.split()) for text in opened.texts(".sample summary")]
    assert first.endswith('output “"What is my map!" The child” → gold “office”')
    assert second.endswith("output (nothing) → gold “garden”")
    opened.close()


def same_models(folder: Path, lengths: tuple[int, ...]) -> list[Result]:
    """Three models with equal scores."""
    tasks = {"single": {"scoring": "generate"}}
    return [
        write_result(
            folder / name / "needle.jsonl",
            head("needle", name, tasks, lengths=list(lengths)),
            [cell("single", answers([1.0, 0.0, 1.0, 1.0], length), length) for length in lengths],
        )
        for name in ("one", "two", "three")
    ]


def test_a_chart_of_one_length_has_intervals(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, same_models(tmp_path, (256,)), tmp_path)
    boxes = [line.bounding_box() for line in opened.page.locator(".chart line.interval").all()]
    assert len({box["x"] for box in boxes}) == 3
    assert min(box["height"] for box in boxes) > 40
    opened.close()
    opened = Opened(browser, same_models(tmp_path, (256, 512)), tmp_path)
    assert opened.page.locator(".chart line.interval").count() == 0
    assert opened.page.locator(".chart polygon").count() == 3
    opened.close()


def test_models_with_equal_values_are_all_seen(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, same_models(tmp_path, (256, 512, 1024)), tmp_path)
    marks = opened.page.locator(".chart .mark").all()
    boxes = [mark.bounding_box() for mark in marks]
    assert len({round(box["x"] + box["width"] / 2) for box in boxes}) == 9
    assert len({mark.get_attribute("d") for mark in marks}) == 3
    assert {mark.evaluate("one => getComputedStyle(one).fill") for mark in marks} == {"none"}
    assert opened.page.locator(".key .mark").count() == 3
    opened.close()


def test_what_is_skipped_in_controls_alone_says_so(browser: Any, tmp_path: Path) -> None:
    tasks = {"single": {"scoring": "generate"}}
    reason = "needs a model that has an external memory"
    records = [
        cell("single", answers([1.0], 256), 256),
        skip("single", 256, reason, "memory_shuffled"),
        skip("single", 256, reason, "memory_off"),
    ]
    result = write_result(tmp_path / "needle.jsonl", head("needle", "m", tasks), records)
    opened = Opened(browser, [result], tmp_path)
    opened.page.select_option("#filter-condition", "")
    assert f"m: {reason} (memory off, memory shuffled)" in opened.texts("#facts p")
    opened.close()
