"""Audit the crosscoders of a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from sae_crossdiff.activations import (
    ActivationDataset,
    OutlierFilter,
    TextSource,
    harvest,
    in_order,
    token_sequences,
)
from sae_crossdiff.crosscoders import load_crosscoder
from sae_crossdiff.diffing import VerdictThresholds, latent_table, most_chat_specific, save_table
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.contexts import TokenTexts, top_contexts
from sae_crossdiff.reporting.example_files import save_examples
from sae_crossdiff.reporting.examples import ExampleCollector
from sae_crossdiff.reporting.terminal import count_table, latent_rows, quality_table
from sae_crossdiff.training import CrosscoderRunnerConfig
from sae_crossdiff.training.config import IN_MEMORY
from sae_crossdiff.training.progress import track_tokens


def audit_run(
    run: Path,
    console: Console,
    thresholds: VerdictThresholds,
    n_tokens: int,
    text: Sequence[str] = (),
    dialogues: Sequence[str] = (),
    device: str = "",
) -> list[Path]:
    """Harvest once, then a latent table and examples per crosscoder; returns the tables' paths.

    Without `text` and `dialogues` it reads the run's own text from its beginning, which the
    crosscoders were trained on.

    Raises:
        CrossdiffError: no run in that folder, or its text was in memory and none was passed.
    """
    config = CrosscoderRunnerConfig.from_file(run / "runner_cfg.json")
    device = device or config.pair.device
    crosscoders = {name: load_crosscoder(run / name, device) for name in config.crosscoders}
    pair = config.load_pair(device)
    sources = audit_sources(config, text, dialogues)
    sequences = list(token_sequences(sources, pair.tokenizer, config.text.context_size, n_tokens))
    outliers = OutlierFilter(config.activations.outliers, pair.d_ins)
    harvested = track_tokens(
        harvest(pair, sequences, config.text.batch_size),
        sum(map(len, sequences)),
        "Reading both residual streams",
        console,
    )
    tokens = ActivationDataset(outliers(harvested)).all
    provenance = config.provenance(pair, sources)
    which = "the text that was passed" if text or dialogues else "its own training text"
    paths = []
    for name, crosscoder in crosscoders.items():
        batches = track_tokens(in_order(tokens), len(tokens), f"Auditing {name}", console)
        collector = ExampleCollector(crosscoder.cfg.d_sae)
        table = latent_table(crosscoder, batches, thresholds, provenance, observers=[collector])
        paths.append(save_table(table, run / name / "latent_table.parquet"))
        save_examples(collector, table, run / name)
        top = most_chat_specific(table)
        contexts = top_contexts(collector.examples(), top.index, TokenTexts(pair.tokenizer))
        console.print(quality_table(table.attrs["quality"], f"{name} on {which}"))
        console.print(count_table(table))
        console.print(
            latent_rows(top, contexts, "The most chat-specific latents, by verdict score")
        )
        console.print("Table", paths[-1], soft_wrap=True, markup=False)
    console.print(f"Next: crossdiff report {run}", soft_wrap=True, markup=False)
    return paths


def audit_sources(
    config: CrosscoderRunnerConfig, text: Iterable[str], dialogues: Iterable[str]
) -> list[TextSource]:
    """The text that was passed, or else the run's own."""
    passed = [TextSource(t) for t in text] + [TextSource(d, kind="chat") for d in dialogues]
    return passed or own_sources(config)


def own_sources(config: CrosscoderRunnerConfig) -> list[TextSource]:
    """The text that a run was trained on.

    Raises:
        CrossdiffError: it was in memory.
    """
    sources = config.text.sources
    if any(source.data == IN_MEMORY for source in sources):
        raise CrossdiffError(
            "this run's text was in memory and is gone: pass --text or --dialogues"
        )
    return sources
