"""Learning rates at their key steps."""

import pytest

from arch.train.schedule import schedule

RATES = {
    "constant": {0: 0.0, 2: 0.4, 5: 1.0, 15: 1.0, 25: 1.0, 99: 1.0},
    "cosine": {0: 0.0, 2: 0.4, 5: 1.0, 15: 0.6, 25: 0.2, 99: 0.2},
    "linear": {0: 0.0, 2: 0.4, 5: 1.0, 10: 0.8, 15: 0.6, 25: 0.2, 99: 0.2},
    "rsqrt": {0: 0.0, 2: 0.4, 5: 1.0, 20: 0.5, 25: 5**-0.5, 80: 0.25},
    "wsd": {0: 0.0, 2: 0.4, 5: 1.0, 15: 1.0, 20: 0.6, 25: 0.2, 99: 0.2},
}
"""Of a run of 25 steps, 5 of them warm-up, 10 the decay of wsd; final share 0.2."""


@pytest.mark.parametrize(("shape", "step"), [(shape, step) for shape, rates in RATES.items() for step in rates])
def test_the_rate_at_a_step(shape, step):
    rate = schedule(shape, 1.0, warmup=5, total=25, final_share=0.2, decay_share=0.4)
    assert float(rate(step)) == pytest.approx(RATES[shape][step], abs=1e-6)


@pytest.mark.parametrize("shape", RATES)
def test_the_peak_scales_every_rate(shape):
    small, large = (schedule(shape, p, warmup=5, total=25, final_share=0.2, decay_share=0.4) for p in (0.5, 1.0))
    assert [float(small(s)) for s in (3, 11, 24)] == pytest.approx([0.5 * float(large(s)) for s in (3, 11, 24)])


@pytest.mark.parametrize("shape", RATES)
def test_without_warm_up_the_first_step_has_the_peak(shape):
    assert float(schedule(shape, 1.0, warmup=0, total=25, final_share=0.2, decay_share=0.4)(0)) == 1.0


@pytest.mark.parametrize("shape", RATES)
def test_a_warm_up_longer_than_the_run_is_cut_off_by_its_end(shape):
    rate = schedule(shape, 1.0, warmup=50, total=25, final_share=0.2, decay_share=0.4)
    assert float(rate(25)) == pytest.approx(0.5)
    assert float(rate(50)) == pytest.approx(1.0)


def test_a_decay_longer_than_what_the_warm_up_leaves_begins_behind_it():
    rate = schedule("wsd", 1.0, warmup=5, total=25, final_share=0.0, decay_share=1.0)
    assert [float(rate(step)) for step in (5, 15, 25)] == pytest.approx([1.0, 0.5, 0.0])
