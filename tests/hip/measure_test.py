"""A rehearsal of backends/hip/measure.sh without a card: stand-ins for CMake and for the programs that it builds. Real are the
script, the names of its problems, and the columns of the measurements.

usage: measure_test.py SOURCE_FOLDER ESPALIER ESPALIER_STRATEGIES
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# What a tool of a HIP build says, on a card of the given name: "info --json", and "validate" into a file.
TOOL = """#!/bin/sh
echo "$*" >>calls.txt
case $1 in info) printf '{"kernels": [{"name": "hip-gfx950", "available": false}, {"name": "hip-%s", "available": true}]}' ;; esac
"""
# One millisecond for the second strategy, two for the first.
STRATEGIES = """#!/bin/sh
echo '%s'
for problem in "$@"; do
  case $problem in
    */heads:*) printf '"%%s",node,2.0000,%%s\\n"%%s",node_chunk,1.0000,%%s\\n' "$problem" 1,1,1 "$problem" 1,1,1 ;;
  esac
done
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def rehearse(folder: Path, source: Path, card: str, header: str) -> subprocess.CompletedProcess:
    (folder / "backends/hip").mkdir(parents=True)
    shutil.copy(source / "backends/hip/measure.sh", folder / "backends/hip")
    write_program(folder / "path/cmake", "#!/bin/sh\n")
    write_program(folder / "build/hip/bin/espalier", TOOL % card)
    write_program(folder / "build/hip/bin/espalier_strategies", STRATEGIES % header)
    environment = {**os.environ, "PATH": f"{folder}/path:{os.environ['PATH']}"}
    return subprocess.run([folder / "backends/hip/measure.sh"], env=environment, capture_output=True, text=True)


def main() -> int:
    source, espalier, strategies = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    measured = subprocess.run(
        [strategies, "--csv", "--only", "node,node_chunk", "--seconds", "0.001", "star:8,2,4/heads:2,1,64/bf16"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    assert measured[0].startswith("problem,strategy,ms,"), measured[0]
    assert re.match(r'"star:8,2,4/heads:2,1,64/bf16",node,[\d.]+,', measured[1]), measured[1]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = rehearse(folder, source, "gfx942", measured[0])
        assert run.returncode == 0, run.stderr
        calls = (folder / "calls.txt").read_text().splitlines()
        assert [call for call in calls if "validate" in call] == [
            "validate --kernel hip-gfx942",
            "validate --kernel hip-simt",
        ], calls
        rows = re.findall(r"^\| `(.*?)/heads:(\S+)/b?f16` \| (.*) \|$", (folder / "build/hip/measured/table.md").read_text(), re.M)
        assert len(rows) == 9, rows
        for workload, heads, _ in rows:
            subprocess.run([espalier, "plan", workload, "--heads", heads, "--strategy", "node"], check=True, capture_output=True)
        # 100,000 tokens, 8 heads of 128, K and V of 2 bytes: 409.6 MB in 1 ms; 32 query heads, two products: 1.64 GFLOP
        assert rows[0] == ("layers:1/100000", "32,8,128", "bandwidth | 1.0000 | `node_chunk` | 410 | 0.08 | 1.6 | 0.00"), rows[0]
        # 256 rows see them: 419 GFLOP of a rate of 1307 TFLOP/s
        matrix_rate = next(row for row in rows if row[0] == "star:100000,256,1")
        assert matrix_rate[2].endswith("| 419.4 | 0.32"), matrix_rate

    with tempfile.TemporaryDirectory() as temporary:
        run = rehearse(Path(temporary), source, "simt", measured[0])
        assert run.returncode == 1 and "no kernel of backends/hip runs here" in run.stderr, run.stderr
    return 0


if __name__ == "__main__":
    sys.exit(main())
