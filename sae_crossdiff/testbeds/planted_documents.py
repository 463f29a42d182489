"""Planted pairs whose tokens come in documents: neighbours share their features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import Crosscoder, CrosscoderConfig
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.testbeds.planted import PlantedPair


@dataclass(frozen=True)
class DocumentsConfig:
    """How alike the tokens of a document are.

    Args:
        length: mean number of tokens; documents have length/2 to 3/2 length, uniformly.
        within: how often a feature fires inside the documents that are about it; outside it never
            does, and on the whole as often as the pair says. Must exceed the pair's largest rate.
        variation: standard deviation of the log of a feature's strength, drawn once per document
            and model: nu differs between documents.
    """

    length: int = 64
    within: float = 0.25
    variation: float = 0.3

    def __post_init__(self) -> None:
        if self.length < 2 or not 0 < self.within <= 1:
            raise CrossdiffError(
                f"length={self.length} must be at least 2 and within={self.within} in (0, 1]"
            )


@torch.no_grad()
def sample_documents(
    planted: PlantedPair, n_documents: int, seed: int, config: DocumentsConfig | None = None
) -> tuple[ActivationBatch, Float[Tensor, "tokens features"]]:
    """Tokens of whole documents, in order, and their true code."""
    config = config or DocumentsConfig()
    rates = planted.probabilities
    if float(rates.max()) > config.within:
        raise CrossdiffError(
            f"within={config.within} is below the pair's largest rate {float(rates.max()):g}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spread = torch.randint(config.length // 2, 3 * config.length // 2 + 1, (n_documents,))
        document = torch.repeat_interleave(torch.arange(n_documents), spread)
        about = torch.rand(n_documents, len(rates)) < rates / config.within
        fires = (torch.rand(len(document), len(rates)) < config.within) & about[document]
        strength = (1 + 0.3 * torch.randn(len(document), len(rates))).clamp(min=0.1)
        code = planted.relations.relate(fires * strength)
        factors = torch.exp(config.variation * torch.randn(2, n_documents, len(rates)))
        codes = [
            planted.relations.in_base(code) * factors[0][document],
            code * factors[1][document],
        ]
        acts = planted.activations(codes)
    starts = torch.cumsum(spread, 0) - spread
    positions = torch.arange(len(document)) - starts[document]
    unknown = torch.full((len(document),), -1)
    return ActivationBatch(acts, unknown, positions, document), code


def planted_crosscoder(planted: PlantedPair, threshold: float = 0.6) -> Crosscoder:
    """The pair's own dictionary as a crosscoder: its errors are interference and noise.

    Latent j is feature j. The encoder reads the sum of both models' projections on the feature,
    scaled so that a feature alone gives f = its strength; smaller f than `threshold` are cut.
    """
    d = planted.config.d_model
    crosscoder = Crosscoder(CrosscoderConfig(d_in=2 * d, d_sae=len(planted.kinds)))
    W_dec = torch.cat([planted.base, planted.chat], dim=-1)
    W_enc = (W_dec / W_dec.pow(2).sum(-1, keepdim=True)).T
    mean = planted.means.flatten()
    with torch.no_grad():
        crosscoder.W_dec.copy_(W_dec)
        crosscoder.W_enc.copy_(W_enc)
        crosscoder.b_dec.copy_(mean)
        crosscoder.b_enc.copy_(-mean @ W_enc)
        crosscoder.threshold.fill_(threshold)
    return crosscoder
