"""stepsizes.html in a real browser: no error, no network, and its controls do what they say."""

from __future__ import annotations

from math import sqrt

import pytest

from aida_bench.report.stepsizes import write_page
from helpers.monitor_rows import run

TIMES = tuple(range(1, 7))
AIDA = list(run(3, TIMES))
ADAM = list(run(2, TIMES, eps=None, size=1e-5))


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return write_page({"aida": AIDA, "adamw": ADAM}, tmp_path_factory.mktemp("page"), "two runs").as_uri()


def shown(page, kind: str) -> list[list[dict]]:
    """Each panel's traces, from Plotly itself."""
    return page.evaluate(
        """(kind) => [...document.querySelectorAll(`[data-panels=${kind}] .chart`)]
           .map((chart) => chart.data.map(({x, y}) => ({x, y})))""",
        kind,
    )


def cells(rows, layer: int, field: str) -> list[float]:
    return [row[field] for row in rows if row["layer"] == layer]


def share_below(row, edge: float) -> float:
    histogram = row["histogram"]
    per_octave, low = histogram["per_octave"], histogram["low"]
    below = (
        n for i, n in enumerate(histogram["counts"]) if 2 ** (low + (i + 1) / per_octave) < edge * 1.0001
    )
    return sum(below) / row["numel"]


def test_panels_show_the_rows(opened):
    page = opened()
    assert page.title() == "two runs – stepsizes"
    aida, adam = shown(page, "stepsizes")
    assert len(aida) == 2 * 3
    assert len(adam) == 2 * 2
    assert aida[2]["x"] == list(TIMES)
    assert aida[2]["y"] == pytest.approx(cells(AIDA, 2, "mean"), rel=1e-5)
    assert aida[3]["y"] == pytest.approx(cells(AIDA, 2, "std"), rel=1e-5)
    caps = page.evaluate(
        """[...document.querySelectorAll('[data-panels=stepsizes] .chart')]
           .map(({layout}) => layout.shapes.map(({y0}) => y0))"""
    )
    assert caps == [[pytest.approx(sqrt(1e5), rel=1e-6)], []]


def test_the_slider_goes_through_time(opened):
    page = opened()
    slider = page.locator("[data-histogram]")
    assert slider.get_attribute("aria-valuetext") == "epoch 6"

    def check(epoch: int) -> None:
        row = next(row for row in AIDA if (row["epoch"], row["layer"]) == (epoch, 2))
        trace = shown(page, "histograms")[0][1]
        middle = len(trace["x"]) // 2
        assert sum(trace["y"]) == pytest.approx(1)
        assert sum(trace["y"][:middle]) == pytest.approx(share_below(row, trace["x"][middle]), abs=1e-12)

    check(6)
    slider.fill("1")
    assert slider.get_attribute("aria-valuetext") == "epoch 2"
    assert page.locator(".slider output").inner_text() == "2"
    check(2)
    slider.press("ArrowRight")
    assert page.locator(".slider output").inner_text() == "3"
    check(3)


def test_other_measures_are_chosen(opened):
    page = opened()
    assert shown(page, "measures")[1][0]["y"] == pytest.approx(cells(ADAM, 1, "cos"), rel=1e-5)
    page.locator("[data-measure]").select_option("update_ratio")
    aida, _ = shown(page, "measures")
    assert aida[2]["y"] == pytest.approx(cells(AIDA, 3, "update_ratio"), rel=1e-5)
    axes = page.evaluate(
        """[...document.querySelectorAll('[data-panels=measures] .chart')]
           .map(({layout}) => [layout.yaxis.type, layout.yaxis.range])"""
    )
    assert axes[0] == axes[1]
    assert axes[0][0] == "log"
    # What only one of them has is shown of that one alone.
    page.locator("[data-measure]").select_option("capped")
    assert [len(panel) for panel in shown(page, "measures")] == [3, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_scheme(opened, scheme):
    page = opened(color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    colour = "document.querySelector('[data-panels=histograms] .chart').data[0].line.color"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before


def test_a_phone_needs_no_sideways_scrolling(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]


def test_rows_with_nothing_but_mean_and_deviation(tmp_path, browser):
    old = [{key: row[key] for key in ("kind", "epoch", "layer", "parameter", "mean", "std")} for row in AIDA]
    page = browser.new_page()
    page.goto(write_page({"": old}, tmp_path, "old").as_uri())
    page.wait_for_selector("[data-panels=stepsizes] .main-svg")
    assert page.locator("[data-histogram], [data-measure]").count() == 0
    page.close()


def test_a_long_run_of_many_layers_stays_small(tmp_path):
    rows = list(run(40, range(100, 25100, 100), time="step"))
    small = write_page({"": [row for row in rows if row["step"] < 500]}, tmp_path, "small").stat().st_size
    assert write_page({"": rows}, tmp_path, "large").stat().st_size - small < 1_500_000
