# `make demo` and `make test` need nothing but Python 3.11, make and git: they set up the rest, and say what.

PYTHON ?= python3
BIN := .venv/bin
CASES ?= 1000000
JOBS ?= $(shell nproc)
export PYTHON
export PYTHONPATH := src

.PHONY: help demo test lint unit test-kvm fuzz-cpu fuzz-img fuzz-qmp fuzz-rpc fuzz-virtio bench setup setup-test clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo       set up, boot Linux guests, show them at work'
	@echo 'make test       set up, check the code, run all tests'
	@echo 'make lint       ruff, mypy and the layers only'
	@echo 'make test-kvm   the KVM tests on real KVM, in an emulated machine'
	@echo 'make fuzz-cpu   compare CASES=$(CASES) random instructions with the host CPU'
	@echo 'make fuzz-virtio CASES=$(CASES) malformed rings and registers for every virtio device'
	@echo 'make fuzz-img   feed damaged disk images to the image code'
	@echo 'make fuzz-qmp   send CASES=$(CASES) damaged requests to the monitor'
	@echo 'make fuzz-rpc   send CASES=$(CASES) damaged frames to the daemon'
	@echo 'make bench      run all benchmarks, write benchmarks/RESULTS.md'
	@echo 'make clean      remove .venv and all caches in this directory'

setup:
	@scripts/setup run

setup-test:
	@scripts/setup test

demo: setup
	@$(BIN)/pyhyve demo

test: lint unit

lint: setup-test
	@echo '== ruff'
	@$(BIN)/ruff check .
	@echo '== mypy'
	@$(BIN)/mypy
	@echo '== layers'
	@$(BIN)/lint-imports

unit: setup-test
	@echo '== pytest'
	@$(BIN)/python -m pytest

test-kvm: setup-test
	$(BIN)/python -m tests.nested

fuzz-cpu: setup-test
	$(BIN)/python -m tests.fuzz.cpu --cases $(CASES) --jobs $(JOBS)

fuzz-img: setup-test
	$(BIN)/python -m tests.fuzz.image

fuzz-qmp: setup-test
	$(BIN)/python -m tests.fuzz.qmp --cases $(CASES)

fuzz-virtio: setup-test
	$(BIN)/python -m tests.fuzz.virtio --cases $(CASES) --jobs $(JOBS)

fuzz-rpc: setup-test
	$(BIN)/python -m tests.fuzz.rpc --cases $(CASES) --jobs $(JOBS)

bench: setup-test
	$(BIN)/python -m benchmarks all

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
