# make run      install, run the main job on whatever this machine has, write a report
# make test     install, run all tests
# make help     the rest
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Any Python 3.11 or newer with venv. For `make gpu` it may be an interpreter that already has everything.
PYTHON ?= python3
# An index to take torch from, such as PyTorch's own index of CPU wheels; empty: pip's configured one.
TORCH_INDEX ?=
# nvcc from PyPI, for machines that have none: the version that the static figures are pinned to.
NVCC_WHEELS := nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
               nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.*
# Disassemblers that read nvcc 13.0's output; PyPI has them from this version on.
SASS_WHEELS := nvidia-cuda-cuobjdump==13.2.* nvidia-cuda-nvdisasm==13.2.*
# cuDNN's graph interface: imports without a GPU, so that building its graphs is tested.
GRAPH_WHEELS := nvidia-cudnn-frontend==1.32.*

VENV := .venv
BIN := $(VENV)/bin
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
HAS_NVCC := $(shell command -v nvcc >/dev/null 2>&1 || test -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" && echo yes)
CONSTRAINTS := $(if $(HAS_GPU),,-c constraints-cpu.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed Makefile
	$(PIP) $(CONSTRAINTS) -e '.[test]'
	$(PIP) --no-deps $(SASS_WHEELS) $(GRAPH_WHEELS) $(if $(HAS_NVCC),,$(NVCC_WHEELS))
	touch $@

.PHONY: install
install: $(VENV)/.installed ## create .venv and install attnbench into it

.PHONY: run
run: $(VENV)/.installed ## the main job: run suites/quick.yaml, print a table, write a report
	@run=results/$$(date -u +%Y%m%dT%H%M%SZ)-quick; status=0; \
	$(BIN)/attnbench run suites/quick.yaml --out $$run || status=$$?; \
	if [ -f $$run/records.jsonl ]; then $(BIN)/attnbench report $$run -o $$run/report.md; fi; \
	exit $$status

.PHONY: test
test: $(VENV)/.tested ## install and run all tests
	$(BIN)/python -m pytest -q

.PHONY: test-full
test-full: $(VENV)/.tested ## the full product of the emulation tests too; takes long
	$(BIN)/python -m pytest -q -m "full or not full"

.PHONY: kernels
kernels: $(VENV)/.tested ## compile kernels/ for sm_90a into build/
	$(BIN)/attnbench kernels build

# ---- On a Hopper machine -------------------------------------------------------------------------------------------
# Steps in the order of kernels/STATUS.md; each resumes where it stopped and takes at most STEP_SECONDS.
#   make gpu                        everything, into .venv
#   make gpu STEP=smoke             one step
#   make gpu PYTHON=python3         with that interpreter as it is: no .venv, no installation, no network
# Runs land in GPU_RUNS/<step>; finished steps leave a mark there and are not repeated (remove it to repeat one).
GPU_RUNS ?= results/gpu
STEP_SECONDS := 480
BUDGET := 7m
H100_GROUPS := fp16_d64 fp16_d128 fp16_d256 bf16_d64 bf16_d128 bf16_d256 e4m3_d64 e4m3_d128 e4m3_d256 \
               models models_e4m3 unequal_lengths long_context
GPU_STEPS := build golden tests edges large sanitizer smoke $(H100_GROUPS:%=h100-%) ablation sweep
GPU_PYTHON := $(if $(filter command line,$(origin PYTHON)),$(PYTHON),$(BIN)/python)
GPU_NEEDS := $(if $(filter command line,$(origin PYTHON)),,$(VENV)/.tested)
HOPPER_SCHEDULES = $(shell $(GPU_PYTHON) -m attnbench list backends | sed -nE 's/^(hopper[^ ]*) .*/--backend "\1"/p')
SWEEP := --backend hopper --backend "hopper[n128]" --backend "hopper[m128]" --backend "hopper[softmax_turns]" --backend "hopper[no_turns]" \
         --backend "hopper[no_overlap]" --backend "hopper[pingpong]"
# $(1): step, $(2): suite and options, $(3): exit statuses that finish the step. An earlier run is continued. Where the
# budget ended it early the step is not finished: the same command goes on with it. Incorrect records and errors
# (1 and 3) are findings to read in the run, and no reason to stop the steps behind it, but for `edges`.
measure = if [ -f $(GPU_RUNS)/$(1)/records.jsonl ]; then into=--resume; else into=--out; fi; status=0; \
	timeout $(STEP_SECONDS) $(GPU_PYTHON) -m attnbench run $(2) --device cuda --budget $(BUDGET) $$into $(GPU_RUNS)/$(1) \
	    | tee $(GPU_RUNS)/.done/$(1).log || status=$$?; \
	if grep -q '^incomplete:' $(GPU_RUNS)/.done/$(1).log; then echo "not finished: make gpu STEP=$(1) goes on"; exit 3; fi; \
	[[ " $(3) " == *" $$status "* ]]

.PHONY: gpu
gpu: $(if $(STEP),gpu-$(STEP),$(GPU_STEPS:%=gpu-%)) ## on a Hopper machine: everything that needs one (STEP=name for one step)

$(GPU_STEPS:%=gpu-%): gpu-%: $(GPU_RUNS)/.done/%

# Each step after the one before it, so that `make gpu` keeps the order.
$(GPU_RUNS)/.done/%: $(GPU_NEEDS)
	@mkdir -p $(@D); echo "== gpu step $*"; $(call gpu_step,$*); touch $@

gpu_step = $(if $(filter h100-%,$(1)),$(call measure,$(1),suites/h100.yaml --only group=$(1:h100-%=%),0 1 3),$(step_$(1)))
step_build = $(GPU_PYTHON) -m attnbench kernels build && $(GPU_PYTHON) -m attnbench kernels inspect
step_golden = timeout $(STEP_SECONDS) $(GPU_PYTHON) -m pytest -q -m gpu tests/golden \
	&& timeout $(STEP_SECONDS) $(GPU_PYTHON) -m pytest -q tests/golden
step_tests = timeout $(STEP_SECONDS) $(GPU_PYTHON) -m pytest -q -m gpu
step_edges = $(call measure,edges,suites/edges.yaml --no-time $(HOPPER_SCHEDULES),0)
step_large = $(call measure,large,suites/large.yaml,0 1 3)
step_sanitizer = timeout $(STEP_SECONDS) $(GPU_PYTHON) -m attnbench.kernel_sanitize \
	--out $(GPU_RUNS)/sanitizer.jsonl --budget-s 420
step_smoke = $(call measure,smoke,suites/h100-smoke.yaml,0 1 3)
step_ablation = $(call measure,ablation,suites/ablation.yaml,0 1 3)
step_sweep = $(call measure,sweep,suites/h100.yaml --only dtype=bf16 $(SWEEP),0 1 3)

.PHONY: reports
reports: $(VENV)/.installed ## rebuild reports/ from the committed runs
	@for records in $$(git ls-files 'results/*/records.jsonl'); do run=$$(dirname $$records); \
	$(BIN)/attnbench report $$run -o reports/$$(basename $$run).md; done

.PHONY: bench
bench: $(VENV)/.installed ## measure the harness itself: start-up, dry run, report, overhead
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

.PHONY: clean
clean: ## remove .venv and build/
	rm -rf $(VENV) build *.egg-info
