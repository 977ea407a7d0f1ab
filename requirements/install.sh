#!/bin/sh
# Makes $VENV with the locked tools and this project in it: with uv when it is there, else venv and pip.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${LOCK:=requirements/dev.txt}"

die() { printf 'anypod: %s\n' "$*" >&2; exit 1; }

command -v "$PYTHON" >/dev/null 2>&1 || die "no '$PYTHON' on PATH; install Python 3.11 or newer, or say PYTHON=/path/to/python3 make …"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || die "$("$PYTHON" --version 2>&1) is too old; anypod needs 3.11 or newer: PYTHON=python3.12 make …"

say() { printf 'anypod: %s\n' "$*"; }

if command -v uv >/dev/null 2>&1; then
  say "installing the locked tools into $VENV with uv (half a minute the first time)"
  uv venv --quiet --allow-existing --python "$PYTHON" "$VENV"
  uv pip install --quiet --python "$VENV/bin/python" --require-hashes -r "$LOCK"
  uv pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation -e .
else
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null \
    || die "this Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv (or install uv)"
  say "installing the locked tools into $VENV with pip (a minute the first time)"
  "$PYTHON" -m venv "$VENV" \
    || die "could not make $VENV; on Debian and Ubuntu: apt-get install python3-venv (or install uv)"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$LOCK"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
fi
