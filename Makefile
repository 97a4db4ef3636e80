# make ablation   sets everything up, runs a small study on real text, writes and names report.html
# make test       sets everything up, passes the tests
# make test-triton  the Triton kernels through Triton's interpreter, on the CPU
PYTHON ?= python3
BIN := .venv/bin

.PHONY: ablation laptop test test-quick test-triton clean

ablation: .venv/installed
	$(BIN)/python -m sweeps run gemma3/local_global --scale demo

laptop: .venv/installed
	$(BIN)/python -m sweeps run gemma3/local_global --scale laptop

test: .venv/installed
	$(BIN)/python -m pytest -n 2

test-quick: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-triton: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,triton]'
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/arch/test_triton.py

# Pinned versions, in an environment of its own; the editable install makes `python -m arch` and the others work.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv runs
