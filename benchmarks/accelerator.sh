#!/usr/bin/env bash
# Run all benchmarks that have an accelerator's side, within 8 minutes, and write their tables to a folder.
#
#     benchmarks/accelerator.sh [FOLDER]       default: benchmarks/results
#
# It needs JAX and PyTorch that see the GPU (pip install -e '.[bench]' and the right builds of both). A part that takes
# too long is stopped, and the others run all the same.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}

python - <<'PYTHON' || exit 2
import jax, torch

print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, PyTorch {torch.__version__}")
if jax.default_backend() == "cpu" or not torch.cuda.is_available():
    raise SystemExit("error: JAX and PyTorch must both see a GPU here")
PYTHON

status=0
part() { # SECONDS COMMAND...
    local seconds=$1
    shift
    echo "--- $*"
    timeout "$seconds" "$@" || {
        echo "error: status $? of: $*" >&2
        status=1
    }
}
part 240 python benchmarks/train_step.py --out="$out" --repeats=5 --batches=256 --dtypes=float32,tf32,bfloat16 --compile
part 120 python benchmarks/ladder.py --out="$out" --tasks=vgg19 --repeats=1
part 60 python benchmarks/replicates.py --out="$out" --repeats=1
part 60 python benchmarks/images.py --out="$out"
exit $status
