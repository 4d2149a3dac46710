"""One Lanczos step (JVP + VJP) of a SmolLM2 layer by torch.func with the math attention path: seconds and peak memory.

    OMP_NUM_THREADS=2 python3 benches/peers/layer_jacobian.py N [THREADS]

Random weights of SmolLM2-135M's shapes (times do not depend on values): hidden 576, 9 query heads, 3 key heads, rotary.
Peer of `cargo run --release -p metastable --example layer_products -- MODEL N LAYER`. Each product includes its own
linearisation, as `torch.func.jvp` and `vjp` are used by the authors' power iteration; `vjp` is also timed with its
closure built once. Peak memory is the growth of VmHWM over the products.
"""

import sys
import time

import torch
import transformers

n = int(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
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


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def best(work):
    """Best wall time and mean processor time of ten."""
    times, cpu = [], time.process_time()
    for _ in range(10):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return f"{min(times):.4f} s (cpu {(time.process_time() - cpu) / 10:.4f})"


e = torch.randn_like(x)
for name, f in [("Attention", of_attention), ("Block", of_block)]:
    before = peak()
    jvp = best(lambda: torch.func.jvp(f, (x,), (e,)))
    vjp = best(lambda: torch.func.vjp(f, x)[1](e))
    _, pull = torch.func.vjp(f, x)
    closure = best(lambda: pull(e))
    print(f"{name} n = {n}: jvp {jvp}, vjp {vjp}, closure only {closure}, peak +{peak() - before:.1f} MiB")
