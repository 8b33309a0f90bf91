#!/bin/sh
# What a build needs from the system: found, installed where the user may, or named in one line.
set -eu

missing=
need() { # command, Debian package, what for
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

if ! command -v "${CARGO:-cargo}" >/dev/null 2>&1; then
    echo "Rust is missing: install it as https://rustup.rs says, then run make again" >&2
    exit 1
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "Python 3.10 or newer is missing: $("$python" --version 2>&1 || true); name one with make PYTHON=..." >&2
    exit 1
fi
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
need c++ g++     # the kernels for the host
need cmake cmake # libjpeg-turbo's build
need nasm nasm   # libjpeg-turbo's SIMD
for program; do need "${program%%:*}" "${program##*:}"; done # what this target needs besides: COMMAND, or COMMAND:PACKAGE
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing$missing"
    # shellcheck disable=SC2086
    { apt-get install -y -qq $missing || { apt-get update -qq && apt-get install -y -qq $missing; }; } >/dev/null
else
    echo "missing system packages:$missing (Debian's names); install them, then run make again" >&2
    exit 1
fi
