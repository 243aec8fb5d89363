"""Pages in a real browser, where there is one."""

from __future__ import annotations

import shutil

import pytest

from helpers.bench.pages import draw_all

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
FLAGS += "--disable-component-update --disable-sync"


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, address):
    """Opens the module's page with options of the browser; in the end nothing may have gone wrong in it."""
    said, pages = [], []

    def open_page(*, draw: bool = True, **options):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(address)
        pages.append(page)
        if draw:
            draw_all(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [each for each in said if not each.startswith((address, "data:", "blob:"))] == []
