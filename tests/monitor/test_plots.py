"""What the pictures show of given rows: their lines, scales, labels and colours."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from math import inf, isnan, log2, nan, sqrt
from statistics import fmean, median, pstdev

import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, to_hex

import aida.monitor
from aida.monitor import StepsizeMonitor, plots
from aida.monitor.plots.series import choose_bins, named, rebin, subsample
from aida.monitor.plots.style import CAP_LINE, depth_colours
from aida.monitor.schema import histogram_edges
from helpers.monitor_rows import run

CAP = sqrt(1e-3 / 1e-8)
ROWS = list(run(3, (1, 2, 3)))
ADAM = list(run(3, (1, 2, 3), eps=None, size=1e-5))


def values(rows, layer: int, field: str) -> list[float]:
    return [row[field] for row in rows if row["layer"] == layer]


def lines(axes, *, caps: bool = False) -> list:
    """The lines of an axes that are a cap's, or those that are none."""
    return [line for line in axes.lines if (line.get_color() == CAP_LINE["color"]) == caps]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_the_two_panels_are_the_rows():
    figure = plots.stepsizes(ROWS)
    above, below = figure.axes
    for axes, field in ((above, "mean"), (below, "std")):
        assert [list(line.get_ydata()) for line in lines(axes)] == [values(ROWS, n, field) for n in (1, 2, 3)]
        assert [list(line.get_xdata()) for line in lines(axes)] == [[1, 2, 3]] * 3
        assert axes.get_yscale() == "linear"
    (cap,) = lines(above, caps=True)
    assert cap.get_ydata()[0] == pytest.approx(CAP)
    assert above.get_ylim() == (0, pytest.approx(1.05 * CAP))
    assert below.get_ylim()[1] == pytest.approx(1.05 * max(row["std"] for row in ROWS))
    assert (above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == (
        "mean of the stepsize u", "standard deviation of u", "epoch",
    )  # fmt: skip
    assert above.get_title() == "cap 316.23"
    assert legend(figure) == ["1 blocks.1.weight", "2 blocks.2.weight", "3 blocks.3.weight"]


def test_runs_stand_side_by_side_and_share_scales_where_they_share_a_cap():
    weak = list(run(3, (1, 2, 3), size=3e-3))
    figure = plots.stepsizes({"aida": ROWS, "adamplus": weak, "adamw": ADAM})
    above, below = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in above] == ["aida (cap 316.23)", "adamplus (cap 316.23)", "adamw"]
    assert above[0].get_ylim() == above[1].get_ylim()
    assert below[0].get_ylim() == below[1].get_ylim()
    assert below[0].get_ylim()[1] == pytest.approx(1.05 * max(row["std"] for row in ROWS + weak))
    assert [axes.get_yscale() for axes in (above[2], below[2])] == ["log", "log"]
    assert lines(above[2], caps=True) == []


def test_caps_that_differ_in_the_sixth_digit_are_one():
    """Published AdaBelief's second eps, outside the root."""
    lower = [{**row, "cap": row["cap"] * (1 - 3e-6), "std": 2 * row["std"]} for row in ROWS]
    axes = plots.stepsizes({"aida": ROWS, "adabelief": lower}).axes
    assert axes[2].get_ylim() == axes[3].get_ylim()
    other = plots.stepsizes(
        {"aida": ROWS, "lower": [{**row, "cap": 0.99 * row["cap"]} for row in lower]}
    ).axes
    assert other[2].get_ylim() != other[3].get_ylim()


def test_a_few_elements_at_a_remote_cap_do_not_make_the_scale_linear():
    """Adam's cap is 1/eps, and a layer with dead elements has a mean of nearly that."""
    dead = [{**row, "cap": 1e8, "mean": 5e7 if row["layer"] == 3 else row["mean"]} for row in ROWS]
    (above, _) = plots.stepsizes(dead).axes
    assert above.get_yscale() == "log"
    assert lines(above, caps=True)[0].get_ydata()[0] == 1e8


def test_a_cap_far_above_everything_leaves_a_logarithmic_scale():
    rows = list(run(2, (1, 2), eps=1e-16))
    above, below = plots.stepsizes(rows).axes
    assert (above.get_yscale(), below.get_yscale()) == ("log", "log")
    assert lines(above, caps=True)[0].get_ydata()[0] == pytest.approx(sqrt(1e-3 / 1e-16))


def test_a_stepsize_for_a_whole_layer_has_no_deviation_and_no_logarithm_of_it():
    rows = [{**row, "std": 0.0, "cap": None} for row in ROWS]
    assert plots.stepsizes(rows).axes[1].get_yscale() == "linear"


def test_seeds_are_averaged():
    other = list(run(3, (1, 2, 3), seed=1))
    (above, _) = plots.stepsizes(ROWS + other).axes
    expected = [fmean(pair) for pair in zip(values(ROWS, 2, "mean"), values(other, 2, "mean"), strict=True)]
    assert list(lines(above)[1].get_ydata()) == pytest.approx(expected, rel=1e-12)


def test_the_time_is_the_step_where_not_every_row_has_an_epoch():
    steps = list(run(2, (10, 20), time="step"))
    assert plots.by_layer(steps, "cos").axes[0].get_xlabel() == "step"
    both = {"a": ROWS, "b": steps}
    figure = plots.by_layer(both, "cos")
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "step"]
    assert list(figure.axes[0].lines[0].get_xdata()) == [100, 200, 300]
    old = [{key: value for key, value in row.items() if key != "step"} for row in ROWS]
    with pytest.raises(plots.Missing, match="no time in common"):
        plots.by_layer({"a": old, "b": steps}, "cos")


@pytest.mark.parametrize("field", ["cos", "update_ratio", "capped", "g_norm", "mean"])
def test_a_measure_by_layer(field):
    figure = plots.by_layer({"a": ROWS, "b": list(run(3, (1, 2, 3), seed=1))}, field)
    measure = plots.MEASURES[field]
    first, second = figure.axes
    assert [list(line.get_ydata()) for line in first.lines] == [values(ROWS, n, field) for n in (1, 2, 3)]
    assert first.get_ylabel() == measure.label
    assert first.get_ylim() == second.get_ylim()
    assert first.get_yscale() == ("log" if measure.log else "linear")
    if measure.limits:
        assert first.get_ylim() == pytest.approx(
            {"cos": (-1.06, 1.06), "capped": (-0.03, 1.03)}[field], abs=1e-12
        )


def test_of_many_layers_the_colour_tells_the_depth_and_the_median_is_drawn():
    rows = list(run(150, (100, 200), time="step"))
    figure = plots.by_layer(rows, "cos")
    axes, bar = figure.axes
    assert legend(figure) == []
    assert bar.get_ylabel() == "layer, in the model's order"
    assert bar.get_ylim() == (1, 150)
    *drawn, middle = axes.lines
    assert len(drawn) == 150
    assert list(middle.get_ydata()) == [
        median(row["cos"] for row in rows if row["step"] == step) for step in (100, 200)
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["median of the layers"]
    assert (drawn[0].get_color(), drawn[-1].get_color()) == (depth_colours()(0.0), depth_colours()(1.0))
    assert len({to_hex(line.get_color()) for line in drawn}) > 140


def test_a_single_record_is_seen():
    (above, _) = plots.stepsizes(list(run(2, (1,)))).axes
    assert all(line.get_marker() == "." for line in lines(above))
    plots.heat_map(list(run(2, (1,)))).canvas.draw()


@pytest.mark.parametrize("spread_rows", [False, True])
def test_the_spread_across_layers(spread_rows):
    rows = list(run(4, (1, 2, 3), spread=spread_rows))
    aida, adam, ratio = plots.spread({"aida": rows, "adam": ADAM}).axes
    means = [
        [row["mean"] for row in rows if row["kind"] == "stepsize" and row["epoch"] == e] for e in (1, 2, 3)
    ]
    assert list(lines(aida)[0].get_ydata()) == pytest.approx([fmean(each) for each in means], rel=1e-12)
    assert list(ratio.lines[0].get_ydata()) == pytest.approx(
        [pstdev(each) / fmean(each) for each in means], rel=1e-12
    )
    drawn = aida.collections[0].get_datalim(aida.transData)
    assert (drawn.y0, drawn.y1) == pytest.approx((min(map(min, means)), max(map(max, means))))
    assert lines(aida, caps=True)[0].get_ydata()[0] == pytest.approx(CAP)
    assert adam.get_yscale() == "log"
    assert [text.get_text() for text in ratio.get_legend().get_texts()] == ["aida", "adam"]
    assert ratio.get_ylabel() == "std / mean over the layers"


def test_the_spread_of_several_seeds_is_the_mean_of_theirs():
    """Not the spread of the layers of all seeds together."""
    one, two = ([{**row, "seed": seed} for row in run(3, (1,), seed=seed)] for seed in (0, 1))
    (_, ratio) = plots.spread(one + two).axes
    apart = [plots.spread(rows).axes[1].lines[0].get_ydata()[0] for rows in (one, two)]
    assert ratio.lines[0].get_ydata()[0] == pytest.approx(fmean(apart), rel=1e-12)


def test_ridges_are_the_histograms():
    figure = plots.ridges(ROWS, [2])
    (axes,) = figure.axes
    assert axes.get_title() == "2 blocks.2.weight"
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3", "2", "1"]
    ridge = axes.patches[1].get_data()
    row = next(row for row in ROWS if row["layer"] == 2 and row["epoch"] == 2)
    bins = round(1 / log2(ridge.edges[1] / ridge.edges[0]))
    counts = np.array(rebin(row["histogram"], bins)["counts"])
    assert (ridge.values - ridge.baseline) ** 2 / 1.6**2 == pytest.approx(counts / counts.max(), abs=1e-12)
    assert sum(counts) == row["numel"]
    assert lines(axes, caps=True)[0].get_xdata()[0] == pytest.approx(CAP)
    low, high = axes.get_xlim()
    assert low < CAP < high
    assert "√" in figure.get_supxlabel()


def test_ridges_of_several_runs_and_of_layers_that_some_lack():
    few = [row for row in ROWS if row["layer"] < 3]
    figure = plots.ridges({"aida": ROWS, "few": few}, [1, 3])
    assert [axes.get_title() for axes in figure.axes] == [
        "aida · 1 blocks.1.weight", "few · 1 blocks.1.weight", "aida · 3 blocks.3.weight", "",
    ]  # fmt: skip
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert not figure.axes[3].axison
    with pytest.raises(plots.Missing, match=r"no layer 7 .* 1-3\."):
        plots.ridges(ROWS, [7])
    assert len(plots.ridges(list(run(150, (1, 2)))).axes) == 6


def test_a_heat_map_has_a_cell_for_each_layer_and_time():
    rows = [row for row in ROWS if (row["layer"], row["epoch"]) != (3, 1)]
    figure = plots.heat_map(rows, "cos")
    axes, bar = figure.axes
    cells = axes.collections[0].get_array()
    expected = [
        [
            next((row["cos"] for row in rows if (row["layer"], row["epoch"]) == (layer, e)), nan)
            for e in (1, 2, 3)
        ]
        for layer in (1, 2, 3)
    ]
    assert cells.filled(np.nan) == pytest.approx(np.array(expected), nan_ok=True)
    assert isnan(expected[2][0])
    assert axes.collections[0].get_clim() == (-1, 1)
    assert bar.get_ylabel() == "cos θ between g and m"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{n} blocks.{n}.weight" for n in (1, 2, 3)
    ]
    assert axes.yaxis_inverted()


def test_heat_maps_share_a_scale_unless_stepsizes_have_other_caps():
    figure = plots.heat_map({"aida": ROWS, "adam": ADAM}, "mean")
    assert len(figure.axes) == 4
    limits = [axes.collections[0].get_clim() for axes in figure.axes[:2]]
    assert limits[0] == pytest.approx((min(r["mean"] for r in ROWS), max(r["mean"] for r in ROWS)))
    assert limits[1][0] > limits[0][1]
    shared = plots.heat_map({"aida": ROWS, "adam": ADAM}, "g_norm")
    assert len(shared.axes) == 3
    assert shared.axes[0].collections[0].get_clim() == shared.axes[1].collections[0].get_clim()
    assert isinstance(shared.axes[0].collections[0].norm, LogNorm)


DRAW = {
    "stepsizes": plots.stepsizes,
    "ridges": plots.ridges,
    "heat_map": lambda rows: plots.heat_map(rows, "cos"),
    "by_layer": lambda rows: plots.by_layer(rows, "cos"),
}


@pytest.mark.parametrize(
    ("draw", "field"),
    [("stepsizes", "std"), ("ridges", "histogram"), ("heat_map", "cos"), ("by_layer", "cos")],
)
def test_a_field_that_no_row_has_is_named(draw, field):
    rows = [{key: value for key, value in row.items() if key != field} for row in ROWS]
    with pytest.raises(plots.Missing, match=f"no row has '{field}'"):
        DRAW[draw](rows)
    # One layer without the field is left out, none of the others.
    some = [{**row, field: None} if row["layer"] == 2 else row for row in ROWS]
    figure = DRAW[draw](some)
    shown = {"stepsizes": lambda: len(lines(figure.axes[0])), "by_layer": lambda: len(figure.axes[0].lines),
             "ridges": lambda: sum(axes.axison for axes in figure.axes),
             "heat_map": lambda: len(figure.axes[0].get_yticks())}  # fmt: skip
    assert shown[draw]() == 2


def test_what_cannot_be_drawn():
    with pytest.raises(plots.Missing, match='kind "stepsize"'):
        plots.stepsizes([{"kind": "epoch", "epoch": 1}])
    with pytest.raises(plots.Missing, match="no row has 'mean'"):
        plots.spread([])
    with pytest.raises(plots.Missing, match='has no "layer"'):
        plots.stepsizes([{"kind": "stepsize", "epoch": 1, "mean": 1.0, "std": 0.0}])
    with pytest.raises(ValueError, match="no measure 'cosine': the measures are mean, "):
        plots.by_layer(ROWS, "cosine")


def test_edges():
    assert histogram_edges({"low": 1.0, "per_octave": 2, "counts": [5, 0, 1]}) == pytest.approx(
        [2, 2 * sqrt(2), 4, 4 * sqrt(2)], rel=1e-15
    )


def test_coarser_bins_keep_every_element_in_its_place():
    fine = {"low": 3 / 4, "per_octave": 4, "counts": [1, 2, 0, 4, 8]}
    assert rebin(fine, 2) == {"low": 0.5, "per_octave": 2, "counts": [1, 2, 12]}
    assert rebin(fine, 4) == fine
    with pytest.raises(ValueError, match="3 bins an octave do not divide the 4"):
        rebin(fine, 3)
    assert choose_bins([{"per_octave": 64, "counts": [1] * 640}], 90) == 8
    assert choose_bins([{"per_octave": 64, "counts": [1] * 64}], 90) == 64


@pytest.mark.parametrize(("count", "most"), [(3, 12), (20, 12), (150, 6), (11, 6), (7, 6), (100, 8)])
def test_spaced(count, most):
    kept = subsample(range(count), most)
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len({b - a for a, b in pairwise(kept[1:])}) <= 1


def test_nothing_but_drawing_needs_matplotlib(monkeypatch):
    monkeypatch.setattr(aida.monitor, "plots", plots)
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "aida.monitor.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fresh = importlib.import_module("aida.monitor.plots")
    assert [layer.number for layer in fresh.layers(ROWS)] == [1, 2, 3]
    with pytest.raises(ImportError):
        fresh.stepsizes(ROWS)


EVERY_PLOT = {
    "stepsizes": plots.stepsizes,
    "spread": plots.spread,
    "ridges": plots.ridges,
    "heat map": plots.heat_map,
    "cos": lambda rows: plots.by_layer(rows, "cos"),
    "norm": lambda rows: plots.by_layer(rows, "g_norm"),
}


@pytest.mark.parametrize("draw", EVERY_PLOT.values(), ids=EVERY_PLOT)
@pytest.mark.parametrize("bad", [nan, inf, 0.0])
@pytest.mark.parametrize("spread", [True, False])
def test_numbers_that_are_none_are_left_out_or_missing(draw, bad, spread):
    """Of one layer, one time, one run of two, and all: a picture of the rest, or one sentence."""
    drawn = []
    for choose in (
        lambda row: row.get("layer") == 2,
        lambda row: row["epoch"] == 2,
        lambda row: row["kind"] == "spread",
        lambda row: True,
    ):
        rows = [dict(row) for row in run(3, (1, 2, 3), spread=spread)]
        for row in filter(choose, rows):
            row |= {key: bad for key, x in row.items() if isinstance(x, float)}
            if "histogram" in row:
                row["histogram"] = {"low": 0.0, "per_octave": 64, "counts": []}
        for runs in (rows, {"sick": rows, "well": list(run(3, (1, 2, 3)))}):
            try:
                figure = draw(runs)
            except plots.Missing:
                continue
            if runs is rows:  # what only drawing finds
                figure.canvas.draw()
            drawn.append(figure)
    assert len(drawn) >= 7, "the well run alone is enough for a picture"


def test_an_all_nan_layer_is_drawn_as_not_measured():
    """From the optimizer to the picture."""
    params = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))]
    optimizer = aida.AdaBelief(params)
    with StepsizeMonitor(optimizer, every=1) as monitor:
        for size in (torch.nan, 1.0):
            for p, g in zip(params, (size, 1.0), strict=True):
                p.grad = torch.full_like(p, g)
            optimizer.step()
    sick, well = plots.layers(named(monitor.rows)[""], "step")
    assert np.isnan(sick.values("p50")).all()
    assert np.isfinite(well.values("p50")).all()
    for draw in (plots.stepsizes, plots.heat_map, plots.ridges, plots.spread):
        draw(monitor.rows).canvas.draw()


def test_runs_of_one_list_are_kept_apart_and_a_resumed_one_goes_on():
    def of(name, times, **more):
        return [{**row, "run": name, **more} for row in run(2, times, time="step", spread=True)]

    rows = [*of("a", (10, 20, 30)), *of("b", (10, 20)), *of("a", (20, 40))]
    found = named(rows)
    assert list(found) == ["a", "b"]
    assert [layer.time for layer in plots.layers(found["a"], "step")] == [[10, 20, 40]] * 2
    assert all(len(cell) == 1 for layer in plots.layers(found["a"], "step") for cell in layer.rows)
    assert list(named({"x": rows, "y": of("c", (10,))})) == ["x a", "x b", "y"]
    assert [len(axes.lines) for axes in plots.by_layer(rows, "cos").axes] == [2, 2]
    gan = [*of("c", (10,), optimizer="Aida 0"), *of("d", (10,), optimizer="Adam 1")]
    assert list(named(gan)) == ["Aida 0", "Adam 1"]


def test_panels_beyond_the_layers_are_blank():
    figure = plots.ridges(list(run(4, (1, 2))))
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2
