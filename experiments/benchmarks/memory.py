"""How the C library treats the memory that programs free."""

import ctypes

# The numbers of glibc's malloc.h, with the values that switch off what they name.
M_TRIM_THRESHOLD, NEVER = -1, -1
M_MMAP_MAX, NONE = -4, 0
M_ARENA_MAX, ONE = -8, 1


def keep_freed_memory() -> None:
    """Lets the process keep the memory that it frees, where the C library is glibc; before it starts threads.

    XLA for CPUs allocates a step's temporary memory anew each time. Large pieces would come from the kernel, page by
    page, which takes longer than the arithmetic on them; in a whole training step they come out of the memory that the
    activations have left.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_ARENA_MAX, ONE), (M_MMAP_MAX, NONE), (M_TRIM_THRESHOLD, NEVER)):
            mallopt(parameter, value)
