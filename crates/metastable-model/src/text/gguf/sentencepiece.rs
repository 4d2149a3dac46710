//! A SentencePiece BPE tokenizer inside a GGUF file (`tokenizer.ggml.model = llama`), as the tokenizer.json that
//! `transformers` converts such models to.
//!
//! SentencePiece joins the two neighbours whose union has the best score until no union is a piece; characters that no
//! piece has fall back to bytes. The same is BPE whose merges are all ways to cut a piece into two pieces, best score
//! first.
//!
//! # References
//! T. Kudo, J. Richardson, SentencePiece, 2018; the conversion as in `transformers`, `convert_slow_tokenizer.py`
//! (`LlamaConverter`) and `integrations/ggml.py` \[code\].

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Lacks;
use crate::gguf::Metadata;

/// What SentencePiece writes for a space.
const SPACE: &str = "▁";

/// Pieces above this many bytes are never joined from smaller ones; those of real models stay below a hundred.
const LONGEST_JOINED: usize = 512;

/// Merges together may be this many times as long as all pieces; those of Llama 2 are twice as long.
const MOST_NESTED: usize = 32;

/// `model`, `normalizer` and `decoder` of a tokenizer.json.
pub(super) struct Parts {
    pub(super) model: Value,
    pub(super) normalizer: Value,
    pub(super) decoder: Value,
}

/// The parts for these pieces; otherwise what the metadata lack.
pub(super) fn parts(metadata: &Metadata<'_>, vocab: Map<String, Value>, tokens: &[&str]) -> Result<Parts, Lacks> {
    let merges = match metadata.array("tokenizer.ggml.merges").and_then(|array| array.texts()) {
        Some(merges) => merges.into_iter().map(|merge| json!(merge)).collect(),
        None => merges(tokens, &scores(metadata, tokens.len())?)?,
    };
    let unknown = metadata.integer("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| tokens.get(id));
    let begins_with_space = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let back = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
    let mut decoders = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let mut normalizers = vec![replace];
    if begins_with_space {
        normalizers.insert(0, prepend);
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Parts {
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": Value::Array(merges),
        }),
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
    })
}

fn scores(metadata: &Metadata<'_>, count: usize) -> Result<Vec<f64>, Lacks> {
    let scores = metadata.array("tokenizer.ggml.scores").and_then(|array| array.numbers()).unwrap_or_default();
    if scores.len() != count {
        return Err(("a score a token at tokenizer.ggml.scores", format!("{} for {count} tokens", scores.len())));
    }
    match scores.iter().find(|score| score.is_nan()) {
        Some(score) => Err(("numbers at tokenizer.ggml.scores", score.to_string())),
        None => Ok(scores),
    }
}

/// All ways to cut a piece into two, best piece first; of one piece those of earlier parts first.
fn merges(tokens: &[&str], scores: &[f64]) -> Result<Vec<Value>, Lacks> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let room = MOST_NESTED * tokens.iter().map(|token| token.len()).sum::<usize>();
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]).then(left.cmp(right)));
    let (mut merges, mut length) = (Vec::new(), 0);
    for piece in order.into_iter().map(|id| tokens[id]).filter(|piece| piece.len() <= LONGEST_JOINED) {
        let cut = |(at, _): (usize, char)| {
            let (left, right) = piece.split_at(at);
            Some((*ids.get(left)?, *ids.get(right)?, left, right))
        };
        let mut cuts: Vec<_> = piece.char_indices().skip(1).filter_map(cut).collect();
        cuts.sort_by_key(|(left, right, ..)| (*left, *right));
        length += piece.len() * cuts.len();
        if length > room {
            return Err(("pieces that are not all joined from each other", format!("`{piece}` and others")));
        }
        merges.extend(cuts.into_iter().map(|(_, _, left, right)| json!([left, right])));
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_cut_a_piece_is_a_merge_and_the_best_score_goes_first() {
        let tokens = ["a", "b", "ab", "abb", "bb"];
        let found = merges(&tokens, &[0.0, 0.0, -3.0, -2.0, -1.0]).unwrap();
        assert_eq!(found, [json!(["b", "b"]), json!(["a", "bb"]), json!(["ab", "b"]), json!(["a", "b"])]);
    }

    #[test]
    fn pieces_that_nest_without_end_are_refused() {
        let pieces: Vec<String> = (1..400).map(|length| "a".repeat(length)).collect();
        let tokens: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert!(merges(&tokens, &vec![0.0; tokens.len()]).unwrap_err().1.contains('a'));
    }
}
