from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_crossdiff import Crosscoder, HookedModelPair
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.interventions import splice_quality

CANONICAL = "blocks.1.hook_out"


@torch.no_grad()
def test_splice_equals_single_documents_with_replaced_residual_streams(
    pair: HookedModelPair, crosscoder: Crosscoder, sequences: list[TokenSequence]
) -> None:
    table = splice_quality(pair, crosscoder, sequences, batch_size=3)
    joined = torch.cat([pair.activations(torch.from_numpy(s.ids)[None])[0, 1:] for s in sequences])
    mean = joined.double().mean(0).split([64, 64])
    for index, name in enumerate(("base", "chat")):
        model = pair.models[name]
        losses: dict[str, list[float]] = {"reconstruction": [], "zero": [], "mean": [], "clean": []}
        kept: list[bool] = []
        for sequence in sequences:
            tokens = torch.from_numpy(sequence.ids)[None]
            acts = pair.activations(tokens)
            own = acts.split([64, 64], dim=-1)[index]
            replacements = {
                "reconstruction": crosscoder(acts).split([64, 64], dim=-1)[index],
                "zero": torch.zeros_like(own),
                "mean": mean[index].float().expand_as(own).clone(),
                "clean": own,
            }
            for condition, new in replacements.items():
                new = new.clone()
                new[:, 0] = own[:, 0]  # BOS
                hook = (CANONICAL, lambda t, hook, new=new: new)
                logits = model.run_with_hooks(tokens, fwd_hooks=[hook])[0, :-1].double()
                loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
                losses[condition] += loss.tolist()
            content = ~(sequence.masks["template"] | sequence.masks["special"])
            kept += (content[:-1] & content[1:]).tolist()
        for group, chosen in (("all", np.ones(len(kept), bool)), ("content", np.array(kept))):
            ce = {c: np.array(values)[chosen].mean() for c, values in losses.items()}
            for condition in ("reconstruction", "zero", "mean"):
                row = table.loc[(name, group, condition)]
                assert row["ce"] == pytest.approx(ce[condition], rel=1e-4)
                assert row["clean_ce"] == pytest.approx(ce["clean"], rel=1e-4)
                assert row["tokens"] == chosen.sum()
            row = table.loc[(name, group, "reconstruction")]
            lost = (ce["zero"] - ce["reconstruction"]) / (ce["zero"] - ce["clean"])
            assert row["recovered_zero"] == pytest.approx(lost, rel=1e-3)
            error = table.loc[(name, group, "with error")]
            assert error["ce"] == pytest.approx(error["clean_ce"], abs=1e-5)
            assert error["recovered_mean"] == pytest.approx(1, abs=1e-4)
            assert error["kl"] < 1e-6 < row["kl"]
