# On a Hopper machine: everything that needs one, in resumable steps. Included by the Makefile, whose variables it uses.
# Steps in the order of kernels/STATUS.md; each resumes where it stopped and takes at most STEP_SECONDS.
#   make gpu                        everything, into .venv
#   make gpu STEP=smoke             one step
#   make gpu PYTHON=python3         with that interpreter as it is: no .venv, no network; what lies in wheels/ is added
#   make gpu-short PYTHON=python3   the most telling steps in MINUTES; the same command again goes on
# Runs land in GPU_RUNS/<step>, what tests say in GPU_RUNS/<step>.log; finished steps leave a mark there and are not
# repeated (remove it to repeat one).
GPU_RUNS ?= results/gpu
STEP_SECONDS := 480
BUDGET := 7m
MINUTES := 9
# A process that a hanging kernel holds may not end when it is asked to: exit status 124 where it did, 137 where not.
TIMEOUT := timeout -k 20
# Steps of gpu-short; what needs no GPU last. Below this many seconds none is begun; this many are kept for ending one.
SHORT_STEPS := build golden contact tests paper ablation sweep-long sanitizer edges inspect
LEAST_SECONDS := 60
ENDING_SECONDS := 30
H100_GROUPS := fp16_d64 fp16_d128 fp16_d256 bf16_d64 bf16_d128 bf16_d256 e4m3_d64 e4m3_d128 e4m3_d256 \
               models models_e4m3 unequal_lengths long_context
GPU_STEPS := build inspect golden contact tests edges large sanitizer smoke quantize $(H100_GROUPS:%=h100-%) \
             fp8-error-long fp8-error error-table ablation sweep
EXTRA_STEPS := paper sweep-long
LIBRARIES := build/kernels/sm_90a
# With PYTHON on the command line: that interpreter, and beside it what it lacks, unpacked from WHEELS.
WHEELS := wheels
GPU_SITE := build/gpu-site
BARE := $(filter command line,$(origin PYTHON))
GPU_PYTHON := $(if $(BARE),env PYTHONPATH=$(CURDIR)/$(GPU_SITE):$(PYTHONPATH) $(PYTHON),$(BIN)/python)
GPU_NEEDS := $(if $(BARE),$(if $(wildcard $(WHEELS)/*.whl),$(GPU_SITE)/.unpacked),$(VENV)/.tested)
HOPPER_SCHEDULES = $(shell $(GPU_PYTHON) -c "from attnbench.backends import builtin; \
	print(*(f'--backend \"{one}\"' for one in builtin() if one.startswith('hopper')))")
SWEEP := --backend hopper --backend "hopper[n128]" --backend "hopper[m128]" \
         --backend "hopper[no_turns]" --backend "hopper[no_polynomial]" --backend "hopper[no_overlap]" --backend "hopper[pingpong]"
FP8_ERROR := --only dtype=e4m3 --backend hopper_fp8 --backend "hopper_fp8[two_level]"
PAPER := suites/h100.yaml --only group=bf16_d64,bf16_d128,bf16_d256,e4m3_d128 --only seqlen_q=1024,4096,16384 \
         --backend hopper --backend "hopper[no_polynomial]" --backend "hopper[multicast]" --backend hopper_fp8 --backend "hopper_fp8[no_polynomial]" \
         --backend "hopper_fp8[m192]" --backend "hopper_fp8[two_level]" --backend fa3 --backend cudnn
LONG := suites/h100.yaml --only group=bf16_d64,bf16_d128 --only seqlen_q=16384
# $(1): step, $(2): one suite and options, $(3): exit statuses that finish the step. An earlier run is continued. Where
# the budget ended it early the step is not finished (exit status 3): the same command goes on with it. Incorrect
# records and errors (1 and 3) are findings to read in the run, and no reason to stop the steps behind, but for `edges`.
measure = if [ -f $(GPU_RUNS)/$(1)/records.jsonl ]; then into=--resume; else into=--out; fi; status=0; \
	$(TIMEOUT) $(STEP_SECONDS) $(GPU_PYTHON) -m attnbench run $(2) --device cuda --budget $(BUDGET) \
	    $$into $(GPU_RUNS)/$(1) | tee $(GPU_RUNS)/.done/$(1).log || status=$$?; \
	if [[ " 124 137 " == *" $$status "* ]] || grep -q '^incomplete:' $(GPU_RUNS)/.done/$(1).log; then \
	    echo "not finished: make gpu STEP=$(1) goes on"; exit 3; fi; \
	[[ " $(3) " == *" $$status "* ]]

.PHONY: gpu-help
gpu-help:
	@grep -hE '^gpu[a-z-]*:.*##' kernels/gpu.mk | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: gpu
gpu: $(if $(STEP),gpu-$(STEP),$(GPU_STEPS:%=gpu-%)) ## on a Hopper machine: all that needs one (STEP=name: one step)

# Goes on behind a step that failed: what is right and fast matters as much as what is not. Without libraries it stops.
.PHONY: gpu-short
gpu-short: ## on a Hopper machine with little time: the most telling steps, MINUTES=9 a call
	@end=$$(($$(date +%s) + 60 * $(MINUTES))); \
	for step in $(SHORT_STEPS); do \
	    if [ -f $(GPU_RUNS)/.done/$$step ]; then continue; fi; \
	    if [ -f $(GPU_RUNS)/.done/$$step.failed ]; then \
	        echo "== gpu step $$step failed before: make gpu STEP=$$step repeats it"; continue; fi; \
	    left=$$((end - $$(date +%s) - $(ENDING_SECONDS))); \
	    if [ $$left -lt $(LEAST_SECONDS) ]; then echo "time is up before $$step: the same command goes on"; exit 3; fi; \
	    $(MAKE) --no-print-directory gpu-$$step STEP_SECONDS=$$left BUDGET=$$((left - $(ENDING_SECONDS)))s || \
	        [ $$step != build ] || ls $(LIBRARIES)/*.so >/dev/null || exit 1; \
	done; \
	failed=$$(ls $(GPU_RUNS)/.done 2>/dev/null | sed -n 's/[.]failed$$//p'); \
	if [ -n "$$failed" ]; then echo "failed:" $$failed; exit 1; fi; \
	for step in $(SHORT_STEPS); do \
	    if [ ! -f $(GPU_RUNS)/.done/$$step ]; then echo "not finished: $$step; the same command goes on"; exit 3; fi; \
	done

$(GPU_STEPS:%=gpu-%) $(EXTRA_STEPS:%=gpu-%): gpu-%: $(GPU_RUNS)/.done/%

# Each step after the one before it, so that `make gpu` keeps the order. A step that is only not finished (exit status
# 3) leaves no mark, one that failed another one.
$(GPU_RUNS)/.done/%: $(GPU_NEEDS)
	@mkdir -p $(@D); rm -f $@.failed; echo "== gpu step $*"; \
	( $(call gpu_step,$*) ) || { status=$$?; [ $$status = 3 ] || touch $@.failed; exit $$status; }; touch $@

# What is left of the step; bash counts its own SECONDS. At least 1: to timeout, 0 means no limit.
SECONDS_LEFT = $$(($(STEP_SECONDS) > SECONDS ? $(STEP_SECONDS) - SECONDS : 1))
# Test by test, since one that hangs must be known by its name: into a file that comes back with the runs.
GPU_TESTS = $(TIMEOUT) $(SECONDS_LEFT) $(GPU_PYTHON) -m pytest -v -m gpu
logged = 2>&1 | tee -a $(GPU_RUNS)/$(1).log
gpu_step = $(if $(filter h100-%,$(1)),$(call step_h100,$(1)),$(step_$(1)))
step_h100 = $(call measure,$(1),suites/h100.yaml --only group=$(1:h100-%=%),0 1 3)
step_build = $(GPU_PYTHON) -m attnbench kernels build $(call logged,build)
step_inspect = $(GPU_PYTHON) -m attnbench kernels inspect $(call logged,inspect)
step_golden = $(GPU_TESTS) --no-skips tests/golden -s $(call logged,golden)
step_contact = $(call measure,contact,suites/contact.yaml --timeout 20 $(HOPPER_SCHEDULES),0)
# Our own tests must all run; those of peers that are not installed need not.
step_tests = status=0; $(GPU_TESTS) --no-skips tests/hopper $(call logged,tests) || status=$$?; \
	$(GPU_TESTS) --ignore tests/hopper --ignore tests/golden $(call logged,tests) || status=$$?; exit $$status
step_edges = $(call measure,edges,suites/edges.yaml --no-time $(HOPPER_SCHEDULES),0)
step_large = $(call measure,large,suites/large.yaml,0 1 3)
step_sanitizer = $(GPU_PYTHON) -m attnbench.cli.sanitize --out $(GPU_RUNS)/sanitizer.jsonl --budget-s $(STEP_SECONDS)
step_smoke = $(call measure,smoke,suites/h100-smoke.yaml,0 1 3)
# A missed target (1) is a finding; where it could not run at all, the step has not been done.
step_quantize = status=0; $(TIMEOUT) $(STEP_SECONDS) $(GPU_PYTHON) -m benchmarks.quantize_kernel \
	    | tee $(GPU_RUNS)/quantize.txt || status=$$?; \
	if grep -q 'not run:' $(GPU_RUNS)/quantize.txt; then exit 3; fi; [[ " 0 1 " == *" $$status "* ]]
step_paper = $(call measure,paper,$(PAPER),0 1 3)
step_fp8-error-long = $(call measure,fp8-error-long,suites/fp8_error_long.yaml $(FP8_ERROR),0 1 3)
step_fp8-error = $(call measure,fp8-error,suites/fp8_error.yaml $(FP8_ERROR),0 1 3)
step_error-table = $(call measure,error-table,suites/fa3_error_table.yaml,0 1 3)
step_ablation = $(call measure,ablation,suites/ablation.yaml,0 1 3)
step_sweep = $(call measure,sweep,suites/h100.yaml --only dtype=bf16 $(SWEEP),0 1 3)
step_sweep-long = $(call measure,sweep-long,$(LONG) $(SWEEP),0 1 3)

# What an offline Hopper machine may lack, for its Python; torch, numpy and the rest it must have. FlashAttention-3 and
# the frontend are the peers to compare with. tokenspeed-fa3 has fp16 too, and newer sources than fa3-fwd, whose machine
# code differs: FA3_WHEELS="fa3-fwd einops" brings that one.
FA3_WHEELS := tokenspeed-fa3==3.0.0.post20260810
GPU_PYTHON_VERSION := 3.12
MANYLINUX := $(patsubst %,--platform manylinux_2_%_x86_64,28 27 24 17) --platform manylinux2014_x86_64
.PHONY: gpu-wheels
gpu-wheels: ## where there is a network: wheels for a Hopper machine that has none, into wheels/
	$(PYTHON) -m pip --disable-pip-version-check download --quiet --only-binary=:all: --implementation cp \
	    --python-version $(GPU_PYTHON_VERSION) $(MANYLINUX) -d $(WHEELS) pydantic
	$(PYTHON) -m pip --disable-pip-version-check download --quiet --only-binary=:all: --implementation cp \
	    --python-version $(GPU_PYTHON_VERSION) $(MANYLINUX) -d $(WHEELS) --no-deps $(GRAPH_WHEELS) $(FA3_WHEELS)

$(GPU_SITE)/.unpacked: $(wildcard $(WHEELS)/*.whl)
	$(PYTHON) -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile --upgrade \
	    --target $(GPU_SITE) $(WHEELS)/*.whl
	touch $@
