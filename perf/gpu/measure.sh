#!/usr/bin/env bash
# The fused CUDA kernels on an H100 or H200, with attend_driver:
#   measure.sh build DIR     compile it (needs nvcc, no GPU)
#   measure.sh check DIR     every type and head size against the reference kernel
#   measure.sh table DIR     the published workloads: DIR/h200.txt and DIR/h200.csv (see ../results)
set -euo pipefail
what=${1:?build, check or table} folder=$(readlink -m "${2:?a folder}")
project=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
architecture="-gencode=arch=compute_90a,code=sm_90a"

compile() {  # SOURCE
  "${NVCC:-nvcc}" -std=c++20 -O3 --expt-relaxed-constexpr "$architecture" -I. -Iinclude -c "$1" \
    -o "$folder/objects/$(basename "$1" .cu).o"
}

build() {
  local source job jobs=()
  mkdir -p "$folder/objects"
  for source in perf/gpu/attend_driver.cu backends/cuda/sm90/attend.cu backends/cuda/sm90/instances/*.cu; do
    compile "$source" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
  "${NVCC:-nvcc}" "$architecture" "$folder"/objects/*.o -o "$folder/attend_driver"
}

check() {
  local dtype head_dim
  for dtype in bf16 f16; do
    for head_dim in 64 96 128 192 256; do
      echo "head_dim $head_dim:"
      "$folder/attend_driver" --dtype "$dtype" --head-dim "$head_dim" --validate 60
    done
  done
}

table() { "$folder/attend_driver" --csv "$folder/h200.csv" | tee "$folder/h200.txt"; }

cd "$project"
case $what in
  build | check | table) "$what" ;;
  *) echo "measure.sh: '$what' is not build, check or table" >&2; exit 2 ;;
esac
