"""What decides a training run: one record, written into the run folder and into the model's metadata."""

from pathlib import Path
from typing import Literal

import msgspec

from ilcs_model.errors import DataError

SMALL = 200
"""Side in pixels of the crops that most of a ``full`` run learns from: at the model's scale, for under half the work."""
SMALL_UNTIL = 0.8
"""Share of the run after which whole tiles take over."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are the ``full`` recipe; what a field says holds for both unless it says otherwise."""

    model: str = "ilcs"
    miam: bool = False
    recipe: Literal["full", "paper"] = "full"
    """``paper``: the network and the augmentation of Pei et al. 2022, all epochs on whole tiles. ``full``: ours."""
    name: str = "model"
    epochs: int | None = 60
    budget_s: float | None = None
    """Seconds of training instead of epochs; judgements, on the way and at the end, come on top."""
    batch: int = 16
    """Of one process."""
    seed: int = 0
    rate: float = 3e-3
    """Peak of AdamW's one-cycle schedule."""
    linear_rate: float = 2e-5
    """Of linear layers behind a flattened map (``ilcs`` of the paper, ``effnet``): with 350,464 inputs a unit, one Adam step
    at the common rate moves their output by hundreds and the loss never leaves ln(classes)."""
    weight_decay: float = 0.02
    warm_up: float = 0.1
    """Share of the run in which the rate rises; a half cosine to 0 follows."""
    label_smoothing: float = 0.05
    map_weight: float = 0.5
    """Of the map's loss beside that of the labels."""
    average: float = 0.995
    """Weight of the running average of the weights at each step, once past the first steps."""
    clip_norm: float = 5.0
    norm_images: int = 1024
    """Training images over which batch-norm statistics are recomputed for the averaged weights."""
    patience: int = 6
    """Judgements on split ``val`` without a better one after which a run stops early."""
    loader: str = "auto"
    """Who makes the training tiles: opencv, dali, or auto: dali on CUDA."""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """What tiles are: auto: rgb where the images are coloured."""
    init: str | None = None
    """Model file whose weights the run starts from."""

    @property
    def invariant(self) -> bool:
        """Whether the network is ILCS's invariant form."""
        return self.model == "ilcs" and self.recipe == "full"

    @property
    def any_size(self) -> bool:
        """Whether the network takes tiles of any size, so that it can learn from crops."""
        return self.invariant or self.model in ("resnet50", "mobilenet_v2")


def read_settings(path: Path) -> Settings:
    """Settings of a run folder. Raises ``DataError`` naming the file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except FileNotFoundError:
        raise DataError(f"{path}: not there; is {path.parent} the folder of a training run?") from None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not the settings of a training run ({exc})") from exc
