//! The miniature's tokenizers: a T5 and a CLIP in the published file formats, in which every given word is one token.
//!
//! Both turn letters into lower case. A word that they do not know is spelt in printable ASCII characters, so nothing but
//! other scripts is unknown to them.

use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Log-probabilities of T5's pieces: one whole word beats any spelling, which takes two pieces or more.
const WORD_SCORE: f64 = -1.0;
const LETTER_SCORE: f64 = -10.0;

/// Writes `dir/t5/tokenizer.json`, `dir/clip/vocab.json` and `dir/clip/merges.txt`, the same bytes for the same words.
/// T5 ids: `<pad>` 0, `</s>` 1, `<unk>` 2, `▁`, the characters, then the words in their order. CLIP ids: the
/// characters, the characters that end a word, the merges, `<|startoftext|>`, `<|endoftext|>`.
///
/// A word with anything but letters is one token for T5 only, since CLIP always splits digits and signs off.
///
/// # Errors
/// `InvalidInput` if a word is not printable ASCII without spaces; another kind if a file cannot be written.
pub fn write(words: &[String], dir: &Path) -> io::Result<()> {
    if let Some(word) = words.iter().find(|word| word.is_empty() || !word.chars().all(|c| c.is_ascii_graphic())) {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("\"{word}\" is not a printable ASCII word")));
    }
    let mut seen = BTreeSet::new();
    let words: Vec<String> =
        words.iter().map(|word| word.to_lowercase()).filter(|word| seen.insert(word.clone())).collect();

    fs::create_dir_all(dir.join("t5"))?;
    fs::write(dir.join("t5/tokenizer.json"), t5(&words).to_string())?;

    let merges = merges(&words);
    fs::create_dir_all(dir.join("clip"))?;
    fs::write(dir.join("clip/vocab.json"), clip_vocab(&merges).to_string())?;
    let lines = merges.iter().map(|[left, right]| format!("{left} {right}\n"));
    fs::write(dir.join("clip/merges.txt"), format!("#version: 0.2\n{}", lines.collect::<String>()))
}

/// The printable ASCII characters but for upper case letters.
fn characters() -> impl Iterator<Item = char> {
    ('!'..='~').filter(|character| !character.is_ascii_uppercase())
}

fn t5(words: &[String]) -> Value {
    let specials = ["<pad>", "</s>", "<unk>"];
    let mut vocab: Vec<Value> = specials.iter().map(|special| json!([special, 0.0])).collect();
    vocab.push(json!(["▁", LETTER_SCORE]));
    vocab.extend(characters().map(|character| json!([character, LETTER_SCORE])));
    vocab.extend(words.iter().map(|word| json!([format!("▁{word}"), WORD_SCORE])));
    let added = specials.iter().enumerate().map(|(id, special)| {
        json!({"id": id, "content": special, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
    });
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"},
            {"type": "Lowercase"},
            {"type": "Strip", "strip_left": false, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ]},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), end],
            "pair": [sequence("A"), end, sequence("B"), end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
    })
}

/// Merges, in order of rank, that make one token of each word of letters.
///
/// For every word, the merges so far are applied; if more than one piece is left, merges from the left are added until one
/// is. A later merge has a lower rank than all before it, so it is not tried on an earlier word until that is one piece.
fn merges(words: &[String]) -> Vec<[String; 2]> {
    let mut merges: Vec<[String; 2]> = Vec::new();
    let mut ranks: HashMap<[String; 2], usize> = HashMap::new();
    for word in words.iter().filter(|word| word.chars().all(|c| c.is_ascii_alphabetic())) {
        let mut pieces: Vec<String> = word.chars().map(String::from).collect();
        if let Some(last) = pieces.last_mut() {
            last.push_str("</w>");
        }
        while pieces.len() > 1 {
            let pair = |at: usize| [pieces[at].clone(), pieces[at + 1].clone()];
            let ranked = (0..pieces.len() - 1).filter_map(|at| Some((*ranks.get(&pair(at))?, at))).min();
            let at = ranked.map_or(0, |(_, at)| at);
            if ranked.is_none() {
                ranks.insert(pair(0), merges.len());
                merges.push(pair(0));
            }
            let right = pieces.remove(at + 1);
            pieces[at].push_str(&right);
        }
    }
    merges
}

fn clip_vocab(merges: &[[String; 2]]) -> Value {
    let letters = characters().map(String::from);
    let ends = characters().map(|character| format!("{character}</w>"));
    let merged = merges.iter().map(|[left, right]| format!("{left}{right}"));
    let specials = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let mut vocab = Map::new();
    for piece in letters.chain(ends).chain(merged).chain(specials) {
        // Two merges may make the same piece; it keeps its first id.
        let id = vocab.len();
        vocab.entry(piece).or_insert_with(|| json!(id));
    }
    Value::Object(vocab)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_plus::tokenizer::{ClipTokenizer, T5Tokenizer};
    use std::path::PathBuf;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    /// A fresh folder with the tokenizers of `text`'s words.
    fn written(name: &str, text: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ace-vocabulary-{name}-{}", std::process::id()));
        write(&words(text), &dir).unwrap();
        dir
    }

    const WORDS: &str =
        "nap an banana ban red reed a the circle square triangle make Red into anna bananas is aaa aaaa";

    #[test]
    fn every_word_is_one_token_of_both() {
        let dir = written("words", WORDS);
        let t5 = T5Tokenizer::from_file(&dir.join("t5/tokenizer.json"), &["{image}".into()]).unwrap();
        let clip = ClipTokenizer::from_dir(&dir.join("clip")).unwrap();
        let mut seen = BTreeSet::new();
        for word in words(WORDS) {
            let (t5, clip) = (t5.encode(&word, 3), clip.encode(&word, 4));
            assert!(t5[0] > 2 && t5[1..] == [1, 0], "{word}: {t5:?}");
            assert!(clip[2] == clip[3] && clip[1] < clip[0], "{word}: {clip:?}");
            seen.insert((t5[0], clip[1]));
        }
        assert_eq!(seen.len(), words(WORDS).len() - 1, "only Red and red are the same");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_sentence_has_no_unknown_piece() {
        let dir = written("sentence", "make the circle red");
        let t5 = T5Tokenizer::from_file(&dir.join("t5/tokenizer.json"), &["{image}".into()]).unwrap();
        let clip = ClipTokenizer::from_dir(&dir.join("clip")).unwrap();
        let text = "{image}, make the circle RED: 7% \"zebra\" ~!";
        let encoded = t5.encode(text, 40);
        assert!(encoded.iter().all(|&id| id != 2));
        assert_eq!(encoded[0] as usize, t5.vocab_size() - 1);
        let encoded = clip.encode(text, 40);
        let end = encoded.iter().position(|&id| id == clip.end_id()).unwrap();
        assert!(end > 20 && encoded[end..].iter().all(|&id| id == clip.end_id()));
        assert_eq!(clip.end_id() as usize, clip.vocab_size() - 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_same_words_give_the_same_bytes() {
        let dirs = [written("first", WORDS), written("second", WORDS)];
        for file in ["t5/tokenizer.json", "clip/vocab.json", "clip/merges.txt"] {
            let [first, second] = dirs.each_ref().map(|dir| fs::read(dir.join(file)).unwrap());
            assert!(first == second, "{file}");
        }
        dirs.iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
    }

    #[test]
    fn a_word_with_a_space_is_refused() {
        let error = write(&["two words".into()], Path::new("nowhere")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
