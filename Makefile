# make ablation     sets everything up, runs a small study on real text, writes report.html and prints its path
# make test         sets everything up, runs the tests
# make test-slow    the tests that take over ten seconds each, which `make test` leaves out
# make test-scale   several drivers of one study are killed and stopped, and their database too: nothing is lost (minutes)
# make smoke        every shipped study at its scale `smoke`: a few steps of each arm, and whether what it claims of is measured
# make studies      runs what is missing of every shipped study at scale `laptop` (hours); STUDIES="gemma2/gqa" picks some
# make findings     writes docs/findings.md from the records in results/; trains nothing
# make chaos        the same at length, with full disks, damaged files, other clocks and real runs; writes results/chaos.json
# make test-large   the report, TensorBoard and the status of a made-up study of 1,500 runs: prints times, holds sizes
# make test-browser  reports, the index and TensorBoard in a real chromium, wide and narrow; pictures go to runs/browser
# make simulate     how often the verdicts of simulated studies are wrong and right; writes the tables of docs/statistics.md
# make check        lint, format, types and import rules: what must hold before a commit
# make test-cpus    the tests under settings that stand in for other CPUs; CPUS="avx2 plain" picks some of them
# make test-triton  the Triton kernels through Triton's interpreter, on the CPU
# make test-transformers  older releases of transformers compute the same from what we export; RELEASES="4.57.6" picks some
# make test-lm-eval the evaluator lm_eval, with EleutherAI's harness
# make test-embedding  sentence-transformers loads the encoders that we export, with our vectors; mteb runs its tasks on one
# make test-trackers  the exports to Weights & Biases and MLflow, opened with their own libraries
# make test-gguf    llama.cpp's package `gguf` reads the GGUF files that we export, and writes the same bytes
# make test-extras  the five above that need a further package each, at once: test-triton, -lm-eval, -embedding, -trackers, -gguf
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
# Further options of pytest, e.g. `make test PYTEST='tests/arch -x'`.
PYTEST ?=

# What torch, oneDNN and MKL use at most; `plain` is a machine without a C compiler.
CPUS ?= default avx2 avx512 avx512-bf16 plain
cpu-default := ATEN_CPU_CAPABILITY=default
cpu-avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
cpu-avx512 := ONEDNN_MAX_CPU_ISA=AVX512_CORE
cpu-avx512-bf16 := ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16
cpu-plain := ARCHBENCH_NATIVE=0

.PHONY: ablation laptop simulate test test-slow test-large test-browser test-scale smoke studies findings chaos test-cpus test-triton test-transformers test-lm-eval test-embedding test-trackers test-gguf test-extras check format clean

ablation: .venv/installed
	$(BIN)/archbench study run gemma3/local_global --scale demo

laptop: .venv/installed
	$(BIN)/archbench study run gemma3/local_global --scale laptop

simulate: .venv/installed
	$(BIN)/archbench study simulate --write

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow and not scale and not browser and not smoke" $(PYTEST)

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "slow and not browser and not smoke" $(PYTEST)

# ARCHBENCH_NEEDS_POSTGRESQL=1: a machine where no PostgreSQL can be started is an error and no reason to skip.
test-scale: .venv/installed
	$(BIN)/python -m pytest -m scale tests/scale $(PYTEST)

smoke: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m smoke tests/sweeps/test_smoke.py $(PYTEST)

# Stop it with Ctrl-C; the same command goes on. A study that fails does not keep the others from running.
STUDIES ?= $(patsubst sweeps/specs/%.yaml,%,$(shell grep -l laptop: sweeps/specs/*/*.yaml))
studies: .venv/installed
	@failed=; for each in $(STUDIES); do \
	$(BIN)/archbench study run $$each --scale laptop || { test $$? = 130 && exit 130; failed="$$failed $$each"; }; \
	done; test -z "$$failed" || { echo "not finished:$$failed"; exit 1; }

findings: .venv/installed
	$(BIN)/archbench findings results --write docs/findings.md

chaos: .venv/installed
	$(BIN)/python tests/scale/long.py --write results/chaos.json

test-large: .venv/installed
	$(BIN)/python -m pytest -s tests/analysis/test_large_study.py -k 1500

# chromium and chromium-driver are Debian's; ARCHBENCH_NEEDS_BROWSER=1: a machine without them is an error and no reason to skip.
test-browser: .venv/installed
	$(INSTALL) '.[test,browser]'
	$(BIN)/python -m pytest -m browser tests/analysis/test_browser.py $(PYTEST)

test-cpus: $(CPUS:%=test-cpu-%)

test-cpu-%: .venv/installed
	@test -n "$(cpu-$*)" || { echo "no settings for $*: choose from default avx2 avx512 avx512-bf16 plain"; exit 2; }
	$(cpu-$*) $(BIN)/python -m pytest -n 2 -m "not slow and not scale and not browser and not smoke" $(PYTEST)

test-triton: .venv/installed
	$(INSTALL) '.[test,triton]'
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/arch/test_triton.py

# Each release in an environment of its own; torch and safetensors are those of the project's.
RELEASES ?= 4.50.3 4.53.3 4.57.6
test-transformers: $(RELEASES:%=.venv/transformers/%/installed)
	ARCHBENCH_TRANSFORMERS=$$(echo $(RELEASES:%=$(CURDIR)/.venv/transformers/%/bin/python) | tr ' ' ':') \
	$(BIN)/python -m pytest -s tests/arch/test_older_transformers.py

.venv/transformers/%/installed: .venv/installed
	$(PYTHON) -m venv .venv/transformers/$*
	.venv/transformers/$*/bin/python -m pip install --quiet --disable-pip-version-check transformers==$*
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	> $$(.venv/transformers/$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth
	touch $@

test-lm-eval: .venv/installed
	$(INSTALL) '.[test,lm-eval]'
	$(BIN)/python -m pytest tests/experiments/test_evaluator_lm_eval.py

# ARCHBENCH_NEEDS_EMBEDDING=1: a library that is not installed is an error and no reason to skip.
EMBEDDING := tests/arch/test_sentence_library.py tests/experiments/data/test_library_teacher.py tests/experiments/test_mteb_encoder.py tests/experiments/test_bench_encoding.py
test-embedding: .venv/installed
	$(INSTALL) '.[test,embedding,mteb]'
	ARCHBENCH_NEEDS_EMBEDDING=1 $(BIN)/python -m pytest $(EMBEDDING)

# ARCHBENCH_NEEDS_TRACKERS=1: a tracker that is not installed is an error and no reason to skip.
test-trackers: .venv/installed
	$(INSTALL) '.[test,wandb,mlflow]'
	ARCHBENCH_NEEDS_TRACKERS=1 $(BIN)/python -m pytest tests/analysis/test_exports.py

# ARCHBENCH_NEEDS_GGUF=1: the package that is not installed is an error and no reason to skip.
test-gguf: .venv/installed
	$(INSTALL) '.[test,gguf]'
	ARCHBENCH_NEEDS_GGUF=1 $(BIN)/python -m pytest tests/arch/test_gguf_library.py

test-extras: .venv/installed
	$(INSTALL) '.[test,triton,lm-eval,embedding,mteb,wandb,mlflow,gguf]'
	TRITON_INTERPRET=1 ARCHBENCH_NEEDS_EMBEDDING=1 ARCHBENCH_NEEDS_TRACKERS=1 ARCHBENCH_NEEDS_GGUF=1 $(BIN)/python -m pytest -n 2 \
	tests/arch/test_triton.py tests/experiments/test_evaluator_lm_eval.py $(EMBEDDING) tests/analysis/test_exports.py tests/arch/test_gguf_library.py

check: .venv/checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/arch/test_import_rules.py

format: .venv/checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pinned versions, in an environment of its own; the editable install makes `archbench` and `python -m arch` work.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[test]'
	touch $@

.venv/checks: .venv/installed
	$(INSTALL) '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
