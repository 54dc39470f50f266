#!/bin/sh
# What can only be checked on a machine with CUDA, in under 8 minutes: the tests marked gpu, then throughput with and
# without scores on both shapes at n = 32 and 256, and the reference's way. Prints one JSON line; progress goes to stderr.
# Not yet run on a GPU by its authors: read the first result with care.
#
#     sh benchmarks/gpu.sh > gpu.json
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu.sh: PyTorch finds no CUDA device here" >&2
    exit 2
}
timeout 150 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/engines >&2
tests=$?
timeout 320 "$PYTHON" benchmarks/gpu.py --seconds 200 "$@"
benchmark=$?
echo "gpu.sh: tests ended with $tests, the benchmark with $benchmark" >&2
exit $((tests || benchmark))
