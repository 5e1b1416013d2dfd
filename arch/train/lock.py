"""At most one run trains in a folder: its process holds the operating system's lock (flock) on WORKDIR/.lock.

The kernel gives the lock up when the process ends, however it ends: what a killed run leaves behind locks nobody out.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

log = logging.getLogger("arch")
NAME = ".lock"


@contextlib.contextmanager
def held(workdir) -> Iterator[None]:
    """Holds the lock of a folder inside. To be entered by process 0 alone.

    Raises:
      ValueError: another run holds it; the message names its process and machine.
      OSError: the file cannot be written.
    """
    path = pathlib.Path(workdir) / NAME
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(f"{workdir} is in use: {file.read() or 'another process'} trains in it") from None
        except OSError as error:  # NFS has locks, over machines, unless mounted nolock; others may not
            log.warning("%s cannot be locked (%s): no other run may train there meanwhile", path, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
