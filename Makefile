# Learn
#   make lab       the course: sets up .venv the first time, copies the lessons to my_lessons, where nothing that you
#                  changed is ever overwritten, and opens them in JupyterLab
#   make reset     a fresh copy of a lesson, such as make reset LESSON=3; yours is kept beside it
#   make progress  what is done of each lesson
#   make export    your progress as a file to hand in: make export FILE=mine.json NAME="Ada Lovelace"
#   make doctor    says what is fine and what is not, and what mends it
#
# Teach
#   make present     a lesson as slides, such as make present LESSON=3: on a copy, in a fresh kernel; docs/instructors.md
#   make site        the course as pages to read, in build/site
#   make assignment  the exercises as an nbgrader course, in my_class: docs/class.md
#   make class       tries the class server out on this computer: a JupyterHub on http://127.0.0.1:8000; docs/class.md
#
# Develop (CONTRIBUTING.md says which of these to run after which change, and how long each takes)
#   make check   the quick half of the proof: lint, types, unit tests
#   make test    the whole proof, with the network cut off where the system allows it
#   make test-cuda  what the tests hold on a CPU, held on this computer's GPU, in some minutes
#   make bench   measures speed and memory beside other libraries and writes docs/benchmarks.md: some 20 minutes on a
#                machine that has nothing else to do
#   make drift   asks the newest releases of other libraries whether what the course says of them still holds
#   make pins    chooses the versions in requirements/pins.txt anew (needs uv)
#   make setup   only sets up .venv, or brings it up to date
#   make clean   removes .venv and whatever else these commands made
#
# Variables, with their defaults:
#   PYTHON=python3    the Python, 3.11 or newer, that .venv is made with
#   TORCH_INDEX=      where pip finds torch, if not in its usual index: on Linux, the address that pytorch.org shows for
#                     the CPU saves gigabytes of CUDA libraries
#   LESSON=           the number of the lesson to present or to reset
#   JUPYTER_FLAGS=    more for JupyterLab, such as --no-browser
#   PEFT_LESSONS_WORK=my_lessons   where your copies of the lessons are

export PYTHON ?= $(if $(filter Windows_NT,$(OS)),python,python3)
export TORCH_INDEX ?=
LESSON ?=
JUPYTER_FLAGS ?=
FILE ?=
NAME ?=

PY := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)/python
COURSE := $(PY) -m peft_lessons
PROVE := $(PY) -m tools.proof.offline $(PY) -m tools.proof.prove

# Read once, when torch is imported: waiting threads then leave the processor to others.
export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help lab reset progress export doctor present site assignment class check test test-cuda bench drift pins setup setup-test \
setup-bench setup-class clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

lab: setup
	@$(COURSE) lab $(JUPYTER_FLAGS)

reset: setup
	@$(COURSE) reset $(LESSON)

progress: setup
	@$(COURSE) progress

export: setup
	@$(COURSE) progress export "$(FILE)" "$(NAME)"

doctor: setup
	@$(COURSE) doctor

present: setup
	@$(COURSE) present $(LESSON) $(JUPYTER_FLAGS)

site: setup-test
	$(PY) -m tools.site.build_site

assignment: setup-test
	@$(PY) -m tools.lessons.assignment

class: setup-class
	$(PY) -m jupyterhub --config=deploy/trial_config.py

check: setup-test
	$(PROVE) quick

test: setup-test
	$(PROVE)

test-cuda: setup-test
	$(PY) tests/gpu.py

bench: setup-bench
	$(PY) -m benchmarks

# torch is the newest, from TORCH_INDEX if that is set, or what DRIFT_TORCH names, such as torch==2.13.0.
drift:
	@$(PYTHON) -m tools.proof.drift $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(DRIFT_TORCH),--torch $(DRIFT_TORCH))

# Decides by what was installed, not by time stamps: tools/setup.py.
setup:
	@$(PYTHON) tools/setup.py

setup-test:
	@$(PYTHON) tools/setup.py class site test

setup-bench:
	@$(PYTHON) tools/setup.py bench

setup-class:
	@$(PYTHON) tools/setup.py class

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
