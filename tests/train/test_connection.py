"""The self-check before the first step stops a run whose balance loss is cut off from a router, and no other run."""

import jax
import jax.numpy as jnp
import pytest

from arch.ops.routing import losses
from arch.train import connection, modes
from arch.train import state as states
from arch.train.startup import Startup
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("quick")

LAYER = dict(name="moe", num_experts=3, top_k=1, renormalize=False, hidden_dim=8)
MIXTURES = dict(  # layers 0 to 2, the last two scanned, of which the first has another balance loss
    prefix=(dict(sublayers=(tiny.ATTENTION, LAYER | dict(balance_loss="variance"))),),
    pattern=(dict(sublayers=(tiny.ATTENTION, LAYER)),),
    repeats=2,
    remat="full",
)


@pytest.fixture(autouse=True)
def compiled_anew():
    """What one test cuts, no other sees."""
    connection._compiled.cache_clear()
    yield
    connection._compiled.cache_clear()


def prepared(text, workdir, devices=None, **changes):
    model = {"model.layers": MIXTURES, "data.path": str(text)} | changes
    return tiny.prepare(tiny.config(text, **model), workdir, devices)


def check(setup):
    """The self-check with weights as they start."""
    with jax.set_mesh(setup.mesh):
        state = states.init(setup.model, setup.optimizer, setup.plan, jax.random.key(0))
        connection.must_reach(setup, state.params, setup.dataset("train")[0], jax.random.key(1))


def cut(monkeypatch, name):
    """The commonest silent failure: the loss reads probabilities without their gradient."""
    loss = losses.BALANCE[name]
    monkeypatch.setitem(losses.BALANCE, name, lambda load, share: loss(load, jax.lax.stop_gradient(share)))


def test_losses_that_reach_their_routers_are_let_pass(text, tmp_path):
    check(prepared(text, tmp_path))


@pytest.mark.slow
def test_they_are_let_pass_on_a_mesh(text, tmp_path):
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
    check(prepared(text, tmp_path, jax.devices()[:8], **mesh))


@pytest.mark.parametrize(("name", "layer"), [("f_dot_p", 1), ("variance", 0)])
def test_a_loss_that_is_cut_off_is_named_with_its_layer_and_router(text, tmp_path, monkeypatch, name, layer):
    """Of one layer alone, too: what the others' losses do to it through the stream does not hide it."""
    setup = prepared(text, tmp_path)
    cut(monkeypatch, name)
    where = f"'balance' of layers/{layer}/moe by layers/{layer}/moe/router"
    with pytest.raises(connection.DisconnectedError, match=f"gradient of the loss {where} is zero"):
        check(setup)


def test_a_gradient_that_is_not_finite_stops_it(text, tmp_path, monkeypatch):
    setup = prepared(text, tmp_path)
    monkeypatch.setitem(losses.BALANCE, "f_dot_p", lambda load, share: jnp.sum(share) * jnp.inf)
    with pytest.raises(connection.DisconnectedError, match="moe/router is not finite"):
        check(setup)


def test_the_run_stops_with_one_line_before_its_first_step(text, tmp_path, monkeypatch, capsys):
    cfg = tiny.config(text, **{"model.layers": MIXTURES, "mesh.data": 8})
    cut(monkeypatch, "f_dot_p")
    with pytest.raises(SystemExit):
        modes.train(cfg, str(tmp_path), {}, Startup())
    assert "is zero: it is disconnected, or always even" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "metrics.jsonl").exists() or not tiny.metrics(tmp_path)


def test_without_a_balance_loss_nothing_is_compiled(text, tmp_path, monkeypatch):
    layer = LAYER | dict(balance_weight=0.0)
    setup = prepared(text, tmp_path, **{"model.layers": dict(pattern=(dict(sublayers=(layer,)),))})
    monkeypatch.setattr(connection, "_few", None)
    connection.must_reach(setup, {}, {}, jax.random.key(0))
