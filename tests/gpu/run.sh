#!/usr/bin/env bash
# Everything that a CUDA card can show of cortex, in one command and under ten minutes: compiles
# exllamav2's extension, runs the tests that need a card, parity with transformers, the contract of
# harnesses and the benches, and writes one report. Ends with 0 when all of it ran and passed.
#
#   tests/gpu/run.sh [--seconds 560] [--only PART ...] [--keep] [--out FOLDER]
#
# The machine needs: a card of compute capability 8.0 or later, its driver, nvcc of torch's CUDA, and
# a python3 (PYTHON) with pip, torch for CUDA, transformers, tokenizers, safetensors, numpy, rich,
# regex, pillow, ninja, setuptools, pytest, hypothesis, huggingface-hub, httpx, jinja2, psutil,
# nvidia-ml-py, typer, prometheus-client, aiofiles, werkzeug. No network.
# It is handed the rest: `tests/gpu/wheels.sh` fetches it, 7 MB, into tests/gpu/.carried, which git
# ignores; take that folder along with the checkout. Where a run left extension.tar.xz, put it there
# too, and the same torch and Python need not compile again.
#
# Report (report.md), log and packed extension go to --out, else to $OUT, else to the work folder.
# --keep puts the report into tests/gpu/reports as well, to be committed. CORTEX_GPU_WORK names the
# work folder (20 GB; a temporary one otherwise). CORTEX_TEST_REHEARSAL=1 with CORTEX_TEST_TORCH=1
# rehearses all of it on the CPU, with small models; no figure of that says anything.
set -euo pipefail
cd "$(dirname "$0")/../.."

carried=tests/gpu/.carried
python=${PYTHON:-python3}
work=${CORTEX_GPU_WORK:-}
if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"

if compgen -G "$carried/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" "$carried"/*.whl
  export PYTHONPATH="$work/site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
else
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi

export CACHE_DIRECTORY="$work/cache"
mkdir -p "$CACHE_DIRECTORY"
if [ -f "$carried/extension.tar.xz" ]; then
  tar -C "$CACHE_DIRECTORY" -xf "$carried/extension.tar.xz"
fi

out=()
if [ -z "${OUT:-}" ]; then
  out=(--out "$(mktemp -d -t cortex-gpu-XXXXXX)")
fi
"$python" -m tests.gpu.whole --work "$work" "${out[@]}" "$@"
