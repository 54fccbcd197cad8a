# One target per intention. Everything is installed into .venv; nothing outside this folder is
# touched, except that `make test` installs Mosquitto, Chromium and Prometheus where it may (root, apt).
PYTHON ?= python3
VENV   := .venv
# What the worker's tests and `make speed-hf` run on; where the package index serves CUDA builds:
#   make test TORCH="--index-url https://download.pytorch.org/whl/cpu torch"
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format typecheck speed speed-hf scale live-load faults fuzz sweep overload clean mosquitto chromium prometheus

help:
	@echo "make demo       install, play eight cameras in real time, print the score"
	@echo "make test       install what the tests need and run them all"
	@echo "make install    install into $(VENV)"
	@echo "make lint       ruff          make typecheck  mypy --strict"
	@echo "make format     ruff format   make clean      remove $(VENV), runs and caches"
	@echo "make speed      throughput, lateness and overhead, as ratios measured in one run"
	@echo "make speed-hf   the Hugging Face worker against the plain loop, on a small model"
	@echo "make scale      scoring a run of a million frames: time and memory"
	@echo "make live-load  200 cameras with the live page open in Chromium, beside the same run without"
	@echo "make overload   200 cameras, ten minutes, an engine that answers one frame a second"
	@echo "make fuzz       100,000 hostile inputs for each thing that reads strangers' bytes"
	@echo "make faults     every scripted fault over a real Mosquitto: ledger, harm, recovery"
	@echo "make sweep      time to first detection against tokens: fixed and adaptive sampling"

$(VENV)/.base: pyproject.toml
	@echo "== installing earlyfire-stream into $(VENV) (about a minute) =="
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar=on -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "== installing what the tests need (torch among it: about two minutes) =="
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar=on $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar=on -e '.[dev,hf]'
	@touch $@

install: $(VENV)/.base
	@echo "installed: $(BIN)/earlyfire"

demo: $(VENV)/.base
	@echo "== playing scenarios/demo.yaml: 90 seconds of eight cameras over a private MQTT broker =="
	@$(BIN)/earlyfire run scenarios/demo.yaml

test: $(VENV)/.dev mosquitto chromium prometheus
	@echo "== tests: two processes, each a file at a time =="
	@$(BIN)/python -m pytest -n 2 --dist loadfile

mosquitto:
	@if command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		echo "== installing Mosquitto =="; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends mosquitto openssl >/dev/null; \
	else \
		echo "LEFT OUT: the tests that need a real Mosquitto (not installed, and only root with apt"; \
		echo "          can install it from here: apt-get install mosquitto, or brew install mosquitto)"; \
	fi

chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
		|| command -v google-chrome >/dev/null; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		echo "== installing Chromium =="; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else \
		echo "LEFT OUT: the tests that open a report in a browser (no Chromium found, and only root"; \
		echo "          with apt can install it from here: apt-get install chromium)"; \
	fi

prometheus:
	@if command -v prometheus >/dev/null && command -v promtool >/dev/null; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		echo "== installing Prometheus =="; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends prometheus >/dev/null; \
	else \
		echo "LEFT OUT: the tests that need a real Prometheus (not installed, and only root with apt"; \
		echo "          can install it from here: apt-get install prometheus, or brew install prometheus)"; \
	fi

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

typecheck: $(VENV)/.dev
	@$(BIN)/mypy

speed: $(VENV)/.dev
	@$(BIN)/python -m tests.speed

speed-hf: $(VENV)/.dev
	@$(BIN)/python -m tests.speed_hf

scale: $(VENV)/.dev
	@$(BIN)/python -m tests.scale

sweep: $(VENV)/.base
	@$(BIN)/earlyfire bench scenarios/sweep.yaml --sampling fixed:5s,fixed:10s,fixed:30s,adaptive:10s,adaptive:20s,adaptive:30s,adaptive:60s

live-load: $(VENV)/.dev mosquitto chromium
	@$(BIN)/python -m tests.live_load

faults: $(VENV)/.dev mosquitto
	@echo "== faults: 32 runs of half a minute over Mosquitto, three at a time (about seven minutes) =="
	@$(BIN)/python -m tests.faults

# atheris has wheels for Linux on x86-64 alone; without it Hypothesis does all of the work
fuzz: $(VENV)/.dev
	@$(BIN)/python -c 'import atheris' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris \
		|| echo "LEFT OUT: the inputs that atheris guides (it cannot be installed here)"
	@$(BIN)/python -m tests.fuzz $(FUZZ)

overload: $(VENV)/.dev
	@$(BIN)/python -m tests.overload

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
