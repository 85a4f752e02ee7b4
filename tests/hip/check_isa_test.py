"""check_isa.py notices what it is there for: the compiled kernels against READMEs that state something else.

usage: check_isa_test.py README LLVM_READELF LLVM_OBJDUMP OBJECT...
"""

import sys
from dataclasses import replace
from pathlib import Path

from check_isa import all_wrong, budgets_of, kernels_in


def main() -> int:
    readme, readelf, objdump, *objects = sys.argv[1:]
    budgets = budgets_of(Path(readme).read_text(encoding="utf-8"))
    kernels = kernels_in(objects, readelf, objdump)
    on_matrix_units = [kernel for kernel in kernels if kernel.matrix_instructions > 0]
    kernel = on_matrix_units[0]
    budget = next(b for b in budgets if kernel.name.startswith(b.name))
    others = [b for b in budgets if b is not budget]

    def faults(**changes):
        """Of one kernel, where the README states something else for it."""
        return all_wrong([kernel], [replace(budget, **changes)])

    assert all_wrong(kernels, budgets) == []
    assert len(on_matrix_units) == 6 * len({kernel.architecture for kernel in kernels})
    assert faults() == []
    assert "registers, the README states" in faults(registers=kernel.registers - 1)[0]
    assert "of LDS, the README states" in faults(lds_bytes=kernel.lds_bytes - 1)[0]
    more = kernel.matrix_instructions + 1
    assert f"matrix instructions, the README states {more}" in faults(matrix_instructions=more)[0]
    assert "matrix instructions, the README states 0" in faults(matrix_instructions=0)[0]
    assert "loads of 16 bytes, the README states" in faults(wide_loads=kernel.wide_loads + 1)[0]
    assert "1 spilled registers" in all_wrong([replace(kernel, spilled_registers=1)], [budget])[0]
    assert "4 bytes of scratch" in all_wrong([replace(kernel, scratch_bytes=4)], [budget])[0]
    assert any("states no budget" in text for text in all_wrong(kernels, others))
    assert len(all_wrong([kernel], budgets)) == len(others)  # no kernels for the other rows
    assert all_wrong([], budgets) == ["the objects have no kernels"]
    assert "the README has no budgets" in all_wrong([kernel], [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
