"""Whether this machine has an NVIDIA GPU, asked of its driver: importing torch for that would take a second."""

import ctypes


def has_cuda() -> bool:
    """Whether the driver is installed and shows at least one GPU to this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
