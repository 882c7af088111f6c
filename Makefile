# Everything installs into virtual environments of its own; nothing else on the machine changes.
PYTHON ?= python3
VENV ?= .venv
TEST_VENV ?= .venv-test
# The engine is also tested on these, where they are at hand (Slicer 5.10 and later run 3.12).
ALSO := $(shell for v in 3.12; do python$$v -c '' 2>/dev/null && echo $$v; done)

# Each in a process of its own: VTK, Qt, torch, NNCF and two inference runtimes share none in use either, and a run of all
# tests in one process has ended in a segmentation fault.
TESTS = Testing/engine Testing/mrml Testing/widget Testing/packaging Testing/docs $(wildcard Testing/training/test_*.py)

.PHONY: demo compare bench docs test test-quick test-engine test-lowest test-slicer check types lint sample clean

demo: $(VENV)/installed
	$(VENV)/bin/qmedsam demo -o demo

$(VENV)/installed: pyproject.toml QMedSAMSegment/Resources/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e .
	$(VENV)/bin/python -m pip install --quiet --no-deps -r QMedSAMSegment/Resources/requirements.txt
	touch $@

test: check types
	@# 5: nothing collected, where slicer-core has no wheel for the interpreter
	for tests in $(TESTS); do $(TEST_VENV)/bin/python -m pytest $$tests || test $$? -eq 5 || exit 1; done
	for v in $(ALSO); do $(MAKE) test-engine PYTHON=python$$v TEST_VENV=.venv-test-$$v || exit 1; done

# Under a minute: style, contracts, and the way of the data through the engine.
test-quick: check
	$(TEST_VENV)/bin/python -m pytest -q -m "not slow" Testing/engine

# Style, and who may import whom.
check: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/lint-imports

types: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/mypy

docs: $(TEST_VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(TEST_VENV)/bin/mkdocs build

# Without torch: the engine's own tests on another interpreter, e.g. make test-engine PYTHON=python3.9 TEST_VENV=.venv-39
test-engine:
	test -d $(TEST_VENV) || $(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install --quiet -e . pytest hypothesis jsonschema slicerio
	$(TEST_VENV)/bin/python -m pip install --quiet --no-deps -r QMedSAMSegment/Resources/requirements.txt
	$(TEST_VENV)/bin/python -m pytest Testing/engine

# The same with the lowest versions that pyproject.toml declares, on the oldest Python: make test-lowest LOWEST=/path/to/python3.9
LOWEST ?= python3.9
test-lowest:
	test -d .venv-test-lowest || $(LOWEST) -m venv .venv-test-lowest
	.venv-test-lowest/bin/python -m pip install --quiet uv
	.venv-test-lowest/bin/uv pip install --quiet --python .venv-test-lowest --resolution lowest-direct -e .
	.venv-test-lowest/bin/uv pip install --quiet --python .venv-test-lowest pytest hypothesis jsonschema slicerio
	.venv-test-lowest/bin/uv pip install --quiet --python .venv-test-lowest --resolution lowest-direct --no-deps \
		-r QMedSAMSegment/Resources/requirements.txt
	.venv-test-lowest/bin/python -m pytest Testing/engine

# torch first and pinned: asked for as a range, pip takes a build with gigabytes of CUDA.
$(TEST_VENV)/installed: pyproject.toml Training/pyproject.toml Testing/requirements.txt Testing/constraints.txt Training/requirements-nncf.txt
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install --quiet -c Testing/constraints.txt torch
	$(TEST_VENV)/bin/python -m pip install --quiet -c Testing/constraints.txt -e . -e Training -r Testing/requirements.txt
	$(TEST_VENV)/bin/python -m pip install --quiet --no-deps -c Testing/constraints.txt -r QMedSAMSegment/Resources/requirements.txt
	$(TEST_VENV)/bin/python -m pip install --quiet --no-deps -c Testing/constraints.txt -r Training/requirements-nncf.txt
	touch $@

# The shipped models beside LiteMedSAM with its published weights, which are fetched: make compare DATA=MANIFEST.csv
DATA ?= ../shared/data/manifest.csv
compare: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/python Testing/benchmarks/comparison.py $(DATA) -o Docs/Evidence/Comparison

# How long cases take, beside the published ways with LiteMedSAM, whose weights are fetched: some minutes on two idle cores.
ROUNDS ?= 5
bench: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/python Testing/benchmarks/speed.py --rounds $(ROUNDS) -o Docs/Evidence/Speed

# In the application: make test-slicer SLICER=/opt/Slicer-5.12/Slicer (needs a screen, or xvfb-run before it).
SLICER ?= Slicer
SLICER_REPORT ?= slicer-report
test-slicer:
	QMEDSAM_SLICER_REPORT=$(abspath $(SLICER_REPORT)) $(SLICER) --no-splash \
	    --additional-module-paths $(CURDIR)/QMedSAMSegment $(CURDIR)/QMedSAMBatch --python-script $(CURDIR)/Testing/slicer/run.py

# The phantom that ships under Resources/SampleData.
sample: $(VENV)/installed
	$(VENV)/bin/python -c "from qmedsam.phantom import write_sample; write_sample('Resources/SampleData')"

lint: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/ruff check --fix .
	$(TEST_VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(TEST_VENV) .venv-test-* demo build $(SLICER_REPORT)
