# Every target sets up what it needs.

.PHONY: help run demo test test-long test-needs mutation bench bench-soak bench-slow bench-events bench-deadlines bench-workers bench-walk bench-recorder bench-against bench-limits bench-tracing bench-shortcuts check docs pictures format lock clean

help:
	@echo "make demo       the main job, shown: a failover, streamed through curl"
	@echo "make run        start the gateway with the GATEWAY_* settings of the environment"
	@echo "make test       set up everything and run every test"
	@echo "make test-long  the storms at full count"
	@echo "make mutation   small faults in the pure modules and in keys/: do their own tests notice? (MUTANTS=, SEED=)"
	@echo "make bench      the gateway beside nginx, LiteLLM's proxy and Portkey's (SCENARIOS=, CONTENDERS=, ROUNDS=)"
	@echo "make bench-soak ten minutes of everything: memory, threads, descriptors (SECONDS=)"
	@echo "make bench-slow        thousands who take their time, and whether others are served meanwhile"
	@echo "make bench-deadlines   the design's deadlines, measured"
	@echo "make bench-workers     how many workers serve this machine best"
	@echo "make bench-walk        the cost of a walk and a mark with each store"
	@echo "make bench-recorder    what recording costs a request"
	@echo "make bench-against REV=...  CPU per request beside an earlier commit's"
	@echo "make bench-events      what an event of a stream costs, in time and in instructions"
	@echo "make bench-limits REV=...   CPU per request for prices and limits, beside an earlier commit's"
	@echo "make bench-tracing     CPU per request without tracing, with it off, and on"
	@echo "make bench-shortcuts   what the shortcuts buy; with REV=... marks on Redis beside an earlier commit's, too"
	@echo "make check      stray files, formatting, lint, types; what deploy/ holds; the documentation"
	@echo "make docs       build the documentation as a site, in site/"
	@echo "make pictures   the pictures in docs/pictures: of the status page, and of the dashboard, which takes five minutes"
	@echo "make format     format the code"
	@echo "make lock       renew the lock files"
	@echo "make clean      remove what was set up"

run: venv
	@.venv/bin/gateway check || { \
	    echo; \
	    echo "Give the gateway at least one key:   GATEWAY_API_KEYS=sk-ant-... make run"; \
	    echo "or see it work without any:          make demo"; \
	    exit 1; } >&2
	@echo "make run: process $$$$ is the gateway. To have it read its configuration again: .venv/bin/gateway reload"; \
	echo "To stop it: Ctrl-C, or kill $$$$. make hands SIGTERM on to it, and no other signal."; \
	exec .venv/bin/gateway serve

demo: venv
	@sh scripts/demo.sh

test: test-needs
	@sh scripts/test.sh

test-long: test-needs
	@sh scripts/test.sh -m long --timeout=1800 --numprocesses 3

mutation: venv-dev
	@MUTANTS="$(MUTANTS)" SEED="$(or $(SEED),1)" .venv/bin/python -m tests.mutation

test-needs: venv-dev
	@sh scripts/need.sh redis-server:redis-server nginx:nginx-light pg_ctlcluster:postgresql openssl:openssl \
	    bwrap:bubblewrap setpriv:util-linux \
	    curl:curl systemd-sysusers:systemd zsh:zsh fish:fish
	@sh tests/stores/valkey.sh
	@sh scripts/need.sh chromium:chromium chromedriver:chromium-driver prometheus:prometheus
	@sh tests/sdk/setup.sh
	@sh tests/mcp/setup.sh
	@sh tests/deploy/tools/setup.sh

bench:
	@sh bench/setup.sh
	@.bench/gateway/bin/python -m bench.race
	@.bench/gateway/bin/python -m bench.report

bench-soak:
	@sh bench/setup.sh
	@.bench/gateway/bin/python -m bench.soak

bench-slow: venv-dev
	@.venv/bin/python -m bench.slow

bench-deadlines: venv-dev
	@.venv/bin/python -m bench.deadlines

bench-workers: venv-dev
	@sh scripts/need.sh wrk:wrk
	@.venv/bin/python -m bench.workers

bench-against: venv-dev
	@sh scripts/need.sh wrk:wrk
	@.venv/bin/python -m bench.against $(REV)

bench-events: venv-dev
	@sh scripts/need.sh valgrind:valgrind
	@.venv/bin/python -m bench.events

bench-limits: venv-dev
	@sh scripts/need.sh wrk:wrk valgrind:valgrind
	@.venv/bin/python -m bench.limits $(REV)

bench-tracing: venv-dev
	@sh scripts/need.sh wrk:wrk valgrind:valgrind
	@.venv/bin/python -m bench.tracing

bench-shortcuts: venv-dev
	@sh scripts/need.sh valgrind:valgrind redis-server:redis-server
	@.venv/bin/python -m bench.shortcuts
	@.venv/bin/python -m bench.marks lease
	@.venv/bin/python -m bench.marks lock
	@[ -z "$(REV)" ] || .venv/bin/python -m bench.marks $(REV)

bench-walk: venv-dev
	@sh scripts/need.sh redis-server:redis-server
	@.venv/bin/python -m bench.walk

bench-recorder: venv-dev
	@sh scripts/need.sh pg_ctlcluster:postgresql
	@.venv/bin/python -m bench.recorder

check: venv-dev
	@stray=$$(git ls-files --cached --ignored --exclude-standard) && [ -z "$$stray" ] || { \
	    echo "tracked, although .gitignore names them:"; echo "$$stray"; exit 1; } >&2
	@.venv/bin/python scripts/check_files.py
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@sh scripts/check_deploy.sh
	@sh scripts/need.sh promtool:prometheus
	@promtool check config deploy/prometheus/prometheus.yml
	@promtool test rules deploy/prometheus/tests/*.yml
	@$(MAKE) --no-print-directory docs

docs: venv-dev
	@NO_MKDOCS_2_WARNING=true .venv/bin/mkdocs build --strict

pictures: venv-dev
	@sh scripts/need.sh chromium:chromium chromedriver:chromium-driver prometheus:prometheus optipng:optipng
	@sh scripts/dashboard/setup.sh
	@PYTHONPATH=. .venv/bin/python scripts/pictures.py
	@PYTHONPATH=. .venv/bin/python scripts/dashboard/picture.py
	@optipng -quiet docs/pictures/dashboard.png

format: venv-dev
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

lock: venv-dev
	@.venv/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --extra simulate --extra postgres --extra otel --output-file requirements.lock setup.py
	@.venv/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --allow-unsafe --extra simulate --extra postgres --extra otel --extra dev --constraint requirements.lock \
	    --output-file requirements-dev.lock setup.py

clean:
	rm -rf site .venv .venv-sdk .venv-mcp .venv-valkey tests/sdk/node/node_modules tests/mcp/node/node_modules \
	    tests/sdk/claude-code/node_modules tests/deploy/tools/node_modules scripts/dashboard/node_modules \
	    .bench/gateway .bench/litellm .bench/portkey

.PHONY: venv venv-dev
venv:
	@sh scripts/venv.sh requirements.lock
venv-dev:
	@sh scripts/venv.sh requirements-dev.lock
