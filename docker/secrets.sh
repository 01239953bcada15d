#!/usr/bin/env bash
# What this machine has set to reach package indexes, for a build to use without keeping it:
#
#   docker/secrets.sh DIR    write the files into DIR, for you alone, and print the options of `docker build` that pass
#                            them on
#
# apt.conf: APT's proxies and checks. pip.conf: pip's index and proxy, from its configuration and PIP_… variables.
# ca.crt: the certificate authorities that PIP_CERT, SSL_CERT_FILE or pip's configuration name.
# Proxy variables such as https_proxy need nothing: every engine passes them to a build by itself.
set -euo pipefail
umask 077 # an index's address may hold a password

folder=$1
mkdir -p "$folder"
if [ ! -O "$folder" ]; then
    echo "secrets.sh: '$folder' belongs to another user: name a folder of your own, such as mktemp -d makes" >&2
    exit 2
fi

settings() { # of pip, as "key = value", each once, the environment's last
    local python
    python=$(command -v "${PYTHON:-python3}") || return 0
    "$python" -m pip config list 2>/dev/null |
        sed -nE "s/^(global|install|:env:)\.([a-z-]+)='(.*)'\$/\1 \2 = \3/p" |
        sed 's/\\n/ /g' | sort -k1,1r | # install, global, :env:
        awk '{ key = $2; sub(/^[^ ]+ /, ""); value[key] = $0 } END { for (key in value) print value[key] }'
}

authorities() {
    local file
    for file in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "$(settings | sed -n 's/^cert = //p')"; do
        if [ -f "$file" ]; then
            echo "$file"
            return
        fi
    done
}

pass_on() { # FILE: as a secret of that name, unless it is empty
    if [ -s "$folder/$1" ]; then echo "--secret=id=$1,src=$folder/$1"; fi
}

: >"$folder/ca.crt"
ca=$(authorities)
if [ -n "$ca" ]; then cat "$ca" >"$folder/ca.crt"; fi

# An index in a folder of this machine does not exist in a build.
index=$(settings | grep -E '^(index-url|extra-index-url|trusted-host|proxy|timeout|retries) = ' |
    sed -E 's# file:[^ ]*##g' | grep -v ' =$' || true)
if [ -n "$index" ]; then printf '[global]\n%s\n' "$index"; fi >"$folder/pip.conf"

if command -v apt-config >/dev/null; then
    apt-config dump | grep -E '^Acquire::(https?::(Proxy|Verify)|Check-|Retries)' || true
    if [ -n "$ca" ]; then echo 'Acquire::https::CAInfo "/run/secrets/ca.crt";'; fi
fi >"$folder/apt.conf"

pass_on ca.crt
pass_on pip.conf
pass_on apt.conf
