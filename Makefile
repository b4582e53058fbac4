# The commands of this project. `make help` lists them. Nothing is built inside the clone.

SHELL := /bin/bash
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tsfs/target
export CARGO_TERM_PROGRESS_WHEN ?= never

# Cargo with RocksDB taken from this machine's archive; see the script.
CARGO := .ci/cargo
# A process per test keeps mounts apart; plain `cargo test` does where nextest is not installed.
TEST := $(CARGO) $(if $(shell command -v cargo-nextest),nextest run,test)
TSFS := $(CARGO_TARGET_DIR)/release/tsfs

# Where `make run` mounts.
MNT ?= $(HOME)/tsfs
STORE ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/tsfs/store
# Where `make cluster` has its nodes and mounts.
CLUSTER ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/tsfs/cluster
STOP ?=

.PHONY: help deps build install check fix test bench demo run cluster posix crash chaos sim fixture

help: ## List these commands
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what is missing on a Debian machine (needs root or sudo only then)
	@.ci/install-deps

build: deps ## The release binary, at $CARGO_TARGET_DIR/release/tsfs
	$(CARGO) build --release --locked

PREFIX ?= /usr/local
DESTDIR ?=

install: ## Program, manual, completions, mount(8) helpers and systemd units (PREFIX=, DESTDIR=); run `make build` first
	install -Dm755 "$(TSFS)" "$(DESTDIR)$(PREFIX)/bin/tsfs"
	install -Dm755 mount-scripts/mount.tsfs "$(DESTDIR)/sbin/mount.tsfs"
	install -Dm755 mount-scripts/umount.fuse.tsfs "$(DESTDIR)/sbin/umount.fuse.tsfs"
	install -d "$(DESTDIR)/lib/systemd/system"
	for unit in tsfs@ tsfs-node@; do \
		sed "s|/usr/local/bin/tsfs|$(PREFIX)/bin/tsfs|" "mount-scripts/$$unit.service" >"$(DESTDIR)/lib/systemd/system/$$unit.service"; \
	done
	"$(TSFS)" man "$(DESTDIR)$(PREFIX)/share/man/man1" >/dev/null
	install -d "$(DESTDIR)$(PREFIX)/share/bash-completion/completions"
	"$(TSFS)" completions bash >"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tsfs"

check: ## Format, lints, documentation and the rules of the source; never writes to the tree
	cargo fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --locked
	$(TEST) --locked --test tidy

fix: ## Whatever of `check` can be put right by a program
	cargo fmt
	$(CARGO) clippy --all-targets --fix --allow-dirty --allow-staged

test: deps check ## Every test, those on real mounts included, after everything that `check` holds
	$(TEST) --locked

bench: deps ## Measure, with baselines beside it; prints a table (ARGS="--quick --only sync")
	$(CARGO) bench --locked --bench fs -- $(ARGS)

posix: deps ## The POSIX suites (pjdfstest, fsx with many seeds) on a mount, with their figures
	TSFS_TEST_FSX_SEEDS=$${SEEDS:-25} $(CARGO) test --locked --test it posix:: -- --nocapture

crash: deps ## Kill -9, lost writes, and the power cut at every step of small workloads: an hour instead of seconds
	TSFS_TEST_CRASH_SECONDS=$${SECONDS_EACH:-180} $(CARGO) test --locked --test it -- crash:: power:: --nocapture

chaos: deps ## Three nodes under load, killed, frozen and cut off, for minutes each instead of seconds; prints the stalls
	TSFS_TEST_CHAOS_SECONDS=$${SECONDS_EACH:-180} $(CARGO) test --release --locked --test it cluster:: -- --nocapture --test-threads=1

sim: deps ## The simulated cluster: one seed (SEED=) or so many from the first on (SEEDS=); a failure prints its seed
	$(if $(SEED),TSFS_SIM_SEED=$(SEED),TSFS_SIM_SEEDS=$(or $(SEEDS),200)) $(CARGO) test --locked --test sim -- --nocapture

fixture: deps ## A store of the present format, and the messages, for tests/fixtures: once for each, before its release
	$(CARGO) test --locked --test it make_the_fixture -- --ignored

run: build ## Mount a store (MNT=, STORE= choose where) and say what to try
	@mount-scripts/try.sh "$(TSFS)" "$(STORE)" "$(MNT)"

cluster: build ## Three nodes and two mounts on this machine (CLUSTER= where, STOP=1 ends them)
	@mount-scripts/cluster.sh "$(TSFS)" "$(CLUSTER)" "$(STOP)"

demo: build ## Go back in time on a real tree, and print it
	@mount-scripts/demo.sh "$(TSFS)"
