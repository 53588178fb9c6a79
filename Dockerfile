ARG PYTHON_VERSION=3.9
FROM python:${PYTHON_VERSION}-slim

WORKDIR /app

# Before the code, so that a change of the code does not install them again. What no service needs is left out: the
# packages' own tests, the compiled halves of what matplotlib writes PDF files with, byte code. That of what is
# imported is made here, Python's own too, because the root file system is read-only later.
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-compile --ignore-installed --require-hashes -r requirements.lock \
 && cd "$(dirname "$(python -c 'import msgspec; print(msgspec.__path__[0])')")" \
 && find fontTools -name '*.so' -delete \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && python -c 'import sqlite3, pika, numpy, matplotlib.backends.backend_agg, PIL.PngImagePlugin'

# What a model of your own needs besides: PACKAGES="scikit-learn==1.6.1" docker compose up --build
ARG PACKAGES=""
RUN [ -z "$PACKAGES" ] || pip install --no-cache-dir $PACKAGES

COPY deploy/entrypoint.sh *.py ./
COPY parts/ parts/
# Who owns logs/ is who runs the services: the owner of what is mounted there, else this user.
RUN python -m compileall -q . && mkdir logs state && chown 1000:1000 logs state

ENV PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    HEARTBEAT_FILE=/tmp/heartbeat
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD [ "$(find "$HEARTBEAT_FILE" -newermt '15 seconds ago')" ]

# A container's first process ignores a signal that it has no handler for. A stop that comes before a service has set
# its own is held back until then. (https://man7.org/linux/man-pages/man7/pid_namespaces.7.html)
ENTRYPOINT ["env", "--block-signal=TERM", "bash", "/app/entrypoint.sh"]
CMD ["python", "features.py"]
