"""What the benchmark of linear-time layers measured, as kept, meets what it is to show."""

import json

import pytest

from benchmarks import measure

KEPT = json.loads((measure.RESULTS / "recurrence_scaling-cpu.json").read_text())
PARTS = {command.split()[-1]: entry for command, entry in KEPT.items()}
BESIDE = ["2048", "16384"]
LAYERS = PARTS["length"]["layers"]
PAGE = (measure.RESULTS.parents[1] / "docs" / "kernels.md").read_text(encoding="utf-8")
AT_LEAST = {
    "mamba over PyTorch's": 2.0,
    "mamba2 over PyTorch's": 1.0,
    "rwkv4 over PyTorch's": 1.0,
    "performer over PyTorch's": 1.0,
    "selective scan over jax-linear-attention": 1.5,
    "ssd over ssd, by tokens": 5.0,
}


@pytest.mark.parametrize("part", BESIDE)
def test_layers_and_scans_are_as_fast_as_they_are_to_be(part):
    speeds = PARTS[part]["speeds"]
    assert len(speeds) >= 5
    assert not {name: speed for name, speed in speeds.items() if speed < AT_LEAST.get(name, 1.0)}


@pytest.mark.parametrize("part", BESIDE)
def test_the_selective_scan_takes_a_tenth_of_the_token_scans_memory(part):
    assert PARTS[part]["temporaries over token scan's"] <= 0.1


def test_no_scan_holds_a_state_of_every_token():
    (b, d, n), rows = (1, 512, 16), PARTS["2048"]["rows"]
    assert rows["selective scan"]["temporary_mib"] * 2**20 < 4 * b * 2048 * d * n / 2


@pytest.mark.parametrize("form", LAYERS)
def test_time_and_temporaries_grow_with_the_length(form):
    """Powers of at most 1.1 of it; of N log N, as Hyena's FFT takes, the fit over 1k to 32k would be 1.11."""
    exponents = LAYERS[form]["exponents"]
    assert exponents["temporaries"] <= 1.1
    assert exponents["time"] <= (1.15 if form == "hyena" else 1.1)


def test_decoding_takes_as_long_behind_100_000_tokens_as_behind_100_and_is_faster_than_transformers():
    for found in PARTS["decoding"]["models"].values():
        assert 0.9 < found["late step over early"] < 1.1
        assert found["speed"] >= 1.0


ROWS = {
    "Mamba, a layer": "mamba over PyTorch's",
    "Mamba-2, a layer": "mamba2 over PyTorch's",
    "RWKV-4, a layer": "rwkv4 over PyTorch's",
    "Performer, causal, a layer": "performer over PyTorch's",
    "Mamba's scan alone": "selective scan over jax-linear-attention",
    "Mamba-2's scan alone": "ssd over ssd, by tokens",
}


@pytest.mark.parametrize("name", ROWS)
def test_the_page_on_kernels_shows_what_was_measured(name):
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
    shown = [cell.strip() for cell in line.strip("| ").split("|")][2:] + [""]
    measured = (PARTS[part]["speeds"].get(ROWS[name]) for part in ("2048", "16384"))
    assert shown[:2] == ["" if speed is None else f"{speed:.2f}" for speed in measured]


def test_the_page_on_kernels_shows_how_time_and_temporaries_grow():
    of = lambda what: [round(layer["exponents"][what], 2) for layer in LAYERS.values()]
    times, temporaries = of("time"), of("temporaries")
    assert f"powers of {min(times):.2f} to {max(times):.2f} of the length" in " ".join(PAGE.split())
    assert f"temporaries with at most {max(temporaries):.2f}" in " ".join(PAGE.split())
