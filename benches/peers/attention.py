"""One softmax attention field in several programs, in turn: x_i -> sum_j softmax_j(4 <x_i, x_j>) x_j on the unit sphere.

Started by `benches/peers/attention`. Every program runs in its own process, which answers a line `f32 8192 3` on its
standard input by `SECONDS ERROR` of one repetition, after a first one that is not timed. Repetitions go around the
programs (two fields in turn, of which the faster counts), so that a busy machine troubles all alike; all but the one at work are stopped. All threads everywhere.
Scores of this field are symmetric, which `ours` makes use of; `general` is ours for queries that are not the keys, for
which all peers do what they do here.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time

BETA = 4.0
CASES = ["f32:8192:3", "f64:8192:3", "f32:32768:3", "f64:32768:3", "f32:8192:64", "f64:8192:64", "f32:4096:128", "f64:4096:128"]
PEERS = ["torch", "jax", "numpy", "keops"]
# A peer that needs longer than this for one field is run once.
PATIENCE = 10.0
# Rows of scores that NumPy and JAX hold at a time: more run out of the cache, fewer pay for calls.
ROWS = 1024
# What keeps ours from the peak, by the largest dimension it holds for.
LIMITS = [(8, "operations of 2^x beside the products"), (64, "2^x and packing, else products"), (1 << 30, "products")]
# Fused products that our 2^x takes for each pair, besides the d of scores and the d of messages.
POWER_PRODUCTS = {"f32": 5, "f64": 7}
# Scores and powers that ours computes for a pair: one for both orders where they are symmetric, as here.
SCORES = {"ours": 0.5, "general": 1.0}


def field(peer, numbers, count, dim):
    """The tokens, and a function that computes their field."""
    import numpy

    kind = {"f32": numpy.float32, "f64": numpy.float64}[numbers]
    tokens = numpy.random.default_rng(0).standard_normal((count, dim))
    tokens = (tokens / numpy.linalg.norm(tokens, axis=1, keepdims=True)).astype(kind)
    if peer == "numpy":
        def compute():
            out = numpy.empty_like(tokens)
            for first in range(0, count, ROWS):
                scores = (kind(BETA) * tokens[first:first + ROWS]) @ tokens.T
                scores -= scores.max(1, keepdims=True)
                numpy.exp(scores, out=scores)
                out[first:first + ROWS] = (scores @ tokens) / scores.sum(1, keepdims=True)
            return out
        return tokens, compute
    if peer == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        there = jax.numpy.asarray(tokens)

        @jax.jit
        def attention(x):
            rows = lambda q: jax.nn.softmax(BETA * (q @ x.T), axis=-1) @ x
            chunk = min(ROWS, count)
            return jax.lax.map(rows, x.reshape(count // chunk, chunk, dim)).reshape(count, dim)
        return tokens, lambda: attention(there).block_until_ready()
    import torch

    torch.set_num_threads(os.cpu_count())
    there = torch.from_numpy(tokens)
    if peer == "torch":
        batch = there[None, None]
        attention = torch.nn.functional.scaled_dot_product_attention

        def compute():
            with torch.no_grad():
                return attention(batch, batch, batch, scale=BETA)[0, 0]
        return tokens, compute
    from pykeops.torch import LazyTensor

    def compute(there=there):
        rows, columns = LazyTensor(there[:, None, :].contiguous()), LazyTensor(there[None, :, :].contiguous())
        return (BETA * (rows | columns)).sumsoftmaxweight(columns, axis=1)

    # KeOps compiles a kernel for each type and dimension, whatever n is: ten seconds that belong to no field.
    compute(there[:16])
    return tokens, compute


def error(tokens, out):
    """The largest error of three rows against f64."""
    import numpy

    exact = tokens.astype(numpy.float64)
    rows = [0, 17, len(tokens) - 1]
    weights = numpy.exp(BETA * (exact[rows] @ exact.T - 1.0))
    return abs(numpy.asarray(out)[rows] - weights @ exact / weights.sum(1, keepdims=True)).max()


def serve(peer):
    answers = os.fdopen(os.dup(1), "w")
    # Whatever the libraries print goes elsewhere.
    os.dup2(2, 1)
    current = None
    for line in sys.stdin:
        if line != current:
            numbers, count, dim = line.split()
            tokens, compute = field(peer, numbers, int(count), int(dim))
            seconds, out = timed(compute)
            current = line
        # A slow peer's first run counts; KeOps has compiled its kernel before.
        if seconds <= PATIENCE:
            seconds, out = timed(compute)
        print(seconds, error(tokens, out), file=answers, flush=True)


def timed(compute):
    begin = time.perf_counter()
    out = compute()
    return time.perf_counter() - begin, out


class Program:
    def __init__(self, name):
        self.name = name
        own = [os.environ["OURS"]] if name in SCORES else [sys.executable, __file__, "--serve", name]
        self.process = subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.process.send_signal(signal.SIGSTOP)

    def run(self, case):
        # Only one program is awake: threads of some libraries go on spinning for a while when their work is done.
        self.process.send_signal(signal.SIGCONT)
        answer = self.ask(case)
        # The first field after a sleep finds cold caches, and threads on any core.
        if answer and answer[0] <= PATIENCE:
            answer = min(answer, self.ask(case) or answer)
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def ask(self, case):
        words = case.split(":") + (["general"] if self.name == "general" else [])
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        return (float(answer[0]), float(answer[1])) if len(answer) == 2 else None


def compare(case, programs, runs, peak):
    numbers, count, dim = case.split(":")
    count, dim = int(count), int(dim)
    times, errors = {}, {}
    for _ in range(runs):
        for program in programs:
            found = times.setdefault(program.name, [])
            if program.process.poll() is not None or (found and found[0] > PATIENCE):
                continue
            answer = program.run(case)
            if answer:
                found.append(answer[0])
                errors[program.name] = answer[1]
    ours = statistics.median(times["ours"])
    for program in programs:
        found = times[program.name]
        if not found:
            print(f"| {numbers}, {count}, {dim} | {program.name} | did not answer | | | | | | | |", flush=True)
            continue
        median, pairs = statistics.median(found), count * count
        share, limit = f"{4e-9 * dim * pairs / median / peak[numbers]:.0%}", ""
        if program.name in SCORES:
            products = dim + SCORES[program.name] * (dim + POWER_PRODUCTS[numbers])
            share = f"{2e-9 * products * pairs / median / peak[numbers]:.0%}"
            limit = next(limit for largest, limit in LIMITS if dim <= largest)
        print(f"| {numbers}, {count}, {dim} | {program.name} | {1e3 * median:.1f} | {1e3 * min(found):.1f} | {median / ours:.1f}"
              f" | {pairs / median / 1e9:.2f} | {4e-9 * dim * pairs / median:.1f} | {share} | {errors[program.name]:.1e} | {limit} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="?", type=int, default=7)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--without", default="")
    parser.add_argument("--serve")
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    measure = lambda: subprocess.run([os.environ["OURS"], "peak"], capture_output=True, text=True, check=True).stdout.split()
    # A peak is what the machine can do: the best of three.
    peak = dict(zip(["f32", "f64"], (max(map(float, found)) for found in zip(measure(), measure(), measure()))))
    print(f"{os.cpu_count()} cores, {peak['f32']:.0f} GFLOP/s of fused products in f32, {peak['f64']:.0f} in f64; {arguments.runs} runs in turn")
    print()
    print("| type, n, d | program | median ms | best ms | / ours | Gexp/s | GFLOP/s | of peak | error | limited by |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    programs = [Program(name) for name in ["ours", "general", *PEERS] if name not in arguments.without.split(",")]
    for case in arguments.only.split(","):
        compare(case, programs, arguments.runs, peak)
    for program in programs:
        program.process.send_signal(signal.SIGCONT)
        program.process.stdin.close()


main()
