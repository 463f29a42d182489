"""Planted pairs: activations of two models from a dictionary that we know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary, zipfian_firing_probabilities
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.testbeds.planted_relations import Relations

KINDS = (
    "shared",
    "rotated",
    "weaker",
    "base-only",
    "chat-only",
    "child",
    "co-firing",
    "composed",
    "part",
    "less-often",
)
CHAT_SPECIFIC = ("chat-only", "child", "co-firing")
"""What a flag should find: features of which the base model has nothing."""


@dataclass(frozen=True)
class PlantedConfig:
    """What to plant. The defaults are the standard planted pair.

    Args:
        d_model: width of each model.
        n_per_kind: how many features of each kind: "shared" (same direction in both), "rotated"
            (at `rotation` degrees in the chat model), "weaker" (`weakness` times as strong in
            the base, plus or minus up to `weakness_spread`), "base-only", "chat-only", and those
            of `planted_relations`: "child" and "co-firing" (chat-only ones tied to a shared
            feature), "composed" (the base writes it with two "part" features), "less-often"
            (rarer in the base).
        max_probability, min_probability: ends of the Zipf law of firing.
        noise: standard deviation per coordinate.
        mean_norm: norm of a mean vector added to every token (Gemma's is 4 times the spread).
        sink_probability, sink_norm: share and norm of tokens that are attention sinks.
        seed: of the dictionary; batches take their own.
    """

    d_model: int = 64
    n_per_kind: dict[str, int] = field(
        default_factory=lambda: {
            "shared": 160,
            "rotated": 10,
            "weaker": 10,
            "base-only": 20,
            "chat-only": 20,
        }
    )
    rotation: float = 60.0
    weakness: float = 0.4
    weakness_spread: float = 0.0
    max_probability: float = 0.05
    min_probability: float = 0.005
    noise: float = 0.05
    mean_norm: float = 0.0
    sink_probability: float = 0.0
    sink_norm: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(self.n_per_kind.keys() - set(KINDS))
        if unknown or sum(self.n_per_kind.values()) < 1:
            raise CrossdiffError(f"n_per_kind={self.n_per_kind} may plant {', '.join(KINDS)} only")


class PlantedPair:
    """Two dictionaries [features, d_model] that share one sparse code; `kinds` [features]."""

    def __init__(self, config: PlantedConfig | None = None):
        self.config = config = config or PlantedConfig()
        generator = torch.Generator().manual_seed(config.seed)
        self.kinds: NDArray[np.str_] = np.repeat(
            list(config.n_per_kind), list(config.n_per_kind.values())
        )
        n = len(self.kinds)
        self.kinds = self.kinds[torch.randperm(n, generator=generator).numpy()]
        directions = torch.nn.functional.normalize(
            torch.randn(n, config.d_model, generator=generator), dim=-1
        )
        self.relations = Relations(self.kinds)
        self.base, self.chat = self._dictionaries(directions, generator)
        self.means = config.mean_norm * torch.nn.functional.normalize(
            torch.randn(2, config.d_model, generator=generator), dim=-1
        )
        self._sink = config.sink_norm * torch.nn.functional.normalize(
            torch.randn(2, config.d_model, generator=generator), dim=-1
        )
        probabilities = zipfian_firing_probabilities(
            n, max_prob=config.max_probability, min_prob=config.min_probability
        )[torch.randperm(n, generator=generator)]
        self.probabilities = probabilities
        self.generator = ActivationGenerator(
            n, probabilities, mean_firing_magnitudes=1.0, std_firing_magnitudes=0.3
        )
        self._readers = [FeatureDictionary(n, config.d_model, initializer=None) for _ in range(2)]
        for reader, dictionary in zip(self._readers, (self.base, self.chat), strict=True):
            reader.feature_vectors.data.copy_(dictionary)

    def _dictionaries(
        self, directions: Tensor, generator: torch.Generator
    ) -> tuple[Float[Tensor, "features d"], Float[Tensor, "features d"]]:
        base, chat = directions.clone(), directions.clone()
        noise = torch.randn(directions.shape, generator=generator)
        orthogonal = noise - (noise * directions).sum(-1, keepdim=True) * directions
        orthogonal = torch.nn.functional.normalize(orthogonal, dim=-1)
        angle = torch.deg2rad(torch.tensor(self.config.rotation))
        is_kind = {kind: torch.from_numpy(self.kinds == kind) for kind in KINDS}
        turned = directions * angle.cos() + orthogonal * angle.sin()
        chat[is_kind["rotated"]] = turned[is_kind["rotated"]]
        base[is_kind["weaker"]] *= self._weakness(int(is_kind["weaker"].sum()))
        base[is_kind["chat-only"]] = 0.0
        chat[is_kind["base-only"]] = 0.0
        self.relations.arrange(base, chat)
        return base, chat

    def _weakness(self, n: int) -> Float[Tensor, "weaker 1"]:
        spread = self.config.weakness_spread
        return self.config.weakness + torch.linspace(-spread, spread, n)[:, None]

    def sample(self, n_tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        """(activations [n_tokens, 2 * d_model], the chat model's code [n_tokens, features])."""
        acts, codes = self.sample_codes(n_tokens, seed)
        return acts, codes[1]

    @torch.no_grad()
    def sample_codes(self, n_tokens: int, seed: int) -> tuple[Tensor, list[Tensor]]:
        """Activations, and the true codes of both models (they differ where a feature is rarer)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            code = self.relations.relate(self.generator.sample(n_tokens))
            codes = [self.relations.in_base(code), code]
            return self.activations(codes), codes

    def activations(self, codes: Sequence[Tensor]) -> Float[Tensor, "tokens d_in"]:
        """What the base and the chat model make of their codes: dictionary, mean, noise, sinks
        (torch's global generator)."""
        parts = [
            reader(code) + mean + self.config.noise * torch.randn(len(code), len(mean))
            for reader, code, mean in zip(self._readers, codes, self.means, strict=True)
        ]
        sinks = torch.rand(len(codes[0])) < self.config.sink_probability
        for part, sink in zip(parts, self._sink, strict=True):
            part[sinks] = sink
        return torch.cat(parts, dim=-1)

    def batches(self, batch_size: int, seed: int = 0) -> Iterator[Tensor]:
        """Endless fresh batches [batch_size, 2 * d_model]."""
        step = 0
        while True:
            yield self.sample(batch_size, seed=seed * 1_000_003 + step)[0]
            step += 1


def match_features(
    true_code: Float[Tensor, "tokens features"], acts: Float[Tensor, "tokens latents"]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each latent the planted feature it follows: (index, correlation) [latents].

    Correlation of activations, not of directions, so that a latent whose base decoder was shrunk
    is still matched to the concept it detects. Latents that never fire get correlation 0.
    """
    a = true_code.detach().double() - true_code.detach().double().mean(0)
    b = acts.detach().double() - acts.detach().double().mean(0)
    correlation = (b.T @ a) / (b.norm(dim=0)[:, None] * a.norm(dim=0)).clamp(min=1e-12)
    best = correlation.max(dim=-1)
    return best.indices.numpy(), best.values.numpy()
