"""The T(eps) diagram in NumPy: explicit Euler, dt = 0.1, all 28 points advanced together as one [28, 20, 20] batch.

The peer of `cargo run --release -p metastable --example phase_diagram -- --method euler`: the same tokens, steps,
radius and end times, and points leave the batch as soon as they have departed, as they do there.
Scores are shifted by their row maximum and the factor e^{2t} is clamped, so nothing overflows.
With --loop, one point after the other (slower); with --full, no point leaves early.
Prints the departure times and, last, `seconds S`.
"""

import argparse
import pathlib
import time

import numpy as np

EPSILONS = np.array(
    [0.001, 0.0016, 0.0017, 0.0018, 0.0019, 0.002, 0.0021, 0.0022, 0.0023, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008,
     0.009, 0.01, 0.011, 0.012, 0.015, 0.025, 0.03, 0.04, 0.05, 0.055, 0.06, 0.065, 0.075]
)
DT, RADIUS, BASE_END, CONSTANT = 0.1, 0.1, 30.0, 0.5400755555


def field(tokens, time, epsilon):
    """z_i' = sum_j P_ij V (z_j - z_i) of a batch [b, n, 2], V = diag(1, 1 - eps)."""
    decay = np.ones((len(epsilon), 1, 2))
    decay[:, 0, 1] = np.exp(-2.0 * epsilon * time)
    scores = (tokens * decay) @ tokens.transpose(0, 2, 1)
    scores -= scores.max(axis=2, keepdims=True)
    scores *= np.exp(min(2.0 * time, 598.0))
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    velocity = scores @ tokens
    velocity -= tokens
    velocity[:, :, 1] *= (1.0 - epsilon)[:, None]
    return velocity


def base_clusters(tokens):
    """The cluster that each token has joined at the end of the run with V = I, [n, 2]."""
    state = tokens[None].copy()
    for k in range(round(BASE_END / DT)):
        state += DT * field(state, k * DT, np.zeros(1))
    return state[0]


def follow(tokens, targets, epsilons, full):
    """First grid times of arrival at the targets and of departure from them, for each eps."""
    count = len(epsilons)
    arrival, departure = np.full(count, np.nan), np.full(count, np.nan)
    left = np.arange(count)
    state = np.repeat(tokens[None], count, axis=0)
    steps = np.ceil((1.2 * CONSTANT / epsilons + 20.0) / DT).astype(int)
    k = 0
    while len(left):
        state += DT * field(state, k * DT, epsilons[left])
        k += 1
        offset = state - targets
        far = (offset * offset).sum(axis=2).max(axis=1) > RADIUS * RADIUS
        here = ~np.isnan(arrival[left])
        arrival[left[~here & ~far]] = k * DT
        leaving = here & far & np.isnan(departure[left])
        departure[left[leaving]] = k * DT
        done = k >= steps[left] if full else leaving | (k >= steps[left])
        if done.any():
            left, state = left[~done], state[~done]
    return arrival, departure


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    file = pathlib.Path(__file__).parents[2] / "examples" / "tokens" / "seed-42.npy"
    tokens = np.load(file)
    start = time.perf_counter()
    targets = base_clusters(tokens)
    batches = np.split(EPSILONS, len(EPSILONS)) if arguments.loop else [EPSILONS]
    times = [follow(tokens, targets, batch, arguments.full) for batch in batches]
    seconds = time.perf_counter() - start
    arrival, departure = (np.concatenate(part) for part in zip(*times))
    for epsilon, a, d in zip(EPSILONS, arrival, departure):
        print(f"{epsilon:.4f} {a:.1f} {d:.1f}")
    print(f"seconds {seconds:.4f}")


if __name__ == "__main__":
    main()
