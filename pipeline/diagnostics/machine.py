"""What linepipe needs from the machine: memory, descriptors, processors, a clock."""

import os
import resource
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.errors import LinepipeError
from pipeline.diagnostics.finding import Finding, failed, ok, warning, warning_if
from pipeline.transport.ring import PAGE, Ring, memory_available, new_memfd

MIN_FILES = 256
MIN_MEMORY = 2 << 30
MOST_STOLEN = 0.02
_CGROUP = Path("/sys/fs/cgroup")


def findings() -> Iterator[Finding]:
    """Findings about memory, shared memory, open files, processors and the clock. Raises ``NodeError`` or ``OSError`` without /proc."""
    yield _memory()
    yield _memfd()
    yield _files()
    yield from _processors()
    yield _clock()


def memory_free() -> int:
    """Bytes of memory that can be taken: what the machine has, or less if a control group allows less.

    Raises ``NodeError`` or ``OSError`` if /proc does not say.
    """
    return min([memory_available(), *_group_rooms()])


def _group_rooms() -> Iterator[int]:
    """What each control group above this process still allows, in bytes; groups without a limit are left out."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, limit, usage = (
            (_CGROUP, "memory.max", "memory.current")
            if not controllers
            else (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(base):
                break
            most, used = _number(group / limit), _number(group / usage)
            if most is not None and used is not None and most < 1 << 60:
                yield max(0, most - used)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _memory() -> Finding:
    machine, free = memory_available(), memory_free()
    text = f"{free / 1e9:.1f} GB free" + (" (limit of the control group)" if free < machine else "")
    return warning_if(free < MIN_MEMORY, "memory", text, "loading a model wants about 2 GB")


def _memfd() -> Finding:
    """Frames travel in a sealed memfd: try one."""
    try:
        fd = new_memfd("linepipe-doctor")
        try:
            Ring.create(fd, 2, PAGE)
        finally:
            os.close(fd)
    except (OSError, LinepipeError) as exc:
        return failed("shared memory", f"no sealed memfd: {exc}", "allow memfd_create and fallocate (seccomp, container settings)")
    return ok("shared memory", "sealed memfd works")


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = f"raise it to {MIN_FILES} at least: ulimit -n, or LimitNOFILE= of systemd"
    return warning_if(0 <= soft < MIN_FILES, "open files", f"at most {soft}", advice)


def _processors() -> Iterator[Finding]:
    count = len(os.sched_getaffinity(0))
    text = f"{count} of {os.cpu_count()}" if count != os.cpu_count() else str(count)
    yield warning_if(count < 2, "processors", text, "give it two at least: capture and inference share one otherwise")
    try:
        ticks = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        stolen = ticks[7] / (sum(ticks[:8]) or 1)
    except (OSError, ValueError, IndexError):
        return
    if stolen > MOST_STOLEN:
        yield warning("stolen time", f"{stolen:.1%} since the start", "another virtual machine takes it: latencies will vary")
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    try:
        mode, driver = ((governor / name).read_text().strip() for name in ("scaling_governor", "scaling_driver"))
    except OSError:  # virtual machines have none
        return
    slow = mode == "powersave" and "pstate" not in driver
    yield warning_if(slow, "governor", mode, "set performance: cpupower frequency-set -g performance")


def _clock() -> Finding:
    """Events contain the wall clock; it is wrong if it is earlier than the installation of linepipe."""
    now, made = time.time(), Path(__file__).stat().st_mtime
    text = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < made:
        return failed("clock", f"{text}, which is before linepipe was installed", "set it, best by NTP (chrony, systemd-timesyncd)")
    return ok("clock", text)
