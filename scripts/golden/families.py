"""Golden hidden states and logits of all families, made once by the `transformers` library (F32, eager attention, CPU).

    OMP_NUM_THREADS=1 python3 scripts/golden/families.py crates/metastable-model/tests

Reads fixtures/tiny-{gpt2,llama,albert}, which were trained with that library on public-domain text; writes beside them
`fixtures/random.safetensors`, small random models of the other choices (their configs and tensors in one file), and
`golden/families.{safetensors,md}`. Needs torch, transformers, tokenizers, safetensors; their versions go into the
provenance. Not run by the tests.
"""

import json
import pathlib
import platform
import sys

import safetensors
import safetensors.torch
import tokenizers
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM

tests = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)
TEXT = """ROMEO:
But, soft! what light through yonder window breaks?
It is the east, and Juliet is the sun.
Arise, fair sun, and kill the envious moon,
Who is already sick and pale with grief,
That thou her maid art far more fair than she."""

golden, configs, weights = {}, {}, {}


def run(name, model, ids, mask=None):
    """Hidden states of all levels as the library lists them, the stream before the final norm, logits."""
    model.eval()
    assert model.dtype == torch.float32
    before = []
    body = model.base_model
    blocks = getattr(body, "layers", None) or getattr(body, "h", None)
    if blocks is not None:
        take = lambda _, __, out: before.append(out[0] if isinstance(out, tuple) else out)
        hook = blocks[-1].register_forward_hook(take)
    with torch.no_grad():
        out = model(input_ids=ids[None], attention_mask=None if mask is None else mask[None], output_hidden_states=True)
    golden[f"{name}.ids"] = ids
    if mask is not None:
        golden[f"{name}.mask"] = mask
    golden[f"{name}.hidden"] = torch.stack([h[0] for h in out.hidden_states])
    if before:
        hook.remove()
        golden[f"{name}.before"] = before[0].reshape(golden[f"{name}.hidden"].shape[1:])
    if "logits" in out:
        # Every eighth token: scores of all would be most of the file.
        golden[f"{name}.logits"] = out.logits[0, ::8].contiguous()


def trained(name, kind):
    folder = tests / "fixtures" / name
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(TEXT).ids[:80])
    assert len(ids) > 64, "more than one block of queries"
    run(name, kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32), ids)


def random(name, config, n, causal, pads=0):
    torch.manual_seed(sum(name.encode()))
    config._attn_implementation = "eager"
    model = (AutoModelForCausalLM if causal else AutoModel).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter.shape[-1] ** 0.5 if "embed" not in key else 1.0))
    ids = torch.randint(3, config.vocab_size, (n,))
    mask = None
    if pads:
        ids[-pads:] = config.pad_token_id
        mask = (torch.arange(n) < n - pads).long()
    run(name, model, ids, mask)
    configs[name] = config.to_dict() | {"model_type": config.model_type}
    state = model.state_dict()
    if getattr(config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    for key, tensor in state.items():
        if tensor.is_floating_point() and "pooler" not in key:
            weights[f"{name}/{key}"] = tensor.clone()


trained("tiny-gpt2", AutoModelForCausalLM)
trained("tiny-llama", AutoModelForCausalLM)
trained("tiny-albert", AutoModel)

t = transformers
ENCODER = dict(vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20)
LLAMA = dict(vocab_size=40, hidden_size=24, num_hidden_layers=3, num_attention_heads=6, intermediate_size=20)
random("bert-relu", t.BertConfig(**ENCODER, max_position_embeddings=24, hidden_act="relu"), 20, False)
random("roberta", t.RobertaConfig(**ENCODER, max_position_embeddings=24, pad_token_id=1), 20, False, pads=4)
random("distilbert", t.DistilBertConfig(vocab_size=40, dim=12, n_layers=2, n_heads=3, hidden_dim=20, max_position_embeddings=24), 20, False)
random("albert-groups", t.AlbertConfig(**ENCODER | {"num_hidden_layers": 5}, embedding_size=8, num_hidden_groups=2, max_position_embeddings=24), 20, False)
random("llama-biases", t.LlamaConfig(**LLAMA, num_key_value_heads=3, attention_bias=True, mlp_bias=True, tie_word_embeddings=False), 20, True)
random("llama-wide-heads", t.LlamaConfig(**LLAMA, num_key_value_heads=2, head_dim=10, rope_theta=500.0, tie_word_embeddings=True), 20, True)
random("mistral-window", t.MistralConfig(**LLAMA, num_key_value_heads=3, sliding_window=7), 70, True)
random("qwen2", t.Qwen2Config(**LLAMA, num_key_value_heads=2, tie_word_embeddings=True), 20, True)
random("qwen2-window", t.Qwen2Config(**LLAMA, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1), 20, True)
random("qwen3", t.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False), 20, True)
for kind, extra in {
    "linear": dict(factor=4.0),
    "dynamic": dict(factor=2.0),
    "llama3": dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    "yarn": dict(factor=4.0, original_max_position_embeddings=32),
}.items():
    rope = dict(rope_type=kind, rope_theta=100.0, **extra)
    config = t.LlamaConfig(**LLAMA | {"num_hidden_layers": 1}, head_dim=16, num_key_value_heads=2, max_position_embeddings=32 if kind == "dynamic" else 128, rope_parameters=rope)
    random(f"rope-{kind}", config, 48, True)
random("gpt2-narrow", t.GPT2Config(vocab_size=40, n_embd=12, n_layer=2, n_head=3, n_inner=20, n_positions=24, activation_function="gelu"), 20, True)

save = safetensors.torch.save_file
save({k: v.contiguous() for k, v in golden.items()}, tests / "golden" / "families.safetensors", {"text": TEXT})
metadata = {name: json.dumps(config, default=str) for name, config in configs.items()}
save({k: v.contiguous() for k, v in weights.items()}, tests / "fixtures" / "random.safetensors", metadata)
(tests / "golden" / "families.md").write_text(
    "# Provenance of families.safetensors and ../fixtures/random.safetensors\n\n"
    "Made once by `scripts/golden/families.py`: models of the `transformers` library, F32, eager attention, CPU, one thread.\n\n"
    f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
    f"tokenizers {tokenizers.__version__}, safetensors {safetensors.__version__}.\n\n"
    "`NAME.hidden` [L+1, n, d]: the library's `hidden_states`, the last after the final norm; `NAME.before` [n, d]: the last before it;\n"
    "`NAME.logits`: of every eighth token. The tiny models were trained with transformers 4.40.2 for 60 s each on the\n"
    "works of Shakespeare (public domain), byte-level BPE of 512 tokens; the random ones live in fixtures/random.safetensors.\n\n"
    + "\n".join(f"- `{name}` {list(tensor.shape)}" for name, tensor in golden.items()) + "\n"
)
