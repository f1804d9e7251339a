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
# nvcc from PyPI, for machines that lack the version that limits and static figures are pinned to.
NVCC_WHEELS := nvidia-cuda-nvcc==13.5.37 nvidia-cuda-crt==13.5.37 nvidia-nvvm==13.5.37 \
               nvidia-cuda-runtime==13.5.* nvidia-cuda-cccl==13.3.5.*
SASS_WHEELS := nvidia-cuda-cuobjdump==13.5.* nvidia-cuda-nvdisasm==13.5.*
# cuDNN's graph interface: imports without a GPU, so that building its graphs is tested.
GRAPH_WHEELS := nvidia-cudnn-frontend==1.32.*

VENV := .venv
BIN := $(VENV)/bin
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
HAS_NVCC := $(shell PATH="$$PATH:$${CUDA_HOME:-/usr/local/cuda}/bin" nvcc --version 2>/dev/null | \
	grep -q 'V13[.]5[.]37' && echo yes)
CONSTRAINTS := $(if $(HAS_GPU),,-c constraints-cpu.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet \
       $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16
	@echo "gpu-help        what a Hopper machine can do"

# Compiled once: every run starts several processes, which would each do it where Python is told to write no bytecode.
$(VENV)/.installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) -e .
	$(BIN)/python -m compileall -q attnbench
	touch $@

$(VENV)/.tested: $(VENV)/.installed Makefile
	$(PIP) $(CONSTRAINTS) -e '.[test]'
	$(PIP) --no-deps $(SASS_WHEELS) $(GRAPH_WHEELS) $(if $(HAS_NVCC),,$(NVCC_WHEELS))
	touch $@

$(VENV)/.linted: $(VENV)/.installed
	$(PIP) $(CONSTRAINTS) -e '.[lint]'
	touch $@

.PHONY: install
install: $(VENV)/.installed ## create .venv and install attnbench into it

.PHONY: run
run: $(VENV)/.installed ## the main job: run suites/quick.yaml, print a table, write a report
	@run=results/$$(date -u +%Y%m%dT%H%M%SZ)-quick; status=0; \
	$(BIN)/attnbench run suites/quick.yaml --out $$run || status=$$?; \
	if [ -f $$run/records.jsonl ]; then $(BIN)/attnbench report $$run -o $$run/report.md; fi; \
	exit $$status

# One process a core, whole files at a time: what a file's tests share is made once. Files in their order, which begins
# nothing long at the end. The emulation's own pool of processes steps back (tests/emulation/parallel.py). Meanwhile
# the kernels are compiled, which tests wait for otherwise; not with less priority, or a busy machine would make a test
# wait for a compiler that never gets its turn.
# With a GPU one test at a time: they would share it.
ON_EVERY_CORE := $(if $(HAS_GPU),,-n logical --dist loadfile --no-loadscope-reorder)

.PHONY: test
test: $(VENV)/.tested ## install and run all tests, on every core
	@$(BIN)/python -m tests.compile_ahead & ahead=$$!; trap "kill $$ahead 2>/dev/null || true" EXIT; \
	$(BIN)/python -m pytest -q $(ON_EVERY_CORE)

.PHONY: test-full
test-full: $(VENV)/.tested ## the full products too, of emulated kernels, machine code, mutated runs, ...; takes long
	$(BIN)/python -m pytest -q -m "full or not full"

.PHONY: lint
lint: $(VENV)/.linted ## style and types: ruff (lint, format) and mypy
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy

.PHONY: docs
docs: $(VENV)/.installed ## build the documentation into docs-build/; a broken link is an error
	$(PIP) $(CONSTRAINTS) -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

.PHONY: kernels
kernels: $(VENV)/.tested ## compile kernels/ for sm_90a into build/
	$(BIN)/attnbench kernels build

# Peers whose machine code kernels/COMPARISON.md reads; what cannot be had is said there to be not run. flash-attn-4 is
# compiled, in an environment of its own that takes torch from .venv. About 1 GB, and 15 minutes.
COMPARISON := build/comparison
COMPARED_WHEELS := fa3-fwd==0.0.3 tokenspeed-fa3==3.0.0.post20260810 flash-attn3-jax==0.2.3 sglang-kernel==0.4.10 \
                   vllm==0.33.0
FA4_WHEELS := flash-attn-4==4.0.0b36 nvidia-cutlass-dsl==4.8.1 nvidia-cutlass-dsl-libs-base==4.8.1 \
              nvidia-cutlass-dsl-libs-core==4.8.1 nvidia-cutlass-dsl-libs-cu12==4.8.1 einops apache-tvm-ffi \
              torch-c-dlpack-ext quack-kernels cuda-bindings cuda-pathfinder protobuf typing-extensions
.PHONY: comparison
comparison: $(VENV)/.tested kernels ## our kernels' machine code beside peers': writes kernels/COMPARISON.md
	@mkdir -p $(COMPARISON)/wheels $(COMPARISON)/cubins/fa4
	@for wheel in $(COMPARED_WHEELS); do \
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps -d $(COMPARISON)/wheels $$wheel || \
	    echo "not had: $$wheel"; done
	@if [ ! -f $(COMPARISON)/cubins/fa4/version ]; then \
	$(PYTHON) -m venv $(COMPARISON)/fa4 && \
	echo $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') > \
	    $$($(COMPARISON)/fa4/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth && \
	$(COMPARISON)/fa4/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(FA4_WHEELS) && \
	$(COMPARISON)/fa4/bin/python kernels/comparison/fa4.py $(COMPARISON)/cubins/fa4 && \
	echo "$(firstword $(FA4_WHEELS)), nvidia-cutlass-dsl==4.8.1" > $(COMPARISON)/cubins/fa4/version || \
	echo "not had: FlashAttention-4"; fi
	@$(BIN)/python kernels/comparison/triton_forward.py $(COMPARISON)/cubins/triton
	@$(BIN)/python kernels/comparison/write.py $(COMPARISON)

# On a Hopper machine: make gpu, gpu-short, gpu-wheels, gpu-help.
include kernels/gpu.mk

# It is compiled for one version of torch and asks for packages that its operators do not need: no extra can say that.
EXECUTORCH := executorch==1.5.1
.PHONY: peers
peers: $(VENV)/.installed ## install what suites/cpu.yaml compares: the extra cpu-peers, and executorch
	$(PIP) $(CONSTRAINTS) -e '.[cpu-peers]'
	$(PIP) --no-deps $(EXECUTORCH)

# The runs that each fill rows of the FlashAttention-3 paper's error table make one report.
.PHONY: reports
reports: $(VENV)/.installed ## rebuild reports/ from the committed runs
	@for records in $$(git ls-files 'results/*/records.jsonl' ':!results/*-fa3-*'); do run=$$(dirname $$records); \
	$(BIN)/attnbench report $$run -o reports/$$(basename $$run).md; done
	@$(BIN)/attnbench report $$(git ls-files 'results/*-fa3-*/records.jsonl' | xargs -n 1 dirname) -o reports/fa3-error-table-cpu.md

.PHONY: behaviour
behaviour: $(VENV)/.installed ## rewrite docs/behaviour.md: what backends do where libraries differ; peers after `make peers`
	@$(BIN)/attnbench behaviour naive cpu_flash ort_mha ort_gqa ort_attention openvino ggml executorch > docs/behaviour.md

.PHONY: claims
claims: $(VENV)/.installed ## rewrite docs/claims.md from the committed runs
	@$(BIN)/attnbench claims $$(git ls-files 'results/*/records.jsonl' | xargs -n 1 dirname) -o docs/claims.md

# Packages come from the index into build/published/
.PHONY: published
published: $(VENV)/.tested ## judge published kernels in the interpreters, rewrite docs/published-kernels.md
	@$(BIN)/python -m benchmarks.published

# Half an hour together; the others take minutes.
LONG_BENCHMARKS := benchmarks/false_alarms.py benchmarks/ab_null.py benchmarks/judge_null.py
# They need a machine on which nothing else runs; one of them installs other tools.
QUIET_BENCHMARKS := benchmarks/busy_machine.py benchmarks/equal_code.py
.PHONY: bench
bench: $(VENV)/.installed ## measure the harness itself: start-up, dry run, report, overhead
	@for benchmark in $(filter-out $(LONG_BENCHMARKS) $(QUIET_BENCHMARKS) benchmarks/made_load.py,$(wildcard benchmarks/*.py)); do \
	echo "== $$benchmark"; $(BIN)/python $$benchmark; done

.PHONY: bench-verdicts
bench-verdicts: $(VENV)/.installed ## how often verdicts are wrong: simulated suites, real A/A; half an hour
	@for benchmark in $(LONG_BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

.PHONY: clean
clean: ## remove .venv, build/ and docs-build/
	rm -rf $(VENV) build docs-build *.egg-info
