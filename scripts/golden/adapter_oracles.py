#!/usr/bin/env python3
"""Oracles of balanced adapters with random draws, in NumPy: conservation, sensing, gauges, signs, merging, starts.

None of the library's code is used: projections go through the dense product's SVD, RefLoRA through a geometric mean of Gram
matrices, roots and inverses through numpy.linalg. Draws are numpy.random.RandomState's, which the tests in
crates/metastable-dynamics/src/balance/tests/numpy.rs and crates/metastable-model/src/train/tests/numpy.rs repeat number
for number. Prints one block a test. Run with numpy 2.x: OMP_NUM_THREADS=1 python adapter_oracles.py
"""
import numpy as np


def draw(seed, rows, columns):
    return np.random.RandomState(seed).randn(rows, columns)


def canonical(a, b, like=True):
    """The balanced pair of the product; signs of the incoming pair unless like is false."""
    r = len(a)
    u, s, vt = np.linalg.svd(b @ a)
    root = np.sqrt(s[:r])
    new_a, new_b = root[:, None] * vt[:r], u[:, :r] * root
    if like:
        sign = np.where((new_a * a).sum(1) + (new_b * b).sum(0) < 0, -1.0, 1.0)
        new_a, new_b = sign[:, None] * new_a, new_b * sign
    return new_a, new_b


def nearest(a, b):
    """The balanced pair nearest to the incoming one: the canonical one turned."""
    new_a, new_b = canonical(a, b, False)
    u, _, vt = np.linalg.svd(new_a @ a.T + new_b.T @ b)
    o = u @ vt
    return o.T @ new_a, new_b @ o


def scalar(a, b):
    c = np.sqrt(np.linalg.norm(b) / np.linalg.norm(a))
    return c * a, b / c


def kappa(a, b):
    sa, sb = np.linalg.svd(a, compute_uv=False), np.linalg.svd(b, compute_uv=False)
    return (sa[0] ** 2 + sb[0] ** 2) / min(sa[-1] ** 2, sb[-1] ** 2)


def balanced_kappa(a, b):
    s = np.linalg.svd(b @ a, compute_uv=False)[: len(a)]
    return 2 * s[0] / s[-1]


def gradients(a, b, z):
    g = b @ a - z
    return b.T @ g, g @ a.T


def imbalance(a, b):
    return b.T @ b - a @ a.T


def conservation():
    z, a0, b0 = draw(70, 6, 5), draw(71, 2, 5), draw(72, 6, 2)
    d0 = imbalance(a0, b0)

    def change(a, b):
        return np.linalg.norm(imbalance(a, b) - d0) / np.linalg.norm(d0)

    a, b, h = a0, b0, 1e-3
    for _ in range(20_000):
        k1 = gradients(a, b, z)
        k2 = gradients(a - h / 2 * k1[0], b - h / 2 * k1[1], z)
        k3 = gradients(a - h / 2 * k2[0], b - h / 2 * k2[1], z)
        k4 = gradients(a - h * k3[0], b - h * k3[1], z)
        a = a - h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        b = b - h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    print("O6 RK4 h = 1e-3, t = 20:", change(a, b))
    for tau in (0.02, 0.01, 0.005):
        a, b = a0, b0
        for _ in range(round(20 / tau)):
            ga, gb = gradients(a, b, z)
            a, b = a - tau * ga, b - tau * gb
        print(f"O6 descent, step {tau}:", change(a, b))
    z, a, b = draw(73, 8, 2) @ draw(74, 2, 7), draw(75, 2, 7), np.zeros((8, 2))
    for _ in range(4000):
        ga, gb = gradients(a, b, z)
        a, b = a - 0.01 * ga, b - 0.01 * gb
    print("O6 LoRA start: loss, kappa, balanced:", 0.5 * np.linalg.norm(b @ a - z) ** 2, kappa(a, b), balanced_kappa(a, b))


def late(losses):
    return (losses[-1] / losses[-41]) ** (1 / 40)


def rates():
    for c in (1, 1.5, 2, 3, 4):
        a = np.zeros((2, 6))
        a[0, 0], a[1, 1] = 2, 1
        z = a.T @ a
        a, b = a / c + 1e-3 * draw(60, 2, 6), a.T * c + 1e-3 * draw(61, 6, 2)
        tau = 2 / (4 * (c * c + c**-2) + min(c * c, c**-2))
        losses = [0.5 * np.linalg.norm(b @ a - z) ** 2]
        while losses[-1] > 1e-24 and len(losses) <= 4000:
            ga, gb = gradients(a, b, z)
            a, b = a - tau * ga, b - tau * gb
            losses.append(0.5 * np.linalg.norm(b @ a - z) ** 2)
        k = 4 * (c * c + c**-2) / min(c * c, c**-2)
        print(f"O7 c = {c}: steps {len(losses) - 1}, late factor {late(losses):.10f}, predicted {((k - 1) / (k + 1)) ** 2:.6f}")
        if c == 4:
            a = np.zeros((2, 6))
            a[0, 0], a[1, 1] = 2, 1
            a, b = canonical(a / c + 1e-3 * draw(60, 2, 6), a.T * c + 1e-3 * draw(61, 6, 2))
            losses = [0.5 * np.linalg.norm(b @ a - z) ** 2]
            while losses[-1] > 1e-24:
                ga, gb = gradients(a, b, z)
                a, b = canonical(a - 2 / 9 * ga, b - 2 / 9 * gb)
                losses.append(0.5 * np.linalg.norm(b @ a - z) ** 2)
            print(f"O7 balora from c = 4: steps {len(losses) - 1}, late factor {late(losses):.10f}")


def sensing():
    x = draw(90, 400, 64)
    gram = x.T @ x / 400
    values = np.linalg.eigvalsh(gram)
    print("O8 ends of the spectrum:", values[0], values[-1])
    even = np.zeros((2, 8))
    even[0, 0], even[1, 1] = 2, 1
    z = even.T @ even
    near_a, near_b = even + 1e-2 * draw(91, 2, 8), even.T + 1e-2 * draw(92, 8, 2)

    def steps(a, b, tau, projects, most):
        for step in range(most):
            e = (b @ a - z).ravel()
            g = gram @ e
            if 0.5 * e @ g < 1e-20:
                return step
            g = g.reshape(8, 8)
            a, b = a - tau * (b.T @ g), b - tau * (g @ a.T)
            if not np.isfinite(a).all() or (a * a).sum() + (b * b).sum() > 1e6:
                return most
            if projects:
                a, b = canonical(a, b)
        return most

    taus = [0.3 * 0.88**k for k in range(25)]
    for c in (1, 2, 4):
        a, b = near_a / c, near_b * c
        lora = min(steps(a, b, tau, False, 8000) for tau in taus)
        pa, pb = canonical(a, b)
        balora = min(steps(pa, pb, tau, True, 500) for tau in taus)
        print(f"O8 c = {c}: lora {lora}, balora {balora}")


def path(a, b, z, tau, steps, method):
    products = []
    for _ in range(steps):
        ga, gb = gradients(a, b, z)
        if method == "scaled-gd":
            ga, gb = np.linalg.solve(b.T @ b, ga), gb @ np.linalg.inv(a @ a.T)
        if method == "reflora":
            # S (A A^T) S = B^T B.
            w, q = np.linalg.eigh(a @ a.T)
            half, inv = q * np.sqrt(w) @ q.T, q / np.sqrt(w) @ q.T
            w, q = np.linalg.eigh(half @ (b.T @ b) @ half)
            s = inv @ (q * np.sqrt(w) @ q.T) @ inv
            ga, gb = np.linalg.solve(s, ga), gb @ s
        if method == "lora-pro":
            ib, ia = np.linalg.inv(b.T @ b), np.linalg.inv(a @ a.T)
            right = -ib @ ga @ a.T
            m = np.kron(b.T @ b, np.eye(len(a))) + np.kron(np.eye(len(a)), (a @ a.T).T)
            x = np.linalg.solve(m, right.ravel()).reshape(len(a), len(a))
            ga, gb = ib @ ga + x @ a, (np.eye(len(b)) - b @ ib @ b.T) @ gb @ ia - b @ x
        if "sign" in method:
            ga, gb = ga / (abs(ga) + 1e-8), gb / (abs(gb) + 1e-8)
        a, b = a - tau * ga, b - tau * gb
        if "balora" in method:
            a, b = canonical(a, b)
        if "nearest" in method:
            a, b = nearest(a, b)
        if "scalar" in method:
            a, b = scalar(a, b)
        products.append(b @ a)
    return products


def invariance():
    z, a, b = draw(50, 8, 7), draw(51, 3, 7), draw(52, 8, 3)
    general, orthogonal = draw(53, 3, 3) + 2 * np.eye(3), np.linalg.svd(draw(54, 3, 3))
    orthogonal = orthogonal[0] @ orthogonal[2]
    for method in ("sgd", "scaled-gd", "reflora", "lora-pro", "sign", "sign-scalar", "sign-nearest", "balora", "sign-balora"):
        found = []
        start = canonical(a, b, False) if "balora" in method else (a, b)
        reference = path(*start, z, 0.02, 30, method)
        for m in (general, orthogonal, 2 * np.eye(3)):
            start = np.linalg.solve(m, a), b @ m
            start = canonical(*start, False) if "balora" in method else start
            other = path(*start, z, 0.02, 30, method)
            found.append(max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(other, reference)))
        print(f"O12 {method}:", *(f"{x:.10g}" for x in found))


class Adam:
    def __init__(self, *shapes):
        self.m, self.v, self.t = [np.zeros(s) for s in shapes], [np.zeros(s) for s in shapes], 0

    def step(self, parameters, gradients, rate):
        self.t += 1
        out = []
        for k, (p, g) in enumerate(zip(parameters, gradients)):
            self.m[k] = 0.9 * self.m[k] + 0.1 * g
            self.v[k] = 0.999 * self.v[k] + 0.001 * g * g
            c, d = 1 - 0.9**self.t, 1 - 0.999**self.t
            out.append(p - rate * (self.m[k] / c) / (np.sqrt(self.v[k] / d) + 1e-8))
        return out


RATES = [0.02 * 30 ** (k / 8) for k in range(9)]


def sign_trap():
    print("O13 rates:", *(f"{rate:.6g}" for rate in RATES))
    for name in ("lora", "lapack", "aligned", "nearest", "transported", "scalar", "every-10"):
        row = []
        for scale in (0.1, 1.0, 4.0):
            best = []
            for seed in range(4):
                z = draw(300 + seed, 20, 20) - draw(320 + seed, 20, 20)
                optimum = 0.5 * (np.linalg.svd(z, compute_uv=False)[4:] ** 2).sum()
                losses = []
                for rate in RATES:
                    a, b, adam = scale * draw(310 + seed, 4, 20), np.zeros((20, 4)), Adam((4, 20), (20, 4))
                    for step in range(1, 101):
                        a, b = adam.step((a, b), gradients(a, b, z), rate)
                        old = a, b
                        if name == "lapack":
                            a, b = qr_lapack(a, b)
                        if name == "aligned" or name == "transported" or (name == "every-10" and step % 10 == 0):
                            a, b = canonical(a, b)
                        if name == "nearest":
                            a, b = nearest(a, b)
                        if name == "scalar":
                            a, b = scalar(a, b)
                        if name == "transported":
                            # B_new = B M.
                            m = np.linalg.lstsq(old[1], b, rcond=None)[0]
                            inverse = np.linalg.inv(m)
                            adam.m = [m.T @ adam.m[0], adam.m[1] @ inverse.T]
                            adam.v = [(m.T) ** 2 @ adam.v[0], adam.v[1] @ (inverse.T) ** 2]
                    losses.append(0.5 * np.linalg.norm(b @ a - z) ** 2 - optimum)
                best.append(min(losses))
            row.append(np.median(best))
        print(f"O13 {name}:", *(f"{x:.12g}" for x in row))


def qr_lapack(a, b):
    qa, ra = np.linalg.qr(a.T)
    qb, rb = np.linalg.qr(b)
    u, s, vt = np.linalg.svd(rb @ ra.T)
    return np.sqrt(s)[:, None] * vt @ qa.T, qb @ u * np.sqrt(s)


def flips():
    for r in (2, 4, 8, 16):
        found = []
        for projection in (qr_lapack, canonical):
            count = total = 0
            for seed in range(40):
                a, b = canonical(draw(2000 + seed, r, 30), draw(2100 + seed, 40, r))
                na, nb = projection(a + 1e-3 * draw(2200 + seed, r, 30), b + 1e-3 * draw(2300 + seed, 40, r))
                count += int((((na * a).sum(1) + (nb * b).sum(0)) < 0).sum())
                total += r
            found.append(count / total)
        print(f"sign trap r = {r}: lapack {found[0]:.3f}, aligned {found[1]:.3f}")


def merging():
    found = []
    for seed in range(101):
        (a, b), (c, d) = [(draw(400 + 4 * seed + k, 3, 9), draw(401 + 4 * seed + k, 10, 3)) for k in (0, 2)]
        truth = 0.5 * (b @ a + d @ c)

        def error(x, y):
            # PEFT's "linear": each factor weighted by the root of one half.
            merged = 0.5 * (x[1] + y[1]) @ (x[0] + y[0])
            return np.linalg.norm(merged - truth) / np.linalg.norm(truth)

        raw = error((a, b), (c, d))
        # Signs of canonical pairs are free: those of the incoming factors.
        even = error(canonical(a, b), canonical(c, d))
        found.append((raw, even, error((a, b), (c / 10, d * 10))))
    print("O16 seed 0:", *found[0])
    print("O16 medians:", *np.median(found, axis=0))


def scales():
    found = []
    for seed in range(1001):
        stream = np.random.RandomState(5000 + seed)
        a, b = stream.randn(4, 9), stream.randn(12, 4)
        x, y = stream.randn(2)
        a, b = np.exp(x) * a, np.exp(y) * b
        even = scalar(a, b)
        found.append((kappa(a, b) / balanced_kappa(a, b), kappa(*even) / balanced_kappa(a, b)))
    print("O17 medians over 1001:", *np.median(found, axis=0), "over the first 201:", *np.median(found[:201], axis=0))


def synthetic():
    z = draw(44, 20, 20) - draw(45, 20, 20)
    s = np.linalg.svd(z, compute_uv=False)
    optimum = 0.5 * (s[4:] ** 2).sum()
    print("O18 balanced kappa with residual:", 2 * s[0] / (s[3] - s[4]), "exact:", 2 * s[0] / s[3])
    sign_rates = [5e-3 * 100 ** (k / 19) for k in range(20)]
    descent_rates = [1e-3 * 100 ** (k / 19) for k in range(20)]
    for base, rates in (("sign", sign_rates), ("descent", descent_rates)):
        for init in (0.1, 1.0, 10.0):
            row = []
            for method in ("lora", "balora", "scaled-gd"):
                best = []
                for seed in range(8):
                    losses = []
                    for rate in rates if method != "scaled-gd" else [50 * rate for rate in rates]:
                        a, b = init * draw(600 + seed, 4, 20), np.zeros((20, 4))
                        with np.errstate(all="ignore"):
                            for _ in range(100):
                                ga, gb = gradients(a, b, z)
                                if method == "scaled-gd":
                                    ga, gb = np.linalg.pinv(b.T @ b + 1e-8 * np.eye(4)) @ ga, gb @ np.linalg.inv(a @ a.T + 1e-8 * np.eye(4))
                                if base == "sign":
                                    ga, gb = ga / (abs(ga) + 1e-8), gb / (abs(gb) + 1e-8)
                                a, b = a - rate * ga, b - rate * gb
                                if not (a * a).sum() + (b * b).sum() < 1e12:
                                    break
                                if method == "balora":
                                    a, b = canonical(a, b)
                            loss = 0.5 * np.linalg.norm(b @ a - z) ** 2 - optimum
                        losses.append(loss if np.isfinite(loss) else np.inf)
                    best.append(min(losses))
                row.append(np.median(best))
            print(f"O18 {base}, start {init}: lora, balora, scaled-gd:", *(f"{x:.12g}" for x in row))


if __name__ == "__main__":
    for oracle in (conservation, rates, sensing, invariance, flips, sign_trap, merging, scales, synthetic):
        oracle()
