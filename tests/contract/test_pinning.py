"""Pinning a ring for the GPU, against a CUDA driver of our own: what it is asked, and what a refusal is called."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.system.cuda import Pinned

DRIVER = """
static int flags = -1, let_go = 0;
int cuMemHostRegister_v2(void *at, unsigned long bytes, unsigned given) { flags = (int)given; return CODE; }
int cuMemHostUnregister(void *at) { let_go++; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 113 ? ABLE : -1; return 0; }
int cuGetErrorName(int code, const char **name) { *name = code == 801 ? "CUDA_ERROR_NOT_SUPPORTED" : "CUDA_ERROR_OTHER"; return 0; }
int asked_flags(void) { return flags; }
int times_let_go(void) { return let_go; }
"""
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to build a driver: apt-get install gcc")


def driver(folder: Path, code: int, able: int) -> Any:
    source, library = folder / "driver.c", folder / "driver.so"
    source.write_text(DRIVER)
    subprocess.run(["gcc", "-shared", "-fPIC", f"-DCODE={code}", f"-DABLE={able}", "-o", library, source], check=True, timeout=60)
    return ctypes.CDLL(str(library))


def test_memory_is_pinned_read_only_and_let_go_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = driver(tmp_path, 0, 1)
    monkeypatch.setattr("pipeline.system.cuda.driver", lambda: cuda)

    pinned = Pinned(np.zeros(4096, np.uint8))
    pinned.close()

    assert pinned.refusal == ""
    assert (cuda.asked_flags(), cuda.times_let_go()) == (8, 1)  # CU_MEMHOSTREGISTER_READ_ONLY


@pytest.mark.parametrize(("able", "text"), [(0, "the driver never pins read-only memory"), (1, "the driver pins read-only memory")])
def test_a_refusal_has_the_drivers_name_and_says_whether_it_ever_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: int, text: str
) -> None:
    cuda = driver(tmp_path, 801, able)
    monkeypatch.setattr("pipeline.system.cuda.driver", lambda: cuda)

    pinned = Pinned(np.zeros(4096, np.uint8))
    pinned.close()

    assert pinned.refusal == f"CUDA_ERROR_NOT_SUPPORTED; {text}"
    assert cuda.times_let_go() == 0
