# Set-up happens inside the targets: each depends on a stamp that is rebuilt only when the lock file changes.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export UV_NATIVE_TLS := 1
export PYTHONDONTWRITEBYTECODE := 1

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
