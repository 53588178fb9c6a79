.PHONY: up local test bench chaos soak audit lint lock clean

up: ## everything in containers
	docker compose up --build

local: .venv ## the same without Docker: a private RabbitMQ node and the four scripts; Ctrl-C stops all
	@CSV_FILE=logs/metric_log.csv IMG_FILE=logs/error_distribution.png STATE_FILE=.local/metrics.db \
	PATH=$(CURDIR)/.venv/bin:$(PATH) PYTHONUNBUFFERED=1 \
	python tests/node.py honcho --procfile deploy/Procfile --app-root . start

test: .venv ## make test ARGS='-k SOME_TEST'
	.venv/bin/pytest $(ARGS)

bench: .venv ## samples a second and milliseconds, beside the code that circulates; about half an hour
	PYTHONPATH=. .venv/bin/python tests/bench.py $(ARGS)

chaos: .venv ## kills and cuts at random for a minute, then counts; make chaos ARGS='--seed 7'
	PYTHONPATH=. .venv/bin/python tests/chaos.py $(ARGS)

soak: .venv ## half an hour at 500 samples/s; does memory stay flat?
	PYTHONPATH=. .venv/bin/python tests/soak.py $(ARGS)

audit: .venv ## known vulnerabilities of what is installed, and what a security linter finds
	.venv/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip
	.venv/bin/ruff check --select S .

lint: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

LOCK = --universal --python-version 3.9 --generate-hashes --no-annotate --no-header --no-emit-index-url

lock: ## after a change of requirements.txt; needs uv
	uv pip compile --quiet $(LOCK) requirements.txt -o requirements.lock
	cd tests && uv pip compile --quiet $(LOCK) requirements.txt -o requirements.lock

clean: ## all that make has made but logs/
	rm -rf .venv .local .*_cache .hypothesis __pycache__ tests/__pycache__

.PHONY: .venv
.venv:
	@deploy/setup.sh
