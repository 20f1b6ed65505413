"""One thing that ``linepipe doctor`` looked at."""

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One check's result: ``name`` of what was checked, what was ``found``, and ``advice``, what to do; empty if all is well."""

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, advice: str) -> Finding:
    """The line runs, but not as well as it could."""
    return Finding(name, "warning", found, advice)


def warning_if(trouble: bool, name: str, found: str, advice: str) -> Finding:
    """A warning if there is ``trouble``, else all is well: ``found`` is said in either case."""
    return warning(name, found, advice) if trouble else ok(name, found)


def failed(name: str, found: str, advice: str) -> Finding:
    """The line cannot run, or cannot keep its promises."""
    return Finding(name, "failed", found, advice)
