"""What the README says of SmolLM2's speed is what was measured, beside transformers in the same run."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
OURS, THEIRS, BOTH = json.loads((ROOT / "benchmarks" / "results" / "smollm2-cpu.json").read_text())["rows"]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_stated_speeds_were_measured():
    stated = re.search(
        r"prompt of (\d+) tokens at (\d+) tokens/s and decodes ([\d.]+) tokens/s, ([\d.]+) and ([\d.]+) times what "
        r"transformers ([\d.]+) does .*? each decoded token reads (\d+) MB",
        README,
    )
    prefill, decode = OURS["prefill_tokens_per_second"], OURS["decode_tokens_per_second"]
    assert [float(stated[i]) for i in (1, 2, 3)] == [OURS["prompt_tokens"], round(prefill), round(decode, 1)]
    assert [float(stated[i]) for i in (4, 5)] == [BOTH["prefill_ratio"], BOTH["decode_ratio"]]
    assert stated[6] == THEIRS["transformers"]
    assert float(stated[7]) == round(BOTH["weight_mb_per_token"])


def test_prefill_and_decoding_are_no_slower_than_transformers():
    for what in ("prefill", "decode"):
        ours, theirs = (side[f"{what}_tokens_per_second"] for side in (OURS, THEIRS))
        assert abs(BOTH[f"{what}_ratio"] - ours / theirs) < 0.01
        assert ours >= theirs


def test_both_generated_the_same_tokens():
    assert BOTH["same_tokens"]
