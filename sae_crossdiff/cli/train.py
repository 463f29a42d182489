"""`crossdiff train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.training import CrosscoderRunnerConfig, CrosscoderTrainingRunner


@one_line_errors
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with a whole runner config")
    ] = None,
    base: Annotated[str, typer.Option(help="base model: hub id or local folder")] = "",
    chat: Annotated[str, typer.Option(help="its fine-tuned partner")] = "",
    hook: Annotated[str, typer.Option(help="site, e.g. blocks.13.hook_resid_post")] = "",
    text: Annotated[
        list[str] | None, typer.Option(help="plain text: hub id or file; repeatable")
    ] = None,
    dialogues: Annotated[
        list[str] | None, typer.Option(help="chat messages: hub id or file; repeatable")
    ] = None,
    text_column: Annotated[str, typer.Option(help="column of the plain text")] = "text",
    dialogues_column: Annotated[str, typer.Option(help="column of the messages")] = "messages",
    n_tokens: Annotated[int | None, typer.Option(help="tokens to read per epoch")] = None,
    total_tokens: Annotated[int, typer.Option(help="tokens to train on")] = 100_000_000,
    d_sae: Annotated[int, typer.Option(help="number of latents")] = 16_384,
    k: Annotated[float, typer.Option(help="active latents per token")] = 100,
    lr: Annotated[float, typer.Option(help="learning rate")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="tokens per step")] = 2048,
    warm_up_steps: Annotated[int, typer.Option(help="learning-rate warm-up")] = 1000,
    threshold_from_step: Annotated[
        int, typer.Option(help="step from which the inference threshold is averaged")
    ] = 1000,
    stream: Annotated[
        bool, typer.Option(help="stream from the models instead of keeping the harvest in memory")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="of the models")] = "bfloat16",
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/crosscoder"),
    resume: Annotated[Path | None, typer.Option(help="a checkpoints/<tokens> folder")] = None,
) -> None:
    """Train crosscoders on a pair of models; `--config` holds all settings, flags the usual ones.

    Example: crossdiff train --base google/gemma-2-2b --chat google/gemma-2-2b-it
    --hook blocks.13.hook_resid_post --text HuggingFaceFW/fineweb
    --dialogues lmsys/lmsys-chat-1m --dialogues-column conversation --d-sae 73728 --stream
    --device cuda
    """
    if config is not None:
        _refuse_other_flags(context)
        run_config = CrosscoderRunnerConfig.from_file(config)
    else:
        missing = [flag for flag, v in (("base", base), ("chat", chat), ("hook", hook)) if not v]
        if missing or not (text or dialogues):
            needed = [
                *(f"--{name}" for name in missing),
                *([] if text or dialogues else ["--text"]),
            ]
            raise CrossdiffError(f"missing {', '.join(needed)}: pass them, or --config FILE")
        sources = [{"data": t, "kind": "plain", "column": text_column} for t in text or []] + [
            {"data": d, "kind": "chat", "column": dialogues_column} for d in dialogues or []
        ]
        pair = {"base": base, "chat": chat, "hook_name": hook, "dtype": dtype, "device": device}
        run_config = CrosscoderRunnerConfig.from_dict(
            {
                "pair": pair,
                "text": {"sources": sources, "n_tokens": n_tokens},
                "training": {
                    "total_tokens": total_tokens,
                    "batch_size": batch_size,
                    "lr": lr,
                    "lr_warm_up_steps": warm_up_steps,
                },
                "activations": {"keep_in_memory": not stream},
                "crosscoders": {
                    "batchtopk": {
                        "architecture": "crosscoder_batchtopk",
                        "d_sae": d_sae,
                        "k": k,
                        "topk_threshold_start_step": threshold_from_step,
                    }
                },
                "output_path": str(output),
            }
        )
    result = CrosscoderTrainingRunner(run_config, console=console, resume_from=resume).run()
    if result.interrupted:
        console.print(
            "[yellow]Interrupted:[/] what was learnt so far is saved; go on with --resume"
        )
    for name in result.crosscoders:
        where = escape(str(result.output_path / name))
        console.print(f"[bold]{escape(name)}[/] saved in {where}", soft_wrap=True)
    console.print(f"Next: crossdiff table {result.output_path}", soft_wrap=True, markup=False)


def _refuse_other_flags(context: typer.Context) -> None:
    """With --config a flag would be ignored, or would override in ways nobody can see later."""
    given = [
        name
        for name in context.params
        if name not in ("config", "resume")
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise CrossdiffError(f"{flags} beside --config: put the setting into the config file")
