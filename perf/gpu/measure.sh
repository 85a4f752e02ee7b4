#!/usr/bin/env bash
# The fused CUDA kernels on an H100 or H200, with attend_driver:
#   measure.sh build DIR     compile it (needs nvcc, no GPU)
#   measure.sh check DIR     every type and head size against the reference kernel
#   measure.sh table DIR     the published workloads: DIR/h200.txt and DIR/h200.csv (see ../results)
#   measure.sh sweeps DIR    time by rows, prefix length and depth: DIR/h200_rows.csv, h200_prefix.csv, h200_depth.csv
# What the last two write, plots.py draws.
set -euo pipefail
what=${1:?build, check, table or sweeps} folder=$(readlink -m "${2:?a folder}")
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

sweep() {  # NAME WORKLOAD...
  local name=$1 workload options=()
  shift
  for workload; do options+=(--workload "layers:$workload"); done
  "$folder/attend_driver" --csv "$folder/h200_$name.csv" "${options[@]}"
}

sweeps() {
  sweep rows 1,{1,2,4,8,16,32,64,128,256,512,1024}/2048,32
  sweep prefix 1,64/{128,256,512,1024,2048,4096,8192,16384,32768,65536},32
  # 256 leaves, about 1,280 tokens on every path
  sweep depth 256/1280 1,256/640,640 1,16,256/448,416,416 1,4,16,64,256/256,256,256,256,256 \
    1,2,4,8,16,32,64,128,256/160,160,160,160,128,128,128,128,128
}

cd "$project"
case $what in
  build | check | table | sweeps) "$what" ;;
  *) echo "measure.sh: '$what' is not build, check, table or sweeps" >&2; exit 2 ;;
esac
