"""A latent table, crosscoder and examples of any size, with hostile tokens among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sae_crossdiff import ActivationBatch, Crosscoder, CrosscoderConfig, SparseCode
from sae_crossdiff.diffing.norms import norm_buckets
from sae_crossdiff.diffing.verdicts import VerdictThresholds, specificity, verdicts
from sae_crossdiff.provenance import Provenance
from sae_crossdiff.reporting import ExampleCollector, save_examples
from sae_crossdiff.reporting.report_data import ReportSources

HOSTILE = [
    "<script>window.broken = true</script>",
    "</script><img src=x onerror='window.broken = true'>",
    "\"quotes' & &amp; `ticks` ${0} \\u0041",
    "\u202eright to left\u202c\u200f",
    "👩‍🚀🏴‍☠️",
    "\ud83d",  # half a character
    "\ufffd",
    "line\u2028separator\u0000",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
]


class HostileTokenizer:
    """Ids 0 to 9 are the hostile texts, all others words."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [1000]

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(HOSTILE[i] if i < len(HOSTILE) else f" w{i}" for i in ids)


def synthetic_sources(folder: Path, n: int, d: int = 8, n_tokens: int = 4096) -> ReportSources:
    """A report's sources with `n` latents; latent 3 is chat-specific and fires on hostile ids."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    crosscoder = Crosscoder(CrosscoderConfig(d_in=2 * d, d_sae=n))
    crosscoder.W_dec.data = torch.randn(n, 2 * d)
    table = synthetic_table(n, rng)
    collector = ExampleCollector(n)
    size, l0 = 1024, max(8, min(100, n // 4))
    for start in range(0, n_tokens, size):
        index = torch.arange(start, start + size)
        drawn = torch.arange(size)[:, None] * n + torch.randint(0, n, (size, l0))
        entries = drawn.flatten().unique()
        rows, columns = entries // n, entries % n
        ids = torch.where(index % 7 == 0, index // 7 % len(HOSTILE), 1000 + index % 300)
        chat = (index // 64) % 2 == 0
        batch = ActivationBatch(torch.zeros(size, 1), ids, index % 64, index // 64, {"chat": chat})
        values = torch.rand(len(entries)) + 0.1
        values[(columns == 3) & (ids[rows] < len(HOSTILE))] += 5
        collector(batch, SparseCode(rows, columns, values, size, n))
    save_examples(collector, table, folder)
    return ReportSources(table, crosscoder, folder, HostileTokenizer())


def synthetic_table(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Most latents shared; a share of one in fifty looks introduced."""
    new = rng.random(n) < 0.02
    new[3], new[4] = True, False
    columns: dict[str, Any] = {"delta": np.where(new, 0.95, rng.normal(0.5, 0.05, n))}
    centres = {
        "nu_error": np.where(new, rng.uniform(0, 0.3, n), rng.normal(0.9, 0.1, n)),
        "nu_reconstruction": np.where(new, rng.uniform(0, 0.6, n), rng.normal(0.9, 0.1, n)),
        "base_nu_error": rng.normal(1, 0.1, n),
        "base_nu_reconstruction": rng.normal(1, 0.1, n),
        "refitted_delta": np.where(new, 0.9, 0.5),
    }
    centres["nu_error"][3] = centres["nu_reconstruction"][3] = 0.01
    for name, centre in centres.items():
        width = rng.uniform(0.01, 0.1, n) * (name != "refitted_delta")
        columns |= {name: centre, f"{name}_low": centre - width, f"{name}_high": centre + width}
    shares = ("template_share", "assistant_share", "chat_share", "q_specific", "q_null", "cosine")
    columns |= {name: rng.random(n) for name in shares}
    positive = ("norm_base", "norm_chat", "mean_activation", "max_activation")
    columns |= {name: rng.lognormal(size=n) for name in positive}
    for target in ("error", "reconstruction", "activation", "activation_no_bias"):
        columns |= {f"beta_{target}_{m}": rng.random(n) for m in ("base", "chat")}
    columns |= {f"null_nu_{t}": rng.normal(0, 1, n) for t in ("error", "reconstruction")}
    table = pd.DataFrame(columns, index=pd.RangeIndex(n, name="latent"))
    table["active_tokens"] = rng.integers(40, 100_000, n)
    table.loc[n - 1, "active_tokens"] = 0
    table["bucket"] = pd.Series(norm_buckets(table["delta"].to_numpy()), dtype="string")
    table["twin"], table["twin_cosine"] = -1, np.nan
    table.loc[3, ["twin", "twin_cosine"]] = [4, 0.95]
    thresholds = VerdictThresholds()
    table["verdict"] = verdicts(table, thresholds)
    table["specificity"] = specificity(table, thresholds)
    counts = {"tested": n, "by_point": 12, "by_interval": 1}
    table.attrs = {
        "provenance": Provenance(
            models={"base": "some/<b>base</b>", "chat": "some/chat"}, hook_name="blocks.1.hook_out"
        ).to_dict(),
        "thresholds": dict(vars(thresholds)),
        "quality": {
            "fve": {"base": 0.9, "chat": 0.88}, "l0": 8.0, "dead_share": 1 / n, "tokens": 4096,
        },
        "nulls": {"random": counts, "permuted": counts},
    }  # fmt: skip
    return table
