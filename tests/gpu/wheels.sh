#!/usr/bin/env bash
# Fetch the wheels of wheels.txt for a machine without a network, into tests/gpu/.carried.
# For CPython 3.12 on x86-64, or as PYTHON_VERSION (say 3.11) tells.
set -euo pipefail
cd "$(dirname "$0")"

platforms=()
for glibc in 34 31 28 27 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
mkdir -p .carried
rm -f .carried/*.whl
"${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --implementation cp \
  --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" --platform manylinux2014_x86_64 \
  -d .carried -r wheels.txt
ls -l .carried
