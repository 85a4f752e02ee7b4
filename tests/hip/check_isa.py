"""Compares compiled HIP kernels with the budgets that their README states.

usage: check_isa.py README ASSEMBLY...

The README has one row for each kind of kernel:

    | `name<first template arguments` | registers | LDS bytes | matrix instructions |

A kernel answers to the first row whose text its demangled name begins with. Wrong are: a spilled vector register,
scratch memory, more registers or LDS than stated, fewer matrix instructions than stated or any where none are, a kernel
without a row, a row without a kernel in some architecture.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROW = re.compile(r"^\| `([\w<][^`]*)` \| (\d+) \| (\d+) \| (\d+) \|", re.MULTILINE)
MATRIX_INSTRUCTION = re.compile(r"^\s+v_mfma_f32_16x16x16_?b?f16", re.MULTILINE)


@dataclass
class Budget:
    name: str
    registers: int
    lds_bytes: int
    matrix_instructions: int


@dataclass
class Kernel:
    name: str
    registers: int
    lds_bytes: int
    scratch_bytes: int
    spilled_registers: int
    matrix_instructions: int


def budgets_of(readme: str) -> list[Budget]:
    return [Budget(name, int(a), int(b), int(c)) for name, a, b, c in ROW.findall(readme)]


def demangled(symbol: str) -> str:
    """The kernel's name and template arguments, without namespaces and parameters."""
    text = subprocess.run(["c++filt", symbol], check=True, capture_output=True, text=True).stdout.strip()
    text = re.sub(r"espalier::(\w+::)*", "", text.replace("(anonymous namespace)::", ""))
    return re.sub(r"^void ", "", text).partition("(")[0]


def kernels_of(assembly: str) -> list[Kernel]:
    """Kernels as the metadata behind the code describes them."""
    code, _, rest = assembly.partition("amdhsa.kernels:")
    metadata = rest.partition("\namdhsa.")[0]
    kernels = []
    for entry in re.split(r"^  - ", metadata, flags=re.MULTILINE)[1:]:
        def number(key: str) -> int:
            return int(re.search(rf"\.{key}:\s+(\d+)", entry)[1])

        symbol = re.search(r"^\s+\.name:\s+(\S+)", entry, re.MULTILINE)[1]
        body = code.partition(f"\n{symbol}:")[2].partition("\n.Lfunc_end")[0]
        kernels.append(
            Kernel(
                demangled(symbol),
                number("vgpr_count"),
                number("group_segment_fixed_size"),
                number("private_segment_fixed_size"),
                number("vgpr_spill_count"),
                len(MATRIX_INSTRUCTION.findall(body)),
            )
        )
    return kernels


def wrong_in(kernel: Kernel, budget: Budget | None) -> list[str]:
    if budget is None:
        return ["the README states no budget"]
    wrong = []
    if kernel.scratch_bytes or kernel.spilled_registers:
        wrong.append(f"{kernel.spilled_registers} spilled registers, {kernel.scratch_bytes} bytes of scratch memory")
    if kernel.registers > budget.registers:
        wrong.append(f"{kernel.registers} registers, the README states {budget.registers}")
    if kernel.lds_bytes > budget.lds_bytes:
        wrong.append(f"{kernel.lds_bytes} bytes of LDS, the README states {budget.lds_bytes}")
    if kernel.matrix_instructions < budget.matrix_instructions or (
        kernel.matrix_instructions and not budget.matrix_instructions
    ):
        wrong.append(f"{kernel.matrix_instructions} matrix instructions, the README states {budget.matrix_instructions}")
    return wrong


def main() -> int:
    readme, *files = sys.argv[1:]
    budgets = budgets_of(Path(readme).read_text(encoding="utf-8"))
    wrong = [] if budgets else [f"{readme}: no budgets found"]
    met: dict[str, set[str]] = {}
    for file in files:
        architecture = Path(file).stem.rpartition("-")[2]
        names = met.setdefault(architecture, set())
        for kernel in kernels_of(Path(file).read_text(encoding="utf-8")):
            budget = next((b for b in budgets if kernel.name.startswith(b.name)), None)
            names.add(budget.name if budget else "")
            wrong += [f"{architecture}: {kernel.name}: {text}" for text in wrong_in(kernel, budget)]
            print(
                f"{architecture} {kernel.name}: {kernel.registers} registers, {kernel.lds_bytes} bytes of LDS, "
                f"{kernel.matrix_instructions} matrix instructions"
            )
    for architecture, names in met.items():
        wrong += [f"{architecture}: no kernel begins with {b.name}" for b in budgets if b.name not in names]
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
