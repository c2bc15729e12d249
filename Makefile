# `make demo` and `make test` install what they need into .venv first.

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: help install check test test-all bench demo study clean

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

install: .venv/installed  ## everything, into .venv

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[report,reference]' --group dev
	touch $@

check: install  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# A process a core; a thread each, or they would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: install  ## the tests
	$(PYTEST)

.venv/integrations: .venv/installed
	$(BIN)/pip install --quiet --group integrations
	touch $@

test-all: .venv/integrations  ## every network, and other people's trainers
	$(PYTEST) -m ""

# Freed memory is kept by the process, as CUDA's allocator keeps it: otherwise a CPU step
# is timed with the kernel's work of handing out its pages again and again.
KEEP := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
BENCH := $(KEEP) $(BIN)/python benchmarks

bench: install  ## time and memory beside the alternatives; writes the tables
	$(BENCH)/views.py
	$(BENCH)/scores.py
	$(BENCH)/growth.py --plot docs/growth.png
	$(BENCH)/overhead.py
	$(BIN)/python benchmarks/table.py README.md docs/cost.md

# One network, trained twice from the same weights on the same views: with the task loss
# alone, and with the invariance losses. A mirrored digit is no digit: --flip 0.
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 \
	--mixed_precision no --dynamo_backend no reference/train.py
TRAIN := --dataset digits --model allcnn --width 0.1667 --num-views 4 --batch-size 16 \
	--epochs 16 --opt sgd-nesterov --wd 0 --lr 0.05 --lr-scheduler cosineannealinglr \
	--scheme heavier --flip 0 --print-freq 15
MEASURE := --model reference/models.py:allcnn --data digits --scheme halved --flip 0 \
	--resize 16 --crop 16 --measures layers,output,strength

demo: install  ## train a baseline and the method on digits, measure both: demo/report.html
	rm -rf $(DEMO)
	$(LAUNCH) $(TRAIN) --alpha 0 --output-dir $(DEMO)/baseline
	$(LAUNCH) $(TRAIN) --alpha 0.5 --output-dir $(DEMO)/invariance
	for name in baseline invariance; do $(BIN)/dai-plugin measure $(MEASURE) \
		--name $$name --weights $(DEMO)/$$name/model.pth --output $(DEMO)/$$name || \
		exit 1; done
	$(BIN)/dai-plugin report $(DEMO)/baseline $(DEMO)/invariance --output $(DEMO)

study: install  ## ten minutes: arms tuned alike on digits, one table
	$(BIN)/python reference/study.py reference/studies/digits.yaml --output-dir study

clean:  ## what `install`, `demo` and `study` made
	rm -rf .venv $(DEMO) study
