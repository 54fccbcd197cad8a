#!/bin/sh
# Secrets as files: where NAME_FILE names a file, its first line becomes NAME in the environment of
# the command alone. They stand neither in the image nor among its arguments.
set -eu
for name in EARLYFIRE_MQTT_PASSWORD EARLYFIRE_WORKER_KEY OPENAI_API_KEY HF_TOKEN; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if ! [ -r "$file" ]; then
        echo "earlyfire: ${name}_FILE=$file cannot be read; mount it for user $(id -u)" >&2
        exit 2
    fi
    IFS= read -r value <"$file" || [ -n "$value" ] || {
        echo "earlyfire: ${name}_FILE=$file: its first line is empty" >&2
        exit 2
    }
    export "$name=$value"
    unset "${name}_FILE" value
done
exec "$@"
