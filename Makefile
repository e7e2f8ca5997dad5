# tqserver: `make run` serves pages/, `make test` proves it.

GO      ?= go

.PHONY: build run test bench vet generate clean

build: ## bin/tqserver
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o bin/tqserver ./cmd/tqserver

run: build ## serve pages/ on http://localhost:8080
	bin/tqserver

test: vet ## all tests, race detector on
	@command -v $$($(GO) env CC) >/dev/null || { echo "make test: the race detector needs a C compiler: install gcc, or set CC"; exit 1; }
	$(GO) test -race -count=1 ./...

bench: build ## measure bin/tqserver anew for docs/benchmarks.md, in less than 10 minutes
	$(GO) test -tags bench -count=1 -timeout 10m -v -run '^TestBenchmarks$$' ./cmd/tqserver

vet:
	$(GO) vet -tags bench ./...
	GOOS=darwin $(GO) vet ./...

generate: ## make the Go code of the .proto files anew
	$(GO) test ./sdk/proto -run TestGeneratedCodeIsCurrent -update

clean:
	rm -rf bin logs .tqserver
