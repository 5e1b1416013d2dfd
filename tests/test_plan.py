"""What steps of published models need of each chip, as XLA's compiler for TPUs said: they compile; tokens travel."""

import json
import math
import pathlib
import re

import pytest

from arch.families import mixtral
from arch.plan import report
from arch.tasks import span_corruption
from benchmarks import plan

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results" / "plan.json"
PLANS = json.loads(RESULTS.read_text())
COMMAND = "python -m benchmarks.plan mixtral.mixtral_8x7b"
ROW = PLANS[f"{COMMAND} v5e:8x8 fsdp=8 expert=8"]
MIXTURE = mixtral.PRESETS["mixtral_8x7b"].layers.blocks[0].sublayers[1]
LAYERS, ROUND_FACTOR = 32, plan.ROUND
AN_EXPERT = 4096 * MIXTURE.hidden_dim
HBM_MIB = 15.75 * 1024
"""Of a v5e chip, as XLA's compiler says when it refuses a program."""
PEERS = {
    "llama.llama2_7b v5p:2x4x4 fsdp=32": 3463,
    "llama.llama2_7b v5e:8x8 fsdp=64": 2952,
    "mixtral.mixtral_8x7b v5p:2x4x4 fsdp=4 expert=8": 13465,
}
"""MiB of the heap of a peer's step: rows of 4096 tokens, one a chip, all computed again, float32 weights and moments."""
LISTED = (
    "llama.llama2_7b v5p:2x4x4 fsdp=32",
    "llama.llama2_7b v5e:8x8 fsdp=64",
    "mixtral.mixtral_8x7b v5p:2x4x4 fsdp=4 expert=8",
    "mixtral.mixtral_8x7b v5e:8x8 fsdp=8 expert=8",
    "mamba2_lm.mamba2_2_7b v5e:4x4 fsdp=16 length=8192",
    "gpt.gpt3_175b v5p:8x8x8 fsdp=64 tensor=8 length=2048",
    "jamba.jamba_v0_1 v5p:2x4x4 fsdp=2 expert=16",
    "bigbird.bigbird_base v5e:2x4 fsdp=8 length=32768",
    "switch_transformer.switch_c_2048 v5p:8x8x8 fsdp=8 expert=64 length=512",
)
PAGE = (RESULTS.parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")


def test_the_plans_that_are_asked_for_are_kept():
    assert {f"python -m benchmarks.plan {plan}" for plan in LISTED} <= set(PLANS)


def test_the_page_on_planning_tells_all_that_are_kept():
    assert f"\n{plan.table(PLANS)}\n" in PAGE


@pytest.mark.parametrize("command, peer", PEERS.items())
def test_temporaries_have_no_more_room_than_a_peer_s(command, peer):
    own = PLANS[f"python -m benchmarks.plan {command}"]["train"]["memory"]["heap"] / 2**20
    chip = command.split()[1]
    assert 0 < own <= peer and f"{chip} it has {peer:,} MiB, ours {own:,.0f}" in " ".join(PAGE.split())


@pytest.mark.parametrize("row", PLANS.values(), ids=PLANS)
def test_a_plan_fits_its_chips_and_was_compiled_within_ten_minutes(row):
    assert row["fits"] and row["train"]["memory"]["peak"] <= row["capacity"]
    assert row["train"]["compile_cpu_s"] < 600


@pytest.mark.parametrize("row", PLANS.values(), ids=PLANS)
def test_the_persistent_bytes_of_the_closed_form_are_those_of_the_compiled_arguments(row):
    assert sum(row["state"].values()) == pytest.approx(row["train"]["memory"]["arguments"], rel=0.01)


@pytest.mark.parametrize("row", PLANS.values(), ids=PLANS)
def test_the_flops_of_the_closed_form_are_those_of_the_program(row):
    assert row["closed_form"]["flops"] == pytest.approx(row["train"]["flops"], rel=0.1)


@pytest.mark.parametrize("row", PLANS.values(), ids=PLANS)
def test_a_plan_s_rates_are_those_of_its_slowest_term(row):
    terms = dict(row["train"]["seconds"])
    assert terms.pop("step_s") == max(terms.values()) == row["step_seconds"]
    tokens = row["seq_len"]
    if row["model"].startswith("switch_transformer"):  # those of the encoder and of the decoder
        lengths = span_corruption.Config().lengths(tokens)
        tokens = lengths["source_length"] + lengths["length"]
    assert row["tokens_per_second"] == pytest.approx(row["batch_size"] * tokens / row["step_seconds"])
    assert 0 < row["mfu_bound"] <= 1


def test_the_page_on_planning_shows_a_kept_plan():
    command = re.search(r"`(python -m benchmarks\.plan [^`]*fsdp[^`]*)`", PAGE)[1]
    assert f"````\n{report.text(PLANS[command])}\n````" in PAGE


def test_it_fits_the_chip():
    assert ROW["train"]["memory"]["arguments"] < ROW["train"]["memory"]["peak"] <= HBM_MIB * 2**20


def received(kind, *axes):
    """(how many collectives of a kind along these axes a step has, the bytes that a chip receives by them)."""
    (row,) = (row for row in ROW["train"]["collectives"] if (row["kind"], row["axes"]) == (kind, list(axes)))
    return row["count"], row["received"]


def test_weights_and_both_moments_are_split_over_all_chips():
    state = 3 * 4 * ROW["parameters"]["total"] / ROW["devices"]
    assert state <= sum(ROW["state"].values()) <= 1.01 * state


def test_experts_stay_and_their_tokens_travel():
    """A chip puts its own experts' matrices together, forward and once more backward, and has slots for even loads."""
    own = LAYERS * MIXTURE.matrices * AN_EXPERT * MIXTURE.num_experts // ROW["mesh"]["expert"]
    elsewhere = 1 - 1 / ROW["mesh"]["fsdp"]
    assert received("all-gather", "fsdp") == (2 * LAYERS * MIXTURE.matrices, 2 * 2 * own * elsewhere)
    slots = math.ceil(ROUND_FACTOR * 4096 * MIXTURE.top_k / ROW["mesh"]["expert"]) * ROW["mesh"]["expert"]
    of_tokens = 2 * slots * 4096 * (1 - 1 / ROW["mesh"]["expert"])
    times = received("all-to-all", "expert")[1] / of_tokens / LAYERS
    assert times >= 6 and times == pytest.approx(round(times), abs=0.01)  # and what says where they go


def test_gradients_of_experts_are_scattered():
    own = LAYERS * MIXTURE.matrices * AN_EXPERT * MIXTURE.num_experts // ROW["mesh"]["expert"]
    count, bytes_ = received("reduce-scatter", "fsdp")
    assert count == LAYERS * MIXTURE.matrices and bytes_ == 2 * own * (1 - 1 / ROW["mesh"]["fsdp"])
