# What one types. `make` alone lists it. Rust 1.90 or newer must be there (https://rustup.rs); everything
# else that is missing is installed (as root on Debian or Ubuntu) or named.

export PATH := $(HOME)/.cargo/bin:$(PATH)
FUZZ_SECONDS ?= 20
CHAOS_FAULTS ?= 1000
CHAOS_SECONDS ?= 3600

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix fuzz chaos bench fmt lint compose-test deny docs docs-check ci

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: ## a private Postgres, the service and an example page, all on this machine
	@scripts/setup.sh build
	@scripts/demo-postgres.sh
	@cargo run --locked -p rowcast -- demo $(DEMO_ARGS)

test: ## all tests: on the newest PostgreSQL, then on the one this machine has
	@scripts/test.sh

test-matrix: ## the tests that speak to Postgres, on 14 to 18
	@scripts/test.sh --matrix

fuzz: ## random and mangled input against the parsers, FUZZ_SECONDS each (20)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --locked -p rowcast --test fuzz -- --nocapture --test-threads 1

chaos: ## CHAOS_FAULTS (1000) faults in CHAOS_SECONDS (3600) at most; writes its report into docs/reliability.md
	@scripts/setup.sh test
	@ROWCAST_TEST_PG=18 ROWCAST_PG_BIN=$$(scripts/postgres.sh 18) CHAOS_FAULTS=$(CHAOS_FAULTS) CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_REPORT=1 \
		cargo test --locked -p rowcast --test chaos chaos_every_copy -- --nocapture

bench: ## the benchmarks; writes docs/benchmarks.json and docs/benchmarks.md
	@scripts/setup.sh test
	@scripts/postgres.sh 18 >/dev/null
	@cargo build --release --locked -p rowcast -p rowcast-bench
	@target/release/rowcast-bench $(BENCH_ARGS)

fmt: ## formats the code
	@cargo fmt --all

lint: ## formatting, clippy with denied warnings, the shape of the code
	@cargo fmt --all --check
	@scripts/check-shape.sh
	@cargo clippy --locked --workspace --all-targets -- -D warnings

compose-test: ## docker-compose.yml, started and looked at (needs Docker)
	@scripts/compose-test.sh

deny: ## licences, sources, advisories and duplicates of dependencies (installs cargo-deny: long)
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	@cargo deny --locked check

docs: ## writes the generated pages and tables of docs/ anew
	@cargo run --quiet --locked -p rowcast -- config --reference > docs/configuration.md
	@UPDATE_DOCS=1 cargo test --quiet --locked -p rowcast --test docs

docs-check: ## generated pages, examples, links and names of tests in docs/ are true
	@cargo run --quiet --locked -p rowcast -- config --reference | diff -u docs/configuration.md -
	@cargo test --quiet --locked -p rowcast --test docs

ci: ## what .ci/run does
	@.ci/run
