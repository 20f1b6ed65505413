"""Where a command runs: the machine in one line, and the user's folder for converted models."""

import os
import platform
import sys
from pathlib import Path

from pipeline.errors import LinepipeError


def machine() -> str:
    """Processor, memory, system and the GPU where torch is loaded and has one: what a speed was measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "processor")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return f"{len(os.sched_getaffinity(0))} x {cpu}, {memory} GiB, {platform.system()} {platform.machine()}" + _gpu()


def engines_cache() -> Path:
    """``$XDG_CACHE_HOME/linepipe/engines`` (``~/.cache`` by default), which exists then. Raises ``LinepipeError``.

    What lies there is keyed by the model's digest, and may be deleted at any time.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
        folder = base / "linepipe" / "engines"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as exc:
        raise LinepipeError(f"converted models cannot be kept ({exc}); name a folder that can be written in XDG_CACHE_HOME") from exc
    return folder


def _gpu() -> str:
    torch = sys.modules.get("torch")  # an engine that uses the GPU has imported it
    return f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
