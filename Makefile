# Each target sets itself up: python3 (3.11 or newer), make and a network are all that is needed.
PYTHON ?= python3
# AUTO builds the CPU kernel where a C++ compiler is found, ON fails without it, OFF leaves it out.
KERNEL ?= AUTO
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/dev.txt
# All that the distributions and their development need, but for these themselves.
COMPILE := $(BIN)/uv pip compile --quiet --no-config --no-header --no-annotate \
	--no-emit-package aida-optim --no-emit-package aida-bench --no-emit-package aida-jax --no-emit-index-url \
	--no-emit-find-links --all-extras
PROJECTS := pyproject.toml packages/aida-bench/pyproject.toml packages/aida-jax/pyproject.toml
DEV := --group pyproject.toml:dev $(PROJECTS)

.PHONY: help install demo test test-jax test-jax-oldest test-jax-newest test-matrix test-distributed \
	test-runner study-ci test-floors test-oldest test-newest \
	test-integrations test-peers test-composer dist-check cross lint format coverage mutate fuzz \
	sanitize sanitize-threads bench bench-check gpu gpu-dry lock clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with the distributions and all that developing needs

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[0-9.]*' $(LOCK))"

# A new package is found only by installing again.
$(STAMP): $(BIN)/uv $(LOCK) $(PROJECTS) CMakeLists.txt \
		$(wildcard csrc/* src/aida/*/__init__.py src/aida/*/*/__init__.py)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCK)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation \
		--reinstall-package aida-optim -C cmake.define.AIDA_CPU_KERNEL=$(KERNEL) --editable . \
		--editable packages/aida-bench --editable packages/aida-jax
	@test -e src/aida/backends/_step_cpu.so || echo "The CPU kernel was left out (a C++ compiler builds it)."
	@touch $@

demo: install  ## compare six optimizers on handwritten digits
	$(BIN)/aida compare digits

# Tools in which tests/integrations has to run: elsewhere what is not installed is skipped.
PEERS := transformers accelerate timm pytorch_lightning
test: install  ## the fast tests
	AIDA_PEERS="$(PEERS)" $(BIN)/python -m pytest -q

# Inside other tools: those that are large, and those that need another torch, each in an environment of its own.
PEERS_peers := $(PEERS) lightning jsonargparse keras mlflow trackio optuna hydra
PEERS_composer := composer
test-integrations: test-peers test-composer  ## inside trainers and loggers, large ones too, in environments of their own
test-peers:  ## inside the trainers and loggers that take today's torch
test-composer:  ## inside Composer, which takes an older one
test-peers test-composer: test-%: $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(VENV)-$*
	$(BIN)/uv pip install --quiet --python $(VENV)-$*/bin/python --group pyproject.toml:$*
	PATH="$(CURDIR)/$(VENV)-$*/bin:$$PATH" $(BIN)/uv pip install --quiet --python $(VENV)-$*/bin/python \
		--no-build-isolation -C build-dir=build/$* -C cmake.define.AIDA_CPU_KERNEL=$(KERNEL) .
	KERAS_BACKEND=torch AIDA_PEERS="$(PEERS_$*)" $(VENV)-$*/bin/python -m pytest -q -rs tests/integrations

# The wheel of aida-jax, made of its sdist, in an environment without torch; docs/guide/jax.md.
# JAX_TESTS: other arguments of pytest, such as -k sharding.
JAX_TESTS ?=
JAX_LOCK := requirements/jax.txt
test-jax:  ## aida-jax, its wheel beside jax and optax without torch
test-jax-oldest:  ## and with the lowest version of every dependency
test-jax-newest:  ## and with the newest
test-jax-oldest: RESOLUTION := lowest-direct
test-jax-newest: RESOLUTION := highest
test-jax test-jax-oldest test-jax-newest: test-jax%: $(BIN)/uv
	$(BIN)/uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV)-jax$*
	mkdir -p build
	$(if $*,$(COMPILE) --group pyproject.toml:jax packages/aida-jax/pyproject.toml --resolution $(RESOLUTION) \
		--python $(VENV)-jax$*/bin/python --output-file build/requirements-jax$*.txt)
	$(BIN)/uv pip sync --quiet --python $(VENV)-jax$*/bin/python $(if $*,build/requirements-jax$*.txt,$(JAX_LOCK))
	rm -rf build/jax$*
	$(BIN)/uv build --quiet --no-build-isolation --python $(VENV)-jax$*/bin/python --out-dir build/jax$* packages/aida-jax
	$(BIN)/uv pip install --quiet --python $(VENV)-jax$*/bin/python --no-deps build/jax$*/*.whl
	$(VENV)-jax$*/bin/python -m pytest -q --confcutdir tests/jax_alone tests/jax_alone $(JAX_TESTS)

# The optimizers' tests with other instruction sets, threads and orders; a quarter of an hour on two cores.
# SEED draws other orders.
SEED ?= 0
test-matrix: install  ## optimizers' tests with other instruction sets, threads and orders (SEED=0)
	$(BIN)/python tests/combinations.py --seed $(SEED)

# Sharded steps on several processes of this machine; minutes on two cores.
test-distributed: install  ## sharded steps on several processes
	$(BIN)/python -m pytest -q -m 'distributed and not network' tests/sharding

# Runs on several devices, in workers that are killed, and on a Ray cluster.
test-runner: install  ## runs on several devices, killed and resumed, and on a cluster
	$(BIN)/python -m pytest -q -m 'distributed and not network' tests/bench

# A whole study with an optimizer and a task from outside the package, and its report; two minutes.
study-ci: install  ## a small study from its first run to its report
	$(BIN)/python -m pytest -q -m 'distributed and not network' tests/bench/study/test_ci.py

# Every task's small preset, whole and on real data, ends beyond its floor; an hour on two cores.
test-floors: install  ## every task's small preset on real data; about an hour
	$(BIN)/python -m pytest -q -k whole_run tests/bench/tasks/test_floors.py -m 'slow or not slow'

# The fast tests with the lowest version of every dependency that pyproject.toml declares, and with the newest,
# each in an environment of its own with the PYTHON given, on the installed package.
test-oldest:  ## the fast tests with the lowest version of every dependency (PYTHON=python3)
test-newest:  ## and with the newest
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest: test-%: $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(VENV)-$*
	mkdir -p build
	$(COMPILE) $(DEV) --python $(VENV)-$*/bin/python --resolution $(RESOLUTION) \
		--output-file build/requirements-$*.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-$*/bin/python -r build/requirements-$*.txt
	PATH="$(CURDIR)/$(VENV)-$*/bin:$$PATH" $(BIN)/uv pip install --quiet --python $(VENV)-$*/bin/python --no-deps \
		--no-build-isolation -C build-dir=build/$* -C cmake.define.AIDA_CPU_KERNEL=$(KERNEL) . ./packages/aida-bench \
		./packages/aida-jax
	UV_RESOLUTION=$(RESOLUTION) $(VENV)-$*/bin/python -m pytest -q \
		-m 'not slow and not network and not gpu and not distributed'

# Wheel and sdist: what they hold, and that each works beside torch alone.
dist-check: install  ## wheel and sdist: built, looked into, and each tried beside torch alone
	$(BIN)/python -m pytest -q -m packaging tests/packaging

# The CPU kernel for systems that are not here, by Zig's compiler; half a minute each at first, for its C++ library.
CROSS := x86_64-windows-gnu aarch64-macos aarch64-linux-gnu.2.28
cross: install  ## the CPU kernel cross-compiled: Windows, macOS arm64, Linux arm64
	$(BIN)/uv pip install --quiet --python $(BIN)/python "ziglang>=0.15"
	mkdir -p build/cross
	set -e; for target in $(CROSS); do \
		$(BIN)/python -m ziglang c++ -target $$target -std=c++17 -O1 -w -shared -fopenmp-simd -fno-math-errno \
			-fno-trapping-math -ffp-contract=fast csrc/step_cpu.cpp -o build/cross/$$target; \
	done
	$(BIN)/python packaging/cross.py $(CROSS:%=build/cross/%)

lint: install  ## ruff, pyright, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: install  ## ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/results/coverage.md explains what is left. COVER: the tests; `-m "not gpu and not network"` adds ranks.
# CASES: how many of each test, out of the middle of its parameters; all by default.
COVER ?= tests/family tests/optimizers tests/backends tests/monitor tests/published tests/sharding \
	tests/convert tests/integrations tests/packaging
coverage: install  ## which branches of src/aida its tests take (COVER, CASES)
	rm -rf build/coverage
	mkdir -p build/coverage
	$(if $(CASES),AIDA_TEST_CASES=$(CASES) PYTHONPATH=tools )$(BIN)/coverage run -m pytest -q \
		$(if $(CASES),-p few_cases) $(COVER)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# MODULES: family, rounding, step, layer_batch. SAMPLE: how many of each; all by default.
MODULES ?= family rounding step layer_batch
mutate: install  ## do the tests see a wrong line? (MODULES, SAMPLE, SEED); hours
	$(BIN)/python tools/mutate.py $(MODULES) --seed $(SEED) $(if $(SAMPLE),--sample $(SAMPLE))

# How often each kind of memory edit and how many histories of a live optimizer are tried.
FUZZ ?= 20
fuzz: install  ## memory edits and histories of live optimizers, more of them (FUZZ=20)
	AIDA_FUZZ_REPEATS=$(FUZZ) AIDA_FUZZ_EXAMPLES=$(FUZZ)0 $(BIN)/python -m pytest -q -o timeout=3600 \
		tests/backends/test_memory_edits.py tests/optimizers/test_layer_batch.py

# The CPU kernel's tests with every address and every undefined operation checked.
sanitize: install  ## the CPU kernel under AddressSanitizer and UBSan
	mkdir -p build/sanitize
	$(CXX) -std=c++17 -O1 -g -fPIC -shared -fopenmp -fsanitize=address,undefined -fno-sanitize-recover=undefined \
		csrc/step_cpu.cpp -o build/sanitize/_step_cpu.so
	AIDA_CPU_LIBRARY=build/sanitize/_step_cpu.so ASAN_OPTIONS=detect_leaks=0 AIDA_FUZZ_REPEATS=$(FUZZ) \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest -q -o timeout=3600 -k "not eager and not foreach" \
		tests/backends/test_cpu.py tests/backends/test_blockwise.py tests/backends/test_memory_edits.py

# The CPU kernel's threads with every race reported, and a race that must be.
sanitize-threads:  ## the CPU kernel's threads under ThreadSanitizer
	mkdir -p build/threads
	$(CXX) -std=c++17 -O1 -g -fopenmp -fsanitize=thread -c tests/backends/threads.cpp -o build/threads/run.o
	$(CXX) -fsanitize=thread build/threads/run.o -o build/threads/run
	build/threads/run
	! build/threads/run shared 2> build/threads/races
	grep -q "ThreadSanitizer: data race" build/threads/races

bench: install  ## what a step costs on this machine
	$(BIN)/aida bench step

# A part of what a GPU must show, by the machine's own PYTHON with torch and Triton: benchmarks/gpu/README.md.
OUT ?= build/gpu
gpu:  ## what a GPU must show, a PART at a time, without a network (PART=1 OUT=folder WHEELS=folder)
	$(if $(WHEELS),$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
		--target build/wheels $(WHEELS)/*.whl)
	PYTHONPATH=src:packages/aida-bench/src:tests:benchmarks:build/wheels \
		$(PYTHON) -m gpu $(PART) --out $(OUT) $(if $(AGAIN),--again)

gpu-dry: install  ## its parts, tiny, on the CPU and in Triton's interpreter
	$(BIN)/python -m pytest -q -m slow tests/repository/test_gpu_parts.py

bench-check: install  ## has the step become slower than this machine kind's committed result says?
	$(BIN)/aida bench check

UPGRADE ?= --upgrade
lock: install  ## requirements/ anew (UPGRADE= keeps the versions that are there)
	$(COMPILE) $(DEV) --universal --python-version 3.11 --generate-hashes $(UPGRADE) --output-file $(LOCK)
	$(COMPILE) --group pyproject.toml:jax packages/aida-jax/pyproject.toml --constraints $(LOCK) \
		--universal --python-version 3.11 --generate-hashes $(UPGRADE) --output-file $(JAX_LOCK)

clean:  ## remove all that was made
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-peers $(VENV)-composer $(VENV)-jax $(VENV)-jax-oldest $(VENV)-jax-newest build dist .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache src/aida/backends/_step_cpu.so
	find src packages tests benchmarks reproduce tools packaging -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
