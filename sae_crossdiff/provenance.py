"""Where an artefact came from, and whether two artefacts may be joined."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from sae_crossdiff.errors import CrossdiffError

PACKAGES = ("sae-crossdiff", "sae-lens", "transformer-lens", "transformers", "torch")
MUST_AGREE = ("models", "hook_name", "tokenizer_hash")


def package_versions() -> dict[str, str]:
    """Versions of the packages that make the numbers, and of Python."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@dataclass(frozen=True)
class Provenance:
    """What made an artefact. Shards, crosscoders, tables and reports each carry one.

    Empty strings and dicts mean "unknown": an unknown never contradicts a known value.
    """

    models: dict[str, str] = field(default_factory=dict)
    hook_name: str = ""
    tokenizer_hash: str = ""
    text: str = ""
    outlier_policy: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=package_versions)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> Provenance:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in (values or {}).items() if k in known})

    def check_joins(self, other: Provenance, ours: str, theirs: str) -> None:
        """Raise `CrossdiffError` if the two come from other models, hooks or tokenizers."""
        for name in MUST_AGREE:
            mine, yours = getattr(self, name), getattr(other, name)
            if mine and yours and mine != yours:
                raise CrossdiffError(
                    f"{ours} and {theirs} do not belong together: {name} is {mine!r} in one and "
                    f"{yours!r} in the other. Harvest with the pair the crosscoder was trained on"
                )
