#!/usr/bin/env bash
# Set up (once) and run softadv.
#
#   ./reproduce.sh                 the smoke grid: train, attack, certify, compare, report
#   ./reproduce.sh GRID [OPTIONS]  the same as `softadv reproduce GRID [OPTIONS]`
#   ./reproduce.sh test [OPTIONS]  every test, on all processors; OPTIONS go to pytest (-n 0: in one process),
#                                  --container builds and runs the image, too; --long runs what takes minutes
#   ./reproduce.sh --docker [GRID] [OPTIONS]  the same in a container, by Docker or Podman (docker/run.sh)
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

# Two stamps say what .venv was made of: while they are unchanged, so is .venv. One without the first is the user's own.
# The checkout's own path is in the first because a virtual environment cannot be moved.
packages_stamp() {
    echo "$root"
    "$python" --version
    cksum <"$root/requirements.lock"
}

project_stamp() {
    cksum <"$root/pyproject.toml"
}

set_up() {
    command -v "$python" >/dev/null || fail "no '$python' found: install Python 3.11 or newer, or name it with PYTHON=…"
    # A version manager's stand-in for an interpreter that is not there is found, but does not run.
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "'$python' does not run: install Python 3.11 or newer, or name it with PYTHON=…"
    case $version in
        2.* | 3.[0-9] | 3.10) fail "'$python' is Python $version: softadv needs 3.11 or newer; name another with PYTHON=…" ;;
    esac
    if [ "$(cat "$venv/packages" 2>/dev/null)" != "$(packages_stamp)" ]; then
        install_packages
    fi
    if [ "$(cat "$venv/project" 2>/dev/null)" != "$(project_stamp)" ]; then
        pip install --no-deps --no-build-isolation --editable "$root" ||
            fail "softadv itself could not be installed (pip's message is above)"
        project_stamp >"$venv/project"
    fi
}

install_packages() {
    if [ -e "$venv" ] && [ ! -f "$venv/packages" ]; then
        fail "$venv is there, but was not made by reproduce.sh: move or delete it, and call again"
    fi
    # Before anything is deleted. By its real path, since "python3" is .venv's own where that is activated.
    local real
    real=$("$python" -c 'import ensurepip, os, sys, venv; print(os.path.realpath(sys.executable))' 2>/dev/null) ||
        fail "'$python' cannot make virtual environments: install the venv module (Debian: apt-get install python3-venv)"
    python=$real
    echo "Setting up .venv from requirements.lock (a minute or two, about 6 GB; once)" >&2
    rm -rf "$venv"
    mkdir "$venv"
    : >"$venv/packages" # filled in when all is there
    "$python" -m venv "$venv" || fail "'$python -m venv' failed (its message is above)"
    pip install --require-hashes -r "$root/requirements.lock" ||
        fail "the packages of requirements.lock could not be installed (pip's message is above)"
    packages_stamp >"$venv/packages"
}

# Only errors are shown, and on standard error: standard output is the run's.
pip() {
    "$venv/bin/python" -m pip "$1" -qq --disable-pip-version-check "${@:2}" >&2
}

if [ "${1:-}" = --docker ]; then
    shift
    exec "$root/docker/run.sh" "$@"
fi
set_up
if [ "${1:-}" = test ]; then
    shift
    cd "$root" # pytest reads its settings from the checkout
    # A process for each processor, up to 8, and in each one thread.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    exec "$venv/bin/python" -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal "$@"
fi
exec "$venv/bin/softadv" reproduce "$@"
