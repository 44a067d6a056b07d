"""Finding the model that resembles a set of features most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.daemon.cpu.model import Model, in_order, models

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Set as AbstractSet

__all__ = ["Decoded", "decode"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A model, and how a CPU differs from it."""

    model: Model
    more: tuple[str, ...]
    less: tuple[str, ...]
    """Features of the model that the CPU lacks; always none for a host's CPU."""


def decode(
    features: AbstractSet[str],
    *,
    vendor: str | None = None,
    signature: tuple[int, int] | None = None,
    host: bool = False,
    allowed: Collection[str] | None = None,
    preferred: str | None = None,
) -> Decoded | None:
    """Return the nearest model: of the CPU's own signature if there is one, else with the shortest list of differences.

    None where no model will do. ``host``: the CPU may lack nothing of it. ``allowed``: names to choose among.
    ``preferred``: the one to take if it can be taken at all.
    """
    best: Decoded | None = None
    best_is_own = False
    # Later models come first, so that of two as near the newer is taken.
    for model in reversed(models.values()):
        if allowed is not None and model.name not in allowed:
            continue
        if not (model.host if host else model.guest) or (vendor and model.vendor and vendor != model.vendor):
            continue
        less = model.features - features
        if host and less:
            continue
        if not host:
            less |= model.removed - features
        candidate = Decoded(model, tuple(in_order(features - model.features)), tuple(in_order(less)))
        if model.name == preferred:
            return candidate
        own = signature is not None and signature in model.signatures
        if best is None or (not own, _distance(candidate)) < (not best_is_own, _distance(best)):
            best, best_is_own = candidate, own
    return best


def _distance(decoded: Decoded) -> int:
    """Return how far a model is from a CPU.

    Differences are counted; for what the CPU lacks there is a growing penalty, since a guest that misses a feature of
    its model may fail, but a very old model with everything added keeps guests from using what there is. The numbers
    are libvirt's, found by comparing choices (they agree for all of 1366 pairs and triples of models).
    """
    lacking = len(decoded.less)
    steps = (lacking + 1) // 2
    penalty = (steps + 1) ** 2 // 2 if lacking else 0
    return len(decoded.more) + lacking + penalty
