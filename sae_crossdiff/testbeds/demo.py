"""The whole path on a pair whose answer is known."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from sae_crossdiff.activations import TextSource, in_order
from sae_crossdiff.activations.outliers import OutlierReport
from sae_crossdiff.crosscoders import BatchTopKCrosscoderConfig
from sae_crossdiff.diffing import (
    evaluate,
    latent_table,
    most_chat_specific,
    save_table,
)
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.provenance import Provenance
from sae_crossdiff.reporting import (
    ExampleCollector,
    TokenTexts,
    behaviour_table,
    count_table,
    latent_rows,
    quality_table,
    save_examples,
    top_contexts,
)
from sae_crossdiff.reporting.difference_lens import lens_rows
from sae_crossdiff.reporting.report import report_run
from sae_crossdiff.testbeds.behaviour_latents import behaviour_latents, behaviour_sets
from sae_crossdiff.testbeds.demo_baselines import demo_lenses, lens_aurocs
from sae_crossdiff.testbeds.demo_pair import demo_pair
from sae_crossdiff.testbeds.dialogues import BEHAVIOURS, load_dialogues, plain_text
from sae_crossdiff.testbeds.folders import PairFolders
from sae_crossdiff.testbeds.noop import gemma_noop_pair, tiny_noop_pair
from sae_crossdiff.testbeds.strict_json import write_json
from sae_crossdiff.testbeds.tiny_pair import tiny_pair
from sae_crossdiff.training import (
    ActivationsConfig,
    CrosscoderRunnerConfig,
    CrosscoderTrainingRunner,
    PairConfig,
    RunResult,
    TextConfig,
    TrainingConfig,
    prepare,
)
from sae_crossdiff.training.progress import track_tokens


class DemoSettings(NamedTuple):
    """What differs between the demo pairs."""

    hook_name: str
    dtype: str
    d_sae: int
    k: float
    steps: int
    lr: float


SETTINGS = {
    "gemma3": DemoSettings("blocks.9.hook_resid_post", "bfloat16", 4096, 32, 700, 3e-3),
    "tiny": DemoSettings("blocks.1.hook_resid_post", "float32", 512, 12, 600, 3e-3),
}
# Tuned on plain text only: what is called chat-specific there is false.
SETTINGS |= {f"{name}-noop": settings for name, settings in SETTINGS.items()}
BATCH_SIZE = 2048


def run_demo(
    pair_name: str, output: Path, console: Console, cache: Path | None = None, seed: int = 0
) -> Path:
    """Models in, latent table out; prints each step and what it found. Returns the table's path."""
    settings = SETTINGS[pair_name]
    console.rule(f"sae_crossdiff demo: {pair_name}")
    folders = pair_folders(pair_name, console, cache)
    config = demo_config(folders, settings, output, seed)
    with console.status("loading both models"):
        pair = config.load_pair()
    console.print(f"[bold]Site[/] {pair.hook_name}: {' + '.join(map(str, pair.d_ins))} wide")
    data = prepare(config, pair, console)
    _print_outliers(data.outliers.report, pair.tokenizer, console)
    result = CrosscoderTrainingRunner(config, pair=pair, data=data, console=console).run()
    return report_findings(result, pair, config, console)


def demo_config(
    folders: PairFolders, settings: DemoSettings, output: Path, seed: int = 0
) -> CrosscoderRunnerConfig:
    """The run's config: dialogues that no model was tuned on, and plain English, half and half."""
    steps = settings.steps
    crosscoder = BatchTopKCrosscoderConfig(
        d_in=0,
        d_sae=settings.d_sae,
        k=settings.k,
        topk_threshold_start_step=steps // 2,
        topk_threshold_lr=0.01,
    )
    return CrosscoderRunnerConfig(
        pair=PairConfig(
            str(folders.base), str(folders.chat), settings.hook_name, dtype=settings.dtype
        ),
        text=TextConfig(sources=demo_sources()),
        training=TrainingConfig(
            total_tokens=steps * BATCH_SIZE,
            batch_size=BATCH_SIZE,
            lr=settings.lr,
            lr_warm_up_steps=steps // 20,
            lr_decay_steps=steps // 4,
            dead_after_tokens=200_000,
            seed=seed,
        ),
        crosscoders={"batchtopk": crosscoder},
        activations=ActivationsConfig(held_out=0.15),
        output_path=str(output),
    )


def demo_sources() -> list[TextSource]:
    """Labelled dialogues of the `analysis` split, and plain technical English."""
    dialogues = [
        {
            "messages": dialogue.messages,
            "spans": [(s.behaviour, s.message, s.start, s.end) for s in dialogue.spans],
        }
        for dialogue in load_dialogues("analysis")
    ]
    return [TextSource(dialogues, kind="chat"), TextSource(plain_text())]


def report_findings(
    result: RunResult, pair: HookedModelPair, config: CrosscoderRunnerConfig, console: Console
) -> Path:
    """Build and save the table; print quality, counts, the top latents and the behaviours."""
    crosscoder, data = result.crosscoders["batchtopk"], result.data
    assert data.training is not None
    assert data.held_out is not None
    quality = evaluate(crosscoder, in_order(data.held_out))
    provenance = Provenance.from_dict(crosscoder.cfg.metadata.provenance)
    total = len(data.training) + len(data.held_out)
    batches = chain(in_order(data.training), in_order(data.held_out))
    tracked = track_tokens(batches, total, "Auditing every latent", console)
    collector = ExampleCollector(crosscoder.cfg.d_sae)
    table = latent_table(crosscoder, tracked, provenance=provenance, observers=[collector])
    path = save_table(table, result.output_path / "latent_table.parquet")
    save_examples(collector, table, result.output_path)
    console.print(quality_table(quality, "Crosscoder on held-out documents"))
    console.print(count_table(table))
    top = most_chat_specific(table, 12)
    contexts = top_contexts(collector.examples(), top.index, TokenTexts(pair.tokenizer))
    console.print(latent_rows(top, contexts, "The most chat-specific latents, by verdict score"))
    behaviours = behaviour_latents(table, crosscoder, data.training, data.held_out)
    console.print(behaviour_table(behaviours))
    sets = behaviour_sets(table, crosscoder, data.training, data.held_out)
    together = (f"{r['behaviour']} {r['auroc']:.3f} ({len(r['latents'])} latents)" for r in sets)
    console.print("Chat-specific latents together, AUROC: " + ("; ".join(together) or "none"))
    lenses = demo_lenses(pair, data.training)
    for kind, lens in lenses.items():
        console.print(lens_rows(lens.table, f"Baseline: mean difference on first tokens, {kind}"))
    baseline = lens_aurocs(lenses, data.training, data.held_out, BEHAVIOURS)
    best = (f"{row['behaviour']} {row['auroc']:.3f} ({row['direction']})" for row in baseline)
    console.print("Its best direction per behaviour, AUROC: " + "; ".join(best))
    findings = {
        "quality": quality,
        "behaviours": behaviours,
        "behaviour_sets": sets,
        "difference_lens": baseline,
        "verdicts": table["verdict"].value_counts().to_dict(),
        "nulls": table.attrs["nulls"],
    }
    write_json(result.output_path / "findings.json", findings)
    with console.status("writing the report"):
        report = report_run(result.output_path, pair=pair)
    _print_next_steps(result.output_path, report, console)
    return path


def pair_folders(pair_name: str, console: Console, cache: Path | None = None) -> PairFolders:
    """The folders of a demo pair, unpacked or made on first use."""

    def progress(line: str) -> None:
        console.print(f"[dim]{line}[/]")

    if pair_name == "tiny":
        return tiny_pair()
    makers = {"gemma3": demo_pair, "gemma3-noop": gemma_noop_pair, "tiny-noop": tiny_noop_pair}
    return makers[pair_name](cache, progress)


def _print_outliers(report: OutlierReport, tokenizer: Any, console: Console) -> None:
    norms = " / ".join(f"{norm:,.0f}" for norm in report.median_norms)
    often = ", ".join(repr(tokenizer.decode([i])) for i, _ in report.large_norm_ids.most_common(3))
    console.print(
        f"[bold]Tokens[/] {report.seen:,} read, {report.kept:,} kept; left out: {report.special:,} "
        f"BOS/padding, {report.large_norm:,} with more than 5x the median norm ({norms})"
        + (f", mostly {escape(often)}" if often else "")
    )


def _print_next_steps(output: Path, report: Path, console: Console) -> None:
    lines = [
        "",
        f"Report: {report} (open it in a browser; it needs no network)",
        f"Files in {output}:",
        "  latent_table.parquet   every latent, audited",
        "  activating_examples.parquet, activation_histograms.parquet   where each latent fires",
        "  findings.json          quality, and the latent of each behaviour",
        "  batchtopk/             the crosscoder (SAELens format; takes raw activations)",
        "  metrics.jsonl          the training run",
        "Next, in Python:",
        "  import sae_crossdiff as cd",
        f"  cd.most_chat_specific(cd.load_table('{output / 'latent_table.parquet'}'), 30)",
        "or on your own pair: crossdiff train --help",
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
