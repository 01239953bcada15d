#!/usr/bin/env bash
# Runs in a build, as root, on a CUDA 12 devel image of Ubuntu: builds into /opt/eran
#   lib, ELINA   DeepPoly and DeepZono, and GPUPoly for every GPU from Volta to Hopper
#   ERAN         tf_verify, the part that analyses
#   python, venv an interpreter of ERAN's time, and its packages
#   bin/python   that interpreter, which finds all of it
# No Gurobi licence is needed, here or later: DeepPoly, DeepZono and GPUPoly never ask its solver.
# Every commit and checksum is in versions.env.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=/opt/eran
# shellcheck source=docker/host.sh
. "$here/../host.sh"
# shellcheck source=docker/eran/versions.env
. "$here/versions.env"

# ELINA compiles for the machine that builds (-march=native), which need not be the one that runs. It asks for AVX2 and
# FMA in any case, so that is what the image needs.
march=x86-64-v3
architectures='70;75;80;86;89;90'

fail() {
    echo "build.sh: $1" >&2
    exit 1
}

system_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends \
        ca-certificates cmake curl g++ git libcdd-dev libgmp-dev libmpfr-dev make perl
    rm -rf /var/lib/apt/lists/*
}

fetch() { # NAME REPOSITORY COMMIT: that commit alone, into $prefix/NAME
    local folder=$prefix/$1
    git init --quiet "$folder"
    git -C "$folder" fetch --quiet --depth 1 "$2" "$3"
    git -C "$folder" checkout --quiet --detach FETCH_HEAD
    [ "$(git -C "$folder" rev-parse HEAD)" = "$3" ] || fail "$1: $2 did not give the commit $3"
    rm -rf "$folder/.git"
    echo "SOFTADV_$1_COMMIT=$3" >>"$prefix/environment"
}

build_elina() {
    cd "$prefix/ELINA"
    # The distribution keeps cddlib's headers, setoper.h among them, in a folder of their own.
    export CPATH=/usr/include/cddlib
    # Without -use-cuda: configure goes on without a word where GPUPoly cannot be configured. See build_gpupoly.
    ./configure -prefix "$prefix" -cdd-prefix /usr/include/cddlib -use-deeppoly -use-fconv
    replace -march=native "-march=$march" Makefile.config ./*/Makefile
    if grep -rlI --include='Makefile*' -e -march=native .; then fail "these still compile for this machine alone"; fi
    make
    make install
}

build_gpupoly() {
    command -v nvcc >/dev/null || fail "no nvcc: the base image must be a CUDA devel image (CUDA_DEVEL_IMAGE)"
    cd "$prefix/ELINA/gpupoly" # its Python module looks for the library here
    # The file sets one architecture on each target, which CMAKE_CUDA_ARCHITECTURES alone does not change.
    # shellcheck disable=SC2016 # for CMake to expand
    replace 'CUDA_ARCHITECTURES [0-9]+' 'CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}"' CMakeLists.txt
    # Two headers that its sources use without naming them: older versions of Thrust came with them, CUDA 12.4's and
    # newer do not. And optimised, but without the NDEBUG of CMake's Release, which empties its checks of CUDA's errors:
    # a failed allocation or launch would go unnoticed in a verdict.
    cmake -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O3 -DCMAKE_CUDA_FLAGS_RELEASE=-O3 \
        '-DCMAKE_CUDA_FLAGS=-include thrust/sequence.h -include thrust/count.h' \
        "-DCMAKE_CUDA_ARCHITECTURES=$architectures" -DSTRONG_FP_SOUNDNESS=ON .
    cmake --build . --target gpupoly --parallel "$(nproc)"
    check_architectures
    # What such a check says when it fails.
    grep -q GPUassert libgpupoly.so || fail "libgpupoly.so does not check what CUDA answers: it was built with NDEBUG"
    # The worker tells what a verdict is worth by this: whether the option is there, and on.
    if grep -q '^STRONG_FP_SOUNDNESS:BOOL=ON$' CMakeCache.txt; then
        echo SOFTADV_GPUPOLY_STRONG=1 >>"$prefix/environment"
    fi
}

check_architectures() {
    command -v cuobjdump >/dev/null || return 0 # not in every devel image
    local found architecture
    found=$(cuobjdump --list-elf libgpupoly.so)
    for architecture in ${architectures//;/ }; do
        grep -q "sm_$architecture" <<<"$found" || fail "libgpupoly.so has no code for compute capability $architecture"
    done
}

replace() { # PATTERN REPLACEMENT FILE...: everywhere, and at least once
    grep -qE -e "$1" "${@:3}" || fail "nothing matches $1 in $PWD"
    sed -E -i -e "s|$1|$2|g" "${@:3}"
}

install_python() {
    local archive=/tmp/python.tar.gz
    curl --fail --silent --show-error --location --retry 3 --output "$archive" "$PYTHON_URL"
    echo "$PYTHON_SHA256  $archive" | sha256sum --check --quiet - || fail "another Python than the pinned one came"
    mkdir "$prefix/python"
    tar -xzf "$archive" -C "$prefix/python" --strip-components=1
    rm "$archive"
    "$prefix/python/bin/python3" -m venv "$prefix/venv"
    "$prefix/venv/bin/pip" install -q --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        -r "$here/requirements.lock"
}

# What the runtime image does not have: the libraries of the distribution that ELINA's are linked with.
gather_libraries() {
    local library
    for library in "$prefix"/lib/*.so; do LD_LIBRARY_PATH=$prefix/lib ldd "$library"; done |
        awk '/lib(gmp|gmpxx|mpfr|cdd|cddgmp)\.so/ { print $3 }' | sort -u |
        xargs --no-run-if-empty cp --dereference -t "$prefix/lib"
}

# Only what is used and the licences; ELINA's sources stay, as its licence (LGPL 3) asks of who passes it on.
tidy() {
    find "$prefix/ERAN" -mindepth 1 -maxdepth 1 ! -name tf_verify ! -name LICENSE -exec rm -rf {} +
    find "$prefix/ELINA" -name '*.o' -delete
    rm -rf "$prefix/ELINA/gpupoly/CMakeFiles"
}

# Every library and every module that the worker needs can be loaded. GPUPoly loads without a GPU, too.
smoke_check() {
    "$prefix/bin/python" - <<'PYTHON'
import ctypes

for name in ("libelinaux", "libfppoly", "libzonoml", "libfconv"):
    ctypes.CDLL(name + ".so")

import eran, fconv, fppoly, gpupoly, onnx2gpupoly, zonoml

print("ERAN, DeepPoly, DeepZono and GPUPoly can be loaded")
PYTHON
}

mkdir -p "$prefix/bin"
install -m 755 "$here/python" "$prefix/bin/python"
: >"$prefix/environment"
system_packages
fetch ELINA "$ELINA_REPOSITORY" "$ELINA_COMMIT"
fetch ERAN "$ERAN_REPOSITORY" "$ERAN_COMMIT"
(build_elina)
(build_gpupoly)
install_python
gather_libraries
tidy
smoke_check
