# The way in. Every target that needs the environment makes it first; `make` alone lists them.
#
#   make serve ARGS="--model Qwen/Qwen3-0.6B"        ARGS are those of `talkwire serve`,
#   make chat ARGS="-- --model Qwen/Qwen3-0.6B"      of `talkwire chat` (what follows -- is the server's),
#   make test ARGS="tests/client -x"                 of pytest
#   BUILD=cpu or BUILD=gpu                           chooses vLLM's build instead of looking for a GPU
SHELL := bash
BUILD ?= auto
ARGS ?=
# Two processes: one has the real engine's tests, which compute, while the others' mostly wait.
ABREAST = --numprocesses=2 --dist=loadscope
FAULTS = tests/faults tests/engine/test_death.py tests/engine/test_several_nodes.py tests/client/test_resuming.py tests/ray_serve
FUZZ = .venv/bin/python tests/fuzzing/decoding.py -max_len=4096

.PHONY: help chat serve test check faults soak fuzz proto docs setup setup-dev clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

chat: setup ## talk to a model in this terminal; with a pipe, answer it and exit
	@exec .venv/bin/talkwire chat --local $(ARGS)

serve: setup ## keep a server running on port 50051
	@exec .venv/bin/talkwire serve $(ARGS)

test: setup-dev ## run the tests
	@exec .venv/bin/python -m pytest $(or $(ARGS),$(ABREAST))

check: setup-dev ## run all that CI runs: format, lint, types, tests, coverage
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/python -m pytest --cov --cov-fail-under=95 $(ABREAST) $(ARGS)
	$(FUZZ) -max_total_time=60

fuzz: setup-dev ## look for ten minutes for bytes that break the reading of requests
	$(FUZZ) -max_total_time=600 $(ARGS)

faults: setup-dev ## cancel, kill, overload and drain at full size, and print what was lost
	TALKWIRE_FAULTS=full .venv/bin/python -m pytest -rs $(FAULTS) $(ARGS)

soak: setup-dev ## half an hour of mixed traffic, or ARGS minutes; fails if anything grows
	.venv/bin/python benchmarks/soak.py $(ARGS)

proto: ## regenerate generated/ and docs/reference.md from proto/
	@scripts/proto.sh

docs: setup-dev ## write the page of flags anew, and make the site of docs/ in site/
	.venv/bin/python scripts/flags.py > docs/flags.md
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

setup: ## make .venv with the build of vLLM that this machine can run
	@scripts/setup.sh $(BUILD)

setup-dev:
	@scripts/setup.sh $(BUILD) --dev

clean: ## remove the environments and all that was built
	rm -rf .venv .venv-proto tests/node/node_modules build dist site .coverage* .mypy_cache .pytest_cache .ruff_cache
