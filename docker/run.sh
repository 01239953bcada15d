#!/usr/bin/env bash
# Build softadv's image and run a grid in it, by Docker or Podman (./reproduce.sh --docker [GRID] [OPTIONS]).
#
# With a GPU: the image with CUDA, ERAN and GPUPoly; without: the one for a CPU. Either way the grid and the certifier are
# those of ./reproduce.sh. The data are taken from SOFTADV_DATA, else ./data, and the runs go to ./runs, as without a
# container. TORCH_INDEX names another package index for torch.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "reproduce.sh: $1" >&2
    exit 2
}

# In the container another place has the path, or none; and what is written outside of /data and /runs goes with it.
refuse_paths() {
    local word
    for word in "$@"; do
        case $word in
            --data | --data=* | --out | --out=* | --expected | --expected=* | *.toml)
                fail "--docker does not take '$word': the container sees no folders but the data (SOFTADV_DATA=DIR, else ./data) and ./runs; leave it out, or leave out --docker"
                ;;
        esac
    done
}

find_engine() {
    for engine in docker podman; do
        if "$engine" info >/dev/null 2>&1; then return; fi
    done
    fail "neither docker nor podman answers; the same without a container: ./reproduce.sh ${*:-smoke}"
}

refuse_paths "$@" "${SOFTADV_GRID:-}"
find_engine "$@"
target=cpu
devices=()
if nvidia-smi -L >/dev/null 2>&1; then
    target=runtime
    devices=(--gpus all)
fi
# What is written into the mounted folders belongs to whoever runs this.
user=(--user "$(id -u):$(id -g)")
if [[ $("$engine" --version 2>/dev/null) == *[Pp]odman* ]]; then # whatever its name: "docker" may be Podman
    user+=(--userns keep-id)
    if [ "$target" = runtime ]; then devices=(--device nvidia.com/gpu=all); fi
elif [[ $("$engine" info --format '{{.SecurityOptions}}' 2>/dev/null) == *rootless* ]]; then
    user=(--user 0:0) # inside rootless Docker, root is whoever runs it
fi

secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT
"$root/docker/secrets.sh" "$secrets" >"$secrets/options"
mapfile -t options <"$secrets/options"
commit=$(git -C "$root" describe --always --dirty=+changes --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
DOCKER_BUILDKIT=1 "$engine" build --target "$target" --tag "softadv:$target" --build-arg "COMMIT=$commit" \
    --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" "${options[@]}" "$root"

data=${SOFTADV_DATA:-$root/data}
mkdir -p "$data" "$root/runs"
terminal=()
if [ -t 0 ] && [ -t 1 ]; then terminal=(--interactive --tty); fi
# --init: the first process of a container ignores what it has no handler for, such as a request to stop.
# --env: empty is as unset, and not the paper's grid and GPUPoly, which the image for a GPU has.
"$engine" run --rm --init "${terminal[@]}" "${devices[@]}" "${user[@]}" \
    --env "SOFTADV_GRID=${SOFTADV_GRID:-}" --env "SOFTADV_CERTIFIER=${SOFTADV_CERTIFIER:-}" \
    --volume "$(cd "$data" && pwd):/data:z" --volume "$root/runs:/runs:z" "softadv:$target" reproduce "$@"
