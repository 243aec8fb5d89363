"""Colours that are told apart, and whose order is seen, without red-green vision."""

from itertools import combinations

import numpy as np
from matplotlib.colors import to_rgb

from aida.monitor.plots.style import DASHES, IN_LEGEND, PALETTE, depth_colours, run_styles


def lab(colours: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = colours @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def as_seen_without_green(colours) -> np.ndarray:
    """Deuteranopia after Machado, Oliveira and Fernandes 2009, severity 1, in L*a*b*."""
    srgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )
    return lab(np.clip(linear @ seen.T, 0, 1))


def test_optimizers_differ_without_red_green_vision():
    seen = as_seen_without_green(PALETTE)
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12
    # A negative control: red and green of one lightness, as in many palettes, would fail.
    bad = as_seen_without_green(["#d62728", "#7a6a00"])
    assert np.linalg.norm(bad[0] - bad[1]) < 25
    styles = run_styles(len(PALETTE) * len(DASHES))
    assert len({tuple(style.values()) for style in styles}) == len(styles)


def test_depth_is_ordered_by_lightness_for_everyone():
    seen = as_seen_without_green([depth_colours()(i / 255) for i in range(0, 256, 15)])
    assert (np.diff(seen[:, 0]) > 1).all()
    assert IN_LEGEND < 20
