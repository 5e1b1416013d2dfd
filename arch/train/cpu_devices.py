"""A CPU without a deadlock: XLA's plain order, where its scheduler for concurrency would have threads wait for ever.

That scheduler lets operations that do not depend on each other begin together, and in any order. Of several devices of
one CPU, as `XLA_FLAGS=--xla_force_host_platform_device_count=8` makes them, one then waits in a collective for the
others, and they in another one for it; the plain order is the same on all devices. And a Fourier transform holds a
thread while it waits for others to take part: as many at once as there are threads all wait (seen with JAX 0.11.2 on
two cores in training Hyena, and in four transforms alone; not in the plain order).
"""

import os
from collections.abc import MutableMapping

COUNTS = "xla_force_host_platform_device_count", "JAX_NUM_CPU_DEVICES"
FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def take_turns(environment: MutableMapping[str, str] = os.environ, *, transforms: bool = False) -> None:
    """Asks XLA for the plain order where the environment makes several devices and does not choose one itself.

    Call it before JAX has looked for devices.

    Args:
      environment: of the process.
      transforms: there will be Fourier transforms, so that one device has to do so, too.
    """
    flags = environment.get("XLA_FLAGS", "")
    if (transforms or COUNTS[0] in flags or COUNTS[1] in environment) and FLAG not in flags:
        environment["XLA_FLAGS"] = f"{flags} {FLAG}=false".strip()
