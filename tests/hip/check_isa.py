"""Compares compiled HIP kernels with the budgets that their README states.

usage: check_isa.py README LLVM_READELF LLVM_OBJDUMP OBJECT...

An object has code for several architectures, as clang bundles it. The README has one row for each kind of kernel:

    | `name<first template arguments` | registers | LDS bytes | matrix instructions | 16-byte loads |

A kernel answers to the first row whose text its demangled name begins with. Wrong are: a spilled vector register,
scratch memory, more registers or LDS than stated, fewer matrix instructions than stated or any where none are, fewer loads of
16 bytes from global memory than stated, a kernel without a row, a row without a kernel in some architecture.
"""

import re
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROW = re.compile(r"^\| `([\w<][^`]*)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", re.MULTILINE)
MATRIX_INSTRUCTION = re.compile(r"^\s+v_mfma_f32_16x16x16_?b?f16", re.MULTILINE)
WIDE_LOAD = re.compile(r"^\s+global_load_dwordx4\b", re.MULTILINE)
BUNDLE = b"__CLANG_OFFLOAD_BUNDLE__"


@dataclass(frozen=True)
class Budget:
    name: str
    registers: int
    lds_bytes: int
    matrix_instructions: int
    wide_loads: int


@dataclass(frozen=True)
class Kernel:
    architecture: str
    name: str
    registers: int
    lds_bytes: int
    scratch_bytes: int
    spilled_registers: int
    matrix_instructions: int
    wide_loads: int


def budgets_of(readme: str) -> list[Budget]:
    return [Budget(name, *map(int, numbers)) for name, *numbers in ROW.findall(readme)]


def demangled(symbol: str) -> str:
    """The kernel's name and template arguments, without namespaces and parameters."""
    text = subprocess.run(["c++filt", symbol], check=True, capture_output=True, text=True).stdout.strip()
    text = re.sub(r"espalier::(\w+::)*", "", text.replace("(anonymous namespace)::", ""))
    return re.sub(r"^void ", "", text).partition("(")[0]


def code_objects(data: bytes) -> dict[str, bytes]:
    """By architecture: what clang has bundled into an object of the host."""
    begin = data.find(BUNDLE)
    if begin < 0:
        return {}
    found = {}
    at = begin + len(BUNDLE)
    (entries,) = struct.unpack_from("<Q", data, at)
    at += 8
    for _ in range(entries):
        offset, size, name_bytes = struct.unpack_from("<QQQ", data, at)
        name = data[at + 24 : at + 24 + name_bytes].decode()  # "hipv4-amdgcn-amd-amdhsa--gfx942", or "host-..."
        at += 24 + name_bytes
        if name.startswith("hip"):
            found[name.rpartition("-")[2]] = data[begin + offset : begin + offset + size]
    return found


def kernels_of(architecture: str, notes: str, code: str) -> list[Kernel]:
    """Kernels as the metadata beside the code describes them."""
    kernels = []
    metadata = notes.partition("amdhsa.kernels:")[2].partition("\namdhsa.")[0]
    for entry in re.split(r"^  - ", metadata, flags=re.MULTILINE)[1:]:

        def number(key: str) -> int:
            return int(re.search(rf"\.{key}:\s+(\d+)", entry)[1])

        symbol = re.search(r"^\s+\.name:\s+(_Z\S+)", entry, re.MULTILINE)[1]
        body = code.partition(f"<{symbol}>:\n")[2].partition(">:\n")[0]
        kernels.append(
            Kernel(
                architecture,
                demangled(symbol),
                number("vgpr_count"),
                number("group_segment_fixed_size"),
                number("private_segment_fixed_size"),
                number("vgpr_spill_count"),
                len(MATRIX_INSTRUCTION.findall(body)),
                len(WIDE_LOAD.findall(body)),
            )
        )
    return kernels


def kernels_in(objects: list[str], readelf: str, objdump: str) -> list[Kernel]:
    def output_of(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    kernels = []
    for file in objects:
        for architecture, code in code_objects(Path(file).read_bytes()).items():
            with tempfile.NamedTemporaryFile(suffix=".hsaco") as code_object:
                code_object.write(code)
                code_object.flush()
                notes = output_of(readelf, "--notes", code_object.name)
                instructions = output_of(objdump, "--disassemble", "--no-show-raw-insn", code_object.name)
            kernels += kernels_of(architecture, notes, instructions)
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
    if kernel.wide_loads < budget.wide_loads:
        wrong.append(f"{kernel.wide_loads} loads of 16 bytes, the README states {budget.wide_loads}")
    return wrong


def all_wrong(kernels: list[Kernel], budgets: list[Budget]) -> list[str]:
    wrong = [] if budgets else ["the README has no budgets"]
    wrong += [] if kernels else ["the objects have no kernels"]
    met: dict[str, set[str]] = {}
    for kernel in kernels:
        budget = next((b for b in budgets if kernel.name.startswith(b.name)), None)
        met.setdefault(kernel.architecture, set()).add(budget.name if budget else "")
        wrong += [f"{kernel.architecture}: {kernel.name}: {text}" for text in wrong_in(kernel, budget)]
    for architecture, names in met.items():
        wrong += [f"{architecture}: no kernel begins with {b.name}" for b in budgets if b.name not in names]
    return wrong


def main() -> int:
    readme, readelf, objdump, *objects = sys.argv[1:]
    kernels = kernels_in(objects, readelf, objdump)
    for kernel in kernels:
        print(
            f"{kernel.architecture} {kernel.name}: {kernel.registers} registers, {kernel.lds_bytes} bytes of LDS, "
            f"{kernel.matrix_instructions} matrix instructions, {kernel.wide_loads} loads of 16 bytes"
        )
    wrong = all_wrong(kernels, budgets_of(Path(readme).read_text(encoding="utf-8")))
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
