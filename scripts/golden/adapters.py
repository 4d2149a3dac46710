"""Adapters made by the real `peft` library, and what they do to tiny models: logits and hidden states (F32, CPU).

    python3 scripts/golden/adapters.py FIXTURES crates/metastable-model/tests/golden/adapters

FIXTURES holds the folders tiny-llama, tiny-gpt2 and tiny-albert. Every case becomes a folder with PEFT's two files and
golden.safetensors (`ids` [n], `hidden` [L+1, n, d], `logits` [n, vocab]); README.md gets the provenance.
Needs torch, transformers, peft, safetensors. Not run by the tests.
"""

import pathlib
import shutil
import sys
import warnings

import numpy
import peft
import safetensors
import safetensors.numpy
import torch
import transformers

fixtures, out = map(pathlib.Path, sys.argv[1:3])
torch.set_num_threads(1)
warnings.filterwarnings("ignore")
IDS = [1, 40, 77, 300, 12, 9, 260, 511, 33, 4, 90, 81, 7]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

CASES = {
    "llama-patterns": ("tiny-llama", {
        "r": 4, "lora_alpha": 6.5, "use_rslora": True, "target_modules": ATTENTION + ["gate_proj", "up_proj", "down_proj"],
        "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2, "down_proj": 3, r"layers\.(0|2)\..*_proj": 5},
        "alpha_pattern": {"down_proj": 1.25, r"layers\.3\.mlp\.(?!gate).*": 9},
    }),
    "llama-dora": ("tiny-llama", {"r": 3, "lora_alpha": 8, "use_dora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "llama-embedding": ("tiny-llama", {
        "r": 2, "lora_alpha": 5, "target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["norm"],
    }),
    "gpt2-conv1d": ("tiny-gpt2", {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2-dora": ("tiny-gpt2", {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
    "gpt2-bias": ("tiny-gpt2", {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn", "c_fc"], "lora_bias": True, "fan_in_fan_out": True}),
    "albert-shared": ("tiny-albert", {"r": 4, "lora_alpha": 4, "target_modules": ["query", "value", "ffn"]}),
}


def randomise(model, seed):
    """Training leaves neither factor at its start: all adapter tensors get entries of a trained size."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.rand(parameter.shape, generator=generator)
        elif "lora_" in name:
            parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
        elif "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def run(model):
    with torch.no_grad():
        answer = model(torch.tensor([IDS]), output_hidden_states=True)
    arrays = {"ids": numpy.array(IDS, dtype=numpy.int64), "hidden": torch.cat(answer.hidden_states).numpy()}
    if hasattr(answer, "logits"):
        arrays["logits"] = answer.logits[0].numpy()
    return arrays


def main():
    sizes = []
    for seed, (name, (base, options)) in enumerate(CASES.items()):
        cls = transformers.AutoModel if "albert" in base else transformers.AutoModelForCausalLM
        model = cls.from_pretrained(fixtures / base, attn_implementation="eager", dtype=torch.float32).eval()
        task = None if "albert" in base else "CAUSAL_LM"
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task, **options)).eval()
        randomise(adapted, seed)
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        golden = run(adapted)
        # What is read back is what was saved: the golden values belong to the files.
        fresh = cls.from_pretrained(fixtures / base, attn_implementation="eager", dtype=torch.float32).eval()
        again = run(peft.PeftModel.from_pretrained(fresh, folder).eval())
        assert all((golden[key] == again[key]).all() for key in golden), name
        safetensors.numpy.save_file({k: numpy.ascontiguousarray(v) for k, v in golden.items()}, folder / "golden.safetensors")
        sizes.append(f"| {name} | {base} | `{options}` |")
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, peft, safetensors, numpy))
    (out / "README.md").write_text(
        "# Adapters made by PEFT\n\nMade by `scripts/golden/adapters.py` on the CPU in F32, eager attention, one thread: "
        f"{versions}.\n\n| case | base | LoraConfig |\n|---|---|---|\n" + "\n".join(sizes) + "\n"
    )


main()
