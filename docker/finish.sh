#!/usr/bin/env bash
# Runs in a build, as root, without a network: installs softadv where it lies, beside its expected results, and compiles
# its modules, since the user of the image can write no __pycache__.
set -euo pipefail
/opt/venv/bin/pip install -q --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation \
    --editable /opt/softadv
/opt/venv/bin/python -m compileall -q /opt/softadv/src
