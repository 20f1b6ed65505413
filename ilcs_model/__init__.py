"""The ILCS network, its training, evaluation and files. Knows nothing of the pipeline that runs it.

``create`` builds an untrained network by name; ``files.load_model`` reads a trained one, with what a deployment needs to know.
"""

import inspect
import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURES", "GROUP", "architectures", "create"]

ARCHITECTURES = {
    "ilcs": "ilcs_model.networks.ilcs:ILCS",
    "resnet50": "ilcs_model.networks.resnet50:ResNet50",
    "mobilenet_v2": "ilcs_model.networks.mobilenet_v2:MobileNetV2",
    "effnet": "ilcs_model.networks.effnet:EffNet",
}
"""Our own networks. Each is a class that is called with the number of classes and, by keyword, its options."""
GROUP = "linepipe.models"
"""Group of the entry points with which other packages offer more networks. The names of ``ARCHITECTURES`` are taken."""


def architectures() -> tuple[str, ...]:
    """Every name that ``create`` knows: linepipe's own, then those of installed packages, sorted."""
    return (*ARCHITECTURES, *sorted({point.name for point in entry_points(group=GROUP)} - ARCHITECTURES.keys()))


def create(name: str, num_classes: int, **options: bool) -> "nn.Module":
    """Build an untrained network: uint8 tiles (N, 1 or 3, S, S) -> logits (N, num_classes).

    ``effnet``, and ``ilcs`` without ``invariant``, take tiles of 300 pixels, the others any size. Each has ``features`` (tiles ->
    its last map) and ``classify`` (that map -> logits). ``options`` are those of the network: see its class. With the option
    ``locate`` it gives (logits, map).

    Raises ``ValueError`` for an unknown name, fewer than two classes, an option that the network does not have, a name that two
    packages offer, and a package that cannot be imported.
    """
    if name not in architectures():
        raise ValueError(f"unknown model {name!r}; known: {', '.join(architectures())}")
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least two classes, got {num_classes}")
    network = _load(name)
    try:
        takes = [p.name for p in inspect.signature(network).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if not (unknown := sorted(options.keys() - set(takes))):
            built: nn.Module = network(num_classes, **options)
            return built
    except Exception as exc:
        if name in ARCHITECTURES:
            raise
        raise ValueError(f"the model {name} cannot be built: {exc!r}; mend or remove its package") from exc
    raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(takes) or 'none'}")


def _load(name: str) -> Any:
    if name in ARCHITECTURES:
        return pkgutil.resolve_name(ARCHITECTURES[name])
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if len({point.value for point in found}) > 1:
        raise ValueError(f"two packages offer the model {name}: {' and '.join(sorted(p.value for p in found))}; uninstall one of them")
    try:
        return found[0].load()
    except (Exception, SystemExit) as exc:  # another package's code
        raise ValueError(f"the model {name} ({found[0].value}) cannot be imported: {exc!r}; mend or remove that package") from exc
