"""YAML into plain values, with the line each key stands on. No aliases, no tags, no duplicate keys."""

from typing import Any

import yaml

from pipeline.core.errors import ConfigError

MAX_DEPTH = 32
_OPENING = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def parse_yaml(text: str, name: str) -> tuple[Any, dict[str, int | str]]:
    """The document as dicts, lists and scalars, and ``{"a.b": line}`` for every key (lines count from 1).

    Raises ``ConfigError``: a broken file, an anchor, alias or tag (they can hide what a file says), a key twice.
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
        raise ConfigError(f"{name}:{line}: not valid YAML: {problem}. Mend the line or the one above it") from exc
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
                raise ConfigError(f"{name}:{here}: {path}: stands twice; keep one")
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
