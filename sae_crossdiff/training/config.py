"""The runner's config: small frozen dataclasses, one per concern, strict about unknown keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dacite
import yaml
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAEConfig

from sae_crossdiff.activations import OutlierPolicy, TextSource
from sae_crossdiff.crosscoders import BatchTopKCrosscoderConfig
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair, tokenizer_hash
from sae_crossdiff.provenance import Provenance

IN_MEMORY = "(rows in memory)"


@dataclass(frozen=True)
class PairConfig:
    """Which models, where.

    Args:
        base, chat: hub ids or local folders.
        hook_name: the site; the paper's is `blocks.13.hook_resid_post`.
        dtype: of the models ("bfloat16" or "float32").
        device: of the models and the crosscoder.
    """

    base: str
    chat: str
    hook_name: str
    dtype: str = "bfloat16"
    device: str = "cpu"


@dataclass(frozen=True)
class TextConfig:
    """What the models read.

    Args:
        sources: corpora, mixed by weight in units of tokens.
        context_size: tokens per sequence at most.
        n_tokens: tokens to read per epoch; all if None.
        batch_size: sequences per forward.
    """

    sources: list[TextSource] = field(default_factory=list)
    context_size: int = 256
    n_tokens: int | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise CrossdiffError(f"text.batch_size={self.batch_size} must be at least 1")


@dataclass(frozen=True)
class ActivationsConfig:
    """From forwards to training batches.

    Args:
        keep_in_memory: True: harvest once, train many epochs (and hold out documents);
            False: stream through a shuffling buffer, harvesting again in every epoch.
        normalize: centre and scale each model by itself (recommended); False trains on raw
            activations, as the paper does.
        held_out: share of the documents kept for evaluation (in-memory mode).
        buffer_size: tokens in the shuffling buffer (streaming mode).
        statistics_tokens: tokens from which mean and scale are estimated (streaming mode).
    """

    keep_in_memory: bool = True
    normalize: bool = True
    held_out: float = 0.1
    buffer_size: int = 65_536
    statistics_tokens: int = 100_000
    outliers: OutlierPolicy = field(default_factory=OutlierPolicy)


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation. Defaults are the paper's where it states one (arXiv:2504.02922).

    Args:
        total_tokens: tokens to train on, epochs included.
        batch_size: tokens per step.
        lr_decay_steps: steps of linear decay to 0 at the end.
        dead_after_tokens: a latent that has not fired for so many tokens is dead.
        b_dec_init: decoder bias at the start: the first batch's geometric median, or zeros.
        n_checkpoints: checkpoints along the way; 0 for none.
        log_every: steps between lines in metrics.jsonl.
        wandb_project: log to Weights & Biases too, if it names a project.
    """

    total_tokens: int
    batch_size: int = 2048
    lr: float = 1e-4
    lr_warm_up_steps: int = 1000
    lr_decay_steps: int = 0
    dead_after_tokens: int = 10_000_000
    b_dec_init: Literal["geometric_median", "zeros"] = "geometric_median"
    n_checkpoints: int = 0
    log_every: int = 50
    wandb_project: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "lr", "dead_after_tokens"):
            if getattr(self, name) <= 0:
                raise CrossdiffError(f"training.{name}={getattr(self, name)} must be positive")
        if self.total_tokens < self.batch_size:
            raise CrossdiffError(
                f"total_tokens={self.total_tokens} is less than one batch of {self.batch_size}: "
                "raise total_tokens or lower batch_size"
            )
        if self.lr_warm_up_steps + self.lr_decay_steps >= self.total_steps:
            raise CrossdiffError(
                f"lr_warm_up_steps={self.lr_warm_up_steps} + lr_decay_steps={self.lr_decay_steps} "
                f"leave nothing of the {self.total_steps} steps of this run: lower them or raise "
                "total_tokens"
            )

    @property
    def total_steps(self) -> int:
        return self.total_tokens // self.batch_size


@dataclass(frozen=True)
class CrosscoderRunnerConfig:
    """Everything `CrosscoderTrainingRunner` needs.

    Args:
        crosscoders: name -> SAELens training config; all are trained on the same batches. Leave
            their `d_in` at 0: the pair knows it.
        output_path: folder for crosscoders, metrics and the config itself.
    """

    pair: PairConfig
    text: TextConfig
    training: TrainingConfig
    crosscoders: dict[str, TrainingSAEConfig] = field(
        default_factory=lambda: {"batchtopk": BatchTopKCrosscoderConfig(d_in=0, d_sae=16_384)}
    )
    activations: ActivationsConfig = field(default_factory=ActivationsConfig)
    output_path: str = "runs/crosscoder"

    def __post_init__(self) -> None:
        if not self.crosscoders:
            raise CrossdiffError("crosscoders is empty: name at least one to train")
        # Rows that were in memory are gone from a saved config, but they were never endless.
        endless = [s.name for s in self.text.sources if s.is_on_a_hub and s.data != IN_MEMORY]
        if self.activations.keep_in_memory and self.text.n_tokens is None and endless:
            raise CrossdiffError(
                f"keep_in_memory would harvest all of {', '.join(endless)}: set text.n_tokens "
                "(--n-tokens), or keep_in_memory=False (--stream)"
            )

    def load_pair(self, device: str = "") -> HookedModelPair:
        """The pair of models; on another device than the config's if one is named."""
        pair = self.pair
        return HookedModelPair.from_pretrained(
            pair.base,
            pair.chat,
            hook_name=pair.hook_name,
            dtype=pair.dtype,
            device=device or pair.device,
        )

    def provenance(
        self, pair: HookedModelPair, sources: Sequence[TextSource] | None = None
    ) -> Provenance:
        """Provenance of what is made with `pair` from the run's own text, or from `sources`."""
        sources = self.text.sources if sources is None else sources
        return Provenance(
            models={"base": str(self.pair.base), "chat": str(self.pair.chat)},
            hook_name=pair.hook_name,
            tokenizer_hash=tokenizer_hash(pair.tokenizer) if pair.tokenizer is not None else "",
            text=", ".join(source.name for source in sources),
            outlier_policy=dataclasses.asdict(self.activations.outliers),
            seed=self.training.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; rows held in memory become a note, since they cannot be written down."""
        content = {
            "pair": dataclasses.asdict(self.pair),
            "text": {**vars(self.text), "sources": [vars(s).copy() for s in self.text.sources]},
            "activations": dataclasses.asdict(self.activations),
            "training": dataclasses.asdict(self.training),
            "crosscoders": {name: cfg.to_dict() for name, cfg in self.crosscoders.items()},
            "output_path": self.output_path,
        }
        for source in content["text"]["sources"]:
            if not isinstance(source["data"], str):
                source["data"] = IN_MEMORY
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CrosscoderRunnerConfig:
        """Strict: an unknown key, a missing one or a wrong type is a `CrossdiffError`."""
        content = dict(content)
        crosscoders = content.pop("crosscoders", None)
        runner = _parse(cls, content, "the config")
        if crosscoders is None:
            return runner
        if not isinstance(crosscoders, Mapping):
            raise CrossdiffError("in the config: crosscoders must map names to their settings")
        parsed = {name: crosscoder_config(name, c) for name, c in crosscoders.items()}
        return dataclasses.replace(runner, crosscoders=parsed)

    @classmethod
    def from_file(cls, path: str | Path) -> CrosscoderRunnerConfig:
        """From a YAML or JSON file."""
        path = Path(path)
        if not path.is_file():
            raise CrossdiffError(f"no config file {path}")
        try:
            content = yaml.safe_load(path.read_text())  # JSON is a subset of YAML
        except yaml.YAMLError as error:
            raise CrossdiffError(f"{path} is neither YAML nor JSON: {error}") from error
        if not isinstance(content, dict):
            raise CrossdiffError(f"{path} must hold a mapping, not {type(content).__name__}")
        return cls.from_dict(content)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2))


def crosscoder_config(name: str, content: Mapping[str, Any]) -> TrainingSAEConfig:
    """One entry of `crosscoders`: a mapping with `architecture` and the fields of its config.

    SAELens would drop unknown keys silently; here they are errors.
    """
    if not isinstance(content, Mapping):
        raise CrossdiffError(f"crosscoders.{name} must be a mapping, not {content!r}")
    content = dict(content)
    architecture = content.pop("architecture", None)
    known = sorted(a for a in SAE_TRAINING_CLASS_REGISTRY if a.startswith("crosscoder"))
    if architecture not in known:
        raise CrossdiffError(
            f"crosscoders.{name}.architecture is {architecture!r}: use one of {', '.join(known)}"
        )
    config_class = SAE_TRAINING_CLASS_REGISTRY[architecture][1]
    fields = {f.name for f in dataclasses.fields(config_class)} - {"metadata"}
    content.pop("metadata", None)
    unknown = sorted(content.keys() - fields)
    if unknown:
        raise CrossdiffError(
            f"crosscoders.{name} has unknown keys {unknown}: {architecture} takes "
            f"{', '.join(sorted(fields))}"
        )
    if "d_sae" not in content:
        raise CrossdiffError(f"crosscoders.{name} needs d_sae, the number of latents")
    return _parse(config_class, {"d_in": 0, **content}, f"crosscoders.{name}")


def _parse(cls: type[Any], content: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a mapping; numbers may be text, because YAML reads 4e-2 as text."""
    hooks = dacite.Config(strict=True, type_hooks={float: float})
    try:
        return dacite.from_dict(cls, content, config=hooks)
    except CrossdiffError:
        raise
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise CrossdiffError(f"in {where}: {error}") from error
