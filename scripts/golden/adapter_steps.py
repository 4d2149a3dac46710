#!/usr/bin/env python3
"""Twelve steps of every method under torch.optim.AdamW with decoupled weight decay, in PyTorch and NumPy's draws.

The loss is ½‖s·B A - Z‖² of Z [7, 6], r = 3, s = 1.5; autograd gives the gradients, torch.optim.AdamW (rate 0.03, betas
0.9 and 0.999, epsilon 1e-8, weight decay 0.1) moves the factors, and what a method does to gradients, factors and moments
is written here from its formula with torch.linalg, sharing nothing with the library. LoRA-RITE has an optimizer of its
own. For crates/metastable-model/src/train/tests/decay.rs, which repeats the draws with the library's own RandomState.
Run with torch 2.x: OMP_NUM_THREADS=1 python scripts/golden/adapter_steps.py; prints, for each method, the sum and the square sum of
A and of B and one entry of each.
"""
import numpy as np
import torch

torch.set_default_dtype(torch.float64)
SCALE, RATE, DECAY, STEPS, R = 1.5, 0.03, 0.1, 12, 3


def draw(seed, rows, columns):
    return torch.tensor(np.random.RandomState(seed).randn(rows, columns))


Z, A0, B0 = draw(800, 7, 6), 0.4 * draw(801, R, 6), 0.4 * draw(802, 7, R)


def inverse(m):
    return torch.linalg.inv(m)


def canonical(a, b):
    u, s, vt = torch.linalg.svd(b @ a)
    root = s[:R].sqrt()
    new_a, new_b = root[:, None] * vt[:R], u[:, :R] * root
    sign = torch.where((new_a * a).sum(1) + (new_b * b).sum(0) < 0, -1.0, 1.0)
    return sign[:, None] * new_a, new_b * sign


def nearest(a, b):
    new_a, new_b = canonical(a, b)
    u, _, vt = torch.linalg.svd(new_a @ a.T + new_b.T @ b)
    return (u @ vt).T @ new_a, new_b @ (u @ vt)


def scalar(a, b):
    c = (b.norm() / a.norm()).sqrt()
    return c * a, b / c


def precondition(method, a, b, ga, gb):
    eye = torch.eye(R)
    if method == "lora-fa":
        return None, gb @ inverse(a @ a.T + 1e-8 * eye) / SCALE**2
    if method == "riemannian":
        return inverse(b.T @ b + 0.01 * eye) @ ga, gb @ inverse(a @ a.T + 0.01 * eye)
    if method == "reflora":
        w, q = torch.linalg.eigh(a @ a.T)
        half, inv = q * w.sqrt() @ q.T, q / w.sqrt() @ q.T
        w, q = torch.linalg.eigh(half @ (b.T @ b) @ half)
        s = inv @ (q * w.sqrt() @ q.T) @ inv
        return inverse(s) @ ga, gb @ s
    if method == "lora-pro":
        ib, ia = inverse(b.T @ b), inverse(a @ a.T)
        m = torch.kron(b.T @ b, eye) + torch.kron(eye, a @ a.T)
        x = torch.linalg.solve(m, (-ib @ ga @ a.T / SCALE**2).reshape(-1)).reshape(R, R)
        return ib @ ga / SCALE**2 + x @ a, (torch.eye(7) - b @ ib @ b.T) @ gb @ ia / SCALE**2 - b @ x
    return ga, gb


PROJECTIONS = {"balora": canonical, "balora-untransported": canonical, "balora-every-3": canonical,
               "balora-nearest": nearest, "norm-balance": scalar, "norm-balance-untransported": scalar}


def run(method, decay):
    a, b = torch.nn.Parameter(A0.clone()), torch.nn.Parameter(B0.clone())
    groups = [{"params": [a], "lr": RATE}, {"params": [b], "lr": RATE * (4 if method == "lora-plus" else 1)}]
    if method == "lora-fa":
        groups = groups[1:]
        a.requires_grad_(False)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        (0.5 * (SCALE * b @ a - Z).square().sum()).backward()
        with torch.no_grad():
            ga = a.grad if a.grad is not None else torch.zeros_like(a)
            ga, gb = precondition(method, a, b, ga, b.grad)
            if ga is not None:
                a.grad = ga
            b.grad = gb
        optimizer.step()
        project = PROJECTIONS.get(method)
        if project is None or (method == "balora-every-3" and step % 3):
            continue
        with torch.no_grad():
            new_a, new_b = project(a, b)
            if "untransported" not in method:
                m = torch.linalg.lstsq(b, new_b).solution
                w = inverse(m)
                of_a, of_b = optimizer.state[a], optimizer.state[b]
                of_a["exp_avg"].copy_(m.T @ of_a["exp_avg"])
                of_b["exp_avg"].copy_(of_b["exp_avg"] @ w.T)
                of_a["exp_avg_sq"].copy_(m.T.square() @ of_a["exp_avg_sq"])
                of_b["exp_avg_sq"].copy_(of_b["exp_avg_sq"] @ w.T.square())
            a.data, b.data = new_a, new_b
    return a.detach(), b.detach()


def rite(decay):
    """LoRA-RITE by its published rule: moments live in the basis of the other factor."""
    a, b = A0.clone(), B0.clone()
    state = {"a": None, "b": None}

    def advance(name, basis, g, t):
        if state[name] is None:
            state[name] = [basis, torch.zeros_like(g), torch.zeros(R, R)]
        old, m, v = state[name]
        p = basis.T @ old
        m, v = m @ p.T, p @ v @ p.T
        beta1, beta2 = (x * (1 - x ** (t - 1)) / (1 - x**t) for x in (0.9, 0.999))
        v = beta2 * v + (1 - beta2) * g.T @ g / len(g)
        w, q = torch.linalg.eigh(v)
        m = beta1 * m + (1 - beta1) * g @ (q / (w.clamp(min=0).sqrt() + 1e-6) @ q.T)
        state[name] = [basis, m, v]
        return m

    for t in range(1, STEPS + 1):
        g = 0.05 * (SCALE * b @ a - Z)
        ga, gb = SCALE * b.T @ g, SCALE * g @ a.T
        (qa, ra), (qb, rb) = torch.linalg.qr(a.T), torch.linalg.qr(b)
        left, right = ga.T @ inverse(rb), gb @ inverse(ra)
        norm = (left.square().sum() + right.square().sum()).sqrt()
        assert norm**2 <= left.numel() + right.numel()
        factor = min(1.0, float(1 / norm))
        step_a = advance("a", qb, factor * left, t) @ inverse(rb).T
        step_b = advance("b", qa, factor * right, t) @ inverse(ra).T
        a, b = (1 - RATE * decay) * a - RATE * step_a.T, (1 - RATE * decay) * b - RATE * step_b
    return a, b


METHODS = ["lora", "lora-plus", "lora-fa", "riemannian", "reflora", "lora-pro", *PROJECTIONS]
for method in [*METHODS, "lora-rite"]:
    for decay in (DECAY, 0.0):
        a, b = rite(decay) if method == "lora-rite" else run(method, decay)
        numbers = [a.sum(), a.square().sum(), a[1, 2], b.sum(), b.square().sum(), b[3, 1]]
        print(f'("{method}", {decay}, [' + ", ".join(f"{float(x):.12f}" for x in numbers) + "]),")
print("torch", torch.__version__)
