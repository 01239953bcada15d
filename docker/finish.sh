#!/usr/bin/env bash
# Runs in a build, as root, without a network: installs softadv where it lies, beside its expected results, lets every
# user read it, and compiles its modules, since the user of the image can write no __pycache__.
set -euo pipefail
/opt/venv/bin/pip install -q --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation \
    --editable /opt/softadv
# A checkout made under umask 077 comes with files that only root may read. Nothing else is touched: what is touched is
# stored once more, in this layer. Before the compilation, whose files take over the modes of their sources.
find /opt -path /opt/venv -prune -o ! -type l \( ! -perm -a+r -o -perm /u+x ! -perm -a+x \) -exec chmod a+rX {} +
/opt/venv/bin/python -m compileall -q /opt/softadv/src
