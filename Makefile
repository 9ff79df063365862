# SPDX-License-Identifier: GPL-3.0-or-later
# The commands of the project.  Each installs what it needs and works on a fresh Debian 12 or 13,
# as root and as a user with sudo(8).

PYTHON := .venv/bin/python
HELPER := $(wildcard hatch_build.py avne/privileged/*.c avne/privileged/*.h)

.PHONY: figures help demo test leaktest soak-browser chaos bench fuzz fuzz-helper netsim lint format docs resolvers deps venv clean

help:
	@echo 'make demo    avne run wget, through a private Tor network on this machine'
	@echo 'make test    lint, types, every test (needs root or sudo)'
	@echo 'make bench   fail if avne has become slower than its peers (bench/recorded.json)'
	@echo 'make fuzz    hostile inputs to every surface; ARGS="--inputs 2000000 --jobs 2"'
	@echo 'make fuzz-helper  a million spoilt messages of each kind to the privileged code; ARGS="--requests 2000000"'
	@echo 'make leaktest  every known way out, and what stops it: docs/leaks.md'
	@echo 'make chaos   kill, stop and starve the parts of runs at random: docs/reliability.md'
	@echo 'make soak-browser  a minute of a restless browser beside an uplink that must stay silent'
	@echo 'make figures what can be said in numbers, each from where it is measured'
	@echo 'make lint    ruff, mypy, and whether docs are stale or an RFC has gaps'
	@echo 'make format  let ruff format the code'
	@echo 'make docs    the documents that are made from the code'
	@echo 'make netsim  docs/netsim.md: our TCP over a simulated link'
	@echo 'make resolvers  docs/resolvers.md: what real resolvers make of the answers'
	@echo 'make venv    .venv with avne and what its tests need: .venv/bin/avne'
	@echo 'make deps    the Debian packages that are missing'
	@echo 'make clean   remove what was built'

demo:
	@scripts/deps demo
	@$(MAKE) -s venv
	@scripts/as-root -m tests.bed.demo

# The last line is pytest's summary.  ARGS='-k name' chooses tests.
test:
	@scripts/deps test
	@$(MAKE) --no-print-directory lint
	@scripts/as-root -m coverage run --source=avne -m pytest $(ARGS)

# The matrix: docs/leaks.md, and in short on the terminal.
leaktest:
	@scripts/deps test
	@$(MAKE) -s venv
	@scripts/as-root -m tests.leaks

figures:
	@scripts/deps test
	@$(MAKE) -s venv
	@PYTHONPATH=. scripts/as-root scripts/figures.py

# docs/reliability.md; ARGS='--acts 100' for fewer.
chaos:
	@scripts/deps test
	@$(MAKE) -s venv
	@scripts/as-root -m tests.chaos --write $(ARGS)

# ARGS='--program firefox-esr --mode setuid --seconds 600'
soak-browser:
	@scripts/deps test
	@$(MAKE) -s venv
	@scripts/as-root -m tests.bed.soak $(ARGS)

# ARGS='--path DIR' for peers that are not on the path.
bench:
	@scripts/deps demo
	@$(MAKE) -s venv
	@scripts/as-root -m bench --compare bench/recorded.json $(ARGS)

fuzz: venv
	$(PYTHON) -m tests.fuzz $(ARGS)

fuzz-helper: venv
	$(PYTHON) -m tests.privileged.fuzz $(ARGS)

lint: venv
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(PYTHON) scripts/generate_docs.py --check

format: venv
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

docs: venv
	$(PYTHON) scripts/generate_docs.py

netsim: venv
	PYTHONPATH=tests/netstack $(PYTHON) tests/netstack/netsim.py

resolvers:
	@scripts/deps resolvers
	@$(MAKE) -s venv
	@scripts/as-root -m tests.resolvers

deps:
	@scripts/deps test

venv: .venv/installed

# Made anew when what is installed changes: the helper is compiled here.
.venv/installed: pyproject.toml $(HELPER)
	scripts/make-venv
	touch $@

clean:
	rm -rf .venv build dist avne/privileged/avne-helper avne/privileged/_build.py
