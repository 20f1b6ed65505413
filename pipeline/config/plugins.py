"""What can be plugged in: for each kind linepipe's own table of names, and what other packages offer through entry points.

A package offers an engine, for instance, by a line in its own ``pyproject.toml``; it is found once the package is installed::

    [project.entry-points."linepipe.engines"]
    tensorrt = "my_package.engine:TensorRtEngine"
"""

import functools
import pkgutil
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pipeline.core.errors import ConfigError


class Kind:
    """One kind of plug-in. ``word`` names the kind in messages; ``own`` is linepipe's table of name -> ``module:attribute``; ``group``
    is the group of entry points in which other packages offer theirs.

    Another package cannot take a name of ``own``: what it offers under that name is ignored.
    """

    def __init__(self, word: str, group: str, own: Mapping[str, str]) -> None:
        self.word, self.group, self._own = word, group, own

    def names(self) -> tuple[str, ...]:
        """Every name that can be used on this machine, linepipe's own first."""
        return (*self._own, *sorted({point.name for point in _entry_points(self.group)} - set(self._own)))

    def knows(self, name: str) -> bool:
        """Whether there is a plug-in of that name. Imports nothing."""
        return name in self._own or any(point.name == name for point in _entry_points(self.group))

    def is_own(self, name: str) -> bool:
        """Whether it is one of linepipe's own. Imports nothing."""
        return name in self._own

    def load(self, name: str) -> Any:
        """Import the plug-in of that name and return the object.

        Raises ``ConfigError`` if there is none, if two packages offer it, or if another package's cannot be imported; what the
        import of linepipe's own raises is passed through.
        """
        if name in self._own:
            return pkgutil.resolve_name(self._own[name])
        point = self._find(name)
        try:
            with redirect_stdout(sys.stderr):  # what a package prints while it is imported belongs to no answer in JSON
                return point.load()
        except (Exception, SystemExit) as exc:  # another package's code: whatever it raises is a plug-in that does not work
            raise ConfigError(f"the {self.word} {name} ({point.value}) cannot be imported: {exc!r}; mend or remove it") from exc

    def _find(self, name: str) -> EntryPoint:
        found = [point for point in _entry_points(self.group) if point.name == name]
        if not found:
            raise ConfigError(f"there is no {self.word} {name!r}; there are {', '.join(self.names())}")
        if len({point.value for point in found}) > 1:
            places = " and ".join(sorted(point.value for point in found))
            raise ConfigError(f"two packages offer the {self.word} {name}: {places}; uninstall one of them")
        return found[0]


@functools.cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. They are looked up once in a process: a line goes on with the packages with which it began,
    and the look-up takes milliseconds.

    A name that a configuration cannot contain is left out.
    """
    return tuple(point for point in entry_points(group=group) if re.fullmatch(r"[a-z][a-z0-9_-]*", point.name))


ENGINES = Kind(
    "engine",
    "linepipe.engines",
    {
        "openvino": "nodes.infer.engines.openvino:open_openvino",
        "onnx": "nodes.infer.engines.onnx:open_onnx",
        "compiled": "nodes.infer.engines.compiled:open_compiled",
        "eager": "nodes.infer.engines.eager:open_eager",
    },
)
"""Each is a function ``(model: Path, cache: Path, max_batch: int) -> Engine``: see ``nodes.infer.engines.golden_tiles.OpenEngine``."""
SOURCES = Kind(
    "source",
    "linepipe.sources",
    {
        "folder": "nodes.capture.sources.kinds:FOLDER",
        "video": "nodes.capture.sources.kinds:VIDEO",
        "sim": "nodes.capture.sources.kinds:SIM",
    },
)
"""By scheme. Each is a ``pipeline.config.urls.SourceKind``."""
SINKS = Kind("sink", "linepipe.sinks", {"jsonl": "nodes.publish.sinks.json_lines:JSON_LINES"})
"""By scheme, beside the Redis that every line has. Each is a ``pipeline.config.urls.SinkKind``."""
