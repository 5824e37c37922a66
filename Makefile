# SPDX-License-Identifier: GPL-2.0-only
# Any kernel spec: a bzImage, a .deb, a kernel tree, host, debian:VERSION, debian:SUITE.
KERNEL = debian:newest

.PHONY: run test test-slow bench setup

run: setup
	@.venv/bin/nsconform run $(KERNEL)

test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/pytest -m "not slow"

test-slow: setup
	.venv/bin/pytest -m slow

bench: setup
	.venv/bin/python -m bench
	.venv/bin/python -m bench.races

# Quick when nothing is missing.
setup:
	@sh tools/setup.sh
