.PHONY: up local test bench chaos splits soak audit lint lock clean

up: ## everything in containers
	docker compose up --build

local: ## the same with a private RabbitMQ node and the four scripts from .venv; Ctrl-C stops all
	@deploy/setup.sh requirements.lock
	@.venv/bin/python -m deploy.local

test: .venv ## make test ARGS='-k SOME_TEST'
	.venv/bin/pytest $(ARGS)

bench: .venv ## samples a second and milliseconds, beside the code that circulates; about an hour
	PYTHONPATH=.:tests .venv/bin/python tests/load/bench.py $(ARGS)

chaos: .venv ## kills and cuts at random for a minute, then counts; make chaos ARGS='--seed 7'
	PYTHONPATH=.:tests .venv/bin/python tests/load/chaos.py $(ARGS)

splits: .venv ## cuts and slows the links of a cluster; make splits ARGS='--seed 7 --runs 20'
	PYTHONPATH=.:tests .venv/bin/python tests/load/splits.py $(ARGS)

soak: .venv ## half an hour at 500 samples/s; does memory stay flat?
	PYTHONPATH=.:tests .venv/bin/python tests/load/soak.py $(ARGS)

audit: .venv ## known vulnerabilities of what is installed (needs uv), and what a security linter finds
	uvx pip-audit --requirement requirements.lock --require-hashes --disable-pip
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
	rm -rf .venv .local .*_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: .venv
.venv:
	@deploy/setup.sh tests/requirements.lock
