# Targets for developers. `make` alone lists them; CONTRIBUTING.md describes them.
#
# Python and its packages are in .venv, which the first target that needs it creates. Everything else
# is built in build/. Both may be removed at any time: `make clean`.

PYTHON ?= python3
FUZZ_SECONDS ?= 60
PYTEST_OPTIONS ?=
DEMO_OPTIONS ?=
BENCH_OPTIONS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --no-input --disable-pip-version-check
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

# --- The development environment -------------------------------------------------------------------
# First torch of one exact version, so that nothing later downloads another, and the build requirements
# of pyproject.toml; then the package, editable, with warnings as errors. Each has a stamp file.

SOURCES := setup.py $(shell find csrc -name '*.[ch]*' -o -name '*.py' -o -name '*.mk')
read_pyproject = $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1))')
requirements_of = $(call read_pyproject,["project"]["optional-dependencies"]["$(1)"])

$(VENV)/.requirements: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cnclip needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo 'installing torch and the build requirements into $(VENV)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install torch==2.13.0 $(call read_pyproject,["build-system"]["requires"])
	@touch $@

$(VENV)/.installed: $(VENV)/.requirements $(SOURCES)
	@echo 'building the package, installing it and its test requirements into $(VENV)'
	@CNCLIP_DEVELOPMENT=1 $(PIP) install --no-build-isolation --editable '.[test]'
	@touch $@

$(VENV)/.lint $(VENV)/.notebooks: $(VENV)/.%: $(VENV)/.installed
	@echo 'installing the tools of `make $*` into $(VENV)'
	@$(PIP) install $(call requirements_of,$*)
	@touch $@

# --- Running and testing ---------------------------------------------------------------------------

demo: $(VENV)/.installed ## install into .venv, run the example, write cnclip-demo.png (DEMO_OPTIONS)
	$(BIN)/python -m cnclip.demo $(DEMO_OPTIONS)

test: test-c $(VENV)/.installed ## the C unit tests, then pytest without slow tests (PYTEST_OPTIONS)
	$(BIN)/python -m pytest -m 'not slow and not full_size' $(PYTEST_OPTIONS)

test-slow: $(VENV)/.installed ## tests that take minutes: wheel and sdist in fresh environments, long runs
	$(BIN)/python -m pytest -m slow $(PYTEST_OPTIONS)

test-full-size: $(VENV)/.installed ## models of the published sizes, converted and run: 20 GB of disk, 12 GB of memory
	$(BIN)/python -m pytest -m full_size $(PYTEST_OPTIONS)

# The application's tests have a separate environment, whose packages come before those of .venv:
# Gradio requires an older Pillow than the other tests, which compare with the newest to the bit.

UI := build/ui
UI_PACKAGES = $(UI)/lib/python$(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')/site-packages

$(UI)/.installed: $(VENV)/.installed
	@echo 'installing the application'"'"'s packages into $(UI)'
	@$(BIN)/python -m venv $(UI)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(UI_PACKAGES)/below.pth
	@echo '$(CURDIR)' >> $(UI_PACKAGES)/below.pth
	@$(UI)/bin/python -m pip --quiet --no-input --disable-pip-version-check install \
	  $(call requirements_of,ui) $(call requirements_of,browser) 'pillow>=12,<13'
	@touch $@

test-ui: $(UI)/.installed ## the application in headless Chromium, and the images' tests with Pillow 12 (PYTEST_OPTIONS)
	$(UI)/bin/python -m pytest tests/browser tests/core/test_image.py $(PYTEST_OPTIONS)

# --- The core without Python -----------------------------------------------------------------------
# KIND chooses how the core and its tests are compiled. The core becomes a library, of which a test
# links only the parts that it calls: none needs libtorch.

KIND := plain
CLANG ?= $(firstword $(foreach name,clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14,$(shell command -v $(name))))
CC_asan := $(CC)
CC_plain := $(CC)
CC_fuzz := $(CLANG)
OPTIONS_plain := -O1
OPTIONS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPTIONS_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
include csrc/flags.mk
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
isa_flags = $(or $(strip $(foreach isa,$(ISAS),$(if $(filter %_$(isa),$(1)),$(FLAGS_$(isa))))),$(FLAGS_baseline))
endif

OUT = build/c/$(KIND)
GENERATED := build/c/generated
OBJECTS = $(patsubst csrc/%.c,$(OUT)/%.o,$(filter-out csrc/python/%,$(wildcard csrc/*/*.c)))
C_TESTS = $(patsubst tests/c/%.c,$(OUT)/%,$(wildcard tests/c/test_*.c))
FUZZERS = $(patsubst tests/fuzz/%.c,$(OUT)/%,$(wildcard tests/fuzz/fuzz_*.c))
COMPILE = $(CC_$(KIND)) $(FLAGS_c) -g -Werror -MMD -MP $(OPTIONS_$(KIND)) -Icsrc -I$(GENERATED)

$(GENERATED)/unicode_tables.h: csrc/text/generate_unicode_tables.py
	@mkdir -p $(@D)
	@echo '  $(PYTHON): $@'; $(PYTHON) $< $@

$(OUT)/%.o: csrc/%.c Makefile csrc/flags.mk | $(GENERATED)/unicode_tables.h
	@mkdir -p $(@D)
	@echo '  $(CC_$(KIND)): $@'; $(COMPILE) $(call isa_flags,$*) -c $< -o $@

$(OUT)/libcore.a: $(OBJECTS)
	@rm -f $@
	@$(AR) rcs $@ $^

$(OUT)/test_%: tests/c/test_%.c $(OUT)/libcore.a
	@echo '  $(CC_$(KIND)): $@'; $(COMPILE) $(isa_flags) $< $(OUT)/libcore.a -lm -lpthread -o $@

$(OUT)/fuzz_%: tests/fuzz/fuzz_%.c $(OUT)/libcore.a
	@echo '  $(CC_$(KIND)): $@'; $(COMPILE) $(isa_flags) -fsanitize=fuzzer $< $(OUT)/libcore.a -lm -lpthread -o $@

-include $(wildcard build/c/*/*.d build/c/*/*/*.d)

run-c: $(C_TESTS)
	@failed=0; for test in $(C_TESTS); do $$test || failed=1; done; exit $$failed

test-c: ## the C unit tests, which need no Python package
	@$(MAKE) run-c

# --- Sanitizers and fuzzing ------------------------------------------------------------------------
# The Python suite runs with a separate build, in build/asan. Python is not built with ASan, so
# LD_PRELOAD loads ASan's runtime first, and with it libstdc++, whose __cxa_throw ASan looks up at its
# start. Leak detection is off, since Python itself leaks on exit; test_references.py finds leaks.

SANITIZERS := address,undefined
# These tests reach the core only through the pipeline, as others do, and load much foreign code; or
# they read Python code alone.
ASAN_LEFT_OUT := $(addprefix --ignore=tests/,benchmark bulk datasets evaluate search serve sources train \
  models/test_hub.py package/test_layers.py)
library = $(shell $(CC) -print-file-name=$(1))
ASAN_ENVIRONMENT = CNCLIP_SANITIZE=$(SANITIZERS) PYTHONSAFEPATH=1 \
  PYTHONPATH=$(CURDIR)/build/asan/lib:$(CURDIR) \
  PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  LD_PRELOAD='$(call library,libasan.so) $(call library,libubsan.so) $(call library,libstdc++.so.6)'

build/asan/.built: $(VENV)/.installed $(wildcard cnclip/*.py cnclip/*/*.py)
	CNCLIP_DEVELOPMENT=1 CNCLIP_SANITIZE=$(SANITIZERS) $(BIN)/python setup.py --quiet \
	  build --build-base build/asan --build-lib build/asan/lib
	@touch $@

asan: build/asan/.built ## the C unit tests and the Python suite under ASan and UBSan (PYTEST_OPTIONS)
	@$(MAKE) run-c KIND=asan
	@$(ASAN_ENVIRONMENT) $(BIN)/python -c 'import cnclip._core as core; print("under ASan:", core.__file__); assert "build/asan" in core.__file__'
	$(ASAN_ENVIRONMENT) $(BIN)/python -m pytest -m 'not slow and not full_size' -p no:cacheprovider -o pythonpath= \
	  $(ASAN_LEFT_OUT) $(PYTEST_OPTIONS)

run-fuzz: $(FUZZERS)
	@for fuzzer in $(FUZZERS); do \
	  name=$$(basename $$fuzzer); log=build/fuzz/$$name.log; mkdir -p build/fuzz/$$name; \
	  $$fuzzer -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/$$name- build/fuzz/$$name > $$log 2>&1 \
	    || { tail -n 60 $$log; echo "$$name: a finding, see build/fuzz/$$name-* and $$log"; exit 1; }; \
	  awk -v name=$$name '/number_of_executed_units/ {print name ": " $$2 " inputs, no finding"}' $$log; \
	done

fuzz: ## tokenizer, vocabulary and resampling under clang's libFuzzer, FUZZ_SECONDS each (60)
	@test -n '$(CLANG)' || { echo 'make fuzz needs clang with its runtime: apt-get install clang libclang-rt-14-dev'; exit 1; }
	@$(MAKE) run-fuzz KIND=fuzz

# --- Style and types -------------------------------------------------------------------------------

C_FILES := $(shell find csrc tests/c tests/fuzz -name '*.[ch]' -o -name '*.[ch]pp')

lint: $(VENV)/.lint ## ruff, clang-format, tools/check_prose.py and `make typing`; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_prose.py
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	@$(MAKE) typing

typing: $(VENV)/.lint ## mypy (strict) on the package, mypy and pyright on the stubs and their example
	$(BIN)/mypy
	$(BIN)/mypy tests/typing/example.py
	$(BIN)/python -m mypy.stubtest cnclip._core
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.lint ## rewrite Python and C in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# --- The rest --------------------------------------------------------------------------------------

bench: $(VENV)/.installed ## the scripts of benchmarks/, then `cnclip bench` (BENCH_OPTIONS)
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script; done
	$(BIN)/cnclip bench $(BENCH_OPTIONS)

NOTEBOOKS := $(wildcard notebooks/*.ipynb)

notebooks: $(VENV)/.notebooks ## execute notebooks/*.ipynb (npm downloads images for one); changes nothing
	@set -e; for notebook in $(NOTEBOOKS); do echo "$$notebook"; $(BIN)/jupyter execute $$notebook; done

clean: ## remove .venv, build/ and every cache
	rm -rf $(VENV) build dist *.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache
	rm -f cnclip/_core*.so cnclip/engine/torch-*
	find cnclip tests tools benchmarks csrc -name __pycache__ -type d -exec rm -rf {} +

.PHONY: help demo test test-slow test-ui test-full-size run-c test-c asan run-fuzz fuzz lint typing format bench notebooks clean
