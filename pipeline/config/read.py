"""Reading a line's configuration: one YAML file, with the line number of each key. No aliases, no tags, no duplicate keys.

Each process reads it once, as it starts; it cannot be changed afterwards, and unknown keys are refused. Nothing else in linepipe
reads files or the environment for settings, except for the password of Redis.
"""

import math
import re
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
import yaml

from pipeline.config.plugins import ENGINES, SOURCES
from pipeline.config.schema import Camera, ClassRule, Config, Name, Stage
from pipeline.config.urls import SourceUrl, redis_mistake, sink_mistake
from pipeline.core.errors import ConfigError
from pipeline.system.files import read_plain
from pipeline.system.user_path import misnamed

MAX_FILE_BYTES = 1 << 20
_T = TypeVar("_T")
MAX_DEPTH = 32
_OPENING = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def load(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read the YAML file ``path``, apply ``overrides`` (each ``KEY.SUB=VALUE``), and check what needs no other file.

    Paths are not looked up; ``state_dir`` is made absolute. Raises ``ConfigError``, which names file, line and key, if the file
    cannot be read or is larger than ``MAX_FILE_BYTES``, is not valid YAML, or has a key or value that is not allowed.
    """
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

    for group, kind in _BY_NAME.items():
        for name, value in _group(tree, group).items():
            convert(f"{group}.{name}", name, str if group == "infer.classes" else Name)
            convert(f"{group}.{name}", value, kind)
    config = convert("", tree, Config)
    try:
        config = msgspec.structs.replace(config, state_dir=str(config.state))  # so that a later chdir changes nothing
    except OSError as exc:
        text = f"{config.state_dir} counts from the working directory, which is gone; cd to one that is there"
        raise ConfigError(f"{where('state_dir')}: state_dir: {text}") from exc
    for key, problem in _misnamed(config) or _contradictions(config):
        raise ConfigError(f"{where(key)}: {key}: {problem}")
    return config


_BY_NAME: dict[str, Any] = {"cameras": Camera, "infer.classes": ClassRule, "publish.sinks": str, "placement": list[Stage]}
"""Groups of keys that users name themselves, with the type of each value: msgspec does not say in which of them a mistake is."""


def _group(tree: Any, path: str) -> dict[Any, Any]:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


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
    if "matching regex" in text:  # the only pattern is that of ``Name``
        return key, "a name begins with a lower-case letter, then lower-case letters, digits, `-` and `_`, at most 32 characters"
    if "Invalid enum value" in text:
        return key, f"{text[0].lower() + text[1:]}; `linepipe schema config` lists those allowed"
    return key, text[0].lower() + text[1:]


def _contradictions(config: Config) -> list[tuple[str, str]]:
    """Mistakes that the types of the keys do not find: (key, sentence) for each."""
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
    for name in config.publish.sinks:
        if problem := sink_mistake(name, config.publish.sinks, config.state):
            found.append((f"publish.sinks.{name}", problem))
    return found


def _of_source(camera: Camera) -> list[tuple[str, str]]:
    """What the other keys of a camera lack for its source, if that is one of linepipe's own: (key, sentence) for each.

    Raises ``ConfigError`` if there is no such source, or its URL is malformed. A source of another package is not imported here:
    most processes of a line do not need it, and its package may be broken.
    """
    scheme = camera.source.partition(":")[0]
    if not SOURCES.is_own(scheme) and SOURCES.knows(scheme):
        return []
    url = SourceUrl.parse(camera.source)
    return list(url.kind.lacks(url, camera))


def _misnamed(config: Config) -> list[tuple[str, str]]:
    """Keys whose text contains a file name that cannot exist, each with a sentence that says why."""
    publish = config.publish
    texts = {"state_dir": config.state_dir, "infer.model": config.infer.model, "publish.redis": unquote(publish.redis)}
    texts |= {f"cameras.{name}.source": camera.source for name, camera in config.cameras.items()}
    texts |= {f"publish.sinks.{name}": text for name, text in publish.sinks.items()}
    texts["publish.password_file"] = publish.password_file or ""
    return [(key, problem) for key, text in texts.items() if (problem := misnamed(text))]


def _covers(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    x, y, w, h = box
    return x == y == 0 and w >= size[0] and h >= size[1]


def parse_yaml(text: str, name: str) -> tuple[Any, dict[str, int | str]]:
    """Parse a YAML document: its dicts, lists and scalars, and ``{"a.b": line}`` for every key (lines count from 1).

    ``name`` is the file's name in messages. Raises ``ConfigError`` for text that is not valid YAML, is empty, is nested deeper than
    ``MAX_DEPTH``, gives a key twice, or has an anchor, alias or tag (they can hide what a file says).
    """
    depth = 0
    try:
        for token in yaml.scan(text, yaml.SafeLoader):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > MAX_DEPTH:
                raise ConfigError(f"{name}:{token.start_mark.line + 1}: nested too deeply")
            if isinstance(token, (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)):
                line = token.start_mark.line + 1
                raise ConfigError(f"{name}:{line}: anchors, aliases and tags are not allowed; write the value out")
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(exc, "problem", None) or "not YAML text"
        raise ConfigError(f"{name}:{line}: not valid YAML: {problem}. Correct the line or the one above it") from exc
    except RecursionError as exc:
        raise ConfigError(f"{name}: nested too deeply") from exc
    if root is None:
        raise ConfigError(f"{name}:1: the file is empty; start from deploy/line1.yaml")
    lines: dict[str, int | str] = {}
    return _build(root, "", lines, name, 0), lines


def _build(node: yaml.Node, key: str, lines: dict[str, int | str], name: str, depth: int) -> Any:
    line = node.start_mark.line + 1
    if depth > MAX_DEPTH:
        raise ConfigError(f"{name}:{line}: nested too deeply")
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value in node.value:
            here = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{name}:{here}: a key must be plain text")
            path = f"{key}.{key_node.value}".lstrip(".")
            if key_node.value in tree:
                raise ConfigError(f"{name}:{here}: {path}: is given twice; keep one")
            lines[path] = here
            tree[key_node.value] = _build(value, path, lines, name, depth + 1)
        return tree
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[f"{key}.{index}"] = item.start_mark.line + 1
            items.append(_build(item, f"{key}.{index}", lines, name, depth + 1))
        return items
    return yaml.SafeLoader("").construct_object(node, deep=True)
