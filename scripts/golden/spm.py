"""A SentencePiece tokenizer inside a GGUF file, and what the reference libraries make of texts.

    python3 scripts/golden/spm.py crates/metastable-model/tests

Trains a BPE model with byte fallback on golden/sonnets.txt, writes fixtures/spm.gguf (its vocabulary as llama.cpp stores
it; no weights) and golden/spm.json: texts, their ids by `sentencepiece` itself and by `transformers`' conversion of the
same model. Needs sentencepiece, protobuf, gguf, transformers. Not run by the tests.
"""

import json
import pathlib
import platform
import sys
import tempfile

import gguf
import sentencepiece
import transformers

tests = pathlib.Path(sys.argv[1])
TEXTS = [
    "Shall I compare thee to a summer's day?",
    "thee",
    " leading and  double   spaces ",
    "numbers 1234567, été, 世界 and 🦀",
    "line\nbreaks\tand tabs",
    "Shall<s>thee</s>day",
    "a user word: <|user|> and its rest",
    "ThOu ArT mOrE lOvElY",
]

with tempfile.TemporaryDirectory() as folder:
    prefix = f"{folder}/tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        input=str(tests / "golden/sonnets.txt"), model_prefix=prefix, vocab_size=400, model_type="bpe", byte_fallback=True,
        character_coverage=0.99, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        user_defined_symbols=["<|user|>"], num_threads=1,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    fast = transformers.LlamaTokenizerFast(vocab_file=f"{prefix}.model", legacy=True, add_prefix_space=True) if int(transformers.__version__.split(".")[0]) < 5 else None

count = model.get_piece_size()
types = []
for id in range(count):
    kind = gguf.TokenType.NORMAL
    if model.is_unknown(id):
        kind = gguf.TokenType.UNKNOWN
    elif model.is_control(id):
        kind = gguf.TokenType.CONTROL
    elif model.is_byte(id):
        kind = gguf.TokenType.BYTE
    elif model.id_to_piece(id) == "<|user|>":
        kind = gguf.TokenType.USER_DEFINED
    types.append(kind)
writer = gguf.GGUFWriter(tests / "fixtures/spm.gguf", "llama")
writer.add_tokenizer_model("llama")
writer.add_tokenizer_pre("default")
writer.add_token_list([model.id_to_piece(id).encode() for id in range(count)])
writer.add_token_scores([model.get_score(id) for id in range(count)])
writer.add_token_types(types)
writer.add_bos_token_id(model.bos_id())
writer.add_eos_token_id(model.eos_id())
writer.add_unk_token_id(model.unk_id())
writer.add_add_bos_token(True)
writer.add_add_eos_token(False)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.close()

cases = []
for text in TEXTS:
    case = {"text": text, "sentencepiece": [model.bos_id(), *model.encode(text)]}
    if fast is not None:
        case["transformers"] = fast(text)["input_ids"]
    cases.append(case)
versions = {
    "python": platform.python_version(), "sentencepiece": sentencepiece.__version__,
    "transformers": transformers.__version__ if fast is not None else "not used", "gguf": "0.19.0",
}
document = {"made_by": "scripts/golden/spm.py", "versions": versions, "vocabulary": count, "cases": cases}
(tests / "golden/spm.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
print(count, [len(case["sentencepiece"]) for case in cases])
