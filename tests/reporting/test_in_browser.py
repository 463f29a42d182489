"""The report in headless Chromium: what a reader does, and what data must not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_crossdiff.reporting import load_examples
from sae_crossdiff.reporting.columns import by_relevance, fires_on
from sae_crossdiff.reporting.example_files import HISTOGRAMS
from sae_crossdiff.reporting.report_data import ReportSources
from tests.reporting.browser import Browser
from tests.reporting.conftest import N
from tests.reporting.synthetic import HOSTILE

SCRIPT = HOSTILE[0]
ROWS = 20  # drawn at once, at least


def test_overview_shows_the_counts_beside_the_null(
    browser: Browser, sources: ReportSources
) -> None:
    rows = browser.page.locator("#verdicts tbody tr").all_inner_texts()
    counts = sources.table["verdict"].value_counts()
    for row, verdict in zip(rows, ("chat-specific", "shrunk", "decoupled", "shared"), strict=False):
        assert row.split("\t")[:2] == [verdict, f"{counts.get(verdict, 0)}"]
    assert "1 (random), 1 (permuted)" in rows[0]
    assert browser.page.locator(".tiles").inner_text().split()[:3] == ["FVE", "base", "0.900"]


def test_names_of_models_are_text(browser: Browser) -> None:
    assert browser.page.locator("h1 b").count() == 0
    assert browser.page.locator("h1").inner_text() == "b> → chat"  # the last part of the path
    assert browser.page.locator("#provenance").inner_html().count("&lt;b&gt;") == 1


def test_sorting(browser: Browser, sources: ReportSources) -> None:
    table = sources.table
    assert browser.shown()[:ROWS] == by_relevance(table)[:ROWS]
    header = browser.page.locator("[data-key=nu_error]")
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    rising = np.sort(table["nu_error"])
    # By value: the file keeps 12 bits of mantissa, so that near ones may change places.
    np.testing.assert_allclose(table["nu_error"][browser.shown()][:ROWS], rising[:ROWS], rtol=3e-4)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    falling = table["nu_error"][browser.shown()][:ROWS]
    np.testing.assert_allclose(falling, rising[::-1][:ROWS], rtol=3e-4)
    browser.page.click("[data-key=specificity] button")
    best = table["specificity"].sort_values(ascending=False)
    np.testing.assert_allclose(table["specificity"][browser.shown()][:ROWS], best[:ROWS], rtol=3e-4)
    assert header.get_attribute("aria-sort") == "none"


def test_filters(browser: Browser, sources: ReportSources) -> None:
    table, page = sources.table, browser.page
    page.select_option("[name=verdict]", "shared")
    assert browser.count() == (table["verdict"] == "shared").sum()
    page.fill("[name=deltaTo]", "0.5")
    page.fill("[name=nuFrom]", "0.9")
    page.fill("[name=least]", "50000")
    kept = table.query(
        "verdict == 'shared' and delta <= .5 and nu_error >= .9 and active_tokens >= 50000"
    )
    assert browser.count() == len(kept)
    assert set(browser.shown()) <= set(kept.index)
    page.click("#filters [type=reset]")
    assert browser.count() == N
    page.check("[name=detailed]")
    assert browser.count() == 40
    page.click("#filters [type=reset]")
    page.fill("[name=query]", "17")
    assert 17 in browser.shown()
    page.fill("[name=query]", SCRIPT[:8])
    examples = load_examples(sources.examples).query("group == 'sample'")
    tokens = fires_on(examples, load_examples(sources.examples, name=HISTOGRAMS), N)
    assert browser.count() == (tokens == HOSTILE.index(SCRIPT)).any(axis=1).sum() > 0
    page.fill("[name=query]", "no such token")
    assert browser.count() == 0


def test_only_rows_in_view_exist_and_scrolling_brings_the_others(
    browser: Browser, sources: ReportSources
) -> None:
    order = by_relevance(sources.table)
    assert len(browser.shown()) < 60
    browser.page.eval_on_selector("#table", "view => { view.scrollTop = 1e9; }")
    browser.page.wait_for_selector(f".row[data-at='{N - 1}']")
    assert browser.shown()[-1] == order[-1]


def test_keyboard(browser: Browser, sources: ReportSources) -> None:
    order = by_relevance(sources.table)
    browser.page.locator(".row a").first.focus()
    for _ in range(40):
        browser.page.keyboard.press("ArrowDown")
    focused = "document.activeElement.textContent"
    assert browser.page.evaluate(focused) == str(order[40])
    browser.page.keyboard.press("ArrowUp")
    browser.page.keyboard.press("Enter")
    browser.page.wait_for_selector("#page-latent h2")
    assert browser.page.evaluate(focused).startswith(f"Latent {order[39]}")


def test_latent_page_and_links(browser: Browser, sources: ReportSources) -> None:
    page, table = browser.page, sources.table
    page.locator(".row a", has_text="3").first.click()
    assert page.locator("#page-latent h2").inner_text().startswith("Latent 3")
    assert page.locator("#page-overview").is_hidden()
    text = page.locator("#page-latent").inner_text()
    row = table.loc[3]
    assert f"{row['nu_error']:.2f}" in text
    assert f"{row['delta']:.2f}" in text
    assert "Strongest" in text
    assert page.locator("#histogram .bars path").count() > 2
    neighbour = page.locator("#page-latent section table a").last
    number = neighbour.inner_text()
    neighbour.click()
    assert page.locator("#page-latent h2").inner_text().startswith(f"Latent {number}")
    page.go_back()
    assert page.title().startswith("Latent 3:")
    page.click("text=Next")
    assert page.title().startswith(f"Latent {by_relevance(table)[1]}:")
    page.click("text=← Overview")
    assert page.locator("#page-overview").is_visible()


def test_latent_without_examples_says_how_to_get_them(browser: Browser) -> None:
    browser.page.evaluate("location.hash = '#/latent/299'")
    browser.page.wait_for_selector("#page-latent h2")
    assert "crossdiff report RUN --latent 299" in browser.page.locator("#page-latent").inner_text()
    browser.page.evaluate("location.hash = '#/latent/300'")
    assert "no latent 300" in browser.page.locator("#page-latent").inner_text()


def test_hostile_tokens_are_text(browser: Browser) -> None:
    page = browser.page
    page.evaluate("location.hash = '#/latent/3'")
    page.wait_for_selector("#page-latent h2")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    text = page.locator("#page-latent").inner_text()
    for shown in (
        "<script>window.broken = true</script>",
        "</script><img src=x onerror='window.broken = true'>",
        "\"quotes' & &amp; `ticks` ${0} \\u0041",
        "⟨U+202E⟩right to left⟨U+202C⟩⟨U+200F⟩",
        "👩‍🚀🏴‍☠️",
        "\ufffd",
        "line⟨U+2028⟩separator⟨U+0000⟩",
        "{{ 7 * 7 }}",
    ):
        assert shown in text
    assert page.evaluate("window.broken") is None
    assert page.locator("#page-latent img, #page-latent script").count() == 0


def test_a_box_in_the_scatter_filters_the_table(browser: Browser, sources: ReportSources) -> None:
    page = browser.page
    page.wait_for_selector("#scatter .nsewdrag")
    area = page.locator("#scatter .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.7, steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelector('[name=deltaFrom]').value !== ''")
    names = ("deltaFrom", "deltaTo", "nuFrom", "nuTo")
    low, high, bottom, top = (float(page.input_value(f"[name={n}]")) for n in names)
    assert 0.7 < low < high < 1.1
    table = sources.table
    inside = table["delta"].between(low, high) & table["nu_error"].between(bottom, top)
    assert 0 < browser.count() < N
    assert browser.count() == inside.sum()
    page.check("[value=nu_reconstruction]")
    inside = table["delta"].between(low, high) & table["nu_reconstruction"].between(bottom, top)
    assert browser.count() == inside.sum()


def test_a_verdict_of_the_overview_filters(browser: Browser, sources: ReportSources) -> None:
    browser.page.click("#verdicts tbody tr:first-child button")
    assert browser.count() == (sources.table["verdict"] == "chat-specific").sum()
    assert browser.page.evaluate("document.activeElement.id") == "h-latents"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_in_both_schemes(chromium: Any, report_file: Path, scheme: str) -> None:
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with Browser.opened(chromium, report_file, **options, is_mobile=True, has_touch=True) as phone:
        for address in ("#/", "#/latent/3"):
            phone.page.evaluate(f"location.hash = '{address}'")
            assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
        back = phone.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")


def test_every_control_has_a_name(browser: Browser) -> None:
    nameless = browser.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a")].filter(
            (e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length
                || e.closest(".modebar"))).map((e) => e.outerHTML)"""
    )
    assert nameless == []
