# make demo        build a lab with two guests, step by step, in a temporary directory
# make check       the quick tests, in half a minute; they need no root, network or guests
# make test        the linters, then all tests (make test LINT=setup-test: only the tests)
# make test-deb    as root: build, install, use and remove the package in a fresh Debian 13
# make lint        only the linters
# make bench       as root: measure speed and compare with the targets (BENCH=start: only start)
# make siege       as root: run a hostile guest among others, in 48 ways (SIEGE: options, ways)
# make endurance   as root: use the library for long, which must not grow (ENDURANCE: options)
# make strongswan  play strongSwan's own test suite: STRONGSWAN is a checkout (SCENARIOS: options)
# make fuzz        run the fuzzers in tests/fuzz with sanitizers, for FUZZ_TIME (60) seconds each
# make docs        regenerate the manual pages and the completions
# make install     as root: install commands, manual pages and completions in PREFIX (/usr/local)
# make uninstall   as root: remove what `make install` installed
# make deb         build a Debian package, into dist/
# make dist        build a source archive and a wheel, into dist/ (or: make sdist, make wheel)
# make clean       remove everything that these targets built
#
# Each target first installs what it needs, which takes a network: Debian packages (only as root)
# and a venv in .venv. For packagers, `make install DESTDIR=DIR` puts everything below DIR instead,
# ready to move to PREFIX.

PREFIX ?= /usr/local
BIN = .venv/bin
LINT = lint
# The number of processes that share the tests (none without root), and which tests stay together,
# are determined by tests/support/session.py.
WORKERS = -n auto --dist loadgroup --no-loadscope-reorder
SHELL_FILES = $(wildcard .ci/*) tests/as-user tests/user-world.sh debian/tests/smoke \
	$(wildcard examples/*.sh examples/*/*.sh)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' dumm_tools/__init__.py)
# Builds of the same commit yield identical wheels.
EPOCH = SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)}

FUZZ_TIME ?= 60
FUZZ_DIR = build/fuzz
FUZZERS = $(patsubst tests/fuzz/%.c,$(FUZZ_DIR)/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: help demo check test test-deb lint bench fuzz siege endurance strongswan docs install uninstall deb dist sdist wheel \
	clean setup-check setup-run setup-test setup-bench setup-fuzz setup-dist setup-deb

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: setup-run
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh
	@printf '\n%s\n' "To type such commands, and the README's session, in your shell:" \
		'export PATH="$(CURDIR)/$(BIN):$$PATH"'

# Tests without any of these marks need only programs (`.ci/setup check`), and are quick.
check: setup-check
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/python -m pytest -q $(WORKERS) -m "not (net or netns or uml or root or packs or slow)" $(PYTEST_ARGS)

test: $(LINT)
	@$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

lint: setup-test
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy --strict
	@$(BIN)/mypy --strict examples/strongswan-suite/*.py
	@$(BIN)/python -m dumm_tools._docs --check
	@$(BIN)/codespell
	@shellcheck $(SHELL_FILES)
	@groff -man -Tutf8 -ww -z man/*.1 man/*.3 man/*.5 man/*.7

test-deb:
	@.ci/test-deb

bench: setup-bench
	@$(BIN)/python tests/bench.py $(BENCH)

siege: setup-test
	@$(BIN)/python tests/siege.py $(SIEGE)

endurance: setup-test
	@$(BIN)/python tests/endurance.py $(ENDURANCE)

strongswan: setup-test
	@test -n "$(STRONGSWAN)" || { echo "make strongswan STRONGSWAN=DIR: a checkout is needed" >&2; exit 2; }
	@$(BIN)/dumm-fs kernel build --name full --may-exist >&2
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/strongswan-suite/build.sh "$(STRONGSWAN)" build/strongswan
	@cd examples/strongswan-suite && "$(CURDIR)/$(BIN)/python" -m pytest --dumm-kernel=full \
		--testing="$(CURDIR)/build/strongswan/testing" $(SCENARIOS)

fuzz: setup-fuzz $(FUZZERS)
	@for fuzzer in $(FUZZERS); do \
		words=tests/fuzz/$${fuzzer##*/}.dict; \
		mkdir -p "$$fuzzer.corpus" && echo "$$fuzzer" && \
		"$$fuzzer" -max_total_time=$(FUZZ_TIME) -timeout=5 -rss_limit_mb=512 -verbosity=0 \
			-print_final_stats=1 $$([ ! -f "$$words" ] || echo "-dict=$$words") \
			-artifact_prefix="$$fuzzer." "$$fuzzer.corpus" || exit 1; \
	done

$(FUZZ_DIR)/%: tests/fuzz/%.c $(wildcard dumm_tools/agent/*/*.[ch]) | setup-fuzz
	@mkdir -p $(@D)
	@clang -g -O1 -Wall -Wextra -Wno-unused-function -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all -o $@ $<

docs: setup-test
	@$(BIN)/python -m dumm_tools._docs

install: setup-run
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" FISHDIR="$(FISHDIR)" EXTCAPDIR="$(EXTCAPDIR)" \
		.ci/install

uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" FISHDIR="$(FISHDIR)" EXTCAPDIR="$(EXTCAPDIR)" \
		.ci/install --remove

dist: sdist wheel

sdist wheel: setup-dist
	@rm -rf build/lib* build/bdist.*
	@$(EPOCH) $(BIN)/python -m build -q --$@
	@rm -rf build/lib* build/bdist.*
	@$(BIN)/twine check --strict dist/dumm_tools-$(VERSION)[.-]*

deb: setup-deb
	@.ci/deb

setup-run:
	@.ci/setup run

setup-bench:
	@.ci/setup bench

setup-test:
	@.ci/setup test

setup-fuzz:
	@.ci/setup fuzz

setup-check:
	@.ci/setup check

setup-dist:
	@.ci/setup dist

setup-deb:
	@.ci/setup deb

clean:
	rm -rf .venv .cache-tests .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	rm -f dumm_tools/agent/initrd.cpio dumm_tools/agent/jail.bin dumm_tools/agent/preload.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
