"""Asks glibc to take large arrays in huge pages.

On CPU, XLA gives a step's temporaries back and takes them anew at each step: hundreds of MiB, whose first touch is an
interrupt every 4 KiB without huge pages, and every 2 MiB with them. glibc reads its settings as a process begins.
"""

import os
import sys

VARIABLE, VALUE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def ask() -> None:
    """Starts this process's program once more with the setting, on Linux, unless the variable is set already.

    Call it before anything else has begun: what the process holds is lost. Another libc, a glibc older than 2.35 and a
    kernel without huge pages ignore the setting.
    """
    if sys.platform == "linux" and VARIABLE not in os.environ:
        os.environ[VARIABLE] = VALUE
        os.execv(sys.executable, sys.orig_argv)
