"""`crossdiff bench`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from sae_crossdiff.cli.demo import DemoPair
from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.testbeds import speed
from sae_crossdiff.testbeds.demo import SETTINGS, pair_folders
from sae_crossdiff.testbeds.memory import peak_memory

MEMORY = (speed.SAELENS_BATCHTOPK, speed.OURS_SCREENED)


@one_line_errors
def bench(
    d_sae: Annotated[
        list[int] | None, typer.Option(help="latents; repeatable [8192 and 32768]")
    ] = None,
    d_model: Annotated[int, typer.Option(help="width of each model")] = 640,
    k: Annotated[int, typer.Option(help="active latents per token")] = 64,
    batch_size: Annotated[int, typer.Option(help="tokens per step")] = 2048,
    rounds: Annotated[int, typer.Option(min=2, help="timed rounds; medians are shown")] = 5,
    pair: Annotated[DemoPair, typer.Option(help="whose harvest to time")] = DemoPair.tiny,
    memory: Annotated[bool, typer.Option(help="measure the peak memory of a step as well")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None,
) -> None:
    """Time training steps, Latent Scaling and harvest on this machine, beside SAELens.

    All works take turns, round by round, so that a machine's moods hit them alike: read the
    ratios. Needs about 10 GB at 32,768 latents, most of it for the SAELens trainers.
    """
    figures: dict[str, Any] = {"machine": machine(device), "rounds": rounds, "shapes": []}
    console.print(f"[bold]Machine[/] {figures['machine']}", soft_wrap=True)
    for size in d_sae or [8192, 32768]:
        shape = speed.Shape(d_model, size, k, batch_size, device)
        times = in_turns(speed.workloads(shape), rounds, device)
        peaks = {work: peak_memory(shape, work) for work in MEMORY} if memory else {}
        console.print(_step_table(shape, times, peaks))
        figures["shapes"].append(
            {
                **vars(shape),
                "seconds": times,
                "peak_bytes": {work: peak._asdict() for work, peak in peaks.items()},
            }
        )
    times, tokens = _harvest_times(pair, rounds, device)
    rates = {work: tokens / seconds for work, seconds in times.items()}
    console.print(_harvest_table(pair, rates))
    figures["harvest_tokens_per_second"] = {"pair": pair.value, **rates}
    if output is not None:
        output.write_text(json.dumps(figures, indent=2))


def in_turns(works: dict[str, speed.Work], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each work over `rounds`, taken in turns after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with console.status("measuring") as status:
        for turn in range(rounds + 1):
            for name, work in works.items():
                status.update(f"round {turn} of {rounds}: {name}")
                start = perf_counter()
                work()
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
                seconds[name].append(perf_counter() - start)
    return {name: median(taken[1:]) for name, taken in seconds.items()}


def machine(device: str) -> str:
    """One line: processor or GPU, threads, torch."""
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        where = f"{platform.machine()} {capability}, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}"


def _step_table(shape: speed.Shape, times: dict[str, float], peaks: dict[str, Any]) -> Table:
    table = Table(title=str(shape), title_justify="left", caption_justify="left")
    table.add_column("work", no_wrap=True)
    for column in ("ms", "faster", "/ product", "GiB", "beyond"):
        table.add_column(column, justify="right", no_wrap=True)
    for work, seconds in times.items():
        is_l1 = work in (speed.SAELENS_L1, speed.OURS_L1)
        saelens = times[speed.SAELENS_L1 if is_l1 else speed.SAELENS_BATCHTOPK]
        in_bf16 = work in (speed.OURS_SCREENED, speed.ENCODER_BF16)
        product = times[speed.ENCODER_BF16 if in_bf16 else speed.ENCODER_FLOAT32]
        table.add_row(
            work,
            f"{seconds * 1e3:,.1f}",
            f"{saelens / seconds:.1f}x" if "step" in work else "",
            f"{seconds / product:.2f}",
            *(f"{part / 2**30:.2f}" for part in peaks.get(work, ())),
        )
    whole = times[speed.LEAVE_ONE_OUT] * shape.d_sae
    table.caption = (
        "faster: than SAELens. product: the encoder's alone, in the same precision. GiB: peak "
        "memory of a step, and what of it is beyond weights, gradients and Adam's moments. "
        f"Leave-one-out for all latents, extrapolated: {whole:,.0f} s = "
        f"{whole / times[speed.SCALING]:,.0f} x the same eight betas by Latent Scaling."
    )
    return table


def _harvest_times(pair: DemoPair, rounds: int, device: str) -> tuple[dict[str, float], int]:
    settings = SETTINGS[pair.value]
    folders = pair_folders(pair.value, console)
    loaded = HookedModelPair.from_pretrained(
        str(folders.base),
        str(folders.chat),
        hook_name=settings.hook_name,
        dtype=settings.dtype,
        device=device,
    )
    works, tokens = speed.harvest_workloads(loaded)
    return in_turns(works, rounds, device), tokens


def _harvest_table(pair: DemoPair, rates: dict[str, float]) -> Table:
    table = Table("work", title=f"Harvest, pair {pair.value}", title_justify="left")
    for column in ("tokens/s", "share"):
        table.add_column(column, justify="right")
    for work, rate in rates.items():
        table.add_row(work, f"{rate:,.0f}", f"{rate / rates[speed.RAW_FORWARDS]:.0%}")
    return table
