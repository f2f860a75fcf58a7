# Every command a contributor needs; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
# Another index for torch and torchvision, e.g. a CPU or CUDA build of your choice, in any version that setup.py allows;
# empty takes the default build in the version of constraints.txt.
TORCH_INDEX ?=
# Which recording the demo plays: event, thermal, depth, polarization, light_field, or all five.
MODALITY ?= thermal
OUT ?= demo_out
# How long the soak test runs.
MINUTES ?= 20
# How many broken messages the decoders are shown, and which ones.
CASES ?= 100000
SEED ?= 1

BIN = $(VENV)/bin
READY = $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup constraints demo soak chaos fuzz bench twins reproduce-small test quick coverage check fix docs clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## make the virtual environment with ROS 2 wheels, torch and the tools

$(READY): setup.py requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	sed '$(if $(TORCH_INDEX),/^torch/d)' constraints.txt > $(VENV)/constraints.txt
	grep '^torch' requirements.txt > $(VENV)/torch.txt
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) --requirement $(VENV)/torch.txt)
	$(BIN)/python -m pip install --constraint $(VENV)/constraints.txt --editable ".[ros,train,synth,openvino,viewer,dev]"
	touch $@

constraints: $(READY)  ## keep the installed versions, which have passed, in constraints.txt
	$(BIN)/python .ci/write_constraints.py

demo: $(READY)  ## play a recording (MODALITY, or all) through the live node; results in demo_out/
	$(BIN)/python -m segrgbx_ros.tools.demo --modality $(MODALITY) --out $(OUT)

soak: $(READY)  ## run the live node for MINUTES (20): memory, ages, every frame accounted for
	$(BIN)/python -m segrgbx_ros.tools.soak --minutes $(MINUTES)

chaos: $(READY)  ## mix every fault of two pairs over real topics for MINUTES (20); counts must add up
	$(BIN)/python -m segrgbx_ros.tools.soak --chaos --rate 8 --minutes $(MINUTES) --out chaos_out

fuzz: $(READY)  ## show every reader CASES (100000) broken messages or files; others with another SEED
	SEGRGBX_FUZZ_CASES=$(CASES) SEGRGBX_FUZZ_SEED=$(SEED) \
	  $(BIN)/python -m pytest $$(grep -rl --include='*.py' FUZZ_CASES test) -q --timeout 0

bench: $(READY)  ## time SegRGB-X beside its ancestors in one run; results in bench_out/
	mkdir -p bench_out
	$(BIN)/segrgbx-bench --compare --repeats 8 --warm-up 1 --json bench_out/compare.json \
	  --chart bench_out/compare.png

twins: $(READY)  ## the proof that X is used: classes that only X shows, one model for all five
	$(BIN)/python -m training.twin_test --out runs/twins

reproduce-small: $(READY)  ## captions, MA-CLIP, joint training, scores, figures on rendered scenes
	$(BIN)/python -m training.reproduce_small

# Tests that talk over DDS run alone: they watch the clock, and neighbours would steal their time.
test: $(READY)  ## run the whole CPU test suite
	$(BIN)/python -m pytest -m "not ros" --numprocesses auto --maxprocesses 4 --dist worksteal
	$(BIN)/python -m pytest -m ros

quick: $(READY)  ## lint and the tests that need neither torch nor ROS
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q --light -m "not slow" test/core test/repository

coverage: $(READY)  ## lines that the CPU test suite runs, by package; pages of them in coverage_out/
	$(BIN)/python -m pytest -m "not ros" --numprocesses auto --maxprocesses 4 --cov --cov-report=
	$(BIN)/python -m pytest -m ros --cov --cov-append --cov-report=
	$(BIN)/coverage html
	for package in segrgbx_core segrgbx_ros training; do \
	  echo "$$package $$($(BIN)/coverage report --include="$$package/*" --format=total) %"; done

check: $(READY)  ## format, lint, import rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	MYPYPATH=docs/tools $(BIN)/mypy docs/tools/*.py

fix: $(READY)  ## repair format and lint where that can be done by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## write the generated pages and pictures in docs/
	$(BIN)/python -m segrgbx_ros.config.parameter_table
	$(BIN)/python docs/tools/draw_architecture.py
	$(BIN)/python docs/tools/draw_demo.py
	$(BIN)/python -m training.world.gallery --out docs/images/world.jpg

clean:  ## remove what was built, keep the virtual environment
	rm -rf build install log dist demo_out chaos_out bench_out coverage_out .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
