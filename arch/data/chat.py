"""Chat templates: a conversation as the text that a chat model was trained on, written by a program from its author.

A template is a Jinja program that came with the weights, so it is run as an enemy's: sandboxed (it sees plain data and
reaches no attribute of Python's objects, and changes nothing) in a process of its own, which the system ends when it
takes more than SECONDS of time or BYTES of memory. What it may see is what transformers gives: `messages`,
`add_generation_prompt`, the special tokens, `raise_exception`, `strftime_now`, `tojson`, and `break` and `continue`.

This file is also the program of that process: `python -I chat.py`, JSON in, JSON out. It imports nothing of `arch`.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 5
BYTES = 512 * 2**20
OUTPUT = 2**20
"""Most characters of a rendered conversation."""


def render(
    template: str, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True, **names: str
) -> str:
    """The text of a conversation.

    Args:
      template: the Jinja program.
      messages: each with a `role` and a `content`.
      add_generation_prompt: end with what opens the model's answer.
      **names: what else the template may read: `bos_token`, `eos_token` ...

    Raises:
      ValueError: the template is wrong, refuses the messages, does what it must not, or takes too much.
    """
    seen = names | {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
    request = json.dumps({"template": template, "names": seen})
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], input=request, capture_output=True, encoding="utf-8", timeout=2 * SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"chat template runs for more than {2 * SECONDS} seconds") from None
    if done.returncode:
        raise ValueError(f"chat template ends with status {done.returncode}: it takes too much memory or time")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(f"chat template fails: {answer['error']}")
    return answer["text"]


def _serve() -> None:
    """Reads a request, answers it within the limits."""
    request = json.load(sys.stdin)
    _limit()
    try:
        text = _rendered(request["template"], request["names"])
        answer = {"text": text} if len(text) <= OUTPUT else {"error": f"more than {OUTPUT} characters"}
    except MemoryError:
        answer = {"error": f"more than {BYTES} bytes of memory"}
    except RecursionError:
        answer = {"error": "it calls itself without end"}
    except Exception as error:  # whatever a template may raise
        answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
    print(json.dumps(answer))


def _limit() -> None:
    """Bounds this process's time and memory (the latter where the system can)."""
    import resource

    for kind, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, BYTES), (resource.RLIMIT_FSIZE, 0)):
        _, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (ValueError, OSError):  # macOS knows RLIMIT_AS but may refuse it: the time is bounded all the same
            pass


def _rendered(template: str, names: dict) -> str:
    import datetime

    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %} marks what the model said, for training; the text is as without."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise TemplateError(message)

    def strftime_now(form):
        return datetime.datetime.now().strftime(form)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = ["jinja2.ext.loopcontrols", Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson  # Jinja's own escapes for HTML
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(template).render(**names)


if __name__ == "__main__":
    _serve()
