# make demo         an environment of its own, a trained demo, a sample from it
# make test         every test but the slow ones, on two cores
# make test-all     the slow ones too
# make test-floor   on the oldest Python and JAX supported (3.11, 0.10.2)
# make test-latest  on the newest (3.13, 0.12.0.1)
# make peers        PyTorch and transformers in an environment of their own (Python 3.11), .venv-peers
# make bench-gpu    on a GPU: are the kernels right, how fast are they beside others (MINUTES=8 begins nothing later and
#                   the same command goes on, PARTS='training speed' for some of it; see benchmarks/gpu/__init__.py)
# make goldens      computes tests/parity/goldens anew with the peers (CASES='gpt2 t5' for some of them)
# make lock         resolves requirements/*.txt anew (needs uv; UPGRADE=--upgrade for newer versions)
# make clean        removes the environments and caches, not the runs
#
# PYTHON=/path/to/python chooses the Python of demo, test and test-all; otherwise 3.12, else 3.13, on PATH or
# under pyenv, else python3; PEERS_PYTHON likewise that of peers (3.11). TESTS=tests/ops narrows what the test targets run.

PYTHON ?=
PEERS_PYTHON ?=
TESTS := tests
WORKDIR := runs/demo
UV := uv
UPGRADE :=
CASES :=
MINUTES :=
PARTS :=
# A file goes to one process, so that what its tests share is compiled once.
PYTEST := -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all test-floor test-latest peers bench-gpu goldens lock clean

demo: .venv
	.venv/bin/python run.py --config=configs/demo.py --workdir=$(WORKDIR)
	.venv/bin/python run.py --config=configs/demo.py --workdir=$(WORKDIR) --mode=generate --prompt='def '
	@echo
	@echo "Curves and samples:  .venv/bin/tensorboard --logdir $(WORKDIR)/tensorboard"

test: .venv
	.venv/bin/python $(PYTEST) -m 'not slow' $(TESTS)

test-all: .venv
	.venv/bin/python $(PYTEST) $(TESTS)

test-floor: .venv-floor
	.venv-floor/bin/python $(PYTEST) -m 'not slow' $(TESTS)

test-latest: .venv-latest
	.venv-latest/bin/python $(PYTEST) -m 'not slow' $(TESTS)

peers: .venv-peers

# With a Python that has JAX for that GPU, and the packages to compare with: nothing is installed.
bench-gpu:
	$(or $(PYTHON),python3) -m benchmarks.gpu $(if $(MINUTES),--minutes=$(MINUTES)) $(PARTS)

goldens: .venv-peers
	.venv-peers/bin/python -m tests.parity.peer make $(CASES)

# Always asked, at once done when nothing has changed: see requirements/venv.sh.
.PHONY: .venv .venv-floor .venv-latest .venv-peers
.venv:
	@PYTHON='$(PYTHON)' requirements/venv.sh $@ 3.12 3.13 python3
.venv-floor:
	@PYTHON= requirements/venv.sh $@ 3.11
.venv-latest:
	@PYTHON= requirements/venv.sh $@ 3.13
.venv-peers:
	@PYTHON='$(PEERS_PYTHON)' requirements/peers.sh $@ 3.11

# One lock a Python version, for Linux x86-64 and arm64 and macOS arm64: all have wheels of everything.
# The floor takes the lowest version setup.cfg allows of each direct dependency, so that its floors are tested.
DIRECT = python3 -c "import configparser; c = configparser.ConfigParser(); c.read('setup.cfg'); \
	print(c['options']['install_requires'], c['options.extras_require']['test'])"
COMPILE = $(DIRECT) | $(UV) pip compile - --universal --generate-hashes --only-binary :all: \
	--no-emit-index-url --custom-compile-command 'make lock' -q $(UPGRADE)
lock:
	$(COMPILE) requirements/py311.in --python-version 3.11 --resolution lowest-direct -o requirements/py311.txt
	$(COMPILE) requirements/py312.in --python-version 3.12 -o requirements/py312.txt
	$(COMPILE) requirements/py313.in --python-version 3.13 -o requirements/py313.txt

clean:
	rm -rf .venv .venv-floor .venv-latest .venv-peers .pytest_cache *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
