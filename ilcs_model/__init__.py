"""The ILCS network, its training, evaluation and files. Knows nothing of the pipeline that runs it.

``create`` builds a network by name; ``files.load_model`` reads one with everything a deployment needs to know.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURES", "create"]

ARCHITECTURES = ("ilcs", "resnet50", "mobilenet_v2", "effnet")


def create(name: str, num_classes: int, *, miam: bool = False, invariant: bool = False, locate: bool = False) -> "nn.Module":
    """Build an untrained network: uint8 tiles (N, 1 or 3, S, S) -> logits (N, num_classes).

    ``ilcs`` and ``effnet`` take tiles of 300 pixels, the others any. Each has ``features`` (tiles -> its last map) and
    ``classify`` (that map -> logits).

    ``miam`` puts the paper's attention module before the head of a network that is not ``ilcs``, which always has it.
    ``invariant`` and ``locate`` are for ``ilcs`` alone. With ``invariant`` light and place count for nothing, and tiles may
    have any size. With ``locate`` the result is (logits, map): map (N, h, w) tells by logits where in the tile the
    defect lies.

    Raises ``ValueError`` for an unknown name, fewer than two classes, or what the network cannot.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(ARCHITECTURES)}")
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least two classes, got {num_classes}")
    if name == "ilcs":
        from ilcs_model.networks.ilcs import ILCS

        return ILCS(num_classes, invariant=invariant, locate=locate)
    if locate:
        raise ValueError(f"{name} has no map of where the defect lies; only ilcs does: leave the masks out, or train ilcs")
    if invariant:
        raise ValueError(f"{name} has no invariant form; only ilcs does")
    if name == "resnet50":
        from ilcs_model.networks.resnet50 import ResNet50

        return ResNet50(num_classes, miam=miam)
    if name == "mobilenet_v2":
        from ilcs_model.networks.mobilenet_v2 import MobileNetV2

        return MobileNetV2(num_classes, miam=miam)
    from ilcs_model.networks.effnet import EffNet

    return EffNet(num_classes, miam=miam)
