"""How many schedules: ``LINEPIPE_CHAOS_SEEDS=1,2,3`` or ``=1-100``; without it a few, so that every run of the suite has some."""

import os

import pytest

from tests.system.conftest import make_line, shared

__all__ = ["make_line", "shared"]
FEW = (1, 2, 3)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(os.environ.get("LINEPIPE_CHAOS_SEEDS", "")))


def _seeds(text: str) -> list[int]:
    if not text:
        return list(FEW)
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
