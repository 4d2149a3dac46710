"""Golden numbers of local Lipschitz constants, made once by jax autograd and NumPy's dense SVD.

    OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu python3 scripts/golden/lipschitz.py crates/metastable-dynamics/src/smoothness/tests

Writes golden.txt: a line a number or array, `name value...`. Matrices are det(rows, columns, k, s)[r] = s sin(k + 1.7 r), r
row-major from 0; tokens are rows; the Jacobian of f(X) = P X Vᵀ is that of `jax.jacrev` in float64, products also those of
`jax.jvp` and `jax.vjp` in float32. Needs jax and NumPy. Not run by the tests.
"""

import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
lines = []


def det(rows, columns, k, s=1.0):
    return s * np.sin(k + 1.7 * np.arange(rows * columns, dtype=np.float64)).reshape(rows, columns)


def write(name, *values):
    flat = np.concatenate([np.ravel(np.asarray(value, dtype=np.float64)) for value in values])
    lines.append(f"{name} " + " ".join(f"{value:.15e}" for value in flat))


def weights(scores, normalization, causal, bias):
    n = scores.shape[0]
    seen = np.tril(np.ones((n, n), bool)) if causal else np.ones((n, n), bool)
    if normalization == "softmax":
        return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=1)
    return jnp.where(seen, jax.nn.sigmoid(scores + bias), 0)


def attention(x, q, k, v, beta=1.0, score="dot", normalization="softmax", causal=False, bias=0.0):
    """Without division of sigmoid weights, as the dossier has them."""
    queries, keys = x @ q.T, x @ k.T
    if score == "dot":
        scores = beta * queries @ keys.T
    else:
        scores = -beta * jnp.sum((queries[:, None] - keys[None]) ** 2, axis=-1)
    return weights(scores, normalization, causal, bias) @ (x @ v.T)


def dense(f, x):
    size = x.size
    return np.asarray(jax.jacrev(lambda z: f(z.reshape(x.shape)).ravel())(x.ravel())).reshape(size, size)


A, V, eye = det(3, 3, 1.1, 0.8), det(3, 3, 2.2, 0.9), np.eye(3)
X, E, G = det(5, 3, 0.3), det(5, 3, 0.7), det(5, 3, 1.9)
for causal in (False, True):
    word = "causal" if causal else "full"
    base = lambda x, q=A, k=eye, v=V, **more: attention(x, q, k, v, causal=causal, **more)
    jacobian = dense(base, X)
    write(f"singular_values.{word}", np.linalg.svd(jacobian, compute_uv=False))
    write(f"frobenius.{word}", np.linalg.norm(jacobian))
    forward = jax.jvp(base, (X,), (E,))[1]
    backward = jax.vjp(base, X)[1](jnp.asarray(G))[0]
    write(f"forward.{word}", forward)
    write(f"backward.{word}", backward)
    write(f"norms.{word}", np.linalg.norm(forward), np.linalg.norm(backward), np.sum(G * forward))
    for t in (0.01, 0.5, 2.0, 4.0):
        write(f"scaled_{t}.{word}", np.linalg.norm(dense(base, t * X), 2))
    write(f"long.{word}", np.linalg.norm(dense(base, det(64, 3, 0.3)), 2))
    write(f"prefixes.{word}", [np.linalg.norm(dense(base, X[:m]), 2) for m in range(1, 6)])
    W = det(2, 3, 0.4, 0.7)
    write(f"distance.{word}", np.linalg.norm(dense(lambda x: base(x, W, W, beta=0.4, score="distance"), X), 2))
    sigmoid = lambda x: base(x, normalization="sigmoid", bias=-np.log(5.0))
    write(f"sigmoid.{word}", np.linalg.norm(dense(sigmoid, X), 2))

    def multi_head(x):
        total = 0.0
        for h in (0.0, 1.0):
            row = lambda k: det(1, 2, k + h)[0]
            q, k, v = (det(2, 3, at + h) for at in (0.1, 0.5, 0.9))
            scores = (x @ q.T + row(0.2)) @ (x @ k.T + row(0.6)).T / np.sqrt(2)
            total += weights(scores, "softmax", causal, 0.0) @ (x @ v.T + row(1.0)) @ det(3, 2, 1.3 + h).T
        return total

    write(f"multi_head.{word}", np.linalg.svd(dense(multi_head, X), compute_uv=False))

    # Soft-capped scores c tanh(S / c), as in Gemma 2.
    def capped(x, c=0.5):
        scores = c * jnp.tanh((x @ A.T) @ x.T / c)
        return weights(scores, "softmax", causal, 0.0) @ (x @ V.T)

    write(f"soft_cap.{word}", np.linalg.svd(dense(capped, X), compute_uv=False))
    write(f"soft_cap_forward.{word}", jax.jvp(capped, (X,), (E,))[1])
    write(f"soft_cap_backward.{word}", jax.vjp(capped, X)[1](jnp.asarray(G))[0])

    # Products in single precision: n = 12, d = 4, k = 3.
    x, q, k, v, e, g = (det(*shape).astype(np.float32) for shape in [(12, 4, 0.3), (3, 4, 0.5), (3, 4, 0.9), (4, 4, 1.3), (12, 4, 0.7), (12, 4, 1.9)])
    for name, more in [("softmax", {}), ("distance", {"score": "distance"}), ("sigmoid", {"normalization": "sigmoid", "bias": -1.0})]:
        f = lambda z: attention(z, q, k, v, beta=np.float32(0.7), causal=causal, **more)
        assert f(x).dtype == jnp.float32
        write(f"single.{name}.forward.{word}", jax.jvp(f, (x,), (e,))[1])
        write(f"single.{name}.backward.{word}", jax.vjp(f, x)[1](jnp.asarray(g))[0])

    # Near the limit n d = 1500 of dense decompositions.
    for n, d, score in [(100, 15, "dot"), (150, 10, "dot"), (60, 25, "distance")]:
        x = det(n, d, 0.3)
        q, k, v = (det(d, d, at, 1.5 / np.sqrt(d)) for at in (1.1, 0.4, 2.2))
        f = lambda z: attention(z, q, k, v, beta=0.5, score=score, causal=causal)
        write(f"dense.{n}.{d}.{score}.{word}", np.linalg.svd(dense(f, x), compute_uv=False)[:3])

head = (
    "# Made by scripts/golden/lipschitz.py: "
    f"python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}, one thread."
)
(pathlib.Path(sys.argv[1]) / "golden.txt").write_text("\n".join([head, *lines]) + "\n")
