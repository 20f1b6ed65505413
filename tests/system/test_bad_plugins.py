"""Parts of other packages that break their promises are named, with what to do; no traceback, and nothing else suffers."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.line import LINEPIPE, Line

NAMES = {
    "sources": {"bare": "bad_parts:BARE", "loud": "bad_parts:LOUD"},
    "engines": {"nothing": "bad_parts:nothing", "words": "bad_parts:Words", "dead": "bad_parts:dead"},
    "models": {"broken": "bad_parts:Broken", "wide": "bad_parts:Wide", "plain": "bad_parts:plain", "keeper": "bad_parts:Keeper"},
}
CODE = """
print("a word that nobody asked for")
import msgspec
import torch
from torch import nn
from pipeline.config.urls import SourceKind


class Flag(msgspec.Struct, frozen=True):
    flag: bool = False


BARE = SourceKind("bare:X", open=lambda url, opening: None, options=dict)
LOUD = SourceKind("loud:X", open=lambda url, opening: None, options=Flag)


def nothing(model, cache, max_batch):
    return None


def dead(model, cache, max_batch):
    raise RuntimeError("no NPU")


class Words:
    def __init__(self, model, cache, max_batch):
        from nodes.infer.engines.eager import EagerEngine
        self.golden, self.gather, self.name = EagerEngine(model).golden, list, "words"

    def __call__(self, batch):
        return "hello"


class Broken(nn.Module):
    def __init__(self, num_classes):
        raise RuntimeError("network broken")


class Wide(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.last = nn.Linear(1, 2 * num_classes)

    def forward(self, tiles):
        return self.last(tiles.float().mean((1, 2, 3)).unsqueeze(1))


class Keeper(nn.Module):
    # right, and keeps what it computed in its first call

    kept = None

    def __init__(self, num_classes):
        super().__init__()
        self.last = nn.Linear(1, num_classes)

    def forward(self, tiles):
        if self.kept is None:
            self.kept = torch.ones(1, 1) * 2
        return self.last(tiles.float().mean((1, 2, 3)).unsqueeze(1) * self.kept) * self.kept


def plain():
    return None
"""


@pytest.fixture
def bad_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of wrong parts, installed."""
    about = tmp_path / "installed" / "bad_parts-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-parts\nVersion: 1\n")
    groups = [f"[linepipe.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in NAMES.items()]
    (about / "entry_points.txt").write_text("\n".join(groups))
    (about.parent / "bad_parts.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(about.parent), prepend=":")


def said(*words: str, code: int) -> str:
    done = subprocess.run([*LINEPIPE, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.usefixtures("bad_parts")
def test_options_that_cannot_be_options_are_said(make_line: Callable[..., Line]) -> None:
    line = make_line(cameras={"top": {"source": "bare:x"}})

    for command in ("validate", "run"):
        assert "the source bare: its options are no msgspec.Struct" in said(command, str(line.config), code=2)
    assert "flag=maybe should be true or false" in said(
        "validate", str(line.config), "--set", "cameras.top.source=loud:x?flag=maybe", code=2
    )


@pytest.mark.usefixtures("bad_parts")
def test_what_a_package_prints_is_not_part_of_the_answer(make_line: Callable[..., Line]) -> None:
    line = make_line(cameras={"top": {"source": "loud:x", "when_full": "block"}})

    done = subprocess.run([*LINEPIPE, "validate", str(line.config), "--json"], capture_output=True, text=True, timeout=60)

    assert json.loads(done.stdout)
    assert "a word that nobody asked for" in done.stderr


@pytest.mark.usefixtures("bad_parts")
@pytest.mark.parametrize(
    ("engine", "says"),
    [("nothing", "the engine nothing breaks its promises"), ("words", "the engine words breaks"), ("dead", "in the engine dead: no NPU")],
)
def test_an_engine_that_breaks_its_promises_is_named(tmp_path: Path, engine: str, says: str) -> None:
    text = said("eval", "ilcs-line", str(write_images(tmp_path)), "--split", "all", "--engine", engine, code=1)

    assert says in text


@pytest.mark.usefixtures("bad_parts")
@pytest.mark.parametrize(
    ("model", "says"),
    [("broken", "cannot be built: RuntimeError('network broken')"), ("plain", "cannot be built"), ("wide", "scores of shape (2, 4)")],
)
def test_a_network_that_cannot_be_trained_is_refused_before_training(tmp_path: Path, model: str, says: str) -> None:
    text = said("train", "--data", str(write_images(tmp_path)), "--out", str(tmp_path / "run"), "--model", model, "--epochs", "1", code=2)

    assert f"the model {model}" in text
    assert says in text


@pytest.mark.usefixtures("bad_parts")
def test_a_network_is_trained_as_if_nobody_had_tried_it_before(tmp_path: Path) -> None:
    said("train", "--data", str(write_images(tmp_path)), "--out", str(tmp_path / "run"), "--model", "keeper", "--epochs", "1", code=0)


def write_images(folder: Path) -> Path:
    """Two classes of eight noisy images."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for k in range(16):
        target = folder / "images" / ("inclusion", "scratches")[k % 2]
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / f"{k}.png"), rng.integers(0, 256, (64, 64), np.uint8))
    return folder / "images"
