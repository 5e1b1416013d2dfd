"""Programs on a CPU without a deadlock: what XLA must be asked for, so that no thread waits for another for ever.

XLA:CPU's scheduler for concurrency lets operations that do not depend on each other begin in any order. Of several
devices of one CPU, as `XLA_FLAGS=--xla_force_host_platform_device_count=8` makes them, one then waits in a collective
for the others, and they in another one for it. XLA's plain order is the same on all devices.

A Fourier transform that is split among threads holds one of them while it waits for the others: as many transforms at
once as there are threads all wait (seen with JAX 0.11.2 on two cores: in training Hyena, and, in the plain order too,
S4D). One that is not split waits for none; then products of matrices are not split either.
"""

import os
from collections.abc import MutableMapping

COUNTS = "xla_force_host_platform_device_count", "JAX_NUM_CPU_DEVICES"
CONCURRENCY, SPLIT = "--xla_cpu_enable_concurrency_optimized_scheduler", "--xla_cpu_multi_thread_eigen"


def take_turns(environment: MutableMapping[str, str] = os.environ, *, transforms: bool = False) -> None:
    """Asks XLA for the plain order where the environment makes several devices, and for transforms on one thread each.

    What the environment chooses itself stays. Call it before JAX has looked for devices.

    Args:
      environment: of the process.
      transforms: there will be Fourier transforms.
    """
    flags = environment.get("XLA_FLAGS", "")
    several = COUNTS[0] in flags or COUNTS[1] in environment
    for needed, flag in ((several, CONCURRENCY), (transforms, SPLIT)):
        if needed and flag not in flags:
            flags = environment["XLA_FLAGS"] = f"{flags} {flag}=false".strip()
