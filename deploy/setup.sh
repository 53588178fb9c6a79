#!/bin/sh
# setup.sh LOCK: makes .venv with the packages of that lock file, and sees that there is a RabbitMQ, installed or by
# Docker; run by make. PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
lock=$1
python=${PYTHON:-python3}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install() { # install PACKAGE...: with apt where we may, else say what is missing
    if ! may_install; then
        echo "please install $*, then run make again" >&2
        exit 2
    fi
    echo "installing $*"
    # A package's service is not to start by itself: the project runs a node of its own.
    # (https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt)
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    # A new machine may be at its own updates: they are waited for, except by `update`, which cannot.
    apt-get update -qq || echo "going on with the lists of packages that are there" >&2
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" \
        >/dev/null
}

command -v "$python" >/dev/null || install python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || {
    echo "$python is older than Python 3.9: set PYTHON to a newer one" >&2
    exit 2
}
"$python" -c 'import ensurepip' 2>/dev/null || install python3-venv
if [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && ! command -v rabbitmq-server >/dev/null; then
    if may_install; then
        install rabbitmq-server
    elif ! docker info >/dev/null 2>&1; then
        echo "no RabbitMQ: please start Docker, or install it or rabbitmq-server, then run make again" >&2
        exit 2
    fi
fi

# The tests' lock has all that the services' own has.
if ! cmp -s "$lock" .venv/installed && ! cmp -s tests/requirements.lock .venv/installed; then
    echo "making .venv"
    "$python" -m venv --clear .venv
    .venv/bin/pip install --quiet --quiet --disable-pip-version-check --require-hashes -r "$lock"
    cp "$lock" .venv/installed
fi
