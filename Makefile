# make demo   what is in the photos that ship with the project
# make test   the tests (ARGS="-k name" for some of them)
# make lint   style and types
# make docs   the documentation site, as docs/_build/html/index.html; no network is asked
# make release   sdist and wheel in dist/, tried in empty environments (ARGS="--python python3.12" for another Python)
# make clean  remove what these made
#
# Each creates .venv where there is none and installs what it needs; the stamps in .venv make a second run quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs release clean
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/vit-hybrid classify examples/cat.jpg examples/coffee.jpg examples/gravel.jpg

# One process for each core, one thread in each (tests/conftest.py), then by themselves the tests that measure time.
# pytest ends with 5 where it found no test: ARGS may name tests of one of the two kinds alone.
test: $(VENV)/.installed-test
	@found=5; \
	for how in "-n auto --maxprocesses 8 --dist loadfile" "--alone"; do \
		echo "$(BIN)/python -m pytest $$how" $(ARGS); \
		$(BIN)/python -m pytest $$how $(ARGS); status=$$?; \
		case $$status in \
			0) if [ $$found = 5 ]; then found=0; fi ;; \
			1) found=1 ;; \
			5) ;; \
			*) exit $$status ;; \
		esac; \
	done; \
	exit $$found

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs docs/_build/html

release: $(VENV)/.created
	$(BIN)/python scripts/release.py $(ARGS)

clean:
	rm -rf $(VENV) docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist src/*.egg-info
	find src tests scripts docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("vit-hybrid needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[lint]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[docs]'
	@touch $@ $(VENV)/.installed
