"""The settings of a training run: one record, written into the run folder and into the model's metadata."""

from pathlib import Path
from typing import Literal

import msgspec

from ilcs_model.errors import DataError

SMALL = 200
"""Side in pixels of the crops that most of a ``full`` run learns from: at the model's scale, for under half the work."""
SMALL_UNTIL = 0.8
"""Share of the run after which whole tiles take over."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are those of the ``full`` recipe. What a field says holds for both recipes unless it says otherwise.

    Building a record checks nothing; ``read_settings`` checks types.
    """

    model: str = "ilcs"
    miam: bool = False
    recipe: Literal["full", "paper"] = "full"
    """``paper``: the network and the augmentation of Pei et al. 2022, all epochs on whole tiles. ``full``: ours."""
    name: str = "model"
    epochs: int | None = 60
    """None: the run's length is ``budget_s``."""
    budget_s: float | None = None
    """Seconds of training instead of epochs; the time of judgements, on the way and at the end, is not counted."""
    batch: int = 16
    """Tiles in a step of one process."""
    seed: int = 0
    rate: float = 3e-3
    """Peak of AdamW's one-cycle schedule."""
    linear_rate: float = 2e-5
    """Peak rate of linear layers after a flattened map (``ilcs`` of the paper, ``effnet``): with 350,464 inputs a unit, one Adam step
    at the common rate moves their output by hundreds and the loss never leaves ln(classes)."""
    weight_decay: float = 0.02
    warm_up: float = 0.1
    """Share of the run in which the rate rises; a half cosine to 0 follows."""
    label_smoothing: float = 0.05
    map_weight: float = 0.5
    """Weight of the map's loss; that of the labels has 1."""
    average: float = 0.995
    """Share that the running average of the weights keeps at each step; less in the first steps."""
    clip_norm: float = 5.0
    """Largest norm of the gradient of all weights together."""
    norm_images: int = 1024
    """Training images over which batch-norm statistics are recomputed for the averaged weights."""
    patience: int = 6
    """Judgements on split ``val`` without a better one after which a run stops early."""
    loader: str = "auto"
    """What makes the training tiles: opencv, dali, or auto, which is dali on CUDA. See ``choose_loader``."""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """Kind of tiles; auto: rgb if the images are coloured, see ``check.has_colour``, else grey."""
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
    """Read the file ``settings.json`` of a run folder. Raises ``DataError`` naming it if it is missing, unreadable or wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except FileNotFoundError:
        raise DataError(f"{path}: not there; is {path.parent} the folder of a training run?") from None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not the settings of a training run ({exc})") from exc
