"""Golden values of all-MiniLM-L6-v2, made once by the `transformers` library (F32, eager attention, CPU).

    python3 scripts/golden/minilm.py "$(scripts/fetch-models)" crates/metastable-model/tests/golden

Writes minilm.safetensors and minilm.md (provenance) into the second folder, which holds sonnets.txt.
Needs torch, transformers, tokenizers, safetensors; their versions go into the provenance. Not run by the tests.
"""

import pathlib
import platform
import sys
import time

import safetensors
import safetensors.torch
import tokenizers
import torch
import transformers

model_dir, out_dir = map(pathlib.Path, sys.argv[1:3])
T1 = (
    "Transformers are models in which tokens interact through self attention, and as depth grows the "
    "representations of the tokens tend to cluster together in a few groups."
)
SENTENCES = [
    "The cat sits outside",
    "The dog plays in the garden",
    "A man is playing guitar",
    "The new movie is awesome",
    "The new movie is so great",
]
LONG = (out_dir / "sonnets.txt").read_text().strip()

torch.set_num_threads(1)
tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
model = transformers.AutoModel.from_pretrained(model_dir, attn_implementation="eager")
model.eval()
assert model.dtype == torch.float32


def run(text, length=None):
    options = {"padding": "max_length", "max_length": length} if length else {"padding": False}
    batch = tokenizer(text, return_tensors="pt", truncation=False, **options)
    with torch.no_grad():
        out = model(**batch, output_hidden_states=True, output_attentions=True)
    return batch, torch.stack([h[0] for h in out.hidden_states]), torch.stack([a[0] for a in out.attentions])


def pooled(text):
    batch, hidden, _ = run(text)
    return torch.nn.functional.normalize(hidden[-1].mean(0), dim=0)


golden = {}
batch, hidden, _ = run(T1)
golden["t1.ids"], golden["t1.hidden"] = batch["input_ids"][0], hidden
batch, hidden, attention = run(SENTENCES[0], length=16)
golden["padded.ids"], golden["padded.mask"] = batch["input_ids"][0], batch["attention_mask"][0]
golden["padded.hidden"], golden["padded.attention"] = hidden, attention
batch, hidden, _ = run(LONG)
assert batch["input_ids"].shape[1] == 256, batch["input_ids"].shape
golden["long.ids"] = batch["input_ids"][0]
# All of it would be 2.8 MB: every 11th token in full, 43 of the 384 columns (every 9th) for all tokens, and every norm.
golden["long.rows"] = hidden[:, ::11, :]
golden["long.columns"] = hidden[:, :, ::9]
golden["long.norms"] = hidden.double().norm(dim=-1).float()
golden["pooled"] = torch.stack([pooled(text) for text in SENTENCES])

started = time.perf_counter()
for _ in range(10):
    run(LONG)
seconds = (time.perf_counter() - started) / 10

flat = {name: tensor.contiguous() for name, tensor in golden.items()}
metadata = {"t1": T1, "padded": SENTENCES[0], "long": "sonnets.txt", "pooled": "\n".join(SENTENCES)}
safetensors.torch.save_file(flat, out_dir / "minilm.safetensors", metadata)
lines = [f"- `{name}` {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in flat.items()]
(out_dir / "minilm.md").write_text(
    "# Provenance of minilm.safetensors\n\n"
    "Made once by `scripts/golden/minilm.py` from all-MiniLM-L6-v2\n"
    "(model.safetensors sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db, as `scripts/fetch-models` gets it):\n"
    "BertModel of the `transformers` library, F32, eager attention, CPU, one thread.\n\n"
    f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
    f"tokenizers {tokenizers.__version__}, safetensors {safetensors.__version__}.\n\n"
    "The texts stand in the file's metadata; the 256-token text is sonnets.txt (W. Shakespeare, sonnets 18 and 116, public domain, cut).\n"
    "Levels: embeddings after their LayerNorm, then the output of each of the 6 layers.\n"
    "`long.rows` holds tokens 0, 11, 22, ...; `long.columns` holds columns 0, 9, 18, ... of all tokens; `long.norms` all norms.\n"
    "`pooled`: mean over all tokens, L2-normalised, one row a sentence.\n\n" + "\n".join(lines) + "\n"
)
print(f"one 256-token forward: {seconds * 1e3:.1f} ms")
