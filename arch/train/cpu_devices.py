"""Several devices of one CPU, as `XLA_FLAGS=--xla_force_host_platform_device_count=8` makes them, without a deadlock.

XLA:CPU's scheduler for concurrency lets collectives that do not depend on each other begin in any order: where one
device waits in one of them for the others, and they in another one for it, all wait for ever. XLA's plain order is the
same on all devices.
"""

import os
from collections.abc import MutableMapping

COUNTS = "xla_force_host_platform_device_count", "JAX_NUM_CPU_DEVICES"
FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def take_turns(environment: MutableMapping[str, str] = os.environ) -> None:
    """Asks XLA for the plain order where the environment makes several devices and does not choose one itself.

    Call it before JAX has looked for devices.
    """
    flags = environment.get("XLA_FLAGS", "")
    if (COUNTS[0] in flags or COUNTS[1] in environment) and FLAG not in flags:
        environment["XLA_FLAGS"] = f"{flags} {FLAG}=false".strip()
