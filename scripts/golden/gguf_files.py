"""Golden values of GGUF files, made once by the Python package `gguf` (of llama.cpp) and the `transformers` library.

    OMP_NUM_THREADS=1 python3 scripts/golden/gguf_files.py crates/metastable-model/tests

Writes golden/blocks.safetensors (random blocks of every type and their numbers), fixtures/tiny-llama.gguf (the trained
fixture tiny-llama in mixed types, queries and keys paired as llama.cpp does) and golden/gguf.{safetensors,md} (hidden
states and logits of exactly these weights). Needs numpy, torch, transformers, gguf, safetensors. Not run by the tests.
"""

import json
import pathlib
import platform
import sys

import gguf
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
import transformers
from gguf import GGMLQuantizationType as Kind

tests = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)
KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
# Where the halves stand that a block is scaled by.
HALVES = {Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0], Kind.Q5_1: [0, 2], Kind.Q8_0: [0], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208]}

random = np.random.default_rng(3)
blocks = {}
for kind in KINDS:
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    count = 5 if numbers > 1 else 64
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES.get(kind, []):
        data[:, at : at + 2] = random.normal(0, 0.1, count).astype(np.float16).view(np.uint8).reshape(count, 2)
    if numbers == 1:
        floats = random.normal(0, 1, count).astype(np.float32)
        data = gguf.quants.quantize(floats, kind).view(np.uint8)
    values = gguf.quants.dequantize(data.reshape(1, -1).view(np.float32 if kind == Kind.F32 else np.float16 if kind == Kind.F16 else np.uint8), kind)
    blocks[f"{kind.name}.bytes"] = np.ascontiguousarray(data.reshape(-1))
    blocks[f"{kind.name}.values"] = np.ascontiguousarray(values.reshape(-1).astype(np.float32))
safetensors.numpy.save_file(blocks, tests / "golden" / "blocks.safetensors")

source = tests / "fixtures" / "tiny-llama"
config = json.loads((source / "config.json").read_text())
tokenizer = json.loads((source / "tokenizer.json").read_text())
weights = safetensors.numpy.load_file(source / "model.safetensors")
writer = gguf.GGUFWriter(tests / "fixtures" / "tiny-llama.gguf", "llama")
writer.add_name("tiny-llama")
writer.add_block_count(config["num_hidden_layers"])
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(config["num_attention_heads"])
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(config["rope_theta"])
writer.add_rope_dimension_count(16)
tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens)
writer.add_token_types([3 if token in {t["content"] for t in tokenizer["added_tokens"]} else 1 for token in tokens])
merges = tokenizer["model"]["merges"]
writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])


def paired(weight, heads):
    """llama.cpp's order: rows p and p + head_dim/2 of a head become neighbours."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
cycle = [Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.F16, Kind.Q8_0, Kind.Q4_1, Kind.BF16, Kind.Q4_0]
used = {}
for index, (name, weight) in enumerate(sorted(weights.items())):
    if weight.ndim == 1:
        kind = Kind.F32
    elif weight.shape[1] % 32:
        kind = Kind.F16
    else:
        kind = cycle[index % len(cycle)]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
    stored = weight if heads is None else paired(weight, heads)
    data = gguf.quants.quantize(stored, kind)
    back = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(weight.shape)
    if heads is not None:
        back = back.reshape(heads, back.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)
    used[name] = torch.from_numpy(np.ascontiguousarray(back))
    writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_shape=data.shape, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, attn_implementation="eager")).float().eval()
missing, unexpected = model.load_state_dict(used, strict=False)
assert set(missing) == {"lm_head.weight"} and not unexpected, (missing, unexpected)
model.tie_weights()
ids = torch.arange(4, 76) * 7 % 500 + 4
with torch.no_grad():
    out = model(ids[None], output_hidden_states=True)
golden = {"ids": ids, "hidden": torch.stack([h[0] for h in out.hidden_states]), "logits": out.logits[0, ::8].contiguous()}
safetensors.torch.save_file(golden, tests / "golden" / "gguf.safetensors")
(tests / "golden" / "gguf.md").write_text(
    "# Provenance of gguf.safetensors, blocks.safetensors and ../fixtures/tiny-llama.gguf\n\n"
    "Made once by `scripts/golden/gguf_files.py`: blocks by the Python package `gguf`, hidden states by `transformers`, F32.\n\n"
    f"python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, "
    f"transformers {transformers.__version__}, gguf {__import__('importlib.metadata').metadata.version('gguf')}.\n"
)
