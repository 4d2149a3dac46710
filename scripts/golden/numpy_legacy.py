#!/usr/bin/env python3
"""Golden numbers of NumPy's legacy generator, for crates/metastable-dynamics/src/random/numpy.rs.

Needs numpy only. Prints the Rust constants; the generator is frozen by NumPy's compatibility policy (NEP 19).
"""
import numpy as np

uniform = np.random.RandomState(42).random_sample(10_000)
normal = np.random.RandomState(40).randn(1101)
mixed = np.random.RandomState(7)
mixed = [mixed.randn(), mixed.random_sample(), mixed.randn()]
print(f"    const UNIFORM_42: [f64; 5] = {[float(u) for u in uniform[:5]]};")
print(f"    const UNIFORM_42_9999: f64 = {float(uniform[9999])!r};")
print(f"    const UNIFORM_LAST_SEED: f64 = {float(np.random.RandomState(2**32 - 1).random_sample())!r};")
print(f"    const NORMAL_40: [f64; 6] = {[float(z) for z in normal[:6]]};")
print(f"    const NORMAL_40_1100: f64 = {float(normal[1100])!r};")
print(f"    const MIXED_7: [f64; 3] = {[float(z) for z in mixed]};")
