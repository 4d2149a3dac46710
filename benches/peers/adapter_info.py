#!/usr/bin/env python3
"""What `adapter info` measures, in NumPy: spectra of all modules of a PEFT adapter through QR cores.

    OMP_NUM_THREADS=2 benches/peers/adapter_info.py ADAPTER
"""

import pathlib
import sys
import time

import numpy
from safetensors.numpy import load_file

for _ in range(3):
    start = time.perf_counter()
    tensors = load_file(pathlib.Path(sys.argv[1]) / "adapter_model.safetensors")
    count = 0
    for name, a in tensors.items():
        if not name.endswith("lora_A.weight"):
            continue
        b = tensors[name.replace("lora_A", "lora_B")]
        r_a = numpy.linalg.qr(a.T.astype(float), mode="r")
        r_b = numpy.linalg.qr(b.astype(float), mode="r")
        numpy.linalg.svd(r_b @ r_a.T, compute_uv=False)
        numpy.linalg.svd(r_a, compute_uv=False)
        numpy.linalg.svd(r_b, compute_uv=False)
        numpy.linalg.norm(r_b.T @ r_b - r_a.T @ r_a)
        count += 1
    print(f"{time.perf_counter() - start:.3f} s for {count} modules (NumPy {numpy.__version__})")
