"""Golden hidden states of all-MiniLM-L6-v2 with the adapter minilm-spam-lora, made once by the real `peft` library.

    OMP_NUM_THREADS=1 python3 scripts/golden/minilm_adapter.py MINILM_FOLDER crates/metastable-model/tests

Reads fixtures/minilm-spam-lora, writes golden/minilm_adapter.safetensors: `ids` [n], `hidden` [7, n, 384] (F32, eager
attention, unmerged adapter), with the library versions in its metadata. Needs torch, transformers, peft, safetensors.
Not run by the tests.
"""

import pathlib
import sys
import warnings

import peft
import safetensors.torch
import torch
import transformers

folder, tests = map(pathlib.Path, sys.argv[1:3])
torch.set_num_threads(1)
warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
ids = torch.tensor([[101, 1996, 4937, 7719, 2648, 102]])
base = transformers.AutoModelForSequenceClassification.from_pretrained(
    folder, num_labels=2, attn_implementation="eager", dtype=torch.float32
)
model = peft.PeftModel.from_pretrained(base, tests / "fixtures/minilm-spam-lora").eval()
with torch.inference_mode():
    hidden = torch.cat(model(ids, output_hidden_states=True).hidden_states)
with torch.inference_mode(), model.disable_adapter():
    unadapted = torch.cat(model(ids, output_hidden_states=True).hidden_states)
print("largest change by the adapter", float((hidden - unadapted).abs().max()))
versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
safetensors.torch.save_file(
    {"ids": ids[0].contiguous(), "hidden": hidden.contiguous()}, tests / "golden/minilm_adapter.safetensors", {"made by": versions}
)
