"""CrosscoderTrainingRunner: config in, crosscoders out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import SAEMetadata, TrainingSAEConfig
from sae_lens.training.prefetch import PrefetchingIterator

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.training.config import CrosscoderRunnerConfig
from sae_crossdiff.training.data import TrainingData, prepare
from sae_crossdiff.training.interruption import interrupt_between_steps
from sae_crossdiff.training.progress import TrainingProgress
from sae_crossdiff.training.trainer import CrosscoderTrainer


class RunResult(NamedTuple):
    """`crosscoders` take raw activations and are saved under `output_path / name`;
    `interrupted`: training was stopped by Ctrl-C, and what was learnt so far was saved."""

    crosscoders: dict[str, Crosscoder]
    data: TrainingData
    output_path: Path
    interrupted: bool


class CrosscoderTrainingRunner:
    """Trains every crosscoder of the config on the same batches, in one run.

    Writes to `output_path`: `runner_cfg.json`, `metrics.jsonl`, `outliers.json`, one folder per
    crosscoder (`cfg.json`, `sae_weights.safetensors`), and `checkpoints/<tokens>/<name>/`.

    Args:
        config: the run.
        pair: a pair that is loaded already; otherwise `config.pair` is loaded.
        data: training data that exists already; otherwise it is harvested.
        resume_from: a `checkpoints/<tokens>` folder to go on from.
    """

    def __init__(
        self,
        config: CrosscoderRunnerConfig,
        pair: HookedModelPair | None = None,
        data: TrainingData | None = None,
        console: Console | None = None,
        resume_from: str | Path | None = None,
    ):
        self.config = config
        self.pair = pair or config.load_pair()
        self.data = data
        self.console = console
        self.resume_from = Path(resume_from) if resume_from else None
        self.output = Path(config.output_path)

    def run(self) -> RunResult:
        """Harvest, train, export. Ctrl-C ends training after the current step and saves.

        An error during training leaves a checkpoint of the last whole step behind.

        Raises:
            CrossdiffError: whatever the user can put right.
        """
        torch.manual_seed(self.config.training.seed)
        self.output.mkdir(parents=True, exist_ok=True)
        self.config.save(self.output / "runner_cfg.json")
        # Before the harvest: a bad config or checkpoint must fail at once.
        crosscoders = self._crosscoders()
        self._check_checkpoint()
        data = self.data or prepare(self.config, self.pair, self.console)
        trainers = {
            name: CrosscoderTrainer(self.config.training, crosscoder, data.scaler)
            for name, crosscoder in crosscoders.items()
        }
        if self.resume_from is not None:
            for name, trainer in trainers.items():
                trainer.resume(self.resume_from / name)
        interrupted = self._train(trainers, data)
        exported = {name: trainer.export() for name, trainer in trainers.items()}
        for name, crosscoder in exported.items():
            crosscoder.save_model(self.output / name)
        report = json.dumps(data.outliers.report.to_dict(), indent=2)
        (self.output / "outliers.json").write_text(report)
        return RunResult(exported, data, self.output, interrupted)

    def _train(self, trainers: dict[str, CrosscoderTrainer], data: TrainingData) -> bool:
        """Step all trainers through the same batches; True if the user interrupted."""
        config = self.config.training
        first = next(iter(trainers.values()))
        checkpoints = _checkpoint_steps(config.total_steps, config.n_checkpoints)
        resumed_at = first.n_training_steps
        batches = data.start()
        try:
            if data.training is not None:  # in memory: go on with the batches that come next
                for _ in range(resumed_at):
                    next(batches)
            with (
                TrainingProgress(config, self.output, self.console, resumed_at > 0) as progress,
                interrupt_between_steps() as interrupted,
            ):
                while first.n_training_steps < config.total_steps and not interrupted:
                    batch = next(batches)
                    for name, trainer in trainers.items():
                        self._step(name, trainer, batch, progress)
                    progress.advance_to(first.n_training_steps)
                    if first.n_training_steps in checkpoints or interrupted:
                        self._save_checkpoint(trainers)
                return bool(interrupted)
        except Exception:
            if first.n_training_steps > resumed_at:
                self._save_checkpoint(trainers)
            raise
        finally:
            if isinstance(batches, PrefetchingIterator):
                batches.close()

    def _step(
        self, name: str, trainer: CrosscoderTrainer, batch: torch.Tensor, progress: TrainingProgress
    ) -> None:
        trainer.maybe_reset_sparsity()
        output = trainer.train_step(batch)
        step = trainer.n_training_steps
        if step % self.config.training.log_every == 0 or step == self.config.training.total_steps:
            metrics = trainer.build_train_step_log_dict(output, trainer.n_training_samples)
            progress.log(step, name, metrics, trainer.sae.cfg.d_sae)

    def _save_checkpoint(self, trainers: dict[str, CrosscoderTrainer]) -> None:
        """One folder for all, named by the tokens of the whole steps."""
        steps = min(trainer.n_training_steps for trainer in trainers.values())
        folder = self.output / "checkpoints" / str(steps * self.config.training.batch_size)
        for name, trainer in trainers.items():
            trainer.save_checkpoint(checkpoint_name=name, base_path=folder)

    def _check_checkpoint(self) -> None:
        if self.resume_from is None:
            return
        for name, config in self.config.crosscoders.items():
            path = self.resume_from / name / SAE_CFG_FILENAME
            if not path.is_file():
                raise CrossdiffError(
                    f"cannot resume from {self.resume_from}: {path} is missing. Pass a "
                    "checkpoints/<tokens> folder of a run with the same crosscoders"
                )
            ours, saved = config.to_dict(), json.loads(path.read_text())
            for field in ("architecture", "d_sae", "k", "l1_coefficient"):
                if ours.get(field) != saved.get(field):
                    raise CrossdiffError(
                        f"cannot resume crosscoders.{name}: {field} is {ours.get(field)!r} in the "
                        f"config and {saved.get(field)!r} in {path}. Resume with the settings of "
                        "that run"
                    )

    def _crosscoders(self) -> dict[str, Any]:
        built = {}
        for name, config in self.config.crosscoders.items():
            config = self._fitted(name, config)
            torch.manual_seed(self.config.training.seed)  # same start whatever the order
            built[name] = get_sae_training_class(config.architecture())[0](config)
        return built

    def _fitted(self, name: str, config: TrainingSAEConfig) -> TrainingSAEConfig:
        """The crosscoder's config with the pair's widths, device and provenance."""
        if config.d_in not in (0, sum(self.pair.d_ins)):
            raise CrossdiffError(
                f"crosscoders.{name}.d_in={config.d_in}, but the pair gives "
                f"{' + '.join(map(str, self.pair.d_ins))} = {sum(self.pair.d_ins)}: leave d_in at 0"
            )
        if config.normalize_activations != "none":
            raise CrossdiffError(
                f"crosscoders.{name}.normalize_activations={config.normalize_activations!r}: here "
                "activations.normalize scales each model by itself; leave it at 'none'"
            )
        warm_up = getattr(config, "topk_threshold_start_step", 0)
        if warm_up >= self.config.training.total_steps:
            raise CrossdiffError(
                f"crosscoders.{name}.topk_threshold_start_step={warm_up} is beyond this run's "
                f"{self.config.training.total_steps} steps: lower it (a third of the run is good)"
            )
        metadata = SAEMetadata(
            model_name=self.config.pair.chat,
            hook_name=self.pair.hook_name,
            context_size=self.config.text.context_size,
            provenance=self.config.provenance(self.pair).to_dict(),
        )
        return dataclasses.replace(
            config,
            d_in=sum(self.pair.d_ins),
            d_ins=list(self.pair.d_ins),
            model_names=list(self.pair.names),
            device=self.config.pair.device,
            metadata=metadata,
        )  # type: ignore[call-arg]


def _checkpoint_steps(total: int, n: int) -> set[int]:
    return {round(total * (i + 1) / (n + 1)) for i in range(n)}
