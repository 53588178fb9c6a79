#!/bin/bash
# Runs a service as the owner of the mounted logs/, whoever that is, so that the files there belong to the
# person who cloned the project. No capability survives, also where that owner is root.
# (bash, because dash lets go of the signal that the Dockerfile has held back.)
set -euo pipefail
# A secret with the name of a setting, as Docker Swarm mounts it, is that setting.
for secret in /run/secrets/*; do
    name=${secret##*/}
    if [[ $name =~ ^[A-Z_][A-Z0-9_]*$ && -f $secret ]]; then
        value=$(<"$secret")  # by itself, so that one that cannot be read ends this
        export "$name=$value"
    fi
done
if [[ $EUID == 0 ]]; then
    owner=$(stat -c %u /app/logs)
    group=$(stat -c %g /app/logs)
    if mountpoint -q /app/state; then
        # A replica may remove SQLite's passing files meanwhile; what stays unwritable metrics reports itself.
        chown -R "$owner:$group" /app/state 2>/dev/null || true
    fi
    exec setpriv --reuid "$owner" --regid "$group" --clear-groups --bounding-set=-all --inh-caps=-all "$@"
fi
exec "$@"
