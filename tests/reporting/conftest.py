from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_crossdiff.reporting.report import write_report
from sae_crossdiff.reporting.report_data import ReportConfig, ReportSources
from tests.reporting.browser import Browser, launched
from tests.reporting.synthetic import synthetic_sources

N = 300


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> ReportSources:
    return synthetic_sources(tmp_path_factory.mktemp("synthetic"), N)


@pytest.fixture(scope="session")
def report_file(sources: ReportSources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of 40 latents out of 300."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(sources, folder / "report.html", ReportConfig(n_detailed=40))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="session")
def opened(chromium: Any, report_file: Path) -> Iterator[Browser]:
    with Browser.opened(chromium, report_file) as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser) -> Iterator[Browser]:
    """The report on its first page, in a desktop window; fails on console errors and requests."""
    opened.page.evaluate("location.hash = '#/'")
    opened.page.check("[value=nu_error]")
    opened.page.click("#filters [type=reset]")
    yield opened
    opened.check()
