"""Golden spectra of attention heads, made once by LAPACK (numpy) on dense d x d products.

    OMP_NUM_THREADS=1 python3 scripts/golden/heads.py crates/metastable-model/tests

Writes golden/heads.{safetensors,md}. Random heads: entries x/2^32 - 1/2 of the generator x -> 1664525 x + 1013904223
mod 2^32 from seed 1, matrices Q, K, V [k, d] and W [d, k] filled row by row in that order; for "deficient" the second half
of Q's rows is 0. For each NAME: `NAME.qk`, `NAME.ov` the largest k singular values of Q^T K and W V, `NAME.eigenvalues` the
k eigenvalues of W V of largest modulus [k, 2], `NAME.numbers` = rank (tolerance d 2^-23 sigma_1), stable rank, effective
rank, symmetric share, effective beta of Q^T K.

Rotary: for every head h of layer 1 of fixtures/tiny-llama and distances 0, 1, 5, 40 `rotary.h` [4, 3] = operator norm,
Frobenius norm, symmetric share of Q^T R_i^T R_j K / sqrt(head_dim) at positions i = 50 and j = 50 - distance.
Needs numpy and safetensors. Not run by the tests.
"""

import json
import pathlib
import platform
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

tests = pathlib.Path(sys.argv[1])
golden = {}


def numbers(a, d):
    s = np.linalg.svd(a, compute_uv=False)
    share = s[s > 0] / s.sum()
    symmetric = np.linalg.norm((a + a.T) / 2)
    return s, np.array(
        [
            (s > d * 2.0**-23 * s[0]).sum(),
            (s**2).sum() / s[0] ** 2,
            np.exp(-(share * np.log(share)).sum()),
            symmetric**2 / np.linalg.norm(a) ** 2,
            np.sqrt(d) * symmetric,
        ]
    )


for name, k, d in [("minilm", 32, 384), ("smollm2", 64, 576), ("tiny", 16, 64), ("wide", 7, 5), ("deficient", 32, 384)]:
    state = 1

    def draw(rows, columns):
        global state
        out = np.empty(rows * columns)
        for r in range(rows * columns):
            state = (1664525 * state + 1013904223) % 2**32
            out[r] = state / 2**32 - 0.5
        return out.reshape(rows, columns)

    q, key, v, w = draw(k, d), draw(k, d), draw(k, d), draw(d, k)
    if name == "deficient":
        q[k // 2 :] = 0
    s, found = numbers(q.T @ key, d)
    golden[f"{name}.qk"], golden[f"{name}.numbers"] = s[:k].copy(), found
    golden[f"{name}.ov"] = np.linalg.svd(w @ v, compute_uv=False)[:k].copy()
    z = np.linalg.eigvals(w @ v)
    z = z[np.argsort(-np.abs(z))][: min(k, d)]
    golden[f"{name}.eigenvalues"] = np.stack([z.real, z.imag], axis=1)

config = json.loads((tests / "fixtures/tiny-llama/config.json").read_text())
weights = load_file(tests / "fixtures/tiny-llama/model.safetensors")
heads, kv, d = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
k = config.get("head_dim") or d // heads
theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
frequencies = theta ** (-2.0 * np.arange(k // 2) / k)


def rotation(position):
    c, s = np.diag(np.cos(position * frequencies)), np.diag(np.sin(position * frequencies))
    return np.block([[c, -s], [s, c]])


part = lambda name: weights[f"model.layers.1.self_attn.{name}.weight"].astype(np.float64)
for h in range(heads):
    g = h // (heads // kv)
    q, key = part("q_proj")[h * k : (h + 1) * k] / np.sqrt(k), part("k_proj")[g * k : (g + 1) * k]
    rows = []
    for distance in [0, 1, 5, 40]:
        a = (rotation(50.0) @ q).T @ (rotation(50.0 - distance) @ key)
        s, found = numbers(a, d)
        rows.append([s[0], np.linalg.norm(a), found[3]])
    golden[f"rotary.{h}"] = np.array(rows)

save_file(golden, tests / "golden/heads.safetensors")
(tests / "golden/heads.md").write_text(
    f"Made by scripts/golden/heads.py: numpy {np.__version__}, python {platform.python_version()}, {platform.machine()}, "
    "LAPACK in f64 on dense products.\n"
)
