"""Deployable forms of a model file. Each takes ``tiles``, uint8 (N, 1, S, S), and gives ``logits`` (N, K) and, if the model
locates, ``maps`` (N, h, w), both float32. They are for models of grey tiles; the caller must refuse those of coloured ones.
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
"""Batch for which compiled code is tuned; batches of other sizes run the same code."""


def to_openvino(path: Path, target: Path) -> None:
    """Write the model as OpenVINO IR, float32, for any N: ``target``, a path that ends in .xml, and a .bin beside it.

    Raises ``ModelFileError`` if the model cannot be loaded, ``ImportError`` without openvino; OpenVINO's own errors pass through.
    """
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
    """Write the model as ONNX, float32, for any N: ``target``, one file. Needs the library onnx.

    Uses torch's exporter from traces: the newer one, from ``torch.export``, needs three more libraries. Raises ``ModelFileError``
    if the model cannot be loaded; errors of the exporter pass through.
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
    """Write the model as compiled code for this machine's kind of processor or GPU: ``target``, a path that ends in .pt2.

    For N from 1 to 1024. ``device`` is ``cpu`` or ``cuda``; with ``bf16`` it computes in bfloat16. Takes a minute or more and
    needs a C++ compiler. ``torch._inductor.aoti_load_package`` loads the file. ``cache`` is the folder for intermediate files;
    it becomes TORCHINDUCTOR_CACHE_DIR of this process. Raises ``ModelFileError`` if the model cannot be loaded; errors of the
    compiler pass through.
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


def has_bf16(device: str) -> bool:
    """Whether ``cuda`` or ``cpu`` has bfloat16 instructions; on a CPU AVX512-BF16. Emulation does not count: it is slow."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()


class Mixed(nn.Module):
    """A network, put into evaluation mode, that computes in bfloat16 if ``bf16``, and returns float32; for evaluation only."""

    def __init__(self, network: nn.Module, device: str, bf16: bool) -> None:
        super().__init__()
        self.network, self._device, self._bf16 = network.eval(), device, bf16

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16):
            found = self.network(tiles)
        return (found[0].float(), found[1].float()) if isinstance(found, tuple) else found.float()


def fold_norms(network: nn.Module) -> nn.Module:
    """Put batch norms into the convolutions right before them; changes the network, which must be in evaluation mode, and returns it.

    It computes the same function. The first norm of ILCS stays: ``GreyHead`` folds it. EffNet's stay: they come after the
    activation.
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
