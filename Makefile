# `make demo` and `make test` are all a new user needs; each installs what it uses into .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
MODEL := .cache/models/smollm2-135m
TEXTS := .cache/texts
# Where no CUDA compiler is installed, the plugin is built with the one from the package index.
NVCC_EXTRA := $(shell command -v nvcc >/dev/null || test -x /usr/local/cuda/bin/nvcc || echo ,nvcc)

.PHONY: demo play test test-full fetched compiled mutate tensorrt-versions edgellm torture lint format plugin wheels reproduce docs docs-test screenshots release models audit lowest newest lock

# The first command plans a model that people serve, from its config alone, for twice its speed: there tiles pay. The second builds
# a small model, to look at what a build makes: its weight types gain, its tiles do not, and the build says so. For a first look
# it reads few windows of text, does not repair, and compiles the plugin for one architecture; the defaults read more, and repair.
demo: .venv/installed models
	@echo "LLaMA-2-7B on an A6000, from its config.json alone: a model whose tiles pay."
	@$(BIN)/patch-compile plan samples/configs/llama-2-7b --speedup 2 --target a6000 --prompt-tokens 2048 --generated-tokens 1
	@echo; echo "SmolLM2-135M, to look at a build: at this size tiles bring nothing, as the warning says."
	PATCH_COMPILE_PLUGIN_ARCHS=89 PATCH_COMPILE_BUILD_CALIB=$(TEXTS)/calib.txt PATCH_COMPILE_BUILD_WINDOWS=8 \
	  PATCH_COMPILE_BUILD_EVAL=$(TEXTS)/eval.txt PATCH_COMPILE_BUILD_EVAL_WINDOWS=4 PATCH_COMPILE_BUILD_REPAIR=none \
	  $(BIN)/patch-compile build $(MODEL) -o out/smollm2 --ratio 0.1 --weights w8a8 --tile 64x64 --target rtx4090 \
	  --prompt-tokens 512 --generated-tokens 1 --force

# The whole chain on a tiny model in some 20 seconds, and where to put breakpoints.
play: .venv/installed
	$(BIN)/python -m tests.play

# One thread in each of pytest's processes: more of them than cores wait for each other most of the time. They load torch
# before patch-compile could tell MKL to compute the same with any number of threads.
ARCHS := PATCH_COMPILE_PLUGIN_ARCHS=80
PYTEST := OMP_NUM_THREADS=1 MKL_CBWR=AUTO,STRICT $(ARCHS) PATCH_COMPILE_MODEL=$(MODEL) PATCH_COMPILE_TEXTS=$(TEXTS) $(BIN)/pytest -n auto --dist loadgroup

# The quick tests, which enter every room: tests/parts.py.
test: fetched
	$(PYTEST) --quick

# All tests, in one run: each of its processes takes half a minute to find them. GOLDEN=write renews the golden files.
test-full: fetched compiled
	$(PYTEST) --junitxml=build/tests.xml

# What the tests need besides packages. report.html is tested in a Chromium: Debian's, where none is found and it may be
# installed; else those tests are skipped.
fetched: .venv/installed models
	$(BIN)/python samples/models.py minilm .cache/models/minilm
	@$(BIN)/python -m tests.report.page.chromium || ! command -v apt-get >/dev/null || test "$$(id -u)" != 0 || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || echo "no Chromium was installed"

# The plugin with all kernels, which tests take instead of compiling some. Without a compiler they are skipped.
compiled: .venv/installed
	-$(ARCHS) $(BIN)/patch-compile plugin --backend tensorrt-rtx

# Every injected kernel bug must be caught, the machine code for every type and architecture is checked, and so is the graph of
# every family of decoders that needs no row in the table of architectures: some minutes.
mutate: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup -m 'mutation or families' tests

# The plugin in the registries of several versions of TensorRT; `make test-full` takes the newest. Their dispatch runtimes are small.
TENSORRT_VERSIONS := 10.16.1.11 11.0.0.114 11.4.0.106
tensorrt-versions: .venv/installed $(TENSORRT_VERSIONS:%=.cache/tensorrt-versions/%)
	OMP_NUM_THREADS=1 PATCH_COMPILE_PLUGIN_ARCHS=80 $(BIN)/pytest tests/plugins/tensorrt/test_versions.py

.cache/tensorrt-versions/%:
	rm -rf $@.new
	$(BIN)/python -m pip install --quiet --no-deps --target $@.new tensorrt-dispatch-cu13-libs==$* tensorrt-dispatch-cu13-bindings==$*
	mv $@.new $@

# The contract with TensorRT Edge-LLM: its exporter on the sample model, some minutes. It pins its own torch and transformers, so
# it is installed into an environment of its own.
edgellm: .venv/installed models .cache/edgellm/installed
	OMP_NUM_THREADS=1 PATCH_COMPILE_MODEL=$(MODEL) $(BIN)/pytest -m edgellm tests/pipeline/test_edgellm.py

.cache/edgellm/installed:
	$(PYTHON) -m venv .cache/edgellm
	.cache/edgellm/bin/python -m pip install --quiet 'tensorrt-edgellm[export]==0.11.0'
	touch $@

# Attacks the program at full size: an hour or more on all cores. Prints what held and what broke.
# ATTACKS="faults readers" runs some, and ATTACKS="fuzz --count 120" every reader of bytes that others may have written under
# atheris, for 120 seconds of the processor each. Fails when anything broke; build/fuzz keeps an input that broke a reader.
torture: .venv/installed
	$(BIN)/python -m pip install --quiet $(CONSTRAINED) --editable '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attacks $(ATTACKS)

# Types of TensorRT's Python API, for mypy alone: in the environment they would pass for an installed TensorRT. Five of
# their signatures are no Python (a parameter called `in`, one without a default behind others with one), and the type
# called `bool` hides Python's own.
.venv/stubs: .venv/installed
	echo 'tensorrt-stubs==10.13.0.35.1 --hash=sha256:749a36a1f825db0800a82d0dabbf7ef49f3a9edc1e794c9545fb94a551613fea' > .venv/stubs.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ --require-hashes --requirement .venv/stubs.txt
	sed -i -E 's/, in: list/, inputs: list/; s/, channel_axis: int\)/, channel_axis: int = ...)/; /^bool: /d' $@/tensorrt_bindings/tensorrt.pyi
	touch $@

# It ends with lines by room, and what changed since BASE. mypy keeps one core busy while clang-tidy runs.
lint: .venv/installed .venv/stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	git ls-files '*.cu' '*.cuh' '*.cpp' '*.h' | xargs -r $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy & types=$$!; $(BIN)/python -m tests.plugins.tidy; tidied=$$?; wait $$types && exit $$tidied
	$(BIN)/python -m tests.rooms $(BASE)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cu' '*.cuh' '*.cpp' '*.h' | xargs -r $(BIN)/clang-format -i

plugin: .venv/installed
	$(BIN)/patch-compile plugin

# The wheels of a release, in dist/: patch-compile, and patch-compile-plugin with the plugin compiled for every architecture and
# both backends, which takes an hour on two cores unless the cache has it. WHEELS="--backend tensorrt-rtx" makes one backend's.
# Then both are installed into a new environment, which builds an engine without nvcc.
wheels: .venv/installed
	rm -rf dist/*.whl dist/unpacked
	$(BIN)/python packaging/make_wheels.py dist $(WHEELS)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m wheels tests/wheels

# The same model twice: with other threads, working folder, name of OUT, hashes, time zone, locale and umask. Fails when
# a byte differs that is neither a time nor a path. On the sample model some twenty minutes.
reproduce: .venv/installed models
	$(BIN)/python -m benchmarks.reproduce $(MODEL) --calib $(TEXTS)/calib.txt --eval $(TEXTS)/eval.txt --ratio 0.3 \
	  --windows 8 --length 256 --repair-steps 4 --lowering plugin --backend onnx

# The pages that follow from the program, the pictures, and the site in build/site. A warning is an error.
docs: .venv/docs
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/support.py
	$(BIN)/python -m docs.draw
	$(BIN)/python benchmarks/kernels/roofline.py --page docs/explanation/performance.md
	$(BIN)/python -m docs.frontier
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Pictures of the tutorial, and those of the notebook, from the build of `make demo`.
screenshots: demo fetched .venv/docs
	$(BIN)/python -m docs.screenshots out/smollm2
	$(BIN)/python docs/notebook.py

# Runs every command and snippet of every page, on a tiny model, and the notebook.
docs-test: .venv/docs models
	OMP_NUM_THREADS=1 MKL_CBWR=AUTO,STRICT PATCH_COMPILE_MODEL=$(MODEL) PATCH_COMPILE_TEXTS=$(TEXTS) \
	  $(BIN)/pytest -n auto --dist loadgroup -m 'pages or not pages' tests/pages

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet $(CONSTRAINED) --editable '.[docs]'
	touch $@

# What a release needs, in dist/, and a plan by the wheel in an environment of its own, whose packages a bill of materials in
# CycloneDX lists. Publishes nothing. FINAL=--final also asks for the version's heading in the changelog.
BILL := dist/patch-compile.cdx.json
release: .venv/installed .cache/tools/installed
	rm -rf dist build/release
	$(BIN)/python -m tests.release $(FINAL)
	$(BIN)/python -m hatchling build -d dist
	$(PYTHON) -m venv build/release
	build/release/bin/pip install --quiet dist/*.whl
	build/release/bin/patch-compile plan samples/configs/llama-2-7b --ratio 0.4 --target a6000
	.cache/tools/bin/cyclonedx-py environment build/release/bin/python --pyproject pyproject.toml --output-reproducible --validate \
	  --output-file $(BILL)
	$(BIN)/python -m tests.release --bill $(BILL)
	sha256sum dist/*

models: .venv/installed
	$(BIN)/python samples/models.py smollm2 $(MODEL)
	$(BIN)/python samples/texts.py $(TEXTS)

# The versions that were tested last. Torch, and what its build for a machine decides, stay free within pyproject.toml. Python
# compiles what it imports; to compile all 360 MB here would take a minute and a half. It must keep what it compiled: else each
# of the tests' processes that import torch would compile for 10 s of CPU time.
unexport PYTHONDONTWRITEBYTECODE
CONSTRAINED := --constraint packaging/constraints.txt
.venv/installed: pyproject.toml packaging/constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile $(CONSTRAINED) --editable '.[build,dev,rtx,serve$(NVCC_EXTRA)]'
	touch $@

# Asks public advisory services about the installed packages and about those of the image. Fails if one could not be asked about.
audit: .venv/installed .cache/tools/installed
	.cache/tools/bin/pip-audit --strict --skip-editable --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	.cache/tools/bin/pip-audit --strict --disable-pip --requirement packaging/serve.lock --requirement packaging/rtx.lock

# The lowest versions that pyproject.toml allows, and the newest that there are: each is installed into an environment of its own
# and makes, proves, runs and serves builds of tiny models.
DEPENDENCY_TESTS := tests/onnx_export tests/onnx_io tests/masklearn/model tests/runtime/test_generator.py tests/runtime/test_sampling.py \
  tests/samples/serve_http/test_server.py
lowest newest: .venv/installed
	rm -rf .cache/$@
	$(PYTHON) -m venv .cache/$@
	test $@ = newest || $(BIN)/python -m tests.dependencies.declared floors > .cache/$@/constraints.txt
	touch .cache/$@/constraints.txt
	.cache/$@/bin/pip install --quiet --constraint .cache/$@/constraints.txt --editable '.[build,rtx,serve]' \
	  pytest pytest-xdist hypothesis httpx openai
	GOLDEN=kinds OMP_NUM_THREADS=1 .cache/$@/bin/python -m pytest -n auto --dist loadgroup $(DEPENDENCY_TESTS)

# The packages of the image, with their hashes, and the versions that `make test` and `make demo` install. CUDA's packages
# are exact in some builds of torch, and TensorRT's versions are pyproject.toml's.
MACHINE := torch|triton|nvidia-.*|cuda-.*|tensorrt-.*|setuptools
lock: .venv/installed .cache/tools/installed
	.cache/tools/bin/uv pip compile $(LOCK) --extra serve pyproject.toml --output-file packaging/serve.lock
	$(BIN)/python -m tests.dependencies.declared rtx | \
	  .cache/tools/bin/uv pip compile $(LOCK) --constraint packaging/serve.lock - --output-file packaging/rtx.lock
	mkdir -p build
	.cache/tools/bin/uv pip compile $(LOCK) --no-generate-hashes --extra build --extra dev --extra rtx --extra serve pyproject.toml \
	  --output-file build/constraints.txt > /dev/null
	grep -vE '^($(MACHINE))==' build/constraints.txt > packaging/constraints.txt
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

.cache/tools/installed: Makefile
	$(PYTHON) -m venv .cache/tools
	.cache/tools/bin/pip install --quiet 'uv>=0.9,<1' 'pip-audit>=2.10,<3' 'cyclonedx-bom>=7.5,<8'
	touch $@
