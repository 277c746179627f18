# Browserfleet. `make run` starts it, `make test` proves it.

.PHONY: run demo test test-aws lint

run: ## Build, start, do the main job once, and serve until Ctrl-C.
	@.ci/install browser
	@cargo build --quiet --release --locked --workspace --bins
	@cargo run --quiet --release --locked --package browserfleet-tests --bin demo -- --serve

demo: ## The same, and exit.
	@.ci/install browser
	@cargo build --quiet --release --locked --workspace --bins
	@cargo run --quiet --release --locked --package browserfleet-tests --bin demo

test: ## Unit, property and end-to-end tests, on both databases.
	@.ci/install browser database clock services grpc aws
	cargo build --workspace --locked
	cargo test --workspace --locked
	@$(MAKE) --no-print-directory test-aws

AWS_PYTHON := $${XDG_CACHE_HOME:-$$HOME/.cache}/browserfleet/aws/bin/python

test-aws: ## The AWS that tests run against, and what is deployed to the real one.
	@.ci/install browser aws
	$(AWS_PYTHON) -m pytest -q -p no:cacheprovider tests/services/aws tests/deploy

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
