"""Golden Jacobian products of whole layers, made once by torch's forward and reverse mode on `transformers` layers.

    OMP_NUM_THREADS=1 python3 scripts/golden/layer_products.py crates/metastable-model/tests

Reads fixtures/random.safetensors, writes golden/layer_products.{safetensors,md}: for layer 1 of each model at the stream
that enters it, `NAME.jvp` = J E and `NAME.vjp` = Jᵀ G with E_r = sin(0.7 + 1.7 r), G_r = sin(1.9 + 1.7 r), r row-major,
[n, d], f32, eager attention. Needs torch, transformers, safetensors. Not run by the tests.
"""

import json
import pathlib
import platform
import sys

import safetensors
import safetensors.torch
import torch
import transformers

tests = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)
source = tests / "fixtures" / "random.safetensors"
with safetensors.safe_open(source, "pt") as file:
    metadata = file.metadata()
    tensors = {key: file.get_tensor(key) for key in file.keys()}
golden = {}


def det(shape, k):
    r = torch.arange(shape[0] * shape[1], dtype=torch.float64)
    return torch.sin(k + 1.7 * r).reshape(shape).float()


for name in ["llama-biases", "mistral-window", "qwen2", "qwen3", "gpt2-narrow", "roberta", "distilbert"]:
    fields = json.loads(metadata[name])
    config = transformers.AutoConfig.for_model(**fields)
    config._attn_implementation = "eager"
    causal = name not in ("roberta", "distilbert")
    model = (transformers.AutoModelForCausalLM if causal else transformers.AutoModel).from_config(config, dtype=torch.float32)
    own = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + "/")}
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected and all("pooler" in key or "lm_head" in key or "position_ids" in key for key in missing), (missing, unexpected)
    model.eval()
    body = model.base_model
    layers = next(getattr(place, at) for place in (body, getattr(body, "encoder", body), getattr(body, "transformer", body)) for at in ("layers", "h", "layer") if hasattr(place, at))
    caught = {}
    layers[1].register_forward_pre_hook(lambda _, args, kwargs: caught.update(args=args, kwargs=kwargs), with_kwargs=True)
    ids = torch.tensor([(1 + i * i * 31 + i * 7) % (config.vocab_size - 5) + 4 for i in range(20)])
    with torch.no_grad():
        model(input_ids=ids[None], **({"use_cache": False} if causal else {}))
    stream, rest, kwargs = (caught["args"] or (caught["kwargs"].pop("hidden_states"),))[0], caught["args"][1:], caught["kwargs"]
    kwargs = {key: value for key, value in kwargs.items() if "past" not in key and "cache" not in key}

    def layer(x):
        out = layers[1](x[None], *rest, **kwargs)
        return (out[0] if isinstance(out, tuple) else out).reshape(x.shape)

    x = stream[0].detach()
    _, forward = torch.func.jvp(layer, (x,), (det(x.shape, 0.7),))
    _, pull = torch.func.vjp(layer, x)
    golden[f"{name}.ids"] = ids
    golden[f"{name}.jvp"], golden[f"{name}.vjp"] = forward.detach(), pull(det(x.shape, 1.9))[0].detach()

safetensors.torch.save_file({k: v.contiguous() for k, v in golden.items()}, tests / "golden" / "layer_products.safetensors")
(tests / "golden" / "layer_products.md").write_text(
    "# Provenance of layer_products.safetensors\n\n"
    "Made once by `scripts/golden/layer_products.py`: `torch.func.jvp` and `torch.func.vjp` of layer 1 of models of the\n"
    "`transformers` library, F32, eager attention, CPU, one thread.\n\n"
    f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
    f"safetensors {safetensors.__version__}.\n"
)
