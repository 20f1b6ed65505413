"""The ILCS network, its training, evaluation and files. Knows nothing of the pipeline that runs it.

``create`` builds a network by name; ``files.load_model`` reads one with everything a deployment needs to know.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURES", "create"]

ARCHITECTURES = ("ilcs",)


def create(name: str, num_classes: int, *, miam: bool = False, locate: bool = False) -> "nn.Module":
    """Build an untrained network: uint8 tiles (N, 1 or 3, S, S) -> logits (N, num_classes).

    With ``locate`` the result is (logits, map): map (N, h, w) tells by logits where in the tile the defect lies.

    ``miam`` puts the paper's attention module before the head of a network that is not ``ilcs``, which always has it.
    Raises ``ValueError`` for an unknown name or fewer than two classes.
    """
    from ilcs_model.networks.ilcs import ILCS

    if name not in ARCHITECTURES:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(ARCHITECTURES)}")
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least two classes, got {num_classes}")
    return ILCS(num_classes, locate=locate)
