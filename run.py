"""Runs an experiment: `python run.py --config=configs/demo.py --workdir=runs/demo`.

    --config=FILE[:arg,key=val]   any leaf is overridden by --config.path.to.leaf=value
    --workdir=DIR                 the same command again goes on where the last one stopped
    --mode=train|eval|generate    generate takes --prompt, --chat, --max_new_tokens, --temperature, --print_ids
    --mode=sweep                  trains what the config's sweep() says, each point in WORKDIR/<index>-<overrides>/;
                                  --sweep_index=i only that one, in this process
    --mode=report                 writes the page of a claim (experiments/README.md) from what its sweep left in WORKDIR
                                  or, without --workdir, from the results that are kept beside it
    --mode=describe               prints parameters, tokens, FLOPs, memory and config of a run; needs no --workdir
    --mode=plan                   what the run needs and takes on --topology=v5p:4x4x4 (two slices: v5e:8x8,slices=2; a
                                  GPU node, in closed form: h200:8), compiled by libtpu, without a TPU; with
                                  --plan_search the fastest mesh, batch size and remat that fits
    --mode=export                 writes --export_to=FOLDER for transformers; --verify compares logits with it

--kernels=xla takes no kernel where one would suit the device; the log names what is taken. JAX's own flags work too
(`--jax_debug_nans=True`). Exit status: 0 done or stopped by a signal, 1 failed, 2 bad input.
"""

import logging
import os
import pathlib
import sys

from arch.train import cpu_devices, huge_pages
from arch.train.startup import Startup

if __name__ == "__main__":
    cpu_devices.take_turns()
    huge_pages.ask()
STARTUP = Startup()

import jax
from absl import flags
from ml_collections import config_flags

from arch.kernels import implementations
from arch.train import command_line, experiment

CONFIG = config_flags.DEFINE_config_file("config", help_string="file of the config, its argument behind a colon")
WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run")
MODES = ["train", "eval", "generate", "export", "sweep", "report", "describe", "plan"]
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
PROMPT = flags.DEFINE_multi_string("prompt", [""], "text to continue; give it several times for a batch")
flags.register_validator(PROMPT, command_line.is_utf8, message="must be UTF-8")
CHAT = flags.DEFINE_boolean("chat", False, "each prompt is what a user says to a chat model")
EXPORT_TO = flags.DEFINE_string("export_to", "", "folder that export writes")
FAMILY = flags.DEFINE_string("family", "", "file of arch/families in whose form export writes, if several can")
VERIFY = flags.DEFINE_boolean("verify", False, "print the largest difference of our logits from transformers'")
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 0, "tokens to generate; 0: as the config says", lower_bound=0)
TEMPERATURE = flags.DEFINE_float("temperature", None, "0: the likeliest; absent: as the config says", lower_bound=0.0)
PRINT_IDS = flags.DEFINE_boolean("print_ids", False, "print the new tokens' ids instead of text, a line a prompt")
SWEEP_INDEX = flags.DEFINE_integer("sweep_index", None, "the point of a sweep to run; absent: all", lower_bound=0)
TOPOLOGY = flags.DEFINE_string("topology", "", "chips to plan for: v5e:8x8, v5p:4x4x4,slices=2, h200:8")
PRICE = flags.DEFINE_float("price_per_chip_hour", 0.0, "of a plan's chips, in any currency; 0: none", lower_bound=0.0)
PLAN_SEARCH = flags.DEFINE_boolean("plan_search", False, "plan the fastest mesh, batch size and remat that fits")
PLAN_COMPILES = flags.DEFINE_integer("plan_compiles", 3, "of a search: how many that fit to compile", lower_bound=1)
KERNELS = flags.DEFINE_enum("kernels", "best", ["best", "xla"], "what computes where a kernel suits the device")
MULTIHOST = flags.DEFINE_boolean("multihost", False, "one of several processes: jax.distributed.initialize() first")
HELP = flags.DEFINE_boolean("help", False, "print this and stop", short_name="h")


def main(argv):
    """Flags -> config -> mode."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("arch").setLevel(logging.INFO)
    jax.config.config_with_absl()
    with command_line.one_line_errors(ValueError, OSError):
        rest = command_line.parse(flags.FLAGS, argv)
        for name in jax.config.values:  # what absl's app.run would do; its messages are longer than a line
            if name in flags.FLAGS and flags.FLAGS[name].present:
                jax.config.update(name, flags.FLAGS[name].value)
        if HELP.value:
            print(__doc__, flags.FLAGS.main_module_help(), sep="\n")
            return
        if rest[1:]:
            raise ValueError(f"argument {rest[1]!r} is no flag")
        train = [WORKDIR, CONFIG]
        needed = {"generate": [WORKDIR], "export": [WORKDIR, EXPORT_TO], "describe": [CONFIG], "report": [CONFIG]}
        needed["plan"] = [CONFIG, TOPOLOGY, WORKDIR]
        for flag in needed.get(MODE.value, train):
            if not flag.value:
                raise ValueError(f"--{flag.name} is missing")
        if VERIFY.value and MODE.value != "export" and not CONFIG.value:
            raise ValueError("--config is missing: --verify compares the checkpoint that its init_from names")
        overrides = dict(config_flags.get_override_values(flags.FLAGS["config"])) if CONFIG.value else {}
        if SWEEP_INDEX.value is not None and MODE.value != "sweep":
            raise ValueError(f"--sweep_index={SWEEP_INDEX.value} needs --mode=sweep")
        if MULTIHOST.value and MODE.value == "sweep" and SWEEP_INDEX.value is None:
            raise ValueError("--multihost needs --sweep_index: without it a sweep starts a process a point")
        if MODE.value == "report":
            report(argv, overrides)
            return
        points = check_sweep(argv, overrides) if MODE.value == "sweep" else None
        cfg = experiment.from_dict(CONFIG.value) if CONFIG.value and not points else None
    if WORKDIR.value and not jax.config.jax_compilation_cache_dir:  # a sweep's points share one
        jax.config.update("jax_compilation_cache_dir", os.path.join(WORKDIR.value, "compilation_cache"))
    if MULTIHOST.value:
        join()
    with implementations.without_kernels(KERNELS.value == "xla"):
        perform(argv, cfg, overrides, points)


def perform(argv, cfg, overrides, points):
    """The mode, of a checked config or sweep."""
    if points:
        run_sweep(argv, overrides, points)
        return
    if MODE.value == "describe":
        describe(cfg, overrides)
        return
    if MODE.value == "plan":
        plan(cfg)
        return
    from arch.train import modes  # Orbax, Grain and TensorBoard's writer take a second: not for a bad command line

    STARTUP.mark("imports")
    if VERIFY.value and MODE.value != "export":
        modes.verify(cfg)
    if MODE.value == "train":
        modes.train(cfg, WORKDIR.value, overrides, STARTUP)
    elif MODE.value == "eval":
        modes.evaluate(cfg, WORKDIR.value)
    elif MODE.value == "export":
        modes.export(cfg, WORKDIR.value, EXPORT_TO.value, family=FAMILY.value, verify=VERIFY.value)
    else:
        modes.generate(
            cfg,
            WORKDIR.value,
            PROMPT.value,
            max_new_tokens=MAX_NEW_TOKENS.value,
            temperature=TEMPERATURE.value,
            print_ids=PRINT_IDS.value,
            chat=CHAT.value,
        )


def describe(cfg, overrides):
    """`--mode=describe`: prints what the run would be."""
    from arch.train.describe import describe

    with command_line.one_line_errors(ValueError):
        print(describe(cfg, overrides))


def plan(cfg):
    """`--mode=plan`: prints what the run would need and take on chips that are not here."""
    from arch.plan import mode

    with command_line.one_line_errors(ValueError, OSError):
        how = dict(price=PRICE.value, searches=PLAN_SEARCH.value, compiles=PLAN_COMPILES.value)
        mode.plan(cfg, pathlib.Path(WORKDIR.value), TOPOLOGY.value, **how)


def report(argv, overrides):
    """`--mode=report`: writes the pages of a claim, and prints its verdict."""
    from experiments.report import report

    if overrides:
        raise ValueError(f"--config.{min(overrides)} has no meaning with --mode=report, which tells of a whole sweep")
    print(report(command_line.value_of(argv, "config"), WORKDIR.value))


def check_sweep(argv, overrides):
    """The sweep that the config defines, with all its points checked."""
    from arch.train import sweep_runs

    points = sweep_runs.check(command_line.value_of(argv, "config"), overrides, WORKDIR.value)
    if (SWEEP_INDEX.value or 0) >= len(points):
        raise ValueError(f"--sweep_index={SWEEP_INDEX.value} must be below {len(points)}, the number of points")
    return points


def run_sweep(argv, overrides, points):
    """`--mode=sweep`: all points, or one of them in this process."""
    from arch.train import sweep_runs

    if SWEEP_INDEX.value is None:
        sys.exit(1 if sweep_runs.run_all(points, argv) else 0)
    STARTUP.mark("imports")
    main_process = not MULTIHOST.value or jax.process_index() == 0
    sweep_runs.run_point(points, SWEEP_INDEX.value, overrides, STARTUP, main=main_process)


def join():
    """Joins the job's other processes. JAX asks a cluster that it knows who is who; else the environment says so.

    Its variables: JAX_COORDINATOR_ADDRESS (which JAX itself reads), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    given = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    jax.distributed.initialize(**{name: int(value) for name, value in given.items() if value})


if __name__ == "__main__":
    main(sys.argv)
