"""Loss curves of plain LoRA by PyTorch and PEFT, for crates/metastable-model/src/train/tests/peft.rs.

Run anywhere with torch, transformers, peft and safetensors: OMP_NUM_THREADS=1 python scripts/golden/finetune.py
Writes crates/metastable-model/tests/golden/finetune.safetensors: for each case the initial A of every module (B = 0),
50 batches of ids, and the 50 losses; versions are in the file's metadata.
"""

import pathlib

import peft
import torch
import transformers
from safetensors.torch import save_file

root = pathlib.Path(__file__).resolve().parents[2] / "crates/metastable-model/tests"
STEPS, BATCH, LENGTH = 50, 4, 24
torch.manual_seed(5)
torch.set_num_threads(1)
tensors, metadata = {}, {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}


def curve(name, model, targets, labels_of, batches, options=None, rate=5e-3):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, lora_dropout=0.0, bias="none", **(options or {}))
    model = peft.get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    for key, tensor in peft.get_peft_model_state_dict(model).items():
        if "lora_A" in key:
            tensors[f"{name}/{key.removeprefix('base_model.model.')}"] = tensor.detach().clone().contiguous()
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    schedule = transformers.get_scheduler("cosine", optimizer, num_warmup_steps=5, num_training_steps=STEPS)
    losses, norms = [], []
    model.train()
    for ids in batches:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels_of(ids))
        output.loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 0.5)))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    tensors[f"{name}/ids"] = torch.stack(batches)
    tensors[f"{name}/losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors[f"{name}/norms"] = torch.tensor(norms, dtype=torch.float64)


def batches(vocab):
    # A first-order Markov chain, so that there is something to learn.
    step = torch.randint(1, 9, (vocab,))
    found = []
    for _ in range(STEPS):
        ids = torch.randint(5, vocab, (BATCH, 1))
        while ids.shape[1] < LENGTH:
            ids = torch.cat([ids, (ids[:, -1:] + step[ids[:, -1:]]) % (vocab - 5) + 5], dim=1)
        found.append(ids)
    return found


for name, targets in [
    ("tiny-llama", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    ("tiny-gpt2", ["c_attn", "c_proj", "c_fc"]),
]:
    model = transformers.AutoModelForCausalLM.from_pretrained(root / "fixtures" / name, attn_implementation="eager")
    curve(name, model.float(), targets, lambda ids: ids, batches(model.config.vocab_size))

model = transformers.AutoModelForCausalLM.from_pretrained(root / "fixtures/tiny-llama", attn_implementation="eager")
curve("dora", model.float(), ["q_proj", "v_proj", "down_proj"], lambda ids: ids, batches(512), {"use_dora": True})

save_file(tensors, root / "golden/finetune.safetensors", metadata)
for name in ("tiny-llama", "tiny-gpt2", "dora"):
    losses = tensors[f"{name}/losses"]
    print(name, losses[0].item(), losses[-1].item(), tensors[f"{name}/norms"][:3].tolist())
