# make demo: everything from nothing. make test: the same set-up, then the test suite.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
VENV_STAMP := $(VENV)/.made
USER_STAMP := $(VENV)/.installed
DEV_STAMP  := $(VENV)/.installed-dev
BUSY       := $(VENV)/.installing

# Without the constraint pip may choose a torch that brings gigabytes of CUDA libraries along.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# One thread a process: tests run in several processes, and threads that compete are slower.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
WORKERS ?= 2

.PHONY: help demo test test-long fuzz faults soak lint oldest weights format package sbom clean
.NOTPARALLEL:

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(USER_STAMP)  ## acquire phantom scans with several policies; writes demo/report.html
	$(BIN)/activemri demo

test: $(DEV_STAMP)  ## run the test suite, without tests marked long
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS)

test-long: $(DEV_STAMP)  ## run the tests marked long
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -m long

fuzz: $(DEV_STAMP)  ## use 100,000 damaged files of every kind; goes on where it was interrupted
	$(ONE_THREAD) $(BIN)/python -m tests.fuzz --count 100000 --out runs/fuzz --workers $(WORKERS)

faults: $(DEV_STAMP)  ## kill long jobs, fill their disks, start them twice; writes docs/robustness.md
	$(ONE_THREAD) $(BIN)/python -m tests.faults --document

soak: $(DEV_STAMP)  ## take a million steps and see whether memory grows
	$(ONE_THREAD) $(BIN)/python -m tests.soak

lint: $(DEV_STAMP)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy activemri tests

# Warnings are no errors there: old packages warn of what is gone since.
oldest: $(VENV_STAMP)  ## try the oldest supported versions of what is imported
	$(BIN)/python -m venv --clear $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install -c constraints-oldest.txt -e ".[benchmark,formats]" \
	  pytest hypothesis
	$(ONE_THREAD) $(VENV)-oldest/bin/activemri demo --n-scans 3 --budget 2 --out $(VENV)-oldest/demo
	$(ONE_THREAD) $(VENV)-oldest/bin/python -m pytest -q -W default tests/data tests/mri \
	  tests/metrics tests/envs/test_registration.py tests/benchmark/test_adaptivity.py

# The checkpoints that the wheel carries are made by these commands: about an hour and a quarter on one core.
weights: $(USER_STAMP)  ## train the networks that ship with the package
	$(BIN)/activemri train reconstructor --data phantom --matrix-size 128 --reconstructor unet --max-steps 6000 \
	  --validate-every 500 --threads 1 --out runs/unet
	$(BIN)/activemri train joint --data phantom --matrix-size 128 --max-steps 6000 \
	  --evaluator-steps 3000 --validate-every 500 --threads 1 --out runs/joint
	$(BIN)/activemri train policy --algo imitation --seed 0 --threads 1 --out runs/policy
	$(BIN)/activemri train order --env ActiveMRI/Phantom-v0 --n-fit-scans 8 --threads 1 --out runs/order
	mkdir -p activemri/weights
	cp runs/order/lbcs.json activemri/weights/
	for suffix in safetensors json; do \
	  cp runs/unet/best.$$suffix activemri/weights/unet.$$suffix; \
	  cp runs/joint/best.$$suffix activemri/weights/cresnet.$$suffix; \
	  cp runs/joint/evaluator.$$suffix activemri/weights/evaluator.$$suffix; \
	  cp runs/policy/best.$$suffix activemri/weights/policy.$$suffix; \
	done

format: $(DEV_STAMP)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: $(DEV_STAMP)  ## build the wheel and the source distribution into dist/
	$(BIN)/python -m build

sbom: $(DEV_STAMP)  ## list what is installed: dist/sbom.json, docs/dependencies.md
	$(BIN)/python docs/make_sbom.py

clean:  ## delete everything that make can make again
	rm -rf $(VENV) $(VENV)-oldest build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps are written last, and what an interrupted installation left is thrown away first.
$(DEV_STAMP): pyproject.toml constraints.txt $(VENV_STAMP)
	@echo "Installing activemri, its extras and development tools into $(VENV): a few minutes"
	@touch $(BUSY)
	$(INSTALL) -e ".[all,dev]"
	@rm $(BUSY) && touch $(USER_STAMP) $(DEV_STAMP)

$(USER_STAMP): pyproject.toml constraints.txt $(VENV_STAMP)
	@echo "Installing activemri and its extras into $(VENV): a few minutes"
	@touch $(BUSY)
	$(INSTALL) -e ".[all]"
	@rm $(BUSY) && touch $(USER_STAMP)

$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "activemri needs Python 3.11 or newer, but $(PYTHON) is" \
	       "$$($(PYTHON) --version 2>/dev/null || echo missing)." \
	       "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

ifneq ($(wildcard $(BUSY)),)
.PHONY: $(VENV_STAMP)
endif
