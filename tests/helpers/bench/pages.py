"""Pages of a report in a browser."""

from __future__ import annotations


def draw_all(page) -> None:
    """As before printing, every chart is drawn at once."""
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "[...document.querySelectorAll('.chart')].every((each) => each.querySelector('.main-svg'))"
    )
