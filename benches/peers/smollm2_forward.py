"""Times the hidden states of N tokens through a GGUF checkpoint with PyTorch: smollm2_forward.py FILE.gguf N RUNS.

Prints `seconds S` for every run, and `peak P`, the most memory the process had, in bytes. F32, no cache, all hidden
states, the attention that `transformers` chooses by itself (sdpa). Threads: OMP_NUM_THREADS.
"""

import pathlib
import resource
import sys
import time

import torch
import transformers

file, n, runs = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModel.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
ids = torch.tensor([[1000 + i * 7919 % (model.config.vocab_size // 2) for i in range(n)]])
with torch.inference_mode():
    for _ in range(runs):
        start = time.perf_counter()
        out = model(ids, output_hidden_states=True, use_cache=False)
        print(f"seconds {time.perf_counter() - start:.4f}")
        assert len(out.hidden_states) == model.config.num_hidden_layers + 1
print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}")
