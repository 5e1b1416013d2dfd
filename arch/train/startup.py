"""What the time from the start of the process to the first step is spent on."""

import time


class Startup:
    """Marks the ends of the phases between a start and the first step.

        startup = Startup()
        import ...; startup.mark("imports")
        prepare();  startup.mark("setup")
        startup.seconds     {"imports": 1.9, "setup": 5.2}
    """

    def __init__(self):
        self.began = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """Ends a phase that began where the last one ended."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds from the start to the last mark."""
        return self._last - self.began

    def line(self) -> str:
        """`14.2 s: imports 1.9, setup 5.2, ...`."""
        return f"{self.total:.1f} s: " + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
