"""Golden values of SmolLM2-135M-Instruct out of its GGUF file, made once by `gguf` and `transformers` (F32, CPU).

    OMP_NUM_THREADS=1 python3 scripts/golden/smollm2.py FILE.gguf crates/metastable-model/tests/golden

Writes smollm2.safetensors and smollm2.md. Needs numpy, torch, transformers, gguf, safetensors. Not run by the tests.
"""

import importlib.metadata
import pathlib
import platform
import sys

import gguf
import numpy as np
import safetensors.torch
import torch
import transformers

file, out_dir = map(pathlib.Path, sys.argv[1:3])
torch.set_num_threads(1)
# Of "The quick brown fox jumps over the lazy dog. It was the best of times, ...": the text T2 of the metadata.
T2 = (
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times, "
    "it was the age of wisdom, it was the age of foolishness."
)
PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"

reader = gguf.GGUFReader(file)
config = transformers.LlamaConfig(
    hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
    vocab_size=49152, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True,
    attn_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=2,
)
names = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
state = {}
for tensor in reader.tensors:
    parts = tensor.name.split(".")
    prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    weight = weight.reshape([int(side) for side in reversed(tensor.shape)])
    heads = {"attn_q": 9, "attn_k": 3}.get(parts[-2])
    if heads:
        weight = weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)
    state[f"{prefix}{names[parts[-2]]}.weight"] = torch.from_numpy(np.ascontiguousarray(weight))
model = transformers.LlamaForCausalLM(config).float().eval()
missing, unexpected = model.load_state_dict(state, strict=False)
assert set(missing) == {"lm_head.weight"} and not unexpected, (missing, unexpected)
model.tie_weights()

ids = torch.tensor([int(i) for i in sys.argv[3].split(",")]) if len(sys.argv) > 3 else None
if ids is None:
    fields = reader.fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    import tokenizers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds) if kind == 3])
    ids = torch.tensor(tokenizer.encode(T2).ids)
    prompt = torch.tensor(tokenizer.encode(PROMPT).ids)

before = []
hook = model.model.layers[-1].register_forward_hook(lambda _, __, out: before.append(out[0] if isinstance(out, tuple) else out))
with torch.no_grad():
    out = model(ids[None], labels=ids[None], output_hidden_states=True)
hook.remove()
answer = prompt
for _ in range(8):
    with torch.no_grad():
        answer = torch.cat([answer, model(answer[None]).logits[0, -1:].argmax(-1)])
hidden = torch.stack([h[0] for h in out.hidden_states])


def mean_cosine(x):
    x = torch.nn.functional.normalize(x.double(), dim=-1)
    n = len(x)
    return ((x @ x.T).sum() - n) / (n * (n - 1))


golden = {
    "t2.ids": ids, "prompt.ids": prompt, "answer.ids": answer[len(prompt):],
    # Five of the tokens in full, every 16th coordinate of all: all of it would be 2.8 MB.
    "t2.rows": hidden[:, ::9].contiguous(), "t2.columns": hidden[:, :, ::16].contiguous(),
    "t2.before": before[0].reshape(hidden.shape[1:])[:, ::4].contiguous(),
    "t2.logits": out.logits[0, :, ::64].contiguous(),
    "t2.mean_cosine": torch.stack([mean_cosine(h) for h in hidden]).float(),
    "t2.perplexity": out.loss.exp().reshape(1),
}
print("perplexity", out.loss.exp().item(), "answer", golden["answer.ids"].tolist(), "cosines", golden["t2.mean_cosine"].tolist())
safetensors.torch.save_file(golden, out_dir / "smollm2.safetensors", {"t2": T2, "prompt": PROMPT})
(out_dir / "smollm2.md").write_text(
    "# Provenance of smollm2.safetensors\n\n"
    "Made once by `scripts/golden/smollm2.py` from SmolLM2-135M-Instruct.Q4_1.gguf\n"
    "(sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53, as `scripts/fetch-models` gets it):\n"
    "dequantised by the Python package `gguf`, LlamaForCausalLM of the `transformers` library, F32, eager attention, one thread.\n\n"
    f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
    f"gguf {importlib.metadata.version('gguf')}.\n\n"
    + "\n".join(f"- `{name}` {list(tensor.shape)}" for name, tensor in golden.items()) + "\n"
)
