# Everything a developer runs, one line each: `make help`.
# Each target that compiles first runs scripts/setup.sh, which does nothing (in a few milliseconds) when nothing is missing.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

CARGO  := . scripts/env.sh && cargo
SETUP  := scripts/setup.sh --quiet
DIR    ?= .cluster
MINUTES ?= 5
FUZZ_TARGETS := decode_v3 decode_v5 session

.PHONY: help setup build demo test interop bench-status cluster cluster-down chaos fuzz fuzz-smoke ci fix fmt-check clippy layers links check-guide doc

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing and compile RocksDB once (about 17 minutes, only the first time)
	@scripts/setup.sh

build: ## the carillon binary, release profile
	@$(SETUP)
	@$(CARGO) build --release -p carillon

demo: build ## the story: three nodes, a push, a killed leader, nothing lost
	@scripts/demo.sh

cluster: build ## a three-node cluster left running in DIR (default .cluster); EDGES=n BASE_PORT=p ANONYMOUS=1
	@scripts/cluster.sh up --dir $(DIR) $(if $(EDGES),--edges $(EDGES)) $(if $(BASE_PORT),--base-port $(BASE_PORT)) $(if $(ANONYMOUS),--anonymous)

cluster-down: ## stop the cluster of DIR; its data stays
	@scripts/cluster.sh down --dir $(DIR)

# The dev profile: it compiles faster, and its assertions are on while processes are killed.
test: ## all tests, a short chaos run included
	@$(SETUP)
	@$(CARGO) build --workspace --all-targets
	@$(CARGO) test --workspace

interop: ## paho-mqtt, gmqtt and MQTT.js against a cluster (installed by scripts/setup.sh --interop)
	@scripts/setup.sh --interop
	@$(CARGO) build -p carillon
	@$(CARGO) test -p conformance-tests --test interop -- --ignored --test-threads 1

chaos: build ## faults against a release build: MINUTES=5 SEED=random
	@$(CARGO) run --quiet --release -p chaos-tests -- run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# With TERMINALS, a trial that leaves the document as it is: 100000 take half a minute.
bench-status: build ## what the status of broad pushes costs, with 10 million terminals: docs/benchmarks.md
	@. scripts/env.sh && cargo bench --profile release -p raft-store --bench status -- \
	  --carillon "$$CARGO_TARGET_DIR/release/carillon" \
	  $(if $(TERMINALS),--terminals $(TERMINALS),--terminals 10000000 --docs $(CURDIR)/docs/benchmarks.md)

fuzz: ## every fuzz target in turn, MINUTES each
	@for target in $(FUZZ_TARGETS); do scripts/fuzz.sh $$target $$((60 * $(MINUTES))) || exit 1; done

# A few seconds each, from the corpus that is kept.
fuzz-smoke:
	@for target in $(FUZZ_TARGETS); do FUZZ_VERBOSITY=0 scripts/fuzz.sh $$target 10 || exit 1; done

fmt-check:
	@$(CARGO) fmt --all --check

clippy:
	@$(SETUP)
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

layers:
	@scripts/check-layers.sh

links:
	@scripts/check-docs.sh
	@scripts/check-conformance.sh

check-guide: ## the commands of docs/guide.md, as printed, against a fresh `carillon dev`
	@$(SETUP)
	@$(CARGO) build -p carillon
	@scripts/check-guide.sh

doc:
	@$(SETUP)
	@. scripts/env.sh && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

ci: fmt-check links layers clippy doc test fuzz-smoke ## the gate: formatting, links, layers, clippy, docs, tests, some seconds of fuzzing; changes nothing

fix: ## rewrite what can be: formatting, clippy's suggestions
	@$(SETUP)
	@$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@$(CARGO) fmt --all
