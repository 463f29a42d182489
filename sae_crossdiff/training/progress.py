"""What a user sees while training: a progress bar, a JSONL file, and wandb if asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sae_crossdiff.training.config import TrainingConfig

Batch = TypeVar("Batch", bound=Sized)


def track_tokens(
    batches: Iterable[Batch], total: int, description: str, console: Console | None
) -> Iterator[Batch]:
    """Pass `batches` on, with a progress bar in tokens."""
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[speed_text]}"))
    with Progress(*columns, console=console or Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, speed_text="")
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))
            bar.update(task, speed_text=f"{bar.tasks[0].speed or 0:,.0f} tokens/s")


class TrainingProgress:
    """Progress bar with speed, FVE, L0 and dead share; metrics to `metrics.jsonl`.

    Each line of the file: {"step", "tokens", "crosscoder", and SAELens' log keys: losses/*,
    metrics/*, sparsity/*, details/*}. No account is needed; wandb is imported only when
    `wandb_project` names a project.
    """

    def __init__(
        self, config: TrainingConfig, output: Path, console: Console | None, append: bool = False
    ):
        self.config = config
        output.mkdir(parents=True, exist_ok=True)
        mode = "a" if append else "w"
        self._file: TextIO = (output / "metrics.jsonl").open(mode)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )
        self._task = self._bar.add_task("Training", total=config.total_steps, status="")
        self._wandb = self._start_wandb()

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()

    def advance_to(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def log(self, step: int, name: str, metrics: Mapping[str, Any], d_sae: int) -> None:
        """Write one line for one crosscoder and refresh the bar's status."""
        tokens = step * self.config.batch_size
        line = {"step": step, "tokens": tokens, "crosscoder": name, **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({f"{name}/{k}": v for k, v in metrics.items()}, step=step)
        speed = self._bar.tasks[0].speed or 0.0
        self._bar.update(
            self._task,
            status=(
                f"{speed * self.config.batch_size:,.0f} tokens/s  {name}: "
                f"FVE {metrics['metrics/explained_variance']:.3f}  "
                f"L0 {metrics['metrics/l0']:.1f}  "
                f"dead {metrics['sparsity/dead_features'] / d_sae:.1%}"
            ),
        )

    def _start_wandb(self) -> Any:
        if self.config.wandb_project is None:
            return None
        import wandb

        return wandb.init(project=self.config.wandb_project)
