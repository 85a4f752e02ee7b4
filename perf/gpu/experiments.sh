#!/usr/bin/env bash
# What is to be measured next on an H100 or H200, with attend_driver:
#   experiments.sh build DIR     compile it, once for each time at which the main launch lets the merge begin (needs nvcc)
#   experiments.sh check DIR     every type and head size against the reference kernel
#   experiments.sh measure DIR   the questions below; the tables are in DIR/figures
#
# 1. Is a main launch that lets its successor start at its end faster where most multiprocessors have wide tiles?
# 2. What do chains of wide nodes bring, workload by workload?
set -euo pipefail
what=${1:?build, check or measure} folder=$(readlink -m "${2:?a folder}")
project=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
starts=(at_begin at_end with_end)
architecture="-gencode=arch=compute_90a,code=sm_90a"

compile() {  # START SOURCE
  "${NVCC:-nvcc}" -std=c++20 -O3 --expt-relaxed-constexpr "$architecture" "-DESPALIER_SM90_SUCCESSOR_START=$1" \
    -I. -Iinclude -c "$2" -o "$folder/$1/$(basename "$2" .cu).o"
}

build() {
  local start source
  for start in "${starts[@]}"; do
    rm -rf "${folder:?}/$start"
    mkdir -p "$folder/$start"
    for source in perf/gpu/attend_driver.cu backends/cuda/sm90/attend.cu backends/cuda/sm90/instances/*.cu; do
      compile "$start" "$source" &
    done
    wait
    "${NVCC:-nvcc}" "$architecture" "$folder/$start"/*.o -o "$folder/attend_driver_$start"
  done
}

driver() {  # START TABLE OPTION...: the published workloads
  "$folder/attend_driver_$1" --csv "$folder/figures/$2.csv" "${@:3}" | tee "$folder/figures/$2.txt"
}

check() {
  local dtype head_dim
  for dtype in bf16 f16; do
    for head_dim in 64 96 128 192 256; do
      "$folder/attend_driver_at_begin" --dtype "$dtype" --head-dim "$head_dim" --validate 60
    done
  done
}

measure() {  # by turns, so that a drift of the clock touches all
  local start turn
  mkdir -p "$folder/figures"
  for turn in 1 2; do
    for start in "${starts[@]}"; do driver "$start" "$start.$turn"; done
    driver at_begin "no_chains.$turn" --no-chains
  done
}

cd "$project"
case $what in
  build | check | measure) "$what" ;;
  *) echo "experiments.sh: '$what' is not build, check or measure" >&2; exit 2 ;;
esac
