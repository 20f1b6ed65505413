"""Deployable forms of a model file."""

import warnings
from pathlib import Path

import torch

from ilcs_model.files import load_model
from ilcs_model.silent import import_openvino


def to_openvino(path: Path, target: Path) -> None:
    """Write the model as OpenVINO IR (``target`` .xml and .bin): uint8 (N, 1, S, S) -> logits (N, K), any N.

    Raises ``ModelFileError`` for a file that cannot be loaded.
    """
    ov = import_openvino()
    model, info = load_model(path)
    side = info.recipe.size_px
    example = torch.zeros(2, 1, side, side, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the traced branches depend on fixed sizes alone
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.inference_mode():
            converted = ov.convert_model(model, example_input=example, input=[ov.PartialShape([-1, 1, side, side])])
    ov.save_model(converted, target, compress_to_fp16=False)
