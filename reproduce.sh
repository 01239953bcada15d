#!/usr/bin/env bash
# Set up (once) and run softadv.
#
#   ./reproduce.sh                 the smoke grid: train, attack, certify, compare, report
#   ./reproduce.sh GRID [OPTIONS]  the same as `softadv reproduce GRID [OPTIONS]`
#   ./reproduce.sh test [OPTIONS]  every test; OPTIONS go to pytest
#
# Set-up makes a virtual environment in .venv with the exact versions and hashes of
# requirements.lock, and touches nothing outside this folder. PYTHON names another interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$root/.venv
python=${PYTHON:-python3}

fail() {
    echo "reproduce.sh: $1" >&2
    exit 2
}

# The stamp names everything the environment depends on: while it is unchanged, so is .venv.
# The checkout's own path is in it because a virtual environment cannot be moved.
stamp() {
    echo "$root"
    "$python" --version
    cat "$root/requirements.lock" "$root/pyproject.toml" | cksum
}

set_up() {
    command -v "$python" >/dev/null || fail "no '$python' found: install Python 3.11 or newer, or name it with PYTHON=…"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "'$python' is $("$python" --version 2>&1): softadv needs Python 3.11 or newer; name another with PYTHON=…"
    if [ -f "$venv/stamp" ] && [ "$(cat "$venv/stamp")" = "$(stamp)" ]; then
        return
    fi
    echo "Setting up .venv from requirements.lock (a few minutes, about 6 GB; once)" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "'$python -m venv' failed: install the venv module (Debian: apt-get install python3-venv)"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r "$root/requirements.lock" >&2 ||
        fail "the packages of requirements.lock could not be installed (pip's message is above)"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable "$root" >&2 ||
        fail "softadv itself could not be installed (pip's message is above)"
    stamp >"$venv/stamp"
}

set_up
if [ "${1:-}" = test ]; then
    shift
    cd "$root" # pytest reads its settings from the checkout
    exec "$venv/bin/python" -m pytest "$@"
fi
exec "$venv/bin/softadv" reproduce "$@"
