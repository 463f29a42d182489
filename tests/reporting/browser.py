"""Headless Chromium for the report's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def launched() -> Iterator[Any]:
    """A running Chromium; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


class Browser:
    """A page that shows a report, and all that it complained about or asked for."""

    def __init__(self, page: Any, file: Path):
        self.page, self.file = page, file
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    @classmethod
    @contextmanager
    def opened(cls, chromium: Any, file: Path, **options: Any) -> Iterator[Browser]:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        browser = cls(context.new_page(), file)
        browser.page.goto(file.as_uri())
        browser.page.wait_for_selector("html[data-ready=yes]")
        yield browser
        browser.check()
        context.close()

    def check(self) -> None:
        """No error so far, and nothing was asked for but the file itself."""
        assert self.errors == []
        assert self.requests == [self.file.as_uri()]

    def shown(self) -> list[int]:
        """The latents in the table's drawn rows, from the top."""
        return [int(t) for t in self.page.locator(".row a").all_inner_texts()]

    def count(self) -> int:
        """How many latents the table says it shows."""
        return int(self.page.locator("#count").inner_text().split(" of ")[0].replace(",", ""))
