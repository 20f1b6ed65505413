"""Deployable forms of a model file."""

import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ilcs_model.files import load_model
from ilcs_model.networks.ilcs import ILCS
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


def fold_norms(network: nn.Module) -> nn.Module:
    """Put ILCS's batch norms into the convolutions before them, in place; the same function, for evaluation only.

    The first block's first one stays: ``GreyHead`` folds it. Other networks are left as they are.
    """
    if isinstance(network, ILCS):
        for number, block in enumerate(network.blocks):
            for k in (1, 2, 3, 4):
                if (number, k) != (0, 1):
                    conv, norm = block.get_submodule(f"conv{k}"), block.get_submodule(f"bn{k}")
                    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
                    setattr(block, f"conv{k}", fuse_conv_bn_eval(conv, norm))
                    setattr(block, f"bn{k}", nn.Identity())
    return network
