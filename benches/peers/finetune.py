#!/usr/bin/env python3
"""Steps of `metastable finetune` against PyTorch + PEFT: the same shapes, the same adapters, the same optimizer.

    PYTHON benches/peers/finetune.py METASTABLE_BINARY [--case bert,smollm2] [--steps 8] [--rounds 3] [--threads 2]

bert:    BERT-base shape (12 x 768, 12 heads, 3072), batch 8 x 128 tokens, rank 8 on query and value, two classes.
smollm2: SmolLM2-135M's shape (30 x 576, 9 heads over 3, 1536, 49152 words), batch 4 x 256 tokens, rank 8 on all linear
         layers, next tokens.

Weights are random (times do not depend on them). Programs run in turn, `--rounds` times; times are medians of all steps but
the first of each process, memory is the peak of the whole process. AdamW, no dropout, gradients clipped at norm 1.
The projection's share is that of `metastable, balora` beside `metastable, lora` and, apart from noise, what the example
`projection_time` prints. Needs torch, transformers, peft; run it on a quiet machine.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "crates/metastable-model/tests/fixtures"
CASES = {
    "bert": dict(batch=8, length=128, task="classification", targets='["query", "value"]', tokenizer="tiny-llama"),
    "smollm2": dict(batch=4, length=256, task="causal_lm", targets='"all-linear"', tokenizer="tiny-llama"),
}


def make(folder, name):
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "bert":
        none = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = transformers.BertModel(transformers.BertConfig(**none))
    else:
        shape = dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
        rest = dict(num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, rms_norm_eps=1e-5)
        config = transformers.LlamaConfig(**shape, **rest, rope_theta=100000.0, tie_word_embeddings=True)
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    shutil.copy(FIXTURES / CASES[name]["tokenizer"] / "tokenizer.json", folder / "tokenizer.json")


def torch_steps(folder, name, steps, threads):
    import peft
    import torch
    import transformers

    torch.set_num_threads(threads)
    case = CASES[name]
    shared = dict(r=8, lora_alpha=16, lora_dropout=0.0)
    if name == "bert":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **shared)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        model.config.use_cache = False
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **shared)
    model = peft.get_peft_model(model, config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(4, 500, (case["batch"], case["length"]))
    labels = torch.tensor([i % 2 for i in range(case["batch"])]) if name == "bert" else ids
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    print(json.dumps({"times": times, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def metastable_steps(binary, folder, name, steps, threads, method):
    case = CASES[name]
    words = [" ".join(f"speak {(7 * i + 3 * j) % 97} again" for j in range(case["length"])) for i in range(case["batch"])]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "label": str(i % 2)}) + "\n" for i, text in enumerate(words)))
    config = folder / f"{method}.toml"
    config.write_text(
        f'model = "."\n[data]\nfile = "data.jsonl"\ntask = "{case["task"]}"\nmax_seq_length = {case["length"]}\neval_fraction = 0\n'
        f'[lora]\nrank = 8\nalpha = 16\ntarget_modules = {case["targets"]}\n'
        f'[optimizer]\nmethod = "{method}"\nbatch_size = {case["batch"]}\nmax_steps = {steps}\nlearning_rate = 1e-4\n'
    )
    run = folder / method
    command = [binary, "finetune", config, "-o", run, "--overwrite", "--threads", str(threads), "-q"]
    subprocess.run(command, check=True, capture_output=True)
    tokens = case["batch"] * case["length"]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    report = json.loads((run / "report.json").read_text())
    return {"times": [tokens / json.loads(line)["tokens_per_second"] for line in lines], "peak": report["peak_memory_bytes"]}


def compare(binary, name, steps, rounds, threads):
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        # In a process of its own, so that this one stays small.
        subprocess.run([sys.executable, __file__, "--make", path, name], check=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        worker = [sys.executable, __file__, "--torch", path, name, str(steps), str(threads)]
        rows = {}
        for _ in range(rounds):
            peer = subprocess.run(worker, check=True, capture_output=True, text=True, env=environment)
            found = {"PyTorch + PEFT": json.loads(peer.stdout.splitlines()[-1])}
            for method in ("lora", "balora"):
                found[f"metastable, {method}"] = metastable_steps(binary, folder, name, steps, threads, method)
            for program, row in found.items():
                kept = rows.setdefault(program, {"times": [], "peak": 0})
                kept["times"] += row["times"][1:]
                kept["peak"] = max(kept["peak"], row["peak"])
    reference = rows["PyTorch + PEFT"]
    base, memory = statistics.median(reference["times"]), reference["peak"]
    print(f"{name + ', ' + str(threads) + ' threads':24}{'step, median s':>16}{'best s':>10}{'ratio':>8}{'peak MB':>10}{'ratio':>8}")
    for program, row in rows.items():
        median = statistics.median(row["times"])
        print(f"{program:24}{median:16.3f}{min(row['times']):10.3f}{median / base:8.2f}{row['peak'] / 1e6:10.0f}{row['peak'] / memory:8.2f}")
    lora, balora = (statistics.median(rows[f"metastable, {method}"]["times"]) for method in ("lora", "balora"))
    print(f"projection: {100 * (balora / lora - 1):+.1f} % of a step\n")


def main():
    if sys.argv[1] == "--make":
        return make(pathlib.Path(sys.argv[2]), sys.argv[3])
    if sys.argv[1] == "--torch":
        return torch_steps(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--case", default="bert,smollm2")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    wanted = parser.parse_args()
    binary = str(pathlib.Path(wanted.binary).resolve())
    for name in wanted.case.split(","):
        compare(binary, name, wanted.steps, wanted.rounds, wanted.threads)


main()
