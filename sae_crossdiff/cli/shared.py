"""What every command shares: the console, and errors that end in one line."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from sae_crossdiff.errors import CrossdiffError

console = Console()


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


def quiet() -> None:
    """The libraries below log a lot; at the command line only our own lines are wanted."""
    warnings.filterwarnings("ignore")
    for name in ("transformer_lens", "transformers", "sae_lens", "datasets", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bar()
