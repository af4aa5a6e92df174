# Everything a fresh machine needs beyond Python, a C++ compiler and PyPI is set up here.
#   make test        environment, build, the whole test suite, in a process for each core; JOBS=0 in one
#   make demo        environment, build, the demo on real weights
#   make demo-methods   the same weights at 50% and at 2:4, by magnitude and by Wanda, and the ways of
#                    other libraries beside; DEMO_ARGS="--repeats 3" for a shorter run
#   make bench       environment, build, the benchmarks; BENCH_ARGS="--quick" for a minute's worth
#   make broken      every deliberately broken copy of a CUDA kernel, of which make test takes a share
#   make compatibility   docs/compatibility.md anew, from its tests
#   make sanitize    the CUDA kernels on the host, and the CPU kernels, under Address- and UBSan
#   make sanitize-cases   of the former, the cases of scripts/kernel_cases.py alone, within minutes
#   make races       every operator test of the CUDA kernels on the host under the race detector, with
#                    more seeds, and docs/races.md anew; of both make test takes a share
#   make rehearse-gpu   the tests that scripts/verify_gpu.sh runs on a GPU, on a device of the host that
#                    torch takes for one; some minutes, and the machine needs no GPU
#   make docs        the site, into build/docs: warnings are errors, every local link is followed
#   make dist        an sdist and the wheel that it builds, in dist/; the wheel installed in a clean
#                    environment and tested there, with the tests of the sdist; DIST_TESTS for more of them
#   make test-torch-2.9, -2.11, -2.13, -2.14   make test with the torch of that name, each in an
#                    environment of its own
#   make clients     the pruning tests of PyTorch, Lightning and coremltools with fastprune, in an
#                    environment with these; PYTORCH=, LIGHTNING=, COREMLTOOLS= name checkouts
#   make frameworks  tests of pruning in Lightning, transformers and accelerate, with these packages in
#                    the same environment
#   make cuda-build  a second environment with a CUDA torch: compile, link, run the CPU tests
#   make cuda-report registers, shared memory and width of accesses of every compiled CUDA kernel
#
# An environment is torch and about 40 MB of tools. On Linux PyPI's torch comes with the CUDA
# libraries: about 3 GB to download and 5 GB on disk, for each of the two environments. Instead:
#   make test SYSTEM_TORCH=1     uses the torch of $(PYTHON), 2.9 or newer, and downloads none
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test TORCH=torch==2.13.0+cpu
#                                a torch without CUDA: 0.2 GB to download, 1 GB on disk
# An existing environment keeps its torch: run `make clean` before you choose another.
PYTHON ?= python3
SYSTEM_TORCH ?=
TORCH ?= torch==2.13.0
CUDA_TORCH ?= torch==2.11.0
CUDA_ARCHS ?= 8.0;9.0;10.0+PTX
CUDA_HOME ?= $(firstword $(wildcard /usr/local/cuda /opt/cuda))
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
JOBS ?= auto

# The versions that the targets test-torch-* take.
TORCH_2.9 := torch==2.9.1
TORCH_2.11 := torch==2.11.0
TORCH_2.13 := torch==2.13.0
TORCH_2.14 := torch==2.14.1
TEST_TORCH := test-torch-2.9 test-torch-2.11 test-torch-2.13 test-torch-2.14

VENV := .venv
CUDA_VENV := .venv-cuda
CLIENTS_VENV := .venv-clients
BUILD_TOOLS := setuptools>=77,<82 wheel ninja pybind11 numpy build
TEST_TOOLS := pytest>=9 pytest-xdist>=3.8 tomli>=2;python_version<"3.11" hypothesis>=6 \
  expecttest rich>=13 matplotlib>=3.8 onnx>=1.19 onnxscript>=0.5 safetensors>=0.4 pyyaml>=6
CLIENTS := pytest>=8 expecttest hypothesis>=6 lightning>=2.5 coremltools>=9 \
  transformers>=5 accelerate>=1.10
DOCS_TOOLS := sphinx==9.* furo==2025.* myst-parser==5.*
LINT_TOOLS := ruff==0.14.* mypy==1.18.* clang-format==21.* typos==1.52.* check-jsonschema==0.39.*
# A suite in several processes, each test file in one of them, in the order of pyproject.toml. OpenMP's
# threads sleep while they wait, as other processes need the cores.
PYTEST := -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
WITH_OTHERS := OMP_WAIT_POLICY=passive
SOURCES := setup.py pyproject.toml $(shell find csrc python -type f -not -path '*/__pycache__/*')
CXX_SOURCES := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
PY_SOURCES := setup.py python tests benchmarks examples scripts docs
INSTALL := -m pip install --quiet --disable-pip-version-check
BUILD := -m pip install --disable-pip-version-check -v --no-build-isolation --no-deps

# $(call install_torch,environment,requirement): or the torch of $(PYTHON), by a path file, since
# --system-site-packages would miss it if that python stands in a virtual environment itself.
define install_torch
$(PYTHON) -m venv $(1)
$(if $(SYSTEM_TORCH),\
  $(PYTHON) -c 'import torch; print(torch.__path__[0].rpartition("/")[0])' \
    > $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth,\
  $(1)/bin/python $(INSTALL) '$(2)')
touch $(1)/.torch
endef

# $(call install_tools,environment). With SYSTEM_TORCH other packages may conflict: no pip check.
define install_tools
$(1)/bin/python $(INSTALL) $(foreach tool,$(BUILD_TOOLS) $(TEST_TOOLS),'$(tool)')
$(if $(SYSTEM_TORCH),,$(1)/bin/python -m pip check --disable-pip-version-check)
touch $(1)/.tools
endef

# $(call folder_of,environment): its logs; where its sdist is unpacked and compiled.
folder_of = $(CURDIR)/build/$(patsubst .%,%,$(1))
tree_of = $(folder_of)/tree
objects_of = $(folder_of)/objects

# $(call unpack_sdist,environment,folder of the sdist): at one place and with the times that files have
# here, so that of the next one only what changed is compiled.
define unpack_sdist
rm -rf $(2)/fastprune-*.tar.gz $(tree_of) && mkdir -p $(tree_of)
$(1)/bin/python -m build --sdist --no-isolation --skip-dependency-check --outdir $(2) . > $(folder_of)/sdist.log
tar -xzf $(2)/fastprune-*.tar.gz -C $(tree_of) --strip-components=1
endef

# $(call install,environment,settings): by way of an sdist, so that what is tested is what is published.
define install
mkdir -p $(folder_of)
$(call unpack_sdist,$(1),$(folder_of))
FASTPRUNE_BUILD_BASE=$(objects_of) $(2) \
  $(1)/bin/python $(BUILD) $(tree_of) > $(folder_of)/log 2>&1 \
  || { tail -50 $(folder_of)/log; exit 1; }
grep -a '^ *fastprune:' $(folder_of)/log | tail -1
endef

.PHONY: test $(TEST_TORCH) demo demo-methods bench docs dist broken compatibility clients frameworks races rehearse-gpu sanitize sanitize-cases cuda-build cuda-report lint format clean

test: $(VENV)/.built
	cd tests && ../$(VENV)/bin/python -m cuda_on_host.build  # once, not in each process
	$(WITH_OTHERS) $(VENV)/bin/python $(PYTEST) $(PYTEST_ARGS)

$(TEST_TORCH): test-torch-%:
	$(MAKE) test VENV=.venv-torch-$* TORCH='$(TORCH_$*)' SYSTEM_TORCH=

demo: $(VENV)/.built $(VENV)/.demo
	$(VENV)/bin/python examples/prune_minilm.py

# glibc keeps freed memory: what a call pays for fresh pages would depend on what ran before it.
KEEP_MEMORY := MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=33554432
demo-methods: $(VENV)/.built $(VENV)/.demo
	$(KEEP_MEMORY) $(VENV)/bin/python examples/prune_methods.py --picture examples/out/prune_methods.svg $(DEMO_ARGS)

bench: $(VENV)/.built $(VENV)/.bench
	$(VENV)/bin/python benchmarks/run.py $(BENCH_ARGS)

broken: $(VENV)/.built
	$(VENV)/bin/python -m pytest --broken tests/mutations $(PYTEST_ARGS)

compatibility: $(VENV)/.built
	cd tests && ../$(VENV)/bin/python -m parity.table

# -E: a docstring that changed is read anew, as the package is installed elsewhere.
docs: $(VENV)/.built $(VENV)/.docs
	$(VENV)/bin/python -m sphinx -q -W --keep-going -E -j auto -d build/doctrees docs build/docs
	$(VENV)/bin/python scripts/check_links.py build/docs

PYTORCH ?=
LIGHTNING ?=
COREMLTOOLS ?=
clients: $(CLIENTS_VENV)/.built
	$(CLIENTS_VENV)/bin/python tests/clients/run.py --logs build/clients \
	  $(if $(PYTORCH),--pytorch '$(PYTORCH)') $(if $(LIGHTNING),--lightning '$(LIGHTNING)') \
	  $(if $(COREMLTOOLS),--coremltools '$(COREMLTOOLS)')

# A test of a package that is not there would be skipped.
frameworks: $(CLIENTS_VENV)/.built
	$(CLIENTS_VENV)/bin/python -c 'import accelerate, lightning, transformers'
	HF_HUB_OFFLINE=1 $(WITH_OTHERS) $(CLIENTS_VENV)/bin/python -m pytest \
	  -k "frameworks or integrations" tests/frameworks tests/project/test_doctests.py $(PYTEST_ARGS)

races: $(VENV)/.built
	cd tests && ../$(VENV)/bin/python -m cuda_on_host.edges
	CI=1 CUDA_ON_HOST_SEEDS=3 CUDA_ON_HOST_RACES=1 $(VENV)/bin/python -m pytest -k cuda_on_host tests/ops $(PYTEST_ARGS)
	CUDA_ON_HOST_RACES=1 $(VENV)/bin/python -m pytest tests/cuda/test_cuda_on_host_shipped.py \
	  -o faulthandler_timeout=3600 $(PYTEST_ARGS)

ON_HOST_GPU := PYTHONPATH=build/host_gpu/site:tests $(WITH_OTHERS) $(VENV)/bin/python
REHEARSED := tests/api/test_api_on_devices.py tests/cuda tests/ops
rehearse-gpu: $(VENV)/.built
	cd tests && ../$(VENV)/bin/python -m host_gpu.build
	$(ON_HOST_GPU) -m host_gpu scripts/kernel_cases.py --small
	$(ON_HOST_GPU) -m pytest -n $(JOBS) --dist worksteal -p host_gpu.plugin \
	  -k "cuda and not ($(ON_HOST))" $(REHEARSED) $(PYTEST_ARGS)

SANITIZE := -fsanitize=address,undefined
# libstdc++ too: python does not link it, and without it no exception passes AddressSanitizer.
# Recursive, so that g++ is only asked when needed.
PRELOAD = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
SANITIZED_TESTS := tests/ops

# --capture=sys: with pytest's own files in between, a report is lost when the process dies.
sanitize: $(VENV)/.built build/sanitize/.built
	$(PRELOAD) CUDA_ON_HOST_SANITIZE=1 $(VENV)/bin/python -m pytest --capture=sys \
	  -k "cuda_on_host or sanitizer" $(PYTEST_ARGS)
	$(PRELOAD) PYTHONPATH=build/sanitize/lib $(VENV)/bin/python -m pytest --capture=sys \
	  -k "not cuda_on_host" $(SANITIZED_TESTS) $(PYTEST_ARGS)

sanitize-cases: $(VENV)/.built
	cd tests && $(PRELOAD) CUDA_ON_HOST_SANITIZE=1 ../$(VENV)/bin/python -m cuda_on_host.cases

build/sanitize/.built: $(VENV)/.tools $(SOURCES)
	FORCE_CUDA=0 FASTPRUNE_BUILD_BASE=build/sanitize/objects FASTPRUNE_LDFLAGS="$(SANITIZE)" \
	FASTPRUNE_CXXFLAGS="-O1 -g1 $(SANITIZE) -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
	  $(VENV)/bin/python $(INSTALL) --no-build-isolation --no-deps --upgrade \
	  --target build/sanitize/lib .
	touch $@

# Tests that need the kernels on the host, which are the same files in every environment.
ON_HOST := cuda_on_host or broken_kernels or test_races or verify_gpu or every_kernel

# The wheel is of the same tree and objects as what `make test` tests, so nothing is compiled again. The
# clean environment has the wheel, and sees torch and pytest in $(VENV) by a path file, after its own
# packages.
DIST_TESTS ?= tests/project/test_readme.py
dist: $(VENV)/.built
	rm -rf build/dist dist/fastprune-* && mkdir -p build/dist
	$(call unpack_sdist,$(VENV),dist)
	FASTPRUNE_WHEEL=1 FASTPRUNE_BUILD_BASE=$(call objects_of,$(VENV)) $(VENV)/bin/python -m build \
	  --wheel --no-isolation --skip-dependency-check --outdir dist $(call tree_of,$(VENV)) \
	  > build/dist/wheel.log 2>&1 || { tail -50 build/dist/wheel.log; exit 1; }
	$(PYTHON) -m venv build/dist/venv
	$(VENV)/bin/python -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' \
	  > $$(build/dist/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/others.pth
	build/dist/venv/bin/python $(INSTALL) --no-index --no-deps --force-reinstall dist/fastprune-*.whl
	cd build/dist && venv/bin/python -I $(CURDIR)/scripts/check_install.py
	cd $(call tree_of,$(VENV)) && $(WITH_OTHERS) $(CURDIR)/build/dist/venv/bin/python $(PYTEST) \
	  -k "not ($(ON_HOST))" $(DIST_TESTS) $(PYTEST_ARGS)
	ls -l dist

# `make test` has run what needs the kernels on the host.
cuda-build: $(CUDA_VENV)/.built
	$(if $(SYSTEM_TORCH),,$(CUDA_VENV)/bin/python -m pip check --disable-pip-version-check)
	$(WITH_OTHERS) $(CUDA_VENV)/bin/python $(PYTEST) -k "not ($(ON_HOST))" $(PYTEST_ARGS)

# The toolkit of a build need not have the disassemblers.
cuda-report: $(CUDA_VENV)/.built
	$(CUDA_VENV)/bin/python $(INSTALL) nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(CUDA_VENV)/bin/python scripts/cuda_report.py \
	  $(CUDA_VENV)/lib/python3*/site-packages/fastprune/_C*.so

CHECK_YAML := $(VENV)/bin/check-jsonschema -q --builtin-schema
lint: $(VENV)/.lint $(VENV)/.built
	$(VENV)/bin/ruff check $(PY_SOURCES)
	$(VENV)/bin/ruff format --check $(PY_SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(VENV)/bin/typos
	$(CHECK_YAML) vendor.github-workflows .github/workflows/*.yml
	$(CHECK_YAML) vendor.dependabot .github/dependabot.yml
	$(CHECK_YAML) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(CHECK_YAML) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix $(PY_SOURCES)
	$(VENV)/bin/ruff format $(PY_SOURCES)
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf build dist $(VENV) $(CUDA_VENV) $(CLIENTS_VENV) $(TEST_TORCH:test-%=.venv-%)

# The stamps: .torch is the environment, .tools what building and testing need, anew when this file
# changes, .built the extension, .demo, .bench, .docs and .lint what those need.
$(VENV)/.torch:
	$(call install_torch,$(VENV),$(TORCH))

$(VENV)/.tools: $(VENV)/.torch Makefile
	$(call install_tools,$(VENV))

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	$(call install,$(VENV))
	touch $@

$(VENV)/.demo: examples/requirements.txt $(VENV)/.torch
	$(VENV)/bin/python $(INSTALL) -r $<
	touch $@

$(VENV)/.bench: benchmarks/requirements.txt $(VENV)/.torch
	$(VENV)/bin/python $(INSTALL) -r $<
	touch $@

$(VENV)/.docs: $(VENV)/.torch Makefile
	$(VENV)/bin/python $(INSTALL) $(foreach tool,$(DOCS_TOOLS),'$(tool)')
	touch $@

$(VENV)/.lint: $(VENV)/.torch Makefile
	$(VENV)/bin/python $(INSTALL) $(foreach tool,$(LINT_TOOLS),'$(tool)')
	touch $@

$(CLIENTS_VENV)/.torch:
	$(call install_torch,$(CLIENTS_VENV),$(TORCH))

# With the torch that is there named, as one of them might otherwise bring another.
$(CLIENTS_VENV)/.tools: $(CLIENTS_VENV)/.torch Makefile
	torch=$$($(CLIENTS_VENV)/bin/python -c 'import torch; print(torch.__version__)'); \
	$(CLIENTS_VENV)/bin/python $(INSTALL) torch==$$torch \
	  $(foreach tool,$(BUILD_TOOLS) $(CLIENTS),'$(tool)')
	$(if $(SYSTEM_TORCH),,$(CLIENTS_VENV)/bin/python -m pip check --disable-pip-version-check)
	touch $@

$(CLIENTS_VENV)/.built: $(CLIENTS_VENV)/.tools $(SOURCES)
	$(call install,$(CLIENTS_VENV))
	touch $@

$(CUDA_VENV)/.torch:
	$(call install_torch,$(CUDA_VENV),$(CUDA_TORCH))

$(CUDA_VENV)/.tools: $(CUDA_VENV)/.torch Makefile
	$(call install_tools,$(CUDA_VENV))

$(CUDA_VENV)/.built: $(CUDA_VENV)/.tools $(SOURCES)
	$(call install,$(CUDA_VENV),FORCE_CUDA=1 CUDA_HOME='$(CUDA_HOME)' TORCH_CUDA_ARCH_LIST='$(CUDA_ARCHS)')
	@echo 'kernels by what they take of the GPU:'
	@grep -aoE 'Used [0-9]+ registers|[1-9][0-9]* bytes spill stores' \
	  $(call folder_of,$(CUDA_VENV))/log | sort | uniq -c
	touch $@
