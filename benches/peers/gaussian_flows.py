"""The recipe of the authors' script (arXiv 2501.18322) in NumPy: explicit Euler on covariances, clipped eigenvalues.

Reads the flows that `gaussian_flows --write FILE` drew. Step, tolerances and thresholds are those of the published
histograms at d = 5: h = 0.02; converged where |rhs|_F < 1e-4; diverged where tr S > 1e3; at most 60000 steps; after
every step negative eigenvalues become 1e-14; rank = eigenvalues above 0.1.
All flows advance as one [100, 5, 5] batch, from which a flow drops out when it stops; with --loop, one after the other,
as the script does. Prints the tally and, last, `seconds S`.
"""

import argparse
import collections
import json
import pathlib
import struct
import time

import numpy as np

STEP, CONVERGED, DIVERGED, STEPS, RANK = 0.02, 1e-4, 1e3, 60000, 0.1


def load(file):
    data = pathlib.Path(file).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    tensor = lambda entry: np.frombuffer(body[slice(*entry["data_offsets"])], "<f8").reshape(entry["shape"])
    return tuple(tensor(header[name]) for name in ("logits", "value", "covariance"))


def classify(logits, value, covariance):
    """Names of what becomes of a batch [b, d, d]."""
    names = np.full(len(covariance), "not finished", dtype=object)
    alive = np.arange(len(covariance))
    state = covariance.copy()
    for _ in range(STEPS):
        drift = value @ state @ logits @ state
        drift = drift + drift.transpose(0, 2, 1)
        still = np.sqrt((drift**2).sum(axis=(1, 2))) < CONVERGED
        gone = np.trace(state, axis1=1, axis2=2) > DIVERGED
        if still.any() or gone.any():
            for k in np.flatnonzero(still & ~gone):
                names[alive[k]] = f"collapse to rank {(np.linalg.eigvalsh(state[k]) > RANK).sum()}"
            names[alive[gone]] = "blow up or growth"
            keep = ~(still | gone)
            alive, state, drift = alive[keep], state[keep], drift[keep]
            logits, value = logits[keep], value[keep]
            if not len(alive):
                break
        values, vectors = np.linalg.eigh(state + STEP * drift)
        values = np.where(values < 0.0, 1e-14, values)
        state = (vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1)
    return list(names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--loop", action="store_true")
    options = parser.parse_args()
    flows = load(options.file)
    start = time.perf_counter()
    if options.loop:
        names = [name for k in range(len(flows[0])) for name in classify(*(part[k : k + 1] for part in flows))]
    else:
        names = classify(*flows)
    seconds = time.perf_counter() - start
    for name, count in sorted(collections.Counter(names).items()):
        print(f"{count:4} {name}")
    print(f"seconds {seconds:.4f}")


main()
