"""The alarm names layer, trouble and a remedy that the config has off; once, until the routing has recovered."""

import pytest

from arch import config
from arch.models import decoder
from arch.train import routing_alarm
from arch.train.routing_alarm import PATIENCE, Alarm

MOE = dict(name="moe", num_experts=5, top_k=2, hidden_dim=3)
OFF = MOE | dict(balance_weight=0.0, z_weight=0.0)
FINE = dict(load_max=0.2, dead_experts=0, router_entropy=1.5) | {f"load/{i}": 0.2 for i in range(5)}
CROWD = FINE | {"load_max": 0.45, "load/3": 0.45}
DEAD = FINE | {"dead_experts": 2}
SURE = FINE | {"router_entropy": 0.001}


def model(moe=OFF):
    stack = dict(pattern=(dict(sublayers=(moe,)),), repeats=2)
    return config.from_dict(decoder.Config, dict(vocab_size=13, embed_dim=8, layers=stack))


def alarm(moe=OFF):
    return Alarm(model(moe))


def heed(of, numbers, layer=1, times=1):
    """The texts of so many logged steps."""
    found = []
    for _ in range(times):
        layers = {f"moe/layers/{i}": numbers if i == layer else FINE for i in range(2)}
        found += of.heed({f"{name}/{key}": x for name, own in layers.items() for key, x in own.items()}).items()
    return found


def test_it_is_silent_until_the_trouble_has_lasted():
    of = alarm()
    assert heed(of, CROWD, times=PATIENCE - 1) == []
    assert len(heed(of, CROWD)) == 1


def test_a_step_without_the_trouble_begins_anew():
    of = alarm()
    assert heed(of, CROWD, times=PATIENCE - 1) + heed(of, FINE) + heed(of, CROWD, times=PATIENCE - 1) == []


def test_it_speaks_once_until_the_layer_has_recovered():
    of = alarm()
    assert len(heed(of, DEAD, times=4 * PATIENCE)) == 1
    ((name, text),) = heed(of, FINE, times=2 * PATIENCE)
    assert (name, text) == ("moe/layers/1/alarm", "recovered: no expert is dead")
    assert len(heed(of, DEAD, times=PATIENCE)) == 1


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (CROWD, "expert 3 has 45% of the assignments, an even share is 20.0%"),
        (DEAD, "2 of 5 experts are under 1% of the even load"),
        (SURE, "the router's entropy is 0.001 nats of 1.61: it is sure of every token"),
    ],
)
def test_it_names_the_layer_and_what_collapsed(numbers, words):
    ((name, text),) = heed(alarm(), numbers, times=PATIENCE)
    assert name == "moe/layers/1/alarm" and text.startswith(f"{words}, at {PATIENCE} logged steps in a row; try ")


def test_all_tokens_at_k_experts_are_a_crowd_and_an_even_load_is_none():
    cfg = model().layers.blocks[0].sublayers[0]
    assert set(routing_alarm.troubles(cfg, FINE | {"load_max": 0.5})) == {"crowd"}
    assert routing_alarm.troubles(cfg, FINE) == {}
    assert routing_alarm.troubles(cfg, FINE | dict(load_max=0.0, router_entropy=0.0, dead_experts=0)) == {}


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [
        ({}, "balance_weight=0.01, bias_rate=0.001, z_weight=0.001, router.jitter=0.01, a router with a capacity "),
        (dict(balance_weight=0.02, z_weight=0.1), "balance_weight above 0.02, bias_rate=0.001, router.jitter=0.01, a "),
        (dict(bias_rate=0.1), "balance_weight=0.01, bias_rate above 0.1, z_weight=0.001, router.jitter=0.01, a rou"),
        (
            dict(router=dict(name="gshard", jitter=0.1)),
            "balance_weight=0.01, z_weight=0.001",
        ),
        (dict(router=dict(name="hashed", table_size=13)), "another router than 'hashed', which learns nothing"),
    ],
)
def test_it_suggests_what_the_config_has_off(changes, remedies):
    ((_, text),) = heed(alarm(OFF | changes), CROWD, times=PATIENCE)
    assert text.split("; try ")[1].startswith(remedies)


def test_a_router_that_is_sure_is_to_be_softened_and_hashing_may_be_sure():
    ((_, text),) = heed(alarm(MOE), SURE, times=PATIENCE)
    assert text.endswith("; try router.jitter=0.01, a lower optimizer.learning_rate")
    assert heed(alarm(OFF | dict(router=dict(name="hashed", table_size=13))), SURE, times=PATIENCE) == []
