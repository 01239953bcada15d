#!/usr/bin/env bash
# Runs in a build, as root: what both final images of the Dockerfile have in common before softadv itself.
#   /opt/venv       the packages of requirements.lock, exactly, with hashes
#   /data, /runs    folders that any user may write, so that `docker run --user` with any number works
# TORCH_INDEX: take torch and torchvision, in the lock file's versions, from that package index instead, without
# the CUDA libraries that the ordinary ones bring.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=docker/host.sh
. "$here/host.sh"
lock=$here/../requirements.lock

system_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # g++ stays in the image: the certifier's kernel is compiled for the processor it runs on, when it first runs.
    apt-get install -y -qq --no-install-recommends ca-certificates g++ python3 python3-venv
    rm -rf /var/lib/apt/lists/*
}

# The lock file's packages whose name matches (or, with -v, does not).
locked() {
    awk -v names="${*: -1}" -v wanted="$([ "$1" = -v ] && echo 0 || echo 1)" \
        '/^[a-z0-9]/ { keep = ($0 ~ ("^(" names ")==")) == wanted } keep' "$lock"
}

python_packages() {
    python3 -m venv /opt/venv
    if [ -z "${TORCH_INDEX:-}" ]; then
        pip_install --require-hashes -r "$lock"
        return
    fi
    local versions rest
    versions=$(locked 'torch|torchvision' | sed -nE 's/^([a-z]+==[0-9.]+).*/\1/p')
    # shellcheck disable=SC2086 # two words
    pip_install --no-deps --index-url "$TORCH_INDEX" $versions
    rest=$(mktemp)
    locked -v 'torch|torchvision|triton|nvidia-.*|cuda-.*' >"$rest"
    pip_install --no-deps --require-hashes -r "$rest"
    rm "$rest"
}

pip_install() {
    /opt/venv/bin/pip install -q --no-cache-dir --disable-pip-version-check "$@"
}

system_packages
python_packages
# Not of a current user's number: Ubuntu's images have a user 1000.
useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin softadv
install -d -m 1777 /data /runs
