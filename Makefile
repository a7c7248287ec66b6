# make demo     a lab of two guests, step by step, in a directory of its own
# make test     lint, then all tests; without the linters: make test LINT=setup-test
# make lint     the linters alone
# make bench    as root: the suite against its targets, as ratios in one run (BENCH=start: only that)
# make siege    as root: one hostile guest among many, in each of 48 ways (SIEGE: options, ways)
# make fuzz     each harness of tests/fuzz with clang's sanitizers, for FUZZ_TIME seconds (60)
# make docs     write the manual pages and the completions anew
# make install  as root: the commands, their manual pages and completions, into PREFIX
# make clean    remove what these made
#
# All of them first set up what is missing: Debian packages (as root), and a venv in .venv.

PREFIX ?= /usr/local
LIB = $(PREFIX)/lib/dumm-tools
BIN = .venv/bin
LINT = lint
# How many processes share the tests, and how: tests/conftest.py says which belong together.
WORKERS = -n auto --dist loadgroup --no-loadscope-reorder
SHELL_FILES = .ci/setup .ci/run tests/as-user tests/user-world.sh $(wildcard examples/*.sh)

FUZZ_TIME ?= 60
FUZZ_DIR = build/fuzz
FUZZERS = $(patsubst tests/fuzz/%.c,$(FUZZ_DIR)/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: demo test lint bench fuzz siege docs install clean setup-run setup-test setup-bench setup-fuzz

demo: setup-run
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

test: $(LINT)
	@$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

lint: setup-test
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy --strict
	@$(BIN)/python -m dumm_tools._docs --check
	@shellcheck $(SHELL_FILES)
	@groff -man -Tutf8 -ww -z man/*.1 man/*.5 man/*.7

bench: setup-bench
	@$(BIN)/python tests/bench.py $(BENCH)

siege: setup-test
	@$(BIN)/python tests/siege.py $(SIEGE)

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
	@rm -rf build $(LIB)
	@python3 -m venv $(LIB)
	@$(LIB)/bin/python -m pip install -qq --disable-pip-version-check --root-user-action=ignore .
	@rm -rf build
	@cd $(LIB) && find bin/dumm-* share -type f | while read -r file; do \
		mkdir -p "$(PREFIX)/$${file%/*}" && ln -sf "$(LIB)/$$file" "$(PREFIX)/$$file"; \
	done

setup-run:
	@.ci/setup run

setup-bench:
	@.ci/setup bench

setup-test:
	@.ci/setup test

setup-fuzz:
	@.ci/setup fuzz

clean:
	rm -rf .venv .cache-tests .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	rm -f dumm_tools/agent/initrd.cpio dumm_tools/agent/jail.bin
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
