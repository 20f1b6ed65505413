"""Questions to the CUDA driver itself, through ctypes: is there a GPU, and may it read host memory directly?

Importing torch for that would take a second.
"""

import ctypes
from typing import Any

from pipeline.core.tiles import Pixels

_READ_ONLY = 0x08  # CU_MEMHOSTREGISTER_READ_ONLY
_READ_ONLY_SUPPORTED = 113  # CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED
_NOTHING_THERE = (34, 100)  # CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE


def driver() -> Any | None:
    """The CUDA driver as a ctypes library, initialised; None if it is not installed or sees no device.

    Nothing is allocated on the device. Raises ``RuntimeError`` if the driver is installed and does not start.
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
    """Whether the driver is installed, starts, and shows at least one GPU to this process. Never raises."""
    try:
        cuda = driver()
    except RuntimeError:
        return False
    count = ctypes.c_int(0)
    return cuda is not None and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


class Pinned:
    """Host memory (uint8, any shape) pinned for reading by the device, without a copy by the CPU, where the driver allows that.

    Needs a current CUDA context. It uses the driver's own call, not the runtime's: a refusal by the runtime would be reported again
    by the next kernel that torch starts. ``refusal`` says why the memory is not pinned; it is empty if it is pinned. The
    constructor raises ``RuntimeError`` if the driver does not start.
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
        """Unpin the memory. No copy from it may be under way."""
        if self._cuda is not None and not self.refusal:
            self._cuda.cuMemHostUnregister(self._at)


def _why(cuda: Any, code: int) -> str:
    """Why the driver refused to pin: its error code, and whether it pins read-only mappings at all."""
    able = ctypes.c_int(-1)
    asked = cuda.cuDeviceGetAttribute(ctypes.byref(able), _READ_ONLY_SUPPORTED, 0)
    known = "cannot be asked whether it pins read-only memory" if asked else f"{'pins' if able.value else 'never pins'} read-only memory"
    return f"{_name(cuda, code)}; the driver {known}"


def _name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if cuda.cuGetErrorName(code, ctypes.byref(text)) or text.value is None:
        return f"CUDA error {code}"
    return text.value.decode()
