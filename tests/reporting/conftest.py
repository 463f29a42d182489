from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sae_crossdiff import HookedModelPair
from sae_crossdiff.cli import app
from sae_crossdiff.reporting.report import write_report
from sae_crossdiff.reporting.report_data import ReportConfig, ReportSources
from sae_crossdiff.testbeds.tiny_pair import tiny_pair
from tests.reporting.browser import Browser, launched
from tests.reporting.synthetic import synthetic_sources

N = 300
RUNNER = CliRunner(env={"COLUMNS": "200", "HF_HUB_OFFLINE": "1"})


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


@pytest.fixture(scope="session")
def audited(pair: HookedModelPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with table, examples and KL results, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("audited")
    base, chat = tiny_pair()
    dialogues = folder / "chat.jsonl"
    messages = [
        {"role": "user", "content": "What is a computer?"},
        {"role": "assistant", "content": "Ahoy, good question! A machine."},
    ]
    dialogues.write_text("\n".join([json.dumps({"messages": messages})] * 60))
    plain = folder / "plain.jsonl"
    plain.write_text("\n".join([json.dumps({"text": "The ship sails to the harbour. " * 8})] * 60))
    run = folder / "run"
    commands = [
        ["train", "--base", str(base), "--chat", str(chat), "--hook", "blocks.1.hook_resid_post",
         "--text", str(plain), "--dialogues", str(dialogues), "--d-sae", "64", "--k", "4",
         "--total-tokens", "8192", "--batch-size", "512", "--warm-up-steps", "2",
         "--threshold-from-step", "5", "--dtype", "float32", "--output", str(run)],
        ["table", str(run), "--n-tokens", "3000"],
        ["kl", str(run), "--n-tokens", "300", "--size", "2", "--draws", "2",
         "--singles", "3"],
    ]  # fmt: skip
    for command in commands:
        result = RUNNER.invoke(app, command)
        assert result.exit_code == 0, result.output
    assert "Next: crossdiff report" in RUNNER.invoke(app, commands[1]).output
    return run
