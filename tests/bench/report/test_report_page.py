"""The page in a real browser: no error, no network, and every control does what it says."""

from __future__ import annotations

from math import cos

import pytest

from aida_bench.report.html.page import write_html
from helpers.bench.pages import draw_all
from helpers.bench.report_runs import result, write


def runs():
    """Three optimizers that differ, one that diverges, one that is not yet done; histograms for aida."""
    finals = {"aida": 0.97, "adamw": 0.95, "sgd": 0.93}
    for name, final in finals.items():
        for seed in range(3):
            curve = [final - 0.4 / epoch + 0.01 * cos(seed + epoch) for epoch in range(1, 9)]
            yield result(
                name, seed, curve, curve, histogram=name == "aida", mean=3e5 if name == "adamw" else 300
            )
    yield result("yogi", 0, [0.3, 0.2], [0.3, 0.2], "diverged", epochs=8)
    yield result("msvag", 0, [0.5, 0.6], [0.5, 0.6], None, epochs=8)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("compared")
    write(folder / "a", runs())
    write(
        folder / "b",
        [result("aida", 0, [9.0, 8.0], [9.0, 8.0], measure="perplexity", task="lm", model="lstm")],
    )
    return write_html(folder).as_uri()


def traces(page, chart: str, kind: str = "") -> list[dict]:
    """What a chart of the first task shows, from Plotly itself."""
    return page.evaluate(
        """([chart, kind]) => document.querySelector(`#task-1 ${chart}`).data
           .filter((trace) => !kind || trace.meta === kind)
           .map(({x, y, name, meta, line}) => ({x, y, name, meta, line}))""",
        [chart, kind],
    )


def column(page, number: int) -> list[str]:
    return page.locator(f"#task-1 table.results tbody tr > :nth-child({number})").all_inner_texts()


CURVES = "[data-chart=curves]"


def test_charts_are_drawn_when_they_come_near(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 500})
    page.goto(address)
    page.wait_for_selector("#task-1 [data-chart=scores] .main-svg")
    assert page.locator("#task-2 [data-chart=curves] .main-svg").count() == 0
    page.locator("#task-2 [data-chart=curves]").scroll_into_view_if_needed()
    page.wait_for_selector("#task-2 [data-chart=curves] .main-svg")
    page.close()


def test_tables_sort_both_ways_with_the_keyboard_and_missing_values_last(opened):
    page = opened(draw=False)
    names = [name.strip() for name in column(page, 1)]
    assert names == ["aida", "adamw", "sgd", "msvag", "yogi"]
    by_name = page.locator("#task-1 table.results thead th:nth-child(1) button")
    by_name.click(click_count=2)
    assert [name.strip() for name in column(page, 1)] == ["yogi", "sgd", "msvag", "aida", "adamw"]
    button = page.locator("#task-1 table.results thead th:nth-child(2) button")
    button.focus()
    page.keyboard.press("Enter")
    header = page.locator("#task-1 table.results thead th:nth-child(2)")
    assert header.get_attribute("aria-sort") == "ascending"
    assert [name.strip() for name in column(page, 1)] == ["msvag", "sgd", "adamw", "aida", "yogi"]
    assert "ascending" in page.locator("#status").inner_text()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert [name.strip() for name in column(page, 1)] == ["aida", "adamw", "sgd", "msvag", "yogi"]
    by_name.click()
    assert header.get_attribute("aria-sort") == "none"
    assert [name.strip() for name in column(page, 1)] == ["adamw", "aida", "msvag", "sgd", "yogi"]


def test_curves_toggle(opened):
    page = opened()
    assert [trace["name"] for trace in traces(page, CURVES, "mean")] == [
        "aida",
        "adamw",
        "sgd",
        "msvag",
        "yogi",
    ]
    assert len(traces(page, CURVES, "band")) == 3
    button = page.locator("#task-1 [data-toggle=adamw]")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert "adamw" not in [trace["name"] for trace in traces(page, CURVES, "mean")]
    assert len(traces(page, CURVES, "band")) == 2
    page.locator("#task-1").get_by_label("bands").uncheck()
    assert traces(page, CURVES, "band") == []
    # The diverged run is always there; the others when they are asked for.
    assert len(traces(page, CURVES, "run")) == 1
    page.locator("#task-1").get_by_label("single runs").check()
    assert len(traces(page, CURVES, "run")) == 3 + 3 + 1 + 1
    page.locator("#task-1 [data-curve=x]").select_option("seconds")
    assert traces(page, CURVES, "mean")[0]["x"] == [2 * i for i in range(1, 9)]
    page.locator("#task-1 [data-curve=key]").select_option("train_loss")
    assert traces(page, CURVES, "mean")[0]["y"][1] == 0.5


def test_scores_at_the_last_epoch_and_the_other_rival(opened):
    page = opened()
    best = column(page, 2)
    page.locator("#task-1 .switch").get_by_text("last epoch", exact=True).click()
    assert column(page, 2) != best
    assert page.locator("#task-1 .lead:visible").count() == 1
    assert "at the last epoch" in page.locator("#task-1 .lead:visible").inner_text()
    differences = traces(page, "[data-chart=differences]")
    page.locator("#task-1 [data-rival]").select_option("adamw")
    assert traces(page, "[data-chart=differences]") != differences


def test_stepsizes_have_the_papers_form(opened):
    page = opened()
    panels = page.locator("#task-1 [data-panels=stepsizes] figure")
    assert [text.strip() for text in panels.locator("h5").all_inner_texts()] == [
        "aida",
        "adamw",
        "msvag",
        "yogi",
    ]
    shapes = page.evaluate(
        """[...document.querySelectorAll('#task-1 [data-panels=stepsizes] .chart')]
           .map(({data, layout}) => [data.length, layout.shapes.map(({y0}) => y0), layout.yaxis.type])"""
    )
    assert shapes[0] == [4, [pytest.approx(316.2278, abs=1e-3)], "linear"]
    assert shapes[1] == [4, [], "log"]
    histograms = "[data-panels=histograms] .chart"
    assert traces(page, histograms)[0]["y"] == pytest.approx([1 / 25, 24 / 25, 0])
    page.locator("#task-1 [data-histogram]").fill("0")
    assert traces(page, histograms)[0]["y"] == pytest.approx([1 / 4, 3 / 4, 0])


def test_a_phone_needs_no_sideways_scrolling(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width == [360, 360]
    small = page.evaluate(
        """[...document.querySelectorAll('article button, article select, summary')]
           .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 24)
           .map((each) => each.outerHTML)"""
    )
    assert small == []


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_either_scheme(opened, scheme):
    page = opened(color_scheme=scheme)

    def contrast(selector: str) -> float:
        ink, paper = page.evaluate(
            """(selector) => [getComputedStyle(document.querySelector(selector)).color,
               getComputedStyle(document.querySelector('#task-1 .card')).backgroundColor]""",
            selector,
        )
        high, low = sorted((luminance(ink), luminance(paper)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1) == (
        scheme == "dark"
    )
    for selector in ("#task-1 td", "#task-1 .note", "#task-1 summary", "#task-1 .sort"):
        assert contrast(selector) >= 4.5, selector
    before = traces(page, CURVES, "mean")[0]["line"]["color"]
    page.locator("#theme").click()
    assert (
        page.evaluate("document.documentElement.dataset.theme") == {"light": "dark", "dark": "light"}[scheme]
    )
    assert traces(page, CURVES, "mean")[0]["line"]["color"] != before


def test_every_control_has_a_name_and_every_table_a_caption(opened):
    page = opened(draw=False)
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, select, input')].filter((each) =>
             !(each.textContent.trim() || each.ariaLabel || each.labels?.length))
           .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.querySelectorAll('table')].every((each) => each.caption)")
    assert page.evaluate("[...document.querySelectorAll('[role=img]')].every((each) => each.ariaLabel)")


CELLS = """() => [...document.querySelectorAll('td, th')]
  .filter((cell) => cell.textContent.trim())
  .filter((cell) => {
    const box = cell.getBoundingClientRect(), scroll = cell.closest('.scroll').getBoundingClientRect();
    const right = Math.min(innerWidth, scroll.right) + 1, fits = cell.scrollWidth <= cell.clientWidth + 1;
    return !(cell.checkVisibility() && box.width && box.height && box.right <= right && fits);
  }).map((cell) => cell.outerHTML.slice(0, 200))"""


# A4 across and upright, less its margins, at 96 dots an inch.
@pytest.mark.parametrize("width", [1047, 718])
@pytest.mark.parametrize("script", [True, False])
def test_paper_has_every_column_and_both_scores(browser, address, script, width):
    page = browser.new_page(java_script_enabled=script, viewport={"width": width, "height": 718})
    page.goto(address)
    page.emulate_media(media="print")
    if script:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(CELLS) == []
    assert page.locator("#task-1 table.results [data-of]").evaluate_all(
        "all => all.every((each) => each.checkVisibility())"
    )
    assert page.locator("#task-1 .lead:visible").count() == 2
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.close()


def test_paper_leaves_the_page_as_it_was(opened):
    page = opened()
    assert page.locator("details[open]").count() == page.locator("details").count()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


@pytest.mark.parametrize("width", [1280, 360])
def test_without_a_script_every_score_is_there_and_nothing_that_does_nothing(browser, address, width):
    page = browser.new_page(java_script_enabled=False, viewport={"width": width, "height": 800})
    page.goto(address)
    said = page.locator("#task-1 table.results").inner_text()
    for kind in ("best", "last"):
        for cell in page.locator(f"#task-1 table.results tbody tr > :nth-child(2) [data-of={kind}]").all():
            assert cell.is_visible()
            assert f"{kind} epoch" in cell.inner_text()
    assert said.count("best epoch") > 4
    idle = page.locator("select, input, .chart, [data-panels], #theme, [data-copy], [data-toggle]")
    assert idle.count() > 5
    assert not any(each.is_visible() for each in idle.all())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_no_dot_hides_another(opened):
    page = opened()
    for trace in traces(page, "[data-chart=scores]", "seeds"):
        places = list(zip(trace["x"], trace["y"], strict=True))
        assert len(places) == len(set(places))
        assert max(trace["y"]) - min(trace["y"]) < 1


def test_dots_of_one_value_are_drawn_apart(browser, tmp_path):
    runs = [result(name, seed, [0.9] * 2, [0.9] * 2) for name in ("aida", "sgd") for seed in range(6)]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_html(write(tmp_path, runs)).as_uri())
    draw_all(page)
    drawn = page.evaluate(
        """[...document.querySelectorAll('[data-chart=scores] .point')]
           .map((each) => each.getAttribute('transform'))"""
    )
    assert len(drawn) == len(set(drawn)) == 12 + 2
    page.close()
