# Everything a developer or CI runs. Targets set up what they need: a .venv with the tools, and
# for the lab (root, Debian or a relative) QEMU and mmdebstrap on the host. See tools/lab.
#
#   make check      style, types, unused code, layers, unit tests; no root; under a minute
#   make test-oldest  the unit tests with the oldest libraries that setup.cfg promises
#   make test       check, then contract tests and core scenarios in the lab
#   make test-all   check, contract tests and all scenarios on every lab root, slow ones too; the real
#                   kubelet; the signer's benchmark. Not docs, monitoring, test-web, test-kubernetes
#   make test-kubernetes  the signer against a real API server, which is built once and kept; the
#                         manifests; the image
#   make install    this tree on this node: /opt/ovn-ipsec, links, systemd units; starts nothing
#   make docs       the documentation as a site in build/site, warnings are errors; man pages, and
#                   units as installed, checked
#   make test-web   the cluster view in headless Chromium, which is installed if it is missing
#   make test-web-lab  the scenarios of the lab, then its cluster view's pages in Chromium
#   make web-picture  its picture for the documentation
#   make test-kubelet  DaemonSet and signer on a real kubelet with containerd, which is kept, too
#   make bench-kubernetes  500 requests at the signer at once; fails if p99 is over 5 s or one is lost
#   make image      the container image as an OCI layout in build/image, without registry or daemon
#   make contract   the drivers against the real programs
#   make monitoring alert rules in a running Prometheus, dashboard against Grafana's types
#   make system     the lab part alone: make system LAB_ROOT=trixie TESTS=tests/system/test_lab.py
#   make bench      tunnels: ours, the originals and the floor, in the lab; writes docs/benchmarks
#   make demo       what the project does, shown on two nodes
#   make lab-shell  a root shell in the lab's machine

PYTHON ?= python3
LAB_ROOT ?= bookworm
# Virtual machines side by side. Each has one CPU.
LAB_SHARDS ?= 2
TESTS ?= tests/system
TIMEOUT_S ?= 4500
# Such as --parts hub --peers 10
BENCH ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LAB := $(PYTHON) -m tools.lab --root $(LAB_ROOT) --timeout $(TIMEOUT_S)

MEMORY := $(firstword $(wildcard /dev/shm) /tmp)

# Rewriting the tests' assertions anew in every run would take longer than most modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install check check-code check-tests format test-oldest test test-all test-kubernetes test-kubelet \
  bench-kubernetes docs test-web test-web-lab web-picture image bench contract monitoring system demo \
  lab-shell lab-build lab-host clean

install:
	tools/install.sh

check: $(STAMP)
	$(MAKE) --jobs=2 --output-sync=target check-code check-tests

check-code:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/lint-imports

# faulthandler starts and ends a watchdog for each test, which takes seconds. One worker more than
# there are CPUs, as tests of deadlines wait.
IN_PARALLEL = -q -o faulthandler_timeout=0 -n $$(($$(nproc) + 1)) --dist worksteal

# Files are in memory: what the authority keeps is synced often, and a disk takes longer for that
# than all the tests do.
check-tests:
	TMPDIR=$(MEMORY) $(BIN)/python -m pytest $(IN_PARALLEL) tests/unit tests/arch

# What setup.cfg promises of older libraries. python-ovs has its contract test instead: Debian's.
test-oldest:
	rm -rf build/oldest
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install --quiet $$($(PYTHON) -m tools.oldest setup.cfg) \
	  pytest pytest-xdist hypothesis
	TMPDIR=$(MEMORY) build/oldest/bin/python -m pytest $(IN_PARALLEL) tests/unit

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check test-oldest docs monitoring test-web test-kubernetes contract test-web-lab

test-all: check test-kubelet bench-kubernetes
	for root in bookworm trixie; do \
	  $(MAKE) contract LAB_ROOT=$$root && \
	  $(PYTHON) -m tools.lab --root $$root --image --timeout $(TIMEOUT_S) \
	    pytest --shards $(LAB_SHARDS) $(TESTS) || exit 1; \
	done

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -e .[bench]
	$(BIN)/python -m tools.bench.tunnels $(BENCH)

test-kubernetes: $(STAMP)
	$(BIN)/python -m tools.kubernetes.programs kube-apiserver
	$(BIN)/python -m pytest -q tests/kubernetes tests/image -m "kubernetes and not slow"

docs: $(STAMP)
	tools/install-checkers.sh
	$(BIN)/python -m pip install --quiet -e .[docs]
	$(BIN)/mkdocs build --quiet --strict
	$(BIN)/python -m pytest -q tests/docs

test-web: $(STAMP)
	$(BIN)/python -m pytest -q -s tests/web

test-web-lab: $(STAMP) system
	LAB_PAGES=$(or $(LAB_RESULTS),lab-results)/latest-$(LAB_ROOT) $(BIN)/python -m pytest -q tests/weblab

web-picture: $(STAMP)
	WEB_PICTURE=docs/images/cluster.png $(BIN)/python -m pytest -q tests/web -k styled

# What needs a mirror comes first: the machine that the tests run on has no way out.
test-kubelet: $(STAMP) image
	$(BIN)/python -m tools.kubernetes.programs kube-apiserver kube-controller-manager \
	  kube-scheduler kubelet
	$(BIN)/python -m tools.kubernetes.command_line
	tools/kubernetes/install-containerd.sh
	tools/kubernetes/machine.sh $(BIN)/python -m pytest -q tests/kubelet

bench-kubernetes: $(STAMP)
	$(BIN)/python -m tools.kubernetes.programs kube-apiserver
	$(BIN)/python -m tools.bench.kubernetes_requests

image:
	$(PYTHON) -m tools.image

# The real programs of the lab root on this machine's own kernel, which needs nftables and XFRM. The
# guard is another one with a newer nft.
contract: lab-host
	$(LAB) pytest --native tests/contract
	$(PYTHON) -m tools.lab --root trixie --timeout $(TIMEOUT_S) pytest --native \
	  tests/contract/test_nftables.py tests/contract/test_nftables_held.py

# Debian's prometheus and promtool, and Grafana's types with a TypeScript compiler: all are put
# below ~/.cache/ovn-ipsec once.
monitoring: $(STAMP)
	$(BIN)/python -m pytest -q tests/monitoring

system: lab-host
	$(LAB) pytest --shards $(LAB_SHARDS) $(TESTS) -m "not slow"

demo: lab-host
	$(LAB) demo

lab-shell: lab-host
	$(LAB) shell

lab-build: lab-host
	$(LAB) build

lab-host:
	tools/lab/machine/install-host-packages.sh

$(STAMP): setup.cfg pyproject.toml
	tools/lab/machine/install-host-packages.sh venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e .[dev]
	touch $@

clean:
	rm -rf $(VENV) lab-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
