"""One Lanczos step (JVP + VJP) of a SmolLM2 layer: torch.func with the math attention path, and ours, in one run.

    python3 benches/peers/layer_jacobian.py MODEL [N ...] [--threads 2] [--repeats 10] [--ours PROGRAM]

MODEL is a SmolLM2-135M checkpoint for ours (a folder or a GGUF file); torch takes random weights of the same shapes
(times do not depend on values): hidden 576, 9 query heads, 3 key heads of 64, causal, rotary. N defaults to 512 and 2048.
PROGRAM is the example `layer_products` of crates/metastable, by default where cargo puts it:

    cargo build --release -p metastable --example layer_products

Each product of torch includes its own linearisation, as the authors' power iteration uses `torch.func.jvp` and `vjp`;
`vjp` is also timed with its closure built once. Ours keeps queries, keys, values, log-sums and messages of the point.
Every measurement has a process of its own: best wall time of the repetitions, and the growth of the peak of memory
(VmHWM) over the products from what the process held before them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time


def fresh_peak():
    """The peak of memory in MiB, counted from now on: set to what the process holds, as ours does."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
    return peak()


def peak():
    """MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def torch_products(n, threads, repeats, part):
    """Seconds of jvp, vjp and the closure of vjp alone, and MiB."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    config = transformers.LlamaConfig(
        hidden_size=576, num_hidden_layers=1, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
        vocab_size=64, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0, attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.LlamaModel(config).float().eval()
    x = torch.randn(n, 576)
    position = model.rotary_emb(x[None], torch.arange(n)[None])
    mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
    attention, layer = model.layers[0].self_attn, model.layers[0]

    def of_attention(z):
        return attention(hidden_states=z[None], position_embeddings=position, attention_mask=mask)[0][0]

    def of_block(z):
        out = layer(z[None], position_embeddings=position, attention_mask=mask)
        return (out[0] if isinstance(out, tuple) else out).reshape(z.shape)

    def best(work):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    function = of_attention if part == "Attention" else of_block
    e, before = torch.randn_like(x), fresh_peak()
    jvp = best(lambda: torch.func.jvp(function, (x,), (e,)))
    vjp = best(lambda: torch.func.vjp(function, x)[1](e))
    grown = peak() - before
    _, pull = torch.func.vjp(function, x)
    return {"jvp": jvp, "vjp": vjp, "closure": best(lambda: pull(e)), "mib": grown}


def of_torch(n, part, arguments):
    own = [sys.executable, __file__, "-", str(n), "--threads", str(arguments.threads), "--repeats", str(arguments.repeats), "--serve", part]
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))
    answer = subprocess.run(own, capture_output=True, text=True, env=environment)
    if answer.returncode != 0:
        sys.exit(f"torch at n = {n} failed:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


LINE = re.compile(r"(\w+) n = \d+: J E ([\d.]+) s .*?, Jᵀ G ([\d.]+) s .*?, peak \+([\d.]+) MiB")


def of_ours(n, arguments):
    """The times and memory of both parts."""
    environment = dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads))
    answer = subprocess.run([arguments.ours, arguments.model, str(n), "0"], capture_output=True, text=True, env=environment)
    if answer.returncode != 0:
        sys.exit(f"{arguments.ours} failed:\n{answer.stderr}")
    found = {part: {"jvp": float(jvp), "vjp": float(vjp), "mib": float(mib)} for part, jvp, vjp, mib in LINE.findall(answer.stdout)}
    if set(found) != {"Attention", "Block"}:
        sys.exit(f"{arguments.ours} answered what this script does not read:\n{answer.stdout}")
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("n", nargs="*", type=int, default=[512, 2048])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--ours", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/examples/layer_products"))
    parser.add_argument("--serve")
    arguments = parser.parse_args()
    if arguments.serve:
        return print(json.dumps(torch_products(arguments.n[0], arguments.threads, arguments.repeats, arguments.serve)))
    print("| part, n | program | JVP | VJP | Lanczos step | torch / ours | extra memory | torch / ours |")
    print("|---|---|---|---|---|---|---|---|")
    for n in arguments.n:
        ours = of_ours(n, arguments)
        for part in ["Attention", "Block"]:
            peer, own = of_torch(n, part, arguments), ours[part]
            step = lambda of: of["jvp"] + of["vjp"]
            faster = step(peer) / max(step(own), 1e-9)
            smaller = f"{peer['mib'] / own['mib']:.1f}" if own["mib"] > 0 else "-"
            for name, of, ratios in [("torch.func", peer, ("1", "1")), ("ours", own, (f"{faster:.1f}", smaller))]:
                print(f"| {part}, {n} | {name} | {1e3 * of['jvp']:.1f} ms | {1e3 * of['vjp']:.1f} ms | {1e3 * step(of):.1f} ms | {ratios[0]} | {of['mib']:.1f} MiB | {ratios[1]} |")
            print(f"|  | torch, closure of vjp built once | | {1e3 * peer['closure']:.1f} ms | | | | |", flush=True)


main()
