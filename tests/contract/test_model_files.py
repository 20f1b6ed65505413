"""Model files from anywhere: what is damaged, lies or is hostile is refused by name, in little memory and without running code."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from ilcs_model.errors import ModelFileError
from ilcs_model.files import load_model
from ilcs_model.info import METADATA_KEY, read_info
from pipeline.config.model_file import read_model
from pipeline.core.errors import ConfigError
from tests.tiny import write_tiny_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small model file that can be loaded."""
    found = write_tiny_model(tmp_path)
    assert load_model(found)[1].classes == ("a", "b", "c")
    return found


def rewrite(path: Path, change: Callable[[Tensors], object] = lambda _: None, **facts: Any) -> None:
    """Write the file again with other weights, or other facts in its metadata."""
    info = msgspec.to_builtins(read_info(path))
    tensors = load_file(path)
    change(tensors)
    info["recipe"].update({k: facts.pop(k) for k in ("decode", "size_px", "resize") if k in facts})
    save_file(tensors, path, metadata={METADATA_KEY: msgspec.json.encode({**info, **facts}).decode()})


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"size_px": 10**9}, "metadata cannot be right: .*size_px 16 to 4096"),
        ({"size_px": -5}, "size_px 16 to 4096"),
        ({"size_px": 10**30}, "size_px 16 to 4096"),
        ({"size_px": 0.5}, "metadata is not that of a linepipe model"),
        ({"decode": "cmyk"}, "decode is grey or rgb"),
        ({"resize": "lanczos"}, "resize bilinear"),
        ({"classes": ["a"]}, "1 classes; there must be 2 to"),
        ({"classes": ["a", "b", "a"]}, "all different"),
        ({"classes": [str(k) for k in range(20_000)]}, "20000 classes"),
        ({"classes": ["a", "b", "../c"]}, r"class '\.\./c' cannot be the name of a folder"),
        ({"classes": ["a", "b", "\x1b[2J"]}, "characters that cannot be seen"),
        (
            {"classes": ["a", "b", "c", "d"]},
            r"not those of 'tiny' with 4 classes.*fc\.\w+ is float32 \[3.*should be float32 \[4",
        ),
        ({"std": 0.0}, r"std is 0\.0"),
        ({"classes": 3}, "metadata is not that of a linepipe model"),
        ({"surprise": 1}, "metadata is not that of a linepipe model"),
    ],
)
def test_metadata_that_lies_is_refused(path: Path, facts: dict[str, Any], says: str) -> None:
    rewrite(path, **facts)

    with pytest.raises(ModelFileError, match=rf"(?s)tiny\.safetensors: .*{says}"):
        load_model(path)


def spoil(tensors: Tensors, value: float) -> None:
    tensors["fc.weight"][1, 2] = value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("fc.bias"), r"fc\.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is too many"),
        (lambda t: t.update({"fc.bias": torch.zeros(4)}), r"fc\.bias is float32 \[4\] and should be float32 \[3\]"),
        (lambda t: t.update({"fc.bias": torch.zeros(3, dtype=torch.int64)}), r"fc\.bias is int64 \[3\] and should be float32 \[3\]"),
        (lambda t: t.update({"fc.bias": torch.zeros(3, dtype=torch.float16)}), "is float16"),
        (lambda t: spoil(t, float("nan")), r"fc\.weight has values that are no numbers"),
        (lambda t: spoil(t, float("-inf")), r"fc\.weight has values that are no numbers"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(path: Path, change: Callable[[Tensors], object], says: str) -> None:
    rewrite(path, change)

    with pytest.raises(ModelFileError, match=rf"tiny\.safetensors: its weights are not those of 'tiny'.*{says}"):
        load_model(path)


def test_an_architecture_that_is_not_known_is_named(path: Path) -> None:
    rewrite(path, architecture="vgg")

    with pytest.raises(ModelFileError, match="unknown model 'vgg'"):
        load_model(path)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in [*range(0, len(data) - 1, 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"tiny\.safetensors: not a readable safetensors file"):
            load_model(path)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 70) + b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}    ' + b"0000",
        struct.pack("<Q", 70) + b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,999999999999]}}     ' + b"0000",
    ],
)
def test_a_header_that_promises_too_much_takes_no_memory(tmp_path: Path, header: bytes) -> None:
    """The file is read in a process that may have 1 GB at most beside what its libraries take."""
    path = tmp_path / "huge.safetensors"
    path.write_bytes(header)
    program = (
        "import resource, sys, pathlib, ilcs_model.info as info\n"
        "from ilcs_model.errors import ModelFileError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**9,) * 2)\n"
        "try: info.read_info(pathlib.Path(sys.argv[1]))\n"
        "except ModelFileError as exc: print(exc)"
    )

    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)

    assert "huge.safetensors: not a readable safetensors file" in done.stdout


def test_a_checkpoint_of_torch_is_not_opened(tmp_path: Path) -> None:
    """A pickle may run anything when it is read."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was run"),)

    for old in (True, False):
        path = tmp_path / "model.pt"
        torch.save({"model": Evil()}, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(ModelFileError, match=r"model\.pt: a checkpoint of torch.*give the model\.safetensors that training writes"):
            load_model(path)
    assert not (tmp_path / "was run").exists()


def test_what_is_no_file_of_ours_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such model file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        load_model(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"other\.safetensors: safetensors, but not of linepipe"):
        load_model(tmp_path / "other.safetensors")


def test_a_line_refuses_a_colour_model_and_says_what_to_do(path: Path) -> None:
    assert read_model(path).recipe.decode == "grey"
    rewrite(path, decode="rgb")

    assert load_model(path)[1].recipe.decode == "rgb"
    with pytest.raises(ConfigError, match=r"tiny\.safetensors is a colour model, and a line judges grey tiles; train a grey model"):
        read_model(path)


def test_a_flipped_bit_in_the_weights_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match="not those that were written"):
        load_model(path)


def test_a_model_file_is_readable_by_whom_the_folder_lets_in(path: Path) -> None:
    (beside := path.with_suffix(".txt")).write_text("x")

    assert path.stat().st_mode == beside.stat().st_mode
