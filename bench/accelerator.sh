#!/bin/bash
# All accelerator benches within 8 minutes, on a host with Python, torch, transformers, peft and accelerate and without
# a network: first a short table without torch.compile, then a compiled shape of each family, then text.
#
#     [PYTHON=python3.12] bench/accelerator.sh [--out FILE] [--tiny]
#
# Rows are printed, and appended to FILE (accelerator.md), as soon as they are measured. Lists the wheels to bring if
# some are missing. --tiny: tiny networks, also on a CPU, to see that it runs.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=accelerator.md
options=()
patience=1
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --tiny) options=(--tiny --steps 2 --seconds 600) patience=10; shift ;;
    *) echo "unknown option $1; known are --out FILE and --tiny" >&2; exit 2 ;;
  esac
done

# Argument 1: seconds for the program; the rest: its options.
part() {
  local seconds=$(($1 * patience))
  shift
  timeout --signal=TERM --kill-after=5 "$seconds" "$python" -m bench.accelerator "$@" --out "$out" "${options[@]}" || {
    status=$?
    echo "exit status $status of: $*" | tee -a "$out"
  }
}

"$python" -m bench.wheels
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
status=0
part 130 image --no-compile --largest --seconds 40
part 180 image --compiled --largest --seconds 60
part 150 text --seconds 45
exit $status
