"""Deployable forms of a model file: what takes ``tiles``, uint8 (N, 1, S, S) for any N, and gives ``logits`` (N, K) and,
if the model locates, ``maps`` (N, h, w), both float32. A file that cannot be loaded raises ``ModelFileError``.
"""

import itertools
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ilcs_model.files import load_model
from ilcs_model.info import ModelInfo
from ilcs_model.networks.ilcs import ILCS
from ilcs_model.no_telemetry import import_openvino

TILES, LOGITS, MAPS = "tiles", "logits", "maps"
TYPICAL = 16
"""Batch for which compiled code is tuned; other sizes run the same code."""


def to_openvino(path: Path, target: Path) -> None:
    """Write the model as OpenVINO IR: ``target`` .xml and .bin, float32."""
    ov = import_openvino()
    model, info = load_model(path)
    example = _tiles(info, 2)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", TracerWarning)  # the traced branches depend on fixed sizes alone
        warnings.simplefilter("ignore", DeprecationWarning)
        converted = ov.convert_model(model, example_input=example, input=[ov.PartialShape([-1, *example.shape[1:]])])
    converted.inputs[0].set_names({TILES})
    for output, name in zip(converted.outputs, (LOGITS, MAPS), strict=False):
        output.set_names({name})
    ov.save_model(converted, target, compress_to_fp16=False)


def to_onnx(path: Path, target: Path) -> None:
    """Write the model as ONNX: ``target``, one file, float32. Needs the library onnx.

    By torch's exporter from traces: the newer one, from ``torch.export``, needs three more libraries.
    """
    model, info = load_model(path)
    example = _tiles(info, 2)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # remarks on its age, on branches by fixed sizes, on what it does not simplify
        names = [TILES, LOGITS, MAPS] if isinstance(model(example), tuple) else [TILES, LOGITS]
        axes = {name: {0: "N"} for name in names}
        torch.onnx.export(
            model, (example,), target, input_names=names[:1], output_names=names[1:], dynamic_axes=axes, opset_version=18, dynamo=False
        )


def to_package(path: Path, target: Path, device: str, bf16: bool, cache: Path) -> None:
    """Write the model as compiled code, ``target`` .pt2, for this machine's kind of processor or GPU. Takes a minute or more.

    Needs a C++ compiler. ``torch._inductor.aoti_load_package`` loads it. ``cache`` is where intermediate files go.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    model, info = load_model(path)
    folded = fold_norms(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = Mixed(folded, device, bf16)
    batch = torch.export.Dim("N", min=1, max=1024)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch's remarks on parts of its own
        program = torch.export.export(network, (_tiles(info, TYPICAL).to(device),), dynamic_shapes=({0: batch},))
        torch._inductor.aoti_compile_and_package(program, package_path=str(target))


def _tiles(info: ModelInfo, count: int) -> Tensor:
    return torch.zeros(count, 1, info.recipe.size_px, info.recipe.size_px, dtype=torch.uint8)


class Mixed(nn.Module):
    """A network that computes in bfloat16, where ``bf16`` says so, and gives float32: evaluation only."""

    def __init__(self, network: nn.Module, device: str, bf16: bool) -> None:
        super().__init__()
        self.network, self._device, self._bf16 = network.eval(), device, bf16

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16):
            found = self.network(tiles)
        return (found[0].float(), found[1].float()) if isinstance(found, tuple) else found.float()


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
