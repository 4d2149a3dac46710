"""One fine-tuning step of metastable against PyTorch + PEFT: the same shape, the same adapter, two threads.

    python benches/peers/finetune.py METASTABLE_BINARY TOKENIZER_JSON [STEPS]

BERT-base shape (12 x 768, 12 heads, 3072), random weights, batch 8 x 128 tokens, rank 8 on query and value, AdamW, two
classes. TOKENIZER_JSON is that of any BERT with 30522 tokens (scripts/fetch-models fetches one). Prints medians of steps
without the first, and peak memory of each process. Needs torch, transformers, peft; run it on a quiet machine.
"""

import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BATCH, LENGTH, THREADS = 8, 128, 2


def torch_steps(folder, steps):
    import peft
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.0)
    model = peft.get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.full((BATCH, LENGTH), 1996)
    ids[:, 0], ids[:, -1] = 101, 102
    labels, times = torch.tensor([i % 2 for i in range(BATCH)]), []
    for _ in range(steps):
        start = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    print(json.dumps({"times": times, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def make(folder, tokenizer):
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    model.save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")


def metastable_steps(binary, folder, steps, method):
    data = folder / "data.jsonl"
    lines = [json.dumps({"text": "the " * (LENGTH - 2), "label": i % 2}) for i in range(BATCH)]
    data.write_text("\n".join(lines) + "\n")
    config = folder / f"{method}.toml"
    config.write_text(
        f'model = "."\n[data]\nfile = "data.jsonl"\ntask = "classification"\nmax_seq_length = {LENGTH}\neval_fraction = 0\n'
        f'[lora]\ntarget_modules = ["query", "value"]\n'
        f'[optimizer]\nmethod = "{method}"\nbatch_size = {BATCH}\nmax_steps = {steps}\nlearning_rate = 1e-4\n'
    )
    run = folder / method
    subprocess.run([binary, "finetune", config, "-o", run, "--threads", str(THREADS), "-q"], check=True, capture_output=True)
    tokens = BATCH * LENGTH
    times = [tokens / json.loads(line)["tokens_per_second"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {"times": times, "peak": json.loads((run / "report.json").read_text())["peak_memory_bytes"]}


def main():
    if sys.argv[1] == "--torch":
        return torch_steps(sys.argv[2], int(sys.argv[3]))
    binary, tokenizer = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 8
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make(folder, tokenizer)
        peer = subprocess.run([sys.executable, __file__, "--torch", name, str(steps)], check=True, capture_output=True, text=True)
        rows = {"PyTorch + PEFT": json.loads(peer.stdout.splitlines()[-1])}
        for method in ("lora", "balora"):
            rows[f"metastable, {method}"] = metastable_steps(binary, folder, steps, method)
    print(f"{'':24}{'step, median s':>16}{'best s':>10}{'peak MB':>10}")
    for name, row in rows.items():
        times = row["times"][1:]
        print(f"{name:24}{statistics.median(times):16.3f}{min(times):10.3f}{row['peak'] / 1e6:10.0f}")


main()
