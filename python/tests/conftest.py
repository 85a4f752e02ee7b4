"""A build for a GPU wants arrays in its memory: test_cuda.py has them, the modules here that use NumPy's are left out."""

import espalier

ON_HOST = all(kernel.backend not in ("Cuda", "HIP") for kernel in espalier.kernels())

collect_ignore = ["test_cuda.py"] if ON_HOST else [
    f"test_{name}.py" for name in ("attention", "compare", "docs", "errors", "exchange", "fasttree", "lifetime", "torch", "wheel")
]  # fmt: skip
