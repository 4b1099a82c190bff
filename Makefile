# Murmuration. `make` alone lists what there is.

GO        ?= go
TOOLS     := -modfile=tools/go.mod
BIN       := bin
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X github.com/murmuration/murmuration/internal/version.Version=$(VERSION)
# The engine's optional stores would add a C compiler and an SQL database; a static binary needs neither.
BUILDTAGS := nosqlite,noboltdb
# The agent is linked without go-cmp, a fifth of its size: see third_party/go-cmp.

.DEFAULT_GOAL := help
.PHONY: help build demo story test unit lint generate breaking fuzz bench-install bench-agent bench-flags clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/murmur and bin/murmur-agent
	@mkdir -p $(BIN) out
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(BUILDTAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/murmur
	@{ cat go.mod; echo 'replace github.com/google/go-cmp => ./third_party/go-cmp'; } > out/agent.mod && cp go.sum out/agent.sum
	CGO_ENABLED=0 $(GO) build -modfile=out/agent.mod -trimpath -tags $(BUILDTAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/murmur-agent

demo: build ## Start the whole system with 12 hosts on this machine and say what to try
	$(BIN)/murmur demo

story: build ## Play the demo by itself, verify every step, and stop
	$(BIN)/murmur demo --story

test: lint unit ## Lint, then every test with the race detector

unit: build ## Every test, without lint
	$(GO) tool $(TOOLS) gotestsum --format pkgname-and-test-fails -- -race -tags $(BUILDTAGS) -timeout 20m ./...

lint: ## Format, vet, staticcheck, modernisation, protobuf lint and compatibility
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not gofmt-ed (run gofmt -w):"; echo "$$out"; exit 1; }
	$(GO) vet -tags $(BUILDTAGS) ./...
	$(GO) tool $(TOOLS) staticcheck -tags $(BUILDTAGS) ./...
	$(GO) tool $(TOOLS) buf lint
	@$(MAKE) --no-print-directory breaking

breaking: ## Check that the API can still be spoken by the version before
	$(GO) tool $(TOOLS) buf breaking --against proto/baseline.binpb

generate: ## Regenerate the Go code of proto/ (and, after a release, its baseline: buf build -o proto/baseline.binpb)
	$(GO) tool $(TOOLS) buf generate

fuzz: ## Fuzz every parser for 10 seconds each
	@scripts/fuzz 10s

bench-install: build ## Stage, activate and roll back a 100 MB tree and 20,000 files, beside tar -x --zstd
	$(GO) run -tags $(BUILDTAGS) ./scripts/bench/install

bench-agent: build ## Idle memory, CPU and size of a real agent attached to a real seeder
	$(GO) run -tags $(BUILDTAGS) ./scripts/bench/agent

bench-flags: ## Flag reads in process and over HTTP beside other servers, kills to 10,000 clients, a mass reconnect
	$(GO) run -tags $(BUILDTAGS) ./scripts/bench/flags

clean: ## Remove what was built
	rm -rf $(BIN) out
