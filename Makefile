# The commands of this project. `make demo` and `make test` install what they need first; see `setup`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help check test-kvm demo docs screenshot release test setup test-setup lint doc deny dockerfile fuzz fuzz-rivals instructions bench bench-demo bench-edge

help:
	@echo "make demo     build codiusd, start a host on this machine, pay for a pod and print its URL"
	@echo "make check    format, clippy, unit tests but for the runtime, and the edge; without root"
	@echo "make test     everything: unit, integration and end-to-end tests on real parts, fuzzing"
	@echo "make test-kvm the cases of virtual machines under KVM, where there is one"
	@echo "make docs     write the tables and files that are generated from the code"
	@echo "make screenshot  the picture of the host's page in the README, from a running page"
	@echo "make release  program, Debian package, SBOM, checksums and image, in dist/"
	@echo "make lint     formatting, clippy and documentation warnings"
	@echo "make deny     licences, sources and duplicates of the dependencies"
	@echo "make dockerfile  the image of deploy/Dockerfile, built without a registry, and a pod in it"
	@echo "make fuzz     every decoder, FUZZ_SECONDS (60) each"
	@echo "make fuzz-rivals  the edge's HTTP/1 beside nginx's and haproxy's, FUZZ_SECONDS (60): for nightly runs"
	@echo "make bench    upload to first byte, the figures of docs/benchmarks.md"
	@echo "make bench-edge  the edge beside nginx, haproxy, caddy and Node, the figures of docs/benchmarks.md"
	@echo "make instructions  the edge's instructions per request, compared with what is recorded"

# What is needed to build and run: only what is missing is installed, and said.
setup:
	@deploy/setup build

test-setup:
	@deploy/setup test

demo: setup
	cargo run --locked --profile demo -- demo $(DEMO_ARGS)

# Of the unit tests those of the runtime and these need root; the conformance suite of WebSockets needs Python packages.
NEED_ROOT := every_address_of_this_machine_is_its_own demos_side_by_side_have_networks_of_their_own
check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --exclude codiusd-runtime --exclude codiusd-container-rootfs --exclude codiusd-guest --lib --bins --test tidy -- $(NEED_ROOT:%=--skip %)
	cargo test --locked --workspace --test edge -- --skip websockets::
	@echo "make check: the runtime and its guest, $(NEED_ROOT), WebSocket conformance, whole hosts and fuzzing are left to make test"

test: test-setup
	cargo build --locked --manifest-path tests/interop/Cargo.toml --target-dir tests/interop/target
	cargo test --locked --workspace
	tests/fuzz/run $(FUZZ_SECONDS)

# The cases of virtual machines, with hardware instead of an emulator.
test-kvm: test-setup
	@test -w /dev/kvm || { echo "make test-kvm: this machine has no /dev/kvm; make test emulates virtual machines" >&2; exit 1; }
	CODIUS_TEST_KVM=1 cargo test --locked --package codiusd-runtime --test runtimes -- vm::

# Tables of settings, limits, metrics and commands, and deploy/codiusd.toml. The test compares them.
docs:
	CODIUSD_WRITE_DOCS=1 cargo test --quiet --test tidy generated

screenshot: test-setup
	cargo test --locked --test e2e browser::
	cp "$$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*' | cut -d '"' -f 4)/tmp/pages/visitor-desktop-light.webp" docs/host-page.webp

# What deploy/release says.
release: setup
	deploy/release

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

deny:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --all-features check bans licenses sources

# Not part of the tests: it builds everything once more.
dockerfile: setup
	tests/dockerfile

FUZZ_SECONDS ?= 60
fuzz:
	tests/fuzz/run $(FUZZ_SECONDS)

fuzz-rivals: test-setup
	tests/fuzz/rivals --seconds $(FUZZ_SECONDS)

instructions: test-setup
	tests/bench/instructions

bench: test-setup
	tests/bench/times upload

bench-demo: setup
	tests/bench/times demo

bench-edge: setup
	tests/bench/edge
