"""Chat templates: a conversation as the text that a chat model was trained on, written by a program from its author.

A template is a Jinja program that came with the weights, so it is run as an enemy's: sandboxed (it sees plain data and
reaches no attribute of Python's objects, and changes nothing) in a process of its own, which the system ends when it
takes more than SECONDS of time or BYTES of memory. What it may see is what transformers gives: `messages`,
`add_generation_prompt`, the special tokens, `raise_exception`, `strftime_now`, `tojson`, and `break` and `continue`.

Which characters are answers, for training, the template says where it has marks, {% generation %} ... {%
endgeneration %}. One without is written for each answer up to it, with what opens it, and up to its end: the answer is
what the second text has more than the first. Both must begin as the whole does, or the template is refused: there
are templates that write an earlier answer otherwise (without its thoughts) when more follows.

This file is also the program of that process: `python -I chat.py`, JSON in, JSON out. It imports nothing of `arch`.
"""

import datetime
import functools
import itertools
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence

SECONDS = 5
BYTES = 512 * 2**20
OUTPUT = 2**20
"""Most characters of a rendered conversation."""
AT_ONCE = 128
"""Most conversations that one process renders; together they have at most OUTPUT characters, or are one."""

MARK = f"\0{secrets.token_hex(8)}\0"
"""What stands around an answer that a template marks: something that no conversation and no template can know."""

Messages = Sequence[dict[str, str]]


def render(template: str, messages: Messages, *, add_generation_prompt: bool = True, **names: str) -> str:
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
    found, error = _ask({"work": "text", "template": template, "seen": [seen]})
    if error:
        raise ValueError(f"chat template fails: {error}")
    return found[0]


def answers(
    template: str, conversations: Sequence[Messages], called: Sequence[str], **names: str
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The text of each conversation, and which of its characters are answers: begins and ends.

    Args:
      template: the Jinja program.
      conversations: messages of a `role` and a `content`.
      called: the conversations' names, for messages.
      **names: as in `render`.

    Raises:
      ValueError: as `render`, naming the conversation; or it cannot be told which characters are answers.
    """
    for begin, end in _runs([sum(len(message["content"]) for message in talk) for talk in conversations]):
        seen = [names | {"messages": list(talk)} for talk in conversations[begin:end]]
        try:
            found, error = _ask({"work": "answers", "template": template, "seen": seen})
        except ValueError as reason:
            raise ValueError(f"document {called[begin]!r}, or one of {end - begin - 1} behind it: {reason}") from None
        if error:
            raise ValueError(f"document {called[begin + len(found)]!r}: chat template fails: {error}")
        yield from ((text, [tuple(span) for span in spans]) for text, spans in found)


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cuts a sequence so that no run has more than AT_ONCE entries, or more than OUTPUT in all unless it is one."""
    begin, total = 0, 0
    for i, size in enumerate(sizes):
        if i > begin and (i - begin == AT_ONCE or total + size > OUTPUT):
            yield begin, i
            begin, total = i, 0
        total += size
    if sizes:
        yield begin, len(sizes)


def _ask(request: dict) -> tuple[list, str]:
    """What a process of its own answers: the results up to the first that fails, and why that one does ('' if none)."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            timeout=2 * SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"chat template runs for more than {2 * SECONDS} seconds") from None
    if done.returncode:
        raise ValueError(f"chat template ends with status {done.returncode}: it takes too much memory or time")
    answer = json.loads(done.stdout)
    return answer["found"], answer["error"]


def _serve() -> None:
    """Reads a request, answers it within the limits."""
    request = json.load(sys.stdin)
    _limit()
    found, error = [], ""
    try:
        work = {"text": _text, "answers": _answers}[request["work"]]
        make = _environment(request["template"])
        for names in request["seen"]:
            found.append(work(make, names))
    except MemoryError:
        error = f"more than {BYTES} bytes of memory"
    except RecursionError:
        error = "it calls itself without end"
    except Exception as reason:  # whatever a template may raise
        error = f"{type(reason).__name__}: {reason}"[:1000]
    print(json.dumps({"found": found, "error": error}))


def _limit() -> None:
    """Bounds this process's time and memory (the latter where the system can)."""
    import resource

    for kind, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, BYTES), (resource.RLIMIT_FSIZE, 0)):
        _, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (ValueError, OSError):  # macOS knows RLIMIT_AS but may refuse it: the time is bounded all the same
            pass


def _text(make, names: dict) -> str:
    text = make().render(**names)
    if len(text) > OUTPUT:
        raise ValueError(f"more than {OUTPUT} characters")
    return text


def _answers(make, names: dict) -> tuple[str, list[tuple[int, int]]]:
    """A conversation's text and the spans of its answers."""
    messages, names = names["messages"], names | {"add_generation_prompt": False}
    whole = _text(make, names)
    marked = make(MARK).render(**names).split(MARK)
    if len(marked) > 1:
        if "".join(marked) != whole or len(marked) % 2 == 0:
            raise ValueError("its text is another where {% generation %} marks the answers")
        ends = list(itertools.accumulate(map(len, marked)))
        return whole, list(zip(ends[0::2], ends[1::2]))
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before = _text(make, names | {"messages": messages[:i], "add_generation_prompt": True})
            after = _text(make, names | {"messages": messages[: i + 1]})
            if not (whole.startswith(after) and after.startswith(before)):
                raise ValueError(f"it does not write the messages up to {i} as it does the whole conversation")
            spans.append((len(before), len(after)))
    return whole, spans


def _environment(source: str):
    """What makes the template, around whose {% generation %} blocks a mark is written."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %} marks what the model said, for training."""

        tags = {"generation"}
        mark = ""

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return [self._marked(line), *body, self._marked(line)]

        def _marked(self, line):
            return nodes.Output([nodes.TemplateData(self.mark)], lineno=line)

    def raise_exception(message):
        raise TemplateError(message)

    now = datetime.datetime.now()  # one moment for all parts of a conversation

    def strftime_now(form):
        return now.strftime(form)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = ["jinja2.ext.loopcontrols", Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson  # Jinja's own escapes for HTML
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    [extension] = (one for one in environment.extensions.values() if isinstance(one, Generation))

    @functools.cache
    def make(mark: str = ""):
        extension.mark = mark
        return environment.from_string(source)

    return make


if __name__ == "__main__":
    _serve()
