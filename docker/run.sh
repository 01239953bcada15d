#!/usr/bin/env bash
# Build softadv's image and run a grid in it, by Docker or Podman (./reproduce.sh --docker [GRID] [OPTIONS]).
#
# With a GPU: the image with CUDA, ERAN and GPUPoly; without: the one for a CPU. The data are taken from SOFTADV_DATA,
# else ./data, and the runs go to ./runs, as without a container. TORCH_INDEX names another package index for torch.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_engine() {
    for engine in docker podman; do
        if "$engine" info >/dev/null 2>&1; then return; fi
    done
    echo "reproduce.sh: neither docker nor podman answers; the same without a container: ./reproduce.sh ${*:-smoke}" >&2
    exit 2
}

find_engine "$@"
target=cpu
devices=()
if nvidia-smi -L >/dev/null 2>&1; then
    target=runtime
    devices=(--gpus all)
fi
# What is written into the mounted folders belongs to whoever runs this.
user=(--user "$(id -u):$(id -g)")
if [ "$engine" = podman ]; then
    user+=(--userns keep-id)
    if [ "$target" = runtime ]; then devices=(--device nvidia.com/gpu=all); fi
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
"$engine" run --rm --init "${terminal[@]}" "${devices[@]}" "${user[@]}" \
    --volume "$(cd "$data" && pwd):/data:z" --volume "$root/runs:/runs:z" "softadv:$target" reproduce "$@"
