"""The seeds of the fuzz targets: small sound files of every kind a parser knows. Run from anywhere:

    python3 fuzz/seeds.py

Needs numpy, gguf, safetensors, tokenizers. The results are committed.
"""

import json
import pathlib
import shutil
import struct

import gguf
import numpy as np
import tokenizers
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import save
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

root = pathlib.Path(__file__).resolve().parent
corpus = root / "corpus"
shutil.rmtree(corpus, ignore_errors=True)
random = np.random.default_rng(1)


def write(target, name, content):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def raw(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def factors(dtype=np.float32):
    tensors = {}
    for module, (rows, columns) in {"model.layers.0.self_attn.q_proj": (4, 6), "model.layers.1.mlp.down_proj": (3, 5)}.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = random.normal(size=(2, columns)).astype(dtype)
        tensors[f"base_model.model.{module}.lora_B.weight"] = random.normal(size=(rows, 2)).astype(dtype)
    return tensors


write("safetensors", "adapter-f32", save(factors(), {"format": "pt"}))
write("safetensors", "adapter-f16", save(factors(np.float16)))
extra = factors() | {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": np.ones(4, np.float32),
    "base_model.model.model.embed_tokens.lora_embedding_A": np.ones((2, 7), np.float32),
    "base_model.model.model.embed_tokens.lora_embedding_B": np.ones((4, 2), np.float32),
    "base_model.model.score.weight": np.ones((2, 4), np.float32),
}
write("safetensors", "adapter-extra", save(extra))
write("safetensors", "integers", save({"ids": np.arange(5), "flags": np.array([True]), "empty": np.zeros((0, 3), np.float32)}))
write("safetensors", "bf16", raw({"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}, bytes(6)))
write("safetensors", "none", raw({}, b""))

for case in sorted((root.parent / "crates/metastable-model/tests/golden/adapters").glob("*/adapter_config.json")):
    write("adapter_config", case.parent.name, case.read_bytes())
write("adapter_config", "short", '{"peft_type":"LORA","r":2,"lora_alpha":4.5,"target_modules":"all-linear"}')
write("adapter_config", "patterns", json.dumps({
    "peft_type": "LORA", "r": 2, "target_modules": r".*\.(?!up)\w+_proj", "use_rslora": True, "task_type": "SEQ_CLS",
    "rank_pattern": {r"layers\.(0|1)\..*_proj": 2, "q_proj$": 3}, "alpha_pattern": {"^model.*": 1.5}, "bias": "lora_only",
    "modules_to_save": ["score"], "init_lora_weights": "pissa", "layers_to_transform": [0, 1], "a_new_key": {"b": [None]},
}))


def llama(path, kind, tokens, **more):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_feed_forward_length(32)
    writer.add_context_length(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_token_list(tokens)
    writer.add_bos_token_id(1)
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    values = random.normal(size=(4, 32)).astype(np.float32)
    data = gguf.quants.quantize(values, kind)
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


(corpus / "gguf").mkdir(parents=True)
for kind in [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]:
    llama(corpus / "gguf" / kind.name, kind, ["<unk>", "<s>", "a", "b", "ab", "Ġa"], tokenizer_model="gpt2", tokenizer_pre="smollm",
          token_merges=["a b"], token_types=[2, 3, 1, 1, 1, 4], add_bos_token=True)
pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(16)), "▁", "a", "t", "▁a", "at", "▁at"]
llama(corpus / "gguf/sentencepiece", Kind.F32, pieces, tokenizer_model="llama", token_scores=[-float(id) for id in range(len(pieces))],
      token_types=[2, 3, 3, *[6] * 16, *[1] * 6])

texts = ["it was the best of times", "it was the worst of times", "the age of wisdom 42"]


def trained(name, model, trainer, **parts):
    tokenizer = tokenizers.Tokenizer(model)
    for part, value in parts.items():
        setattr(tokenizer, part, value)
    tokenizer.train_from_iterator(texts, trainer)
    write("tokenizer_json", name, tokenizer.to_str(pretty=False))


small = {"vocab_size": 48, "show_progress": False}
trained("bpe", models.BPE(), trainers.BpeTrainer(special_tokens=["<s>"], **small),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        decoder=decoders.ByteLevel())
trained("wordpiece", models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(special_tokens=["[UNK]", "[CLS]", "[SEP]"], **small),
        normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        post_processor=processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]))
trained("unigram", models.Unigram(), trainers.UnigramTrainer(special_tokens=["<unk>"], unk_token="<unk>", **small),
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")]), pre_tokenizer=pre_tokenizers.Metaspace())
trained("wordlevel", models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(special_tokens=["[UNK]"], **small),
        normalizer=normalizers.Lowercase(), pre_tokenizer=pre_tokenizers.Split(tokenizers.Regex(r"\s+"), "removed"))
sizes = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in sorted(corpus.iterdir())}
print(sizes)
