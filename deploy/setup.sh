#!/bin/sh
# Makes .venv and sees that RabbitMQ is installed; run by make. PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

install() { # install PACKAGE...: with apt where we may, else say what is missing
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
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
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

command -v "$python" >/dev/null || install python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || {
    echo "$python is older than Python 3.9: set PYTHON to a newer one" >&2
    exit 2
}
"$python" -c 'import ensurepip' 2>/dev/null || install python3-venv
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null || install rabbitmq-server

if ! cmp -s tests/requirements.lock .venv/installed; then
    echo "making .venv"
    "$python" -m venv --clear .venv
    .venv/bin/pip install --quiet --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
    cp tests/requirements.lock .venv/installed
fi
