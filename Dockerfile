ARG PYTHON_VERSION=3.9
FROM python:${PYTHON_VERSION}-slim

WORKDIR /app

# Before the code, so that a change of the code does not install them again. The packages' own tests are a
# fifth of their size; the byte code is made now because the root file system is read-only later.
COPY requirements.lock ./
RUN pip install --no-cache-dir --ignore-installed --require-hashes -r requirements.lock \
 && find /usr/local/lib -path '*-packages/*' -type d -name tests -prune -exec rm -rf {} +

COPY deploy/entrypoint.sh *.py ./
# Who owns logs/ is who runs the services: the owner of what is mounted there, else this user.
RUN python -m compileall -q . && mkdir logs state && chown 1000:1000 logs state

ENV PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    HEARTBEAT_FILE=/tmp/heartbeat
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD find "$HEARTBEAT_FILE" -newermt '15 seconds ago' | grep -q .

ENTRYPOINT ["/app/entrypoint.sh"]
CMD ["python", "features.py"]
