"""The configuration of a line: its tree, and ``load``, which reads one YAML file into it.

Read once at the door, frozen, unknown keys refused. Nothing else in linepipe reads files or the environment for
settings; each node is handed this tree.
"""

import hashlib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

import msgspec
import yaml
from msgspec import Meta

from pipeline.config.plugins import ENGINES, SOURCES
from pipeline.config.urls import SourceUrl, redis_mistake, sink_mistake
from pipeline.config.yaml_lines import parse_yaml
from pipeline.core.errors import ConfigError
from pipeline.system.files import read_plain
from pipeline.system.user_path import misnamed

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="lower-case letters, digits, - and _; starts with a letter")]
Whole = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
MAX_FILE_BYTES = 1 << 20
_T = TypeVar("_T")


class _Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Camera(_Tree, frozen=True, kw_only=True):
    """One camera. Its frames are numbered from 0 in each run."""

    source: str
    """``folder:PATH[?loop=true&fps=N]``, ``video:PATH[?loop=true&fps=N]``, ``sim:strip[?seed=N&fps=N&repeat=N]``, or of another package."""
    speed_mps: Positive | None = None
    """Speed of the material in metres a second; with frame height and pixel size it gives the frame rate."""
    frame_px: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]] | None = None
    """Width and height of a frame; required by ``sim:``, unused by ``folder:``, held against the file by ``video:``."""
    pixel_mm: tuple[Positive, Positive] | None = None
    """Size of a pixel in mm, across and along the strip; None: no positions in mm."""
    when_full: Literal["block", "drop_oldest"] = "drop_oldest"
    """What a full ring does: ``block`` makes the source wait (replay; a live camera loses what it cannot hold, which is a gap),
    ``drop_oldest`` drops and says so (live)."""
    slots: Annotated[int, Meta(ge=2, le=4096)] = 64
    """Frames the ring holds."""
    edges: Literal["none", "auto"] = "none"
    """``auto``: the strip's edges are found in each frame (it is brighter than what lies beside it) and only it is judged."""
    ignore_px: tuple[tuple[Whole, Whole, Size, Size], ...] = ()
    """Boxes (x, y, width, height) of the frame that are not judged."""


class Preprocess(_Tree, frozen=True, kw_only=True):
    """How frames become tiles."""

    layout: Literal["grid", "whole"] = "grid"
    """``grid`` cuts tiles, ``whole`` makes the frame one tile."""
    tile_px: Annotated[int, Meta(ge=16, le=4096)] = 300
    """Side of a square of the frame that becomes one tile (``grid``)."""
    overlap_px: Annotated[int, Meta(ge=0)] = 0
    """How far neighbouring tiles overlap (``grid``)."""
    device: Literal["auto", "cpu", "gpu", "dali"] = "auto"
    """``cpu`` is OpenCV, ``gpu`` DALI on a CUDA device, ``dali`` DALI on the CPU (to compare)."""


class ClassRule(_Tree, frozen=True, kw_only=True):
    """What holds for one class of defects."""

    min_score: Annotated[float, Meta(ge=0, le=1)] | None = None
    """In place of ``infer.min_score``."""
    min_size_px: Whole | None = None
    """In place of ``infer.min_size_px``."""


class Infer(_Tree, frozen=True, kw_only=True):
    """How tiles become verdicts."""

    model: str
    """Name of a shipped model, or the path of a ``.safetensors`` file."""
    engine: str = "auto"
    """What executes the model, by name (``linepipe schema config`` lists all that are installed); ``auto`` is ``compiled`` on an
    NVIDIA GPU and ``openvino`` on a CPU."""
    max_batch: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Tiles per batch at most."""
    max_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] = 5.0
    """How long a tile waits at most for its batch to fill while the engine is busy; an idle engine never waits."""
    min_score: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Score from which a tile is a defect."""
    min_size_px: Whole = 0
    """Longer side of its box, in the frame's pixels, from which a defect is reported."""
    classes: dict[str, ClassRule] = {}
    """Exceptions by class, for instance ``{scratches: {min_score: 0.7, min_size_px: 30}}``."""


class Publish(_Tree, frozen=True, kw_only=True):
    """Where events go."""

    redis: str = "embedded"
    """``embedded`` starts a server under ``state_dir``; else a ``redis://``, ``rediss://`` or ``unix://`` URL."""
    sinks: dict[Name, str] = {}
    """Where events go beside Redis, by name: ``jsonl:PATH[?max_mb=N&keep=N]``, or of another package."""
    password_file: str | None = None
    """File (mode 0600) holding the Redis password; the environment's LINEPIPE_REDIS_PASSWORD does the same."""
    keep_days: Positive = 7.0
    """How long spool and stream keep events after Redis confirmed them, in days that the line ran."""
    keep_mib: Positive = 512.0
    """How much memory the embedded server's stream may take, in MiB; beyond it the oldest entries go, read or not."""
    images_mb: Positive = 1000.0
    """How much disk the crops of defects may take, in MB; the oldest go first."""


class Limits(_Tree, frozen=True, kw_only=True):
    """What a single frame may cost; beyond it the frame is invalid."""

    max_pixels: Annotated[int, Meta(ge=1)] = 50_000_000
    """Pixels of an encoded image, read from its header before it is decoded."""
    max_file_bytes: Annotated[int, Meta(ge=1)] = 32 << 20
    """Bytes of an encoded image; the ring's slots are no larger than this."""


class Config(_Tree, frozen=True, kw_only=True):
    """A whole line."""

    line: Name
    cameras: Annotated[dict[Name, Camera], Meta(min_length=1)]
    infer: Infer
    state_dir: str
    """Folder for everything that must last: spool, images, the embedded server's data."""
    preprocess: Preprocess = Preprocess()
    publish: Publish = Publish()
    limits: Limits = Limits()
    placement: dict[Name, list[Literal["preprocess", "infer"]]] = msgspec.field(
        default_factory=lambda: {"inspect": ["preprocess", "infer"]}
    )
    """Which stages share a process, by process name."""

    @property
    def stream(self) -> str:
        """Key of the Redis stream, and name of the Pub/Sub channel."""
        return f"linepipe:{self.line}:events"

    @property
    def state(self) -> Path:
        """``state_dir`` as an absolute path."""
        return Path(self.state_dir).absolute()

    def digest(self) -> str:
        """Short digest of line and state folder: names the line's runtime folder."""
        return hashlib.sha256(f"{self.line}\0{self.state}".encode()).hexdigest()[:12]


def load(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read ``path``, apply ``KEY.SUB=VALUE`` overrides, check what needs no other file. ``ConfigError`` names file, line and key."""
    try:
        text = read_plain(path, MAX_FILE_BYTES).decode("utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}. Name an existing configuration file") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text. Name a YAML configuration file") from exc
    tree, lines = parse_yaml(text, str(path))
    for item in overrides:
        _override(tree, lines, item)

    def where(key: str) -> str:
        """File and line of the key, or of its nearest parent that was written down."""
        probe = key
        while probe and probe not in lines:
            probe = probe.rpartition(".")[0]
        line = lines.get(probe, 1)
        return f"{path}:{line}" if isinstance(line, int) else line

    def convert(prefix: str, value: Any, kind: type[_T]) -> _T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            below, problem = _explain(str(exc))
            key = f"{prefix}.{below}".strip(".")
            raise ConfigError(f"{where(key)}: {key or 'the file'}: {problem}") from exc

    cameras = tree.get("cameras") if isinstance(tree, dict) else None
    for name, camera in cameras.items() if isinstance(cameras, dict) else ():
        convert(f"cameras.{name}", camera, Camera)  # one by one first: msgspec does not say which of them is wrong
    config = convert("", tree, Config)
    try:
        config = msgspec.structs.replace(config, state_dir=str(config.state))  # whatever becomes of the working directory
    except OSError as exc:
        text = f"{config.state_dir} counts from the working directory, which is gone; cd to one that is there"
        raise ConfigError(f"{where('state_dir')}: state_dir: {text}") from exc
    for key, problem in _misnamed(config) or _contradictions(config):
        raise ConfigError(f"{where(key)}: {key}: {problem}")
    return config


def _override(tree: Any, lines: dict[str, int | str], item: str) -> None:
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {item}: write --set KEY.SUB=VALUE, for instance --set cameras.top.source=folder:images")
    *parents, last = key.split(".")
    if "password" in last and last != "password_file":
        raise ConfigError(f"--set {key}: a secret on the command line is public; use LINEPIPE_REDIS_PASSWORD or publish.password_file")
    node = tree
    for name in parents:
        node = node.setdefault(name, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise ConfigError(f"--set {key}: {'.'.join(parents)} is not a group of keys")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        node[last] = value
    if isinstance(node[last], dict) and not value.lstrip().startswith("{"):  # "a: b" is text
        node[last] = value
    lines[key] = f"--set {key}"


def _explain(message: str) -> tuple[str, str]:
    """msgspec's message -> (dotted key, sentence)."""
    text, _, place = message.partition(" - at ")
    path = place.split(" in ")[-1].strip("`").removeprefix("$").removeprefix(".")
    key = path.replace("[...]", "").replace("[", ".").replace("]", "")
    if unknown := re.search(r"unknown field `(.*?)`", text):
        return f"{key}.{unknown[1]}".strip("."), "unknown key; remove it or correct its spelling (`linepipe schema config` lists all)"
    if missing := re.search(r"missing required field `(.*?)`", text):
        return f"{key}.{missing[1]}".strip("."), "is required and missing"
    return key, text[0].lower() + text[1:]


def _contradictions(config: Config) -> list[tuple[str, str]]:
    """What types cannot say: (key, sentence) for each mistake."""
    found: list[tuple[str, str]] = []
    for name, camera in config.cameras.items():
        key = f"cameras.{name}"
        try:
            found += [(f"{key}.{below}", problem) for below, problem in _of_source(camera)]
        except ConfigError as exc:
            found.append((f"{key}.source", str(exc)))
            continue
        if camera.frame_px is not None and math.prod(camera.frame_px) > config.limits.max_pixels:
            found.append((f"{key}.frame_px", f"is more than limits.max_pixels ({config.limits.max_pixels})"))
        if camera.frame_px is not None and any(_covers(box, camera.frame_px) for box in camera.ignore_px):
            found.append((f"{key}.ignore_px", "a box covers the whole frame: nothing would be judged"))
    grid = config.preprocess
    if grid.layout == "grid" and grid.overlap_px >= grid.tile_px:
        found.append(("preprocess.overlap_px", f"must be smaller than tile_px ({grid.tile_px})"))
    stages = [stage for stages in config.placement.values() for stage in stages]
    if sorted(stages) != ["infer", "preprocess"]:
        found.append(("placement", "must place preprocess once and infer once"))
    for name in config.placement:
        if name in ("publish", "redis", "capture"):
            found.append((f"placement.{name}", "is the name of another process; choose a different one"))
    if config.infer.engine != "auto" and not ENGINES.knows(config.infer.engine):
        found.append(("infer.engine", f"there is no engine {config.infer.engine!r}; write auto, {', '.join(ENGINES.names())}"))
    if problem := redis_mistake(config.publish.redis):
        found.append(("publish.redis", problem))
    for name, text in config.publish.sinks.items():
        if problem := sink_mistake(name, text):
            found.append((f"publish.sinks.{name}", problem))
    return found


def _of_source(camera: Camera) -> list[tuple[str, str]]:
    """What a source of linepipe's own lacks. Raises ``ConfigError`` for one that is not there.

    One of another package is not imported here: most processes of a line do not need it, and its package may be broken.
    """
    scheme = camera.source.partition(":")[0]
    if not SOURCES.is_own(scheme) and SOURCES.knows(scheme):
        return []
    url = SourceUrl.parse(camera.source)
    return list(url.kind.lacks(url, camera))


def _misnamed(config: Config) -> list[tuple[str, str]]:
    """Texts with names of files that no file can have."""
    publish = config.publish
    texts = {"state_dir": config.state_dir, "infer.model": config.infer.model, "publish.redis": unquote(publish.redis)}
    texts |= {f"cameras.{name}.source": camera.source for name, camera in config.cameras.items()}
    texts |= {f"publish.sinks.{name}": text for name, text in publish.sinks.items()}
    texts["publish.password_file"] = publish.password_file or ""
    return [(key, problem) for key, text in texts.items() if (problem := misnamed(text))]


def _covers(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    x, y, w, h = box
    return x == y == 0 and w >= size[0] and h >= size[1]
