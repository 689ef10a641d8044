#!/usr/bin/env bash
# Run the benchmarks that need a GPU, in one command, on a machine without a network.
#
#   benchmarks/gpu.sh OUT [WHEELS]
#
# OUT: folder for one JSON file per benchmark, its log, and what nvidia-smi saw meanwhile.
# WHEELS: folder with the wheels of hemseg's dependencies; without it the python on PATH is used.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

# Before anything is installed: without a GPU nothing here says anything.
if ! nvidia-smi >"$out/nvidia-smi.txt" 2>&1; then
  echo "gpu.sh: nvidia-smi finds no GPU here ($out/nvidia-smi.txt)" >&2
  exit 1
fi

python=python3
if [ $# -eq 2 ]; then
  wheels=$(cd "$2" && pwd)
  python3 -m venv "$out/venv"
  python=$out/venv/bin/python
  # The tree itself is built with what the folder holds, too: hatchling has to lie there.
  "$python" -m pip install --quiet --no-index --find-links "$wheels" "$root[test]"
fi
cd "$root"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

failed=0
# run NAME SECONDS COMMAND...: its standard output is the JSON. One that fails does not stop the
# others: time on a GPU is lent.
run() {
  local name=$1 seconds=$2 code=0 sampler
  shift 2
  nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv -l 1 \
    >"$out/$name.gpu.csv" &
  sampler=$!
  timeout "$seconds" "$@" >"$out/$name.json" 2>"$out/$name.log" || code=$?
  kill "$sampler"
  wait "$sampler" 2>/dev/null || true
  if [ "$code" -eq 0 ]; then
    echo "$name: done"
  else
    echo "$name: exit code $code, see $out/$name.log" >&2
    failed=1
  fi
}

run data 480 "$python" benchmarks/data.py --device cuda --workers 8
run epoch 480 "$python" benchmarks/train.py epoch --device cuda
run nnunet 480 "$python" benchmarks/nnunet_pace.py --device cuda
run speed 480 "$python" benchmarks/predict.py speed --device cuda
run tests 480 "$python" -m pytest -n 0 -m cuda
exit "$failed"
