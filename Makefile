# make demo: prune a real network; make test: run the tests. Both install into .venv first, again
# whenever a source is newer. On Linux without a GPU, let pip find torch's CPU build.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-dev.txt
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE constraints-dev.txt \
	$(shell find csrc rdprune_core python -type f -not -path '*/__pycache__/*' -not -name '.*')

.PHONY: demo test install-demo install-test clean

demo: install-demo
	$(VENV)/bin/rdprune demo

test: install-test
	$(VENV)/bin/pytest

install-demo: $(VENV)/installed-demo
install-test: $(VENV)/installed-test

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: $(SOURCES) | $(VENV)/bin/pip
	$(PIP) ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build dist
