# tqserver: `make run` serves pages/, `make test` proves it.

GO      ?= go

# What the test of the pages looks at them with: the names that a Chromium goes by, and how Debian installs one.
CHROMIUM = command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable
APT      = apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium

# The fuzz tests of kernel/proxy, and what go test says when the time was up at the wrong moment, which is no finding.
FUZZERS  = FuzzRequest FuzzChunks FuzzStrictConn FuzzTable FuzzResponse
TIME_UP  = context deadline exceeded
FINDING  = Failing input written|seed corpus entry|panic:

.PHONY: build run test bench tqbench browser soak edits saves ledger idle slow scale suites vet generate clean fuzz

build: ## bin/tqserver
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o bin/tqserver ./cmd/tqserver

run: build ## serve pages/ on http://localhost:8080
	bin/tqserver

test: vet browser ## all tests, race detector on
	@command -v $$($(GO) env CC) >/dev/null || { echo "make test: the race detector needs a C compiler: install gcc, or set CC"; exit 1; }
	$(GO) test -race -count=1 -timeout 40m ./...
	$(GO) test -count=1 -run '^TestLaneAllocatesNothing$$' ./kernel/proxy # with the race detector it allocates
	$(MAKE) --no-print-directory fuzz FUZZ=12s

bench: build ## measure bin/tqserver anew for docs/benchmarks.md, in about 12 minutes
	$(GO) test -tags bench -count=1 -timeout 30m -v -run '^TestBenchmarks$$' ./cmd/tqserver

tqbench: ## compare with nginx, HAProxy, Caddy and ReverseProxy for docs/benchmarks/, in about 15 minutes (make tqbench ARGS=-quick)
	$(GO) run ./cmd/tqbench $(ARGS)

browser: ## install Chromium where it is missing and can be: without it the tests in a browser are skipped, or fail if CI is set
	@{ $(CHROMIUM); } >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo 'installing chromium' && { $(APT); } || \
	  echo 'no Chromium, so the tests in a browser cannot run; as root on Debian: $(APT)'; }

fuzz: ## random requests and answers for the parsers of the proxy, each a minute (make fuzz FUZZ=10m)
	@for f in $(FUZZERS); do echo "fuzzing: $$f"; \
	  out=$$(GOMAXPROCS=2 $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(or $(FUZZ),1m) -parallel 2 ./kernel/proxy 2>&1) || \
	  { echo "$$out" | grep -q '$(TIME_UP)' && ! echo "$$out" | grep -qE '$(FINDING)'; } || { echo "$$out"; exit 1; }; done

soak: ## does a server hold more after minutes than before? (make soak SOAK=30m; memory counts here only, as there is no race detector)
	TQSERVER_SOAK=$(or $(SOAK),5m) $(GO) test -count=1 -timeout 0 -run '^TestSoak$$' -v ./cmd/tqserver

edits: ## 300 random edits, each built by the builder and by a fresh `go build`: is it the same? (make edits EDITS=1000)
	TQSERVER_EDITS=$(or $(EDITS),300) $(GO) test -count=1 -timeout 0 -run '^TestRandomEdits$$' -v ./plugins/builder

saves: ## 1,000 saves under load: no request failed or answered by old code, and nothing grows (make saves SAVES=200)
	TQSERVER_SAVES=$(or $(SAVES),1000) $(GO) test -count=1 -timeout 0 -run '^TestSaves$$' -v ./cmd/tqserver

ledger: ## 100,000 POSTs through saves, rollbacks and kills: is each executed once, or at most once with an error? (make ledger LEDGER=n)
	TQSERVER_LEDGER=$(or $(LEDGER),100000) $(GO) test -count=1 -timeout 0 -run '^TestLedger$$' -v ./cmd/tqserver

idle: ## 10,000 idle connections: are they held, and what does each cost? (make idle IDLE=n)
	TQSERVER_IDLE=$(or $(IDLE),10000) $(GO) test -count=1 -timeout 0 -run '^TestIdleConnections$$' -v ./cmd/tqserver

slow: ## 500 slow clients of each kind: is each cut off by its timeout, and what does it cost? (make slow SLOW=n)
	TQSERVER_SLOW=$(or $(SLOW),500) $(GO) test -count=1 -timeout 0 -run '^TestSlowClients$$' -v ./cmd/tqserver

scale: ## does the number of a page's workers follow the load, both ways? (takes a minute and a half)
	TQSERVER_SCALE=1 $(GO) test -race -count=1 -run '^TestWorkersFollowTheLoad$$' -v ./cmd/tqserver

suites: ## the test suites of Go and of other projects, with each of their servers behind the proxy (make suites SUITES=chi)
	TQSERVER_SUITES=$(or $(SUITES),all) $(GO) test -count=1 -timeout 0 -run '^TestSuites$$' -v ./cmd/tqserver

vet:
	$(GO) vet -tags bench ./...
	GOOS=darwin $(GO) vet ./...

generate: ## make the Go code of the .proto files anew
	$(GO) test ./sdk/proto -run TestGeneratedCodeIsCurrent -update

clean:
	rm -rf bin logs .tqserver
