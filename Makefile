# Every command of the project. `make` alone lists them; each is a few lines that call scripts/.
# The scripts install and start what is missing, so that each target works on a new machine.

.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help demo up setup build test flood faults sim stack verify lint fmt bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## show a job's whole life through the real programs, in a minute, and stop everything again
	@scripts/demo

up: ## set up, build, and leave the system running here: prints its address and the first password
	@scripts/up

setup: ## install and start what is missing on this machine (Docker Engine, the job image)
	@scripts/setup

build: ## build all programs
	@scripts/build

test: setup ## run every test, against the real engine
	@scripts/test

flood: setup ## five gigabytes of output through one job: what is kept, and what it takes (minutes)
	@scripts/flood

faults: setup ## break everything that can break: the whole matrix, or ROWS=F2,F13, or MIX=600, by SEED=n; writes docs/reliability.md
	@ROWS='$(ROWS)' MIX='$(MIX)' SEED='$(SEED)' ROUNDS='$(ROUNDS)' CROWD='$(CROWD)' scripts/faults

sim: ## run the simulated system: SEEDS=n (1000) from FROM=m (0), or one SEED=s with its whole history
	@scripts/sim

stack: ## the stack of deploy/compose.yml for real: build its images, start it, run jobs through it, take it down; KEEP=1 leaves it
	@KEEP='$(KEEP)' scripts/stack

verify: ## everything that a change has to pass: format, clippy, docs, scripts, policy, tests
	@scripts/verify

lint: ## the part of verify that runs no test
	@scripts/verify --no-tests

fmt: ## format the Rust code
	@cargo fmt --all

bench: setup ## measure, with simulated agents and with real containers; writes what docs/benchmarks.md explains
	@scripts/bench --write all
