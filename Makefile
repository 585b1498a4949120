# Every target sets up what it needs. `make help` lists them.

PYTHON ?= python3
TORCH ?= torch
DEMO_ARGS ?=
TEST_ARGS ?=
STUDY_ARGS ?=
STUDIES ?= stability-gap weight-aligning hft migu i-lora dmt grads continual-pretraining trace cf-glue \
	npo worst-case-forget-sets wise cotta neuron-fusion scole power-law-rehearsal \
	fpf refresh-learning cil-survey aljundi-thesis

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One thread a worker: more only make small tensors wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 $(TEST_ARGS)

.PHONY: help setup demo test test-system test-contract test-studies test-data test-slow check format bench bench-speed bench-attach bench-hft bench-merge bench-replay bench-long bench-scale bench-edit bench-reference measured docs-tables studies docs constraints clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Create .venv with the exact versions of constraints.txt

# The stamp is taken away before anything is installed and put back at the end. Without it, nothing
# says whether .venv is whole, so it is made anew: an interrupted set-up repairs itself.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "holdfast needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	         "Accepted: make setup PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) (about a minute where the packages are near) ..."
	@test -e $@ || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@rm -f $@
	@$(PIP) install -c constraints.txt setuptools $(TORCH)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Learn the digits with six methods; print a table and write a report
	@$(BIN)/holdfast demo $(DEMO_ARGS)

test: $(STAMP)  ## Run all tests but those marked system, contract, study, data or slow
	@$(PYTEST)

test-system: $(STAMP)  ## Try whole programs: several processes, interruptions, the browser, the site
	@$(PYTEST) -m "system and not data and not slow"

test-contract: $(STAMP)  ## Try what every method must keep, on all of them
	@$(PYTEST) -m "contract and not data and not slow"

test-studies: $(STAMP)  ## Run the tests that run a study in its quick form
	@$(PYTEST) -m "study and not data and not slow"

test-data: $(STAMP)  ## Run the tests on real data, in the folder named by HOLDFAST_DATA
	@test -n "$(HOLDFAST_DATA)" || \
	  { echo "Set HOLDFAST_DATA to the folder of data sets: make test-data HOLDFAST_DATA=FOLDER"; exit 2; }
	@HOLDFAST_DATA="$(HOLDFAST_DATA)" $(PYTEST) -m "data and not slow"

test-slow: $(STAMP)  ## Run the tests that take minutes: fifty kills over all methods, and more
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(TEST_ARGS)

check: $(STAMP)  ## Format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP)  ## Put the code in the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: bench-speed bench-attach bench-hft bench-merge bench-replay  ## Run all benchmarks

bench-speed: $(STAMP)  ## Time the learner against a bare PyTorch loop doing the same arithmetic
	@$(BIN)/python benchmarks/speed.py $(BENCH_ARGS)

bench-attach: $(STAMP)  ## Time a Trainer with and without attach, and our loop against it
	@$(BIN)/python benchmarks/attach.py $(BENCH_ARGS)

bench-hft: $(STAMP)  ## Time a step of half fine-tuning against one of full fine-tuning
	@$(BIN)/python benchmarks/hft.py $(BENCH_ARGS)

bench-merge: $(STAMP)  ## Time and memory of merging checkpoints, by reading and writing the same bytes
	@$(BIN)/python benchmarks/merge.py $(BENCH_ARGS)

bench-replay: $(STAMP)  ## Time replay that is chosen (ER-ACE, MIR, GSS) against replay at random
	@$(BIN)/python benchmarks/replay.py $(BENCH_ARGS)

bench-long: $(STAMP)  ## Memory and time per step along streams of 100 and 1,000 experiences
	@$(BIN)/python benchmarks/long_streams.py $(BENCH_ARGS)

bench-scale: $(STAMP)  ## Time a grid and a run on one process, two, and a local Ray
	@$(BIN)/python benchmarks/scale.py $(BENCH_ARGS)

bench-edit: $(STAMP)  ## Make 1,000 edits one after another with several editors (HOLDFAST_DATA)
	@test -n "$(HOLDFAST_DATA)" || \
	  { echo "Set HOLDFAST_DATA to the folder of data sets: make bench-edit HOLDFAST_DATA=FOLDER"; exit 2; }
	@HOLDFAST_DATA="$(HOLDFAST_DATA)" $(BIN)/python benchmarks/edit.py $(BENCH_ARGS)

bench-reference: $(STAMP)  ## Run published figures at their own settings (HOLDFAST_DATA)
	@test -n "$(HOLDFAST_DATA)" || \
	  { echo "Set HOLDFAST_DATA to the folder of data sets: make bench-reference HOLDFAST_DATA=FOLDER"; exit 2; }
	@HOLDFAST_DATA="$(HOLDFAST_DATA)" $(BIN)/python benchmarks/reference.py $(BENCH_ARGS)

measured: $(STAMP)  ## Run all methods at equal memory and write docs/measured.md and the guide's data (HOLDFAST_DATA)
	@test -n "$(HOLDFAST_DATA)" || \
	  { echo "Set HOLDFAST_DATA to the folder of data sets: make measured HOLDFAST_DATA=FOLDER"; exit 2; }
	@OMP_NUM_THREADS=1 HOLDFAST_DATA="$(HOLDFAST_DATA)" $(BIN)/python benchmarks/measured.py --write $(BENCH_ARGS)

docs-tables: $(STAMP)  ## Write the pages that are made from the methods' records: index, taxonomy, guide
	@$(BIN)/python -m holdfast.guide.tables docs

studies: $(STAMP)  ## Run the studies of published claims: claim, observed, verdict
	@for name in $(STUDIES); do $(BIN)/holdfast study $$name $(STUDY_ARGS) || exit; done

docs: $(STAMP)  ## Build the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

constraints:  ## Write constraints.txt anew from the newest versions that pyproject.toml accepts
	@rm -rf $(VENV)-new && $(PYTHON) -m venv $(VENV)-new
	@$(VENV)-new/bin/pip install --quiet setuptools $(TORCH) '.[dev]'
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(VENV)-new/bin/pip freeze --all | grep -v -e '^holdfast' -e '^pip=' \
	  | sed 's/^\(torch==[0-9.]*\)+.*/\1/' >> constraints.new
	@mv constraints.new constraints.txt && rm -rf $(VENV)-new

clean:  ## Remove .venv and all caches
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
