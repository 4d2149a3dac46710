#!/usr/bin/env python3
"""Rates of descent near minimisers whose factors are off balance, in NumPy, beside the prediction from the Hessian.

The same problem as the experiments `factorisation` and `sensing` of the example adapter_theory, with other draws and none
of its code: 9 x 9 of rank 3, singular values 4, 2, 1, gauges c = 1.5 (scalar and shear), starts 1e-3 away, losses followed
to 1e-18 of the first. Prints, per draw and case, the least and largest ln(loss factor) and steps over their
predictions, of seven methods. Run with numpy 2.x: OMP_NUM_THREADS=1 python adapter_rates.py
"""
import numpy as np

N, R, MEASUREMENTS, C, RATIO, GOAL = 9, 3, 400, 1.5, 4.0, 1e-18
METHODS = ("lora", "balora", "reflora", "norm-balance", "lora-plus-4", "scaled-gd", "lora-pro")


def balanced(a, b):
    u, s, vt = np.linalg.svd(b @ a)
    return np.sqrt(s[:R])[:, None] * vt[:R], u[:, :R] * np.sqrt(s[:R])


def even_norms(a, b):
    c = np.sqrt(np.linalg.norm(b) / np.linalg.norm(a))
    return a * c, b / c


def hessian_ends(a, b, k):
    units = np.eye(R * N)
    j = np.array([(b @ u.reshape(R, N)).ravel() for u in units] + [(u.reshape(N, R) @ a).ravel() for u in units]).T
    values = np.linalg.eigvalsh(j.T @ (k @ j))
    return values[R * R], values[-1]


def projected_ends(a, b, k, inside):
    p_b, p_a = b @ np.linalg.pinv(b), np.linalg.pinv(a) @ a

    def root(d):
        d = d.reshape(N, N)
        return (p_b @ d + d @ p_a + (inside - 2) * p_b @ d @ p_a).ravel()

    t = np.array([root(u) for u in np.eye(N * N)]).T
    values = np.linalg.eigvalsh(t @ k @ t)
    return values[(N - R) ** 2], values[-1]


def sylvester(p, q, c):
    s, u = np.linalg.eigh(p)
    t, v = np.linalg.eigh(q)
    return u @ ((u.T @ c @ v) / (s[:, None] + t[None])) @ v.T


def ends_of(method, a0, b0, a, b, k):
    if method in ("balora", "reflora"):
        return hessian_ends(a0, b0, k)
    if method == "norm-balance":
        return hessian_ends(*even_norms(a, b), k)
    if method == "lora-plus-4":
        return hessian_ends(2 * a, b, k)
    if method == "scaled-gd":
        return projected_ends(a0, b0, k, np.sqrt(2))
    if method == "lora-pro":
        return projected_ends(a0, b0, k, 1.0)
    return hessian_ends(a, b, k)


def preconditioned(method, a, b, g_a, g_b):
    if method == "reflora":
        m = np.linalg.pinv(b) @ balanced(a, b)[1]
        inverse = np.linalg.inv(m)
        return m @ m.T @ g_a, g_b @ inverse.T @ inverse
    if method == "scaled-gd":
        return np.linalg.inv(b.T @ b) @ g_a, g_b @ np.linalg.inv(a @ a.T)
    if method == "lora-pro":
        p, q = b.T @ b, a @ a.T
        h_a = np.linalg.inv(p) @ g_a
        h_b = (g_b - b @ np.linalg.inv(p) @ b.T @ g_b) @ np.linalg.inv(q)
        x = sylvester(p, q, -h_a @ a.T)
        return h_a + x @ a, h_b - b @ x
    return g_a, g_b


def run(method, gauge, k, seed):
    draws = np.random.default_rng(seed)
    u, v = (np.linalg.qr(draws.normal(size=(N, R)))[0] for _ in range(2))
    s = RATIO ** (1 - np.arange(R) / (R - 1))
    a0, b0 = np.sqrt(s)[:, None] * v.T, u * np.sqrt(s)
    target = b0 @ a0
    o = np.linalg.qr(draws.normal(size=(R, R)))[0]
    m = C * np.eye(R) if gauge == "scalar" else o @ np.diag(C ** (1.0 - np.arange(R))) @ o.T
    a, b = np.linalg.inv(m) @ a0, b0 @ m
    ends = ends_of(method, a0, b0, a, b, k)
    step = 2 / sum(ends) * (0.5 if ends[1] / ends[0] < 1.01 else 1)
    predicted = max((1 - step * value) ** 2 for value in ends)
    a, b = a + 1e-3 * draws.normal(size=(R, N)), b + 1e-3 * draws.normal(size=(N, R))
    if method == "balora":
        a, b = balanced(a, b)
    losses = []
    while True:
        error = b @ a - target
        g = (k @ error.ravel()).reshape(N, N)
        losses.append(0.5 * np.sum(error * g))
        if losses[-1] <= GOAL * losses[0]:
            break
        g_a, g_b = preconditioned(method, a, b, b.T @ g, g @ a.T)
        a, b = a - step * g_a, b - (4 if method == "lora-plus-4" else 1) * step * g_b
        if method == "balora":
            a, b = balanced(a, b)
        if method == "norm-balance":
            a, b = even_norms(a, b)
    losses, last = np.array(losses), len(losses) - 1
    half = min(int(np.argmax(losses <= np.sqrt(losses[-1] * losses[0]))), last - 1)
    rate = np.log(losses[-1] / losses[half]) / (last - half)
    return rate / np.log(predicted), last / (np.log(GOAL) / np.log(predicted))


def main():
    for seed in range(12):
        draws = np.random.default_rng(100 + seed).normal(size=(MEASUREMENTS, N * N))
        for name, k in (("factorisation", np.eye(N * N)), ("sensing", draws.T @ draws / MEASUREMENTS)):
            for gauge in ("scalar", "shear"):
                found = np.array([run(method, gauge, k, seed) for method in METHODS])
                low, high = found.min(axis=0), found.max(axis=0)
                print(f"{seed} {name} {gauge}: rates {low[0]:.3f} to {high[0]:.3f}, steps {low[1]:.3f} to {high[1]:.3f}")


if __name__ == "__main__":
    main()
