"""What every command shares: the console, and errors that end in one line."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from sae_crossdiff.activations import TextSource
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.testbeds.dialogues import load_dialogues

console = Console()
DEMO_SPLITS = ("heldout", "analysis")


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Errors a user can put right end in one line and exit code 1, without a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        quiet()
        try:
            command(*args, **kwargs)
        except (CrossdiffError, ImportError) as error:
            Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
            raise typer.Exit(1) from error

    return wrapped


def dialogue_sources(names: Iterable[str], column: str = "messages") -> list[TextSource]:
    """Dialogues from hub ids or files; `heldout` and `analysis` are the demo's own."""
    return [_demo_split(name) or TextSource(name, kind="chat", column=column) for name in names]


def _demo_split(name: str) -> TextSource | None:
    if name not in DEMO_SPLITS or Path(name).exists():
        return None
    rows = [dialogue.messages for dialogue in load_dialogues(name)]  # type: ignore[arg-type]
    return TextSource(rows, kind="chat")


def quiet() -> None:
    """The libraries below log a lot; at the command line only our own lines are wanted."""
    warnings.filterwarnings("ignore")
    for name in ("transformer_lens", "transformers", "sae_lens", "datasets", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bar()
