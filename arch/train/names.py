"""The names of all that a run writes, in TensorBoard and in metrics.jsonl: one table, which tests hold both ways.

    python -m arch.train.names        prints it

A part in angle brackets stands for what is said in PARTS. A curve is compared over runs by its name, so that names and
units change with the version of the config format only.
"""

import dataclasses
import re
from typing import Literal

from arch.ops.routing.statistics import DEAD_BELOW
from arch.train.clock import CAUSES

PARTS = {
    "phase": ("imports|setup|state|check|compile|step|total", "of a start; step: the first one; total: all"),
    "process": (r"\d+", "JAX's number of a process of the run"),
    "activity": (
        "restore|compile|data|step|eval|checkpoint",
        "what a process does (arch/train/watch.py); step: all else",
    ),
    "cause": ("|".join(CAUSES), "; ".join(f"{cause}: {words}" for cause, words in CAUSES.items())),
    "split": (r"[^/]+", "'valid' for all of the validation split; of a mixture also what each source's path is called"),
    "term": (r"[a-z]\w*", "a task's second loss, such as BERT's next_sentence"),
    "layer": (
        r"(?:(?:encoder|decoder)/)?layers/\d+(?:/\w+)?",
        "path of a layer, decoder/layers/3 where there is an encoder, too; layers/3/moe_1 for its second mixture",
    ),
    "loss": (
        "balance|router_z|importance|load|entropy",
        "balance: least in perfect balance (arch/ops/routing/losses.py); router_z: of the logits' size; "
        "importance, load: of noisy top-k; entropy: of top-p",
    ),
    "expert": (r"\d+", "from 0"),
    "device": (r"\d+", "JAX's number of a local device of process 0, where it tells of its memory"),
    "path": (r"\w+(?:/\w+)+", "of a parameter, layer by layer: layers/3/attention/query"),
    "statistic": (r"\w+(?:/\d+)?", "as the sublayer calls it; of an array each entry"),
    "sublayer": (r"(?:(?:encoder|decoder)/)?layers/\d+/\w+", "path of the sublayer's parameters"),
}
"""What each part in angle brackets may be: a regular expression, and words."""

When = Literal["start", "step", "log", "evaluation", "checkpoint", "bad batch", "histogram"]
Kind = Literal["scalar", "text", "image", "histogram"]


@dataclasses.dataclass(frozen=True)
class Name:
    """A row.

    Attributes:
      pattern: the name, parts in angle brackets.
      unit: of the number; '' for none.
      when: 'start' once a process, 'step' behind its first step, 'log' at `log_every`, 'evaluation' at `eval_every`,
        'checkpoint' at `checkpoint_every`, 'bad batch' behind one, 'histogram' at `histogram_every_steps`.
      meaning: what it is.
      kind: what it is written as.
    """

    pattern: str
    unit: str
    when: When
    meaning: str
    kind: Kind = "scalar"

    def matches(self, name: str) -> bool:
        """Whether the row is about this name."""
        pieces = re.split(r"<(\w+)>", self.pattern)
        whole = "".join(f"(?:{PARTS[text][0]})" if i % 2 else re.escape(text) for i, text in enumerate(pieces))
        return re.fullmatch(whole, name) is not None


NAMES = (
    Name("train/loss", "nats", "log", "what is descended: all terms of the task and the layers' own losses"),
    Name("train/accuracy", "", "log", "share of the targets than which nothing else is likelier"),
    Name("train/nats_per_token", "nats", "log", "mean -log p of the target tokens"),
    Name("train/bits_per_byte", "bits", "log", "the same, spread over the bytes of the text; none with WordPiece"),
    Name("train/<term>_nats", "nats", "log", "mean -log p of the targets of another term"),
    Name("train/<term>_accuracy", "", "log", "accuracy of another term"),
    Name("train/<loss>", "nats", "log", "a loss of the routers: sum over layers, weighted"),
    Name("train/gradient_norm", "", "log", "L2 norm of the gradient before clipping; 0 where a loss scale overflows"),
    Name("train/parameter_norm", "", "log", "L2 norm of the trained parameters behind the step"),
    Name("train/learning_rate", "", "log", "of the last step that changed parameters"),
    Name("train/loss_scale", "", "log", "of float16's loss scaling, at this step"),
    Name("train/skipped_steps", "steps", "log", "steps so far that changed no parameter"),
    Name("eval/<split>/loss", "nats", "evaluation", "mean over the targets, without label smoothing and z-loss"),
    Name("eval/<split>/ppl", "", "evaluation", "perplexity: exp of the main term's mean"),
    Name("eval/<split>/bits_per_byte", "bits", "evaluation", "of the main term, if it is text of known bytes"),
    Name("eval/<split>/accuracy", "", "evaluation", "of the main term"),
    Name("eval/<split>/<term>_loss", "nats", "evaluation", "of another term"),
    Name("eval/<split>/<term>_accuracy", "", "evaluation", "of another term"),
    Name("perf/seconds_per_step", "s", "log", "since the last line, without what <cause> names but data"),
    Name("perf/tokens_per_second", "1/s", "log", "tokens of a batch, padding among them, by that time"),
    Name("perf/data_wait_share", "", "log", "part of that time in which the device was idle, for want of a batch"),
    Name("perf/tflops_per_second", "1e12/s", "log", "model FLOPs by that time, a device (arch/train/utilization.py)"),
    Name("perf/mfu", "", "log", "that by the device's peak in bfloat16; absent where the peak is not known"),
    Name("perf/wall_seconds", "s", "log", "from the run's first process's start on: kept_seconds and all lost ones"),
    Name("perf/kept_seconds", "s", "log", "time of those steps whose result was kept, without such waits for data"),
    Name("perf/lost_<cause>_seconds", "s", "log", "lost so far, over all processes; see arch/train/clock.py"),
    Name("perf/goodput", "", "log", "kept_seconds / wall_seconds"),
    Name("perf/process_<process>/<activity>_seconds", "s", "log", "of a process's life so far, as it last told"),
    Name("perf/compile_seconds", "s", "start", "tracing and compiling the step, or a look into the cache"),
    Name("perf/startup_<phase>_seconds", "s", "step", "parts of the time to the end of the first step"),
    Name("perf/eval_seconds", "s", "evaluation", "of an evaluation, its sample of text among it"),
    Name("perf/checkpoint_seconds", "s", "checkpoint", "for which the loop was held up by a checkpoint"),
    Name("mem/peak_bytes", "bytes", "log", "the most so far on a local device; of this process where none tells"),
    Name("mem/live_bytes", "bytes", "log", "the most now on a local device; of this process where none tells"),
    Name("mem/device_<device>/peak_bytes", "bytes", "log", "the most so far on this device"),
    Name("mem/device_<device>/live_bytes", "bytes", "log", "now on this device"),
    Name("mem/host_peak_bytes", "bytes", "log", "the most resident memory of process 0 so far"),
    Name("mem/host_bytes", "bytes", "log", "its resident memory now (on Linux; else the most so far)"),
    Name("mem/step_argument_bytes", "bytes", "start", "state and batch on a device, as the compiler plans them"),
    Name("mem/step_temporary_bytes", "bytes", "start", "what a step needs beside them, as the compiler plans it"),
    Name("moe/<layer>/load/<expert>", "", "log", "this expert's share of the assignments, before any is dropped"),
    Name("moe/<layer>/load_max", "", "log", "the largest of these; all are 1 / experts in perfect balance"),
    Name("moe/<layer>/load_min", "", "log", "the smallest"),
    Name("moe/<layer>/load_cv", "", "log", "their standard deviation by their mean"),
    Name("moe/<layer>/dead_experts", "experts", "log", f"experts with a load under {DEAD_BELOW:.0%} of the even one"),
    Name("moe/<layer>/dropped_fraction", "", "log", "share of the assignments that find their expert full"),
    Name("moe/<layer>/unserved_fraction", "", "log", "share of the tokens that reach no expert"),
    Name("moe/<layer>/router_entropy", "nats", "log", "mean over tokens of the entropy of the router's probabilities"),
    Name("moe/<layer>/top1_confidence", "", "log", "mean over tokens of the largest probability"),
    Name("moe/<layer>/<loss>_loss", "", "log", "a loss of the router without its weight"),
    Name("<sublayer>/<statistic>", "", "log", "what other sublayers tell in `Aux.stats`"),
    Name("moe/load", "", "evaluation", "layers x experts: blue under the even load, red above", kind="image"),
    Name("moe/load_history", "", "evaluation", "layers and experts x logged steps, likewise", kind="image"),
    Name("moe/<layer>/alarm", "", "log", "routing collapsed, and what to try; or it has recovered", kind="text"),
    Name("moe/<layer>/experts", "", "evaluation", "of each expert its share, partners, commonest tokens", kind="text"),
    Name("moe/<layer>/coactivation", "", "evaluation", "part of an expert's tokens that another has too", kind="text"),
    Name("parameters", "", "start", "table of the parameters: shapes, axes, sharding", kind="text"),
    Name("bad_batch", "", "bad batch", "a bad batch that the run went past, and where it is saved", kind="text"),
    Name("sample", "", "evaluation", "what the model makes of `sample_prompt`", kind="text"),
    Name("parameters/<path>", "", "histogram", "values of a parameter behind the step", kind="histogram"),
    Name("updates/<path>", "", "histogram", "what the step added to it", kind="histogram"),
)


def find(name: str, kind: Kind = "scalar") -> Name:
    """The row that a name belongs to. Raises KeyError unless there is exactly one."""
    rows = [row for row in NAMES if row.kind == kind and row.matches(name)]
    if len(rows) != 1:
        raise KeyError(f"{kind} {name!r} must match one row of arch/train/names.py, not {[r.pattern for r in rows]}")
    return rows[0]


def table() -> str:
    """All rows, and what the parts are, as Markdown."""
    lines = ["| name | unit | written at | meaning |", "|---|---|---|---|"]
    for row in NAMES:
        kind = "" if row.kind == "scalar" else f" ({row.kind})"
        lines.append(f"| `{row.pattern}`{kind} | {row.unit} | {row.when} | {row.meaning} |")
    parts = (f"`<{part}>`: {words}" for part, (_, words) in PARTS.items())
    return "\n".join([*lines, "", "; ".join(parts) + "."])


if __name__ == "__main__":
    print(table())
