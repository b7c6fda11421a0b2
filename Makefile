# make demo | test | slow | check | bench | lock. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo

.PHONY: demo test slow check bench lock install clean
.DELETE_ON_ERROR:

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "melbandit needs Python 3.11 or newer; give it as PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# 20 ms frames and few epochs, to be done in minutes on two cores.
demo: install
	@$(BIN)/melbandit synthesise "$(DEMO)/clips" --clips-per-class 60
	@$(BIN)/melbandit convert "$(DEMO)/clips" --out "$(DEMO)/images"
	@$(BIN)/melbandit finetune "$(DEMO)/clips" --out "$(DEMO)/model" --hop-length 320 --epochs 20
	@$(BIN)/melbandit search "$(DEMO)/clips" --out "$(DEMO)/study" --hop-length 320 --epochs 8 \
	  --space quick --minutes 2 --finalists 2 --replicates 2
	@$(BIN)/melbandit predict "$(DEMO)/study/model" "$(DEMO)/clips/siren" --format csv \
	  --out "$(DEMO)/predictions.csv" --overwrite
	@echo "Look at: $(CURDIR)/$(DEMO)/study/report.html"

test: install
	$(BIN)/python -m pytest

slow: install .venv/cluster
	$(BIN)/python -m pytest -m slow

# Ray, the databases' drivers and a PostgreSQL, for the tests of several machines. What cannot be
# had here is skipped by them with a reason, and tried again the next time.
.venv/cluster: requirements-cluster.lock .venv/installed
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null \
	  || { test "$$(id -u)" = 0 && apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y postgresql; } \
	  || echo "PostgreSQL was not installed; its tests will be skipped"
	@{ $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements-cluster.lock \
	   && touch $@; } || echo "Ray was not installed; its tests will be skipped"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks

lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	  pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra cluster \
	  --constraint requirements.lock \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	  pyproject.toml --output-file requirements-cluster.lock

clean:
	rm -rf .venv demo build *.egg-info
