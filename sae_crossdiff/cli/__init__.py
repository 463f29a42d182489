"""`crossdiff`: one command per step of the path, and `demo` for all of them."""

from __future__ import annotations

import typer

from sae_crossdiff.cli.bench import bench
from sae_crossdiff.cli.demo import demo
from sae_crossdiff.cli.explain import explain
from sae_crossdiff.cli.kl import kl
from sae_crossdiff.cli.lens import lens
from sae_crossdiff.cli.report import report
from sae_crossdiff.cli.reproduce import reproduce
from sae_crossdiff.cli.stability import stability
from sae_crossdiff.cli.steer import steer
from sae_crossdiff.cli.table import table
from sae_crossdiff.cli.train import train

app = typer.Typer(
    help="Model diffing with crosscoders: what did fine-tuning change inside a language model?",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
COMMANDS = (
    *(demo, train, table, report, stability),
    *(kl, steer, explain, lens),
    *(bench, reproduce),
)
for command in COMMANDS:
    app.command()(command)
