#!/usr/bin/env bash
# The first hour with an AMD card: builds, validates, measures, and leaves one table. README.md says what to look at first.
#
# usage: backends/hip/measure.sh [--dry-run] [OUTPUT_FOLDER]
#   Kokkos_ROOT  where a Kokkos built for HIP and this card is installed (as CMake wants it)
#   --dry-run    only prints the commands
#   OUTPUT_FOLDER  default: build/hip/measured
set -euo pipefail
cd "$(dirname "$0")/../.."

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
output=${1:-build/hip/measured}
tools=build/hip/bin

# Problem; tokens of the tree; (row, token) pairs that rows see; what it tells.
problems=(
  'layers:1/100000/heads:32,8,128/bf16 100000 100000 bandwidth'
  'layers:1/100000/heads:32,8,128/f16 100000 100000 bandwidth'
  'layers:1/100000/heads:16,2,64/bf16 100000 100000 bandwidth,head_dim_64'
  'layers:1/50000/heads:16,4,256/bf16 50000 50000 bandwidth,head_dim_256'
  'star:100000,256,1/heads:32,8,128/bf16 100256 25600256 matrix_rate'
  'star:100000,64,1/heads:32,8,128/bf16 100064 6400064 where_both_meet'
  'layers:1,1024/16,32/heads:32,8,128/bf16 32784 49152 latency_of_a_tile'
  'layers:1,64/4096,256/heads:32,8,128/bf16 20480 278528 shared_prompt'
  'tokens:4096,64/heads:32,8,128/bf16 4160 262351 token_tree'
)

say() { printf '\n== %s\n' "$*"; }

run() {
  if $dry_run; then
    printf '+ %s\n' "$*"
  else
    "$@"
  fi
}

# The kernel on matrix units that runs on this card: hip-gfx942, for example.
kernel_of_card() {
  if $dry_run; then
    echo hip-gfx942
  else
    "$tools/espalier" info --json |
      python3 -c 'import json, sys
print(next((k["name"] for k in json.load(sys.stdin)["kernels"] if k["available"] and k["name"].startswith("hip-gfx")), ""))'
  fi
}

# What memory moves at most, GB/s, and what the matrix units do, TFLOP/s of f16 and bf16.
peaks_of() {
  case $1 in
    hip-gfx90a) echo 1600 191 ;;
    hip-gfx942) echo 5300 1307 ;;
    hip-gfx950) echo 8000 2500 ;;
  esac
}

# table CSV BANDWIDTH TFLOPS: one row for each problem, the fastest of its strategies.
table() {
  printf '%s\n' "${problems[@]}" | awk -v gbs="$2" -v tflops="$3" '
    NR == FNR { tokens[$1] = $2; seen[$1] = $3; what[$1] = $4; order[++count] = $1; next }
    FNR == 1 { next }
    {
      match($0, /^"[^"]*"/)
      name = substr($0, 2, RLENGTH - 2)
      split(substr($0, RLENGTH + 2), field, ",")
      if (!(name in ms) || field[2] < ms[name]) { ms[name] = field[2]; strategy[name] = field[1] }
    }
    END {
      print "| problem | tells | ms | strategy | GB/s of K and V | of " gbs " GB/s | TFLOP/s | of " tflops " TFLOP/s |"
      print "|---|---|---|---|---|---|---|---|"
      for (i = 1; i <= count; ++i) {
        name = order[i]
        if (!(name in ms)) { print "| `" name "` | " what[name] " | not measured | | | | | |"; continue }
        split(name, part, "heads:"); split(part[2], heads, "[,/]")
        rate = tokens[name] * heads[2] * heads[3] * 4 / ms[name] * 1e-6
        flops = seen[name] * heads[1] * heads[3] * 4 / ms[name] * 1e-9
        printf "| `%s` | %s | %.4f | `%s` | %.0f | %.2f | %.1f | %.2f |\n", name, what[name], ms[name], strategy[name], rate,
          rate / gbs, flops, flops / tflops
      }
    }' - "$1"
}

say "build: backends/hip for the architecture of Kokkos in ${Kokkos_ROOT:-the default places}"
run cmake --preset hip -DESPALIER_BUILD_PYTHON=OFF
run cmake --build --preset hip
run mkdir -p "$output"

say "which kernels run here"
run "$tools/espalier" info
kernel=$(kernel_of_card)
if [[ -z $kernel ]]; then
  echo "measure.sh: no kernel of backends/hip runs here; the list above says why" >&2
  exit 1
fi

say "validate: the kernels against the portable one and the oracle; nothing below counts if this fails"
run "$tools/espalier" validate --kernel "$kernel"
run "$tools/espalier" validate --kernel hip-simt

say "measure: $kernel, K and V cold, each result compared with that of the first strategy"
names=()
for problem in "${problems[@]}"; do names+=("${problem%% *}"); done
if $dry_run; then
  run "$tools/espalier_strategies" --csv --only node,node_chunk --seconds 1 "${names[@]}" ">" "$output/strategies.csv"
  printf '+ the table, into %s/table.md, of the shape\n' "$output"
  table /dev/null 5300 1307
else
  "$tools/espalier_strategies" --csv --only node,node_chunk --seconds 1 "${names[@]}" >"$output/strategies.csv"
  read -r bandwidth tflops < <(peaks_of "$kernel")
  table "$output/strategies.csv" "$bandwidth" "$tflops" | tee "$output/table.md"
fi

say "counters, where rocprofv3 is installed: matrix and vector units busy, first-level cache, waits"
run rocprofv3 --pmc SQ_BUSY_CU_CYCLES SQ_VALU_MFMA_BUSY_CYCLES SQ_ACTIVE_INST_VALU TCP_TOTAL_CACHE_ACCESSES_sum \
  -d "$output/counters" -- "$tools/espalier_strategies" --only node --seconds 0.2 "${names[0]}" "${names[4]}" ||
  echo "measure.sh: no counters (rocprofv3 failed or is missing)" >&2
