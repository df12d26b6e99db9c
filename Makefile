# Needs Python 3.10 or newer and make. Everything else goes into .venv, at the versions of constraints.txt.

VENV   := .venv
BIN     = $(VENV)/bin
PYTHON  = python3 python3.13 python3.12 python3.11 python3.10
PIP     = pip>=25
PROMPT  = And only l
ARGS    =
NB      =

# pip compiles nothing here: what is imported is compiled the first time, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: help explain lab test test-all types export hooks reproduce gpu models variants calibrate readme play docs bench clean stale

help: ## list the targets
	@echo 'make explain PROMPT="And only l"   (ARGS="--top 3" for more options of ffn_explain)'
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

explain: $(VENV)/run.ok ## what the model says after PROMPT, and which corpus strings say so
	@make_pid=$$PPID $(BIN)/python tools/explain.py $(BIN)/ffn_explain $(ARGS)

test: $(VENV)/dev.ok ## check the generated files and the code, then run the notebooks and the tests, but for the slow ones
	@$(call run_tests,-m 'not slow')

test-all: $(VENV)/dev.ok ## the same with the tests marked `slow`, those in a browser and those of models of other makes, whose libraries come first
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[hf,test-all]'
	@$(call run_tests,-rs)

lab: $(VENV)/dev.ok ## open the notebooks in Jupyter
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/jupyter lab nbs

types: $(VENV)/dev.ok ## check the types of the files that pyproject.toml names
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt mypy
	@$(BIN)/mypy

export: $(VENV)/dev.ok ## after an edit: write shakespeare_ffn/ from the notebooks, clean them
	@$(BIN)/python tools/export.py

hooks: $(VENV)/dev.ok ## once in a clone: have git merge notebooks cell by cell, and keep noise out of commits
	@PATH="$(abspath $(BIN)):$$PATH" nbdev_install_hooks

reproduce: $(VENV)/dev.ok ## run at full scale whichever notebooks are not done (or NB=nbs/…), and gather their figures beside the article's (ARGS=--check: compare them with those that are committed, and write nothing)
	@$(BIN)/python tools/reproduce.py $(ARGS) $(NB)
	@$(if $(filter --check,$(ARGS)),,$(BIN)/python tools/readme.py)

gpu: $(VENV)/dev.ok ## on a machine with a GPU: run the notebooks, the tests and the benchmark there, in stages that go on, and say what held
	@$(BIN)/python tools/gpu.py $(ARGS)

models: $(VENV)/run.ok ## train whichever of the four models is missing (ARGS="--seed 88" for one), or go on with it
	@$(BIN)/python tools/models.py $(ARGS)

variants: $(VENV)/run.ok ## make what the chapters on vectors and on dependence compare: other models, vectors, lengths (ARGS="'another seed'" for one)
	@$(BIN)/python tools/variants.py $(ARGS)

calibrate: $(VENV)/run.ok ## after a change of the package's weights: tune thresholds and weights for them, and learn a measure (ffn_calibrate does it for a model of your own)
	@$(BIN)/python tools/calibrate.py $(ARGS)

readme: $(VENV)/dev.ok ## write README.md from nbs/index.ipynb
	@$(BIN)/python tools/readme.py

play: $(VENV)/run.ok ## write the page to play with, and its data, to _play (keys and the compact index are computed first if they are not there)
	@$(BIN)/python tools/play.py

docs: $(VENV)/dev.ok ## write the site to _docs (needs Quarto)
	@$(BIN)/python tools/docs.py

bench: $(VENV)/dev.ok ## run the side-by-side measurements: about half an hour without a GPU (ARGS="index explain" for some)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt faiss-cpu tokenizers  # a peer; for models of other makes
	@$(BIN)/python benchmarks/run.py $(ARGS)

clean: ## remove what make made here (the user's cache of corpus and index stays)
	rm -rf $(VENV) _docs _proc _play build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# PROMPT as it was typed: neither make nor a shell may expand it (tools/explain.py has the rest).
unexport PROMPT
explain: export PROMPT_FROM_MAKE := $(value PROMPT)

# run.ok: the package and what it needs; dev.ok: what its development needs besides.
# Each holds the path of the checkout: one that was moved, or whose Python is gone, gets a new environment.
is_ours = test -x $(BIN)/python && test "$$(cat $(VENV)/run.ok 2>/dev/null)" = "$(CURDIR)"
STALE  := $(shell $(is_ours) || echo stale)

$(VENV)/run.ok: settings.ini setup.py constraints.txt $(STALE)
	@$(is_ours) || { $(new_venv); }
	@echo 'Installing the package and what it needs into $(VENV): a few minutes the first time …'
	@$(call install,.)

# All of it at once: what the package needs is not looked up twice.
$(VENV)/dev.ok: settings.ini setup.py constraints.txt $(STALE)
	@$(is_ours) || { $(new_venv); }
	@echo 'Installing the package, nbdev and pytest into $(VENV): a few minutes the first time …'
	@$(call install,.[test])
	@cp $@ $(VENV)/run.ok

# Every core builds the small index first, or all notebooks would wait for one that does.
# Then a process a core, the longest files first.
define run_tests
$(BIN)/python tools/export.py --check && $(BIN)/ruff check -q && \
echo 'Running the notebooks …' && SHAKESPEARE_FFN_SCALE=smoke $(BIN)/ffn_explain 'And only l' >/dev/null && \
export OMP_NUM_THREADS=1 && $(BIN)/nbdev_test --do_print && \
$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(1)
endef

# Of an environment that make did not make, nothing is removed.
define new_venv
test ! -e $(VENV) -o -e $(VENV)/by-make -o -e $(VENV)/run.ok || \
	{ echo '$(VENV) is there already, and make did not make it: remove it, or name a new folder: make VENV=…' >&2; exit 1; }; \
for python in $(PYTHON) none; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break; \
done; \
test "$$python" != none || \
	{ echo 'Python 3.10 or newer is needed. Install it, or say where it is: make PYTHON=/path/to/python3' >&2; exit 1; }; \
echo "Making $(VENV) with $$($$python --version) …"; \
"$$python" -m venv --clear $(VENV) >/dev/null 2>&1 && touch $(VENV)/by-make || { rm -rf $(VENV); \
	echo "$$python cannot make a virtual environment. Install its venv module (on Debian or Ubuntu: apt install python3-venv)." >&2; exit 1; }
endef

# Python brings a pip that may be too old for what comes next, or take twice as long; one that is new enough is left alone.
# Of what pip says, the larger downloads and errors are shown; .venv/pip.log has all. $@ is written only when pip succeeds.
# Linux gets PyTorch with CUDA from PyPI: that is said once, before the downloads (sed's hold space is empty until then).
define CUDA_COMES
PyTorch brings CUDA: 3 GB to download, 5 GB here. Without an NVIDIA GPU its small build does as well: stop this with\n  Ctrl-C, say  export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu  and run make again.
endef

define install
rm -f $@; { $(BIN)/python -m pip install -q --disable-pip-version-check '$(PIP)' && \
	$(BIN)/python -m pip install --no-compile --progress-bar off --disable-pip-version-check \
	-c constraints.txt -e '$(1)' && echo "$(CURDIR)" >$@; } 2>&1 | tee $(VENV)/pip.log | \
	sed -n -e 's/^ *Downloading \([^ ]*\) (\(.*[MG]B\).*/  \1 \2/p' -e 's/^Installing collected.*/  unpacking …/p' \
	-e '/^Collecting nvidia-/{' -e x -e 's|^$$|  $(CUDA_COMES)|p' -e x -e '}' -e '/^ *[Ee][Rr][Rr][Oo][Rr]:/,$$p'; \
test -e $@ || { echo 'The installation failed: $(VENV)/pip.log has all that it said.' >&2; exit 1; }
endef
