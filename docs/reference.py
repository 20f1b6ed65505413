"""Writes the tables of docs/reference from the fields that they tell of; ``--check``: says whether they are as written.

A table stands between ``<!-- fields of NAME -->`` and ``<!-- end -->``, and is made anew.
"""

import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import Config
from pipeline.core.events import Event
from pipeline.core.status import LineStatus, Summary, json_schema

FOLDER = Path(__file__).parent / "reference"
TABLE = re.compile(r"(<!-- fields of (.+?) -->\n).*?(<!-- end -->)", re.S)


def main() -> int:
    """Exit code 1 with ``--check`` if a file is not as it would be written."""
    stale = []
    for file in sorted(FOLDER.glob("*.md")):
        text = file.read_text()
        made = TABLE.sub(lambda m: f"{m[1]}{_table(m[2])}{m[3]}", text)
        if made != text:
            stale.append(file.name)
            if "--check" not in sys.argv:
                file.write_text(made)
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"{', '.join(stale)}: not what the code says; run python docs/reference.py\n")
        return 1
    return 0


def _table(name: str) -> str:
    if name == "configuration":
        rows = [f"| `{key}` | {default} | {text} |" for key, default, text in _keys(Config, "")]
        return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"
    kinds: dict[str, Any] = {"events": Event, "status": LineStatus, "summary": Summary}
    kind, _, part = name.partition(" ")
    found = json_schema(kinds[kind], "")["$defs"]
    rows = [f"| `{field}` | {_type(told)} | {_text(told)} |" for field, told in found[part]["properties"].items()]
    return "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) + "\n"


def _keys(kind: Any, prefix: str) -> list[tuple[str, str, str]]:
    """(key, default, meaning) of a configuration, groups opened up."""
    rows: list[tuple[str, str, str]] = []
    for field, told in zip(msgspec.structs.fields(kind), msgspec.inspect.type_info(kind).fields, strict=True):  # type: ignore[attr-defined]
        inner = told.type
        text = ""
        while isinstance(inner, msgspec.inspect.Metadata):
            text = text or (inner.extra_json_schema or {}).get("description", "")
            inner = inner.type
        if isinstance(inner, msgspec.inspect.StructType):
            rows += _keys(inner.cls, f"{prefix}{field.name}.")
        elif isinstance(inner, msgspec.inspect.DictType) and field.name in ("cameras", "sinks"):
            value = inner.value_type
            if isinstance(value, msgspec.inspect.StructType):
                rows += _keys(value.cls, f"{prefix}{field.name}.NAME.")
            else:
                rows.append((f"{prefix}{field.name}.NAME", "none", _linked(text)))
        else:
            rows.append((f"{prefix}{field.name}", _default(field), _linked(text)))
    return rows


def _default(field: Any) -> str:
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value in (None, (), {}):
        return "none"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{k}: [{', '.join(v)}]" for k, v in value.items()) + "}`"
    return f"`{value}`" if isinstance(value, str) else f"{value:,g}" if value < 1e6 else f"{value:,}"


def _type(told: dict[str, Any]) -> str:
    if "anyOf" in told:
        return " or ".join(map(_type, told["anyOf"]))
    if "$ref" in told:
        name = told["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in told or "const" in told:
        return ", ".join(f"`{value}`" for value in told.get("enum", [told.get("const")]))
    if "prefixItems" in told:
        return "[" + ", ".join(map(_type, told["prefixItems"])) + "]"
    if told.get("type") == "array":
        return f"list of {_type(told['items'])}"
    if told.get("type") == "object":
        return f"{_type(told['additionalProperties'])} by name"
    return str(told.get("type", "any"))


def _text(told: dict[str, Any]) -> str:
    return str(told.get("description", "the type of the event" if "enum" in told or "const" in told else ""))


def _linked(text: str) -> str:
    return text.replace("another package", "[another package](../extending.md)")


if __name__ == "__main__":
    sys.exit(main())
