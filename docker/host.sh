# Sourced by the scripts that run inside a build: take over what the machine that builds passed on as secrets
# (docker/secrets.sh), which are there during the build's commands and never part of the image.
# shellcheck shell=bash
secrets=/run/secrets
if [ -f "$secrets/apt.conf" ]; then export APT_CONFIG=$secrets/apt.conf; fi
if [ -f "$secrets/pip.conf" ]; then export PIP_CONFIG_FILE=$secrets/pip.conf; fi
if [ -f "$secrets/ca.crt" ]; then
    export PIP_CERT=$secrets/ca.crt CURL_CA_BUNDLE=$secrets/ca.crt GIT_SSL_CAINFO=$secrets/ca.crt
fi
