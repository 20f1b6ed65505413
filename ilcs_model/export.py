"""Deployable forms of a model file."""

import itertools
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
    """Put batch norms into the convolutions right before them, in place; the same function, for evaluation only.

    The first one of ILCS stays: ``GreyHead`` folds it. EffNet's stay: they stand behind the activation.
    """
    if isinstance(network, ILCS):
        for number, block in enumerate(network.blocks):
            for k in (1, 2, 3, 4):
                if (number, k) != (0, 1):
                    _fold(block, f"conv{k}", f"bn{k}")
    for chain in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for (name, layer), (after, following) in itertools.pairwise(list(chain.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                _fold(chain, name, after)
    return network


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = parent.get_submodule(convolution), parent.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    setattr(parent, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(parent, norm, nn.Identity())
