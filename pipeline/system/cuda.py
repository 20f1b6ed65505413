"""What is asked of the CUDA driver itself, through ctypes: is there a GPU, and may it read host memory directly.

Importing torch for that would take a second.
"""

import ctypes
from typing import Any

from pipeline.core.tiles import Pixels

_READ_ONLY = 0x08  # CU_MEMHOSTREGISTER_READ_ONLY
_READ_ONLY_SUPPORTED = 113  # CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED
_NOTHING_THERE = (34, 100)  # CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE


def driver() -> Any | None:
    """The driver, if there is one and it sees a device; nothing is allocated on it.

    Raises ``RuntimeError`` for a driver that is there and does not start.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    code = cuda.cuInit(0)
    if code in _NOTHING_THERE:
        return None
    if code:
        raise RuntimeError(f"the CUDA driver does not start: {_name(cuda, code)}")
    return cuda


def has_cuda() -> bool:
    """Whether the driver is installed and shows at least one GPU to this process."""
    try:
        cuda = driver()
    except RuntimeError:
        return False
    count = ctypes.c_int(0)
    return cuda is not None and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


class Pinned:
    """Mapped memory that the device reads without a copy by the CPU, where the driver allows that.

    Wants a current CUDA context. The driver's own call, not the runtime's: a refusal there would be reported again
    by the next kernel that torch starts. ``refusal`` says why the memory is not pinned; empty: it is.
    """

    def __init__(self, memory: Pixels) -> None:
        self._memory = memory  # keeps the mapping while it is registered
        self._cuda = driver()
        self._at = ctypes.c_void_p(memory.ctypes.data)
        self.refusal = "no CUDA driver"
        if self._cuda is not None:
            code = self._cuda.cuMemHostRegister_v2(self._at, ctypes.c_size_t(memory.nbytes), ctypes.c_uint(_READ_ONLY))
            self.refusal = _why(self._cuda, code) if code else ""

    def close(self) -> None:
        """Let the memory go; no copy may be under way."""
        if self._cuda is not None and not self.refusal:
            self._cuda.cuMemHostUnregister(self._at)


def _why(cuda: Any, code: int) -> str:
    """A refusal to pin: the driver's code, and whether it pins read-only mappings at all."""
    able = ctypes.c_int(-1)
    asked = cuda.cuDeviceGetAttribute(ctypes.byref(able), _READ_ONLY_SUPPORTED, 0)
    known = "cannot be asked whether it pins read-only memory" if asked else f"{'pins' if able.value else 'never pins'} read-only memory"
    return f"{_name(cuda, code)}; the driver {known}"


def _name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if cuda.cuGetErrorName(code, ctypes.byref(text)) or text.value is None:
        return f"CUDA error {code}"
    return text.value.decode()
