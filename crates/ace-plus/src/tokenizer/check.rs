//! What of a `tokenizer.json` turns words into ids, checked before the `tokenizers` crate sees it.
//!
//! That crate panics where a decoder cannot be read, where a merge is shorter than the prefix of its pieces, where a
//! character map points out of itself, and where something is put in at the end of a text that is lowercased later.
//! Decoders are not needed here, so they are left out; the rest is checked first.

use serde_json::{Map, Value};
use tokenizers::utils::SysRegex;

/// Parts that turn words into ids. Decoder, post-processor, truncation and padding do not.
const NEEDED: [&str; 5] = ["version", "added_tokens", "normalizer", "pre_tokenizer", "model"];
/// Texts in which a pattern should find either nothing or something.
const TRIALS: [&str; 2] = ["", " aA  1,.'_-\n{é}\u{e000}"];
/// Ids above this have no place in an embedding.
const MOST_ID: u64 = i32::MAX as u64;

/// How words are split into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// The likeliest of all splits, as T5 has it.
    Unigram,
    /// Pairs merged in a fixed order, as CLIP has it.
    BytePairs,
}

impl Pieces {
    /// What a file calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Unigram => "Unigram",
            Self::BytePairs => "BPE",
        }
    }
}

/// The parts of a tokenizer that turn words into ids, or what is wrong with them.
pub(super) fn needed(whole: Value, pieces: Pieces) -> Result<Value, String> {
    let Value::Object(mut whole) = whole else { return Err("it is no JSON object".into()) };
    whole.retain(|part, _| NEEDED.contains(&part.as_str()));
    let Some(Value::Object(model)) = whole.get_mut("model") else { return Err("it has no model".into()) };
    match model.get("type") {
        // Old files do not say it.
        None => drop(model.insert("type".into(), pieces.name().into())),
        Some(kind) if *kind == pieces.name() => {}
        Some(kind) => return Err(format!("its model is {kind}, not \"{}\"", pieces.name())),
    }
    match pieces {
        Pieces::Unigram => check_unigram(model)?,
        Pieces::BytePairs => check_byte_pairs(model)?,
    }
    whole.get("normalizer").map_or(Ok(()), check_normalizer)?;
    Ok(Value::Object(whole))
}

fn check_unigram(model: &Map<String, Value>) -> Result<(), String> {
    match model.get("unk_id").is_some_and(Value::is_u64) {
        true => Ok(()),
        false => Err("model.unk_id is missing: unknown text would have no id".into()),
    }
}

fn check_byte_pairs(model: &mut Map<String, Value>) -> Result<(), String> {
    // Merges left out by chance would give the same words other ids each time.
    model.remove("dropout");
    let text = |field: &str| model.get(field).and_then(Value::as_str);
    if let Some(prefix) = text("continuing_subword_prefix").filter(|prefix| !prefix.is_empty()) {
        return Err(format!("model.continuing_subword_prefix is {prefix:?}, which CLIP's pieces do not have"));
    }
    let Some(Value::Object(vocab)) = model.get("vocab") else { return Err("model.vocab is missing".into()) };
    if let Some((piece, id)) = vocab.iter().find(|(_, id)| id.as_u64().is_none_or(|id| id > MOST_ID)) {
        return Err(format!("model.vocab: {piece:?} has the id {id}"));
    }
    match text("unk_token") {
        Some(unknown) if !vocab.contains_key(unknown) => Err(format!("model.unk_token: there is no {unknown:?}")),
        _ => Ok(()),
    }
}

/// Checks the character maps and the patterns of a normalizer, which may be a sequence of others.
fn check_normalizer(normalizer: &Value) -> Result<(), String> {
    match normalizer {
        Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == "Precompiled") => {
            let map =
                fields.get("precompiled_charsmap").and_then(Value::as_str).ok_or("normalizer: no character map")?;
            let bytes = decode_base64(map).ok_or("normalizer: its character map is no base64")?;
            check_character_map(&bytes).ok_or_else(|| "normalizer: its character map points out of itself".into())
        }
        Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == "Replace") => {
            fields.get("pattern").map_or(Ok(()), check_pattern)
        }
        Value::Object(fields) => fields.values().try_for_each(check_normalizer),
        Value::Array(items) => items.iter().try_for_each(check_normalizer),
        _ => Ok(()),
    }
}

/// Refuses a pattern that finds places instead of letters, as `\b` and `x*` do. One that is no pattern is the crate's to
/// refuse.
fn check_pattern(pattern: &Value) -> Result<(), String> {
    let finds_places = match (pattern.get("String"), pattern.get("Regex")) {
        (Some(text), _) => text.as_str().is_some_and(str::is_empty),
        (_, Some(Value::String(regex))) => SysRegex::new(regex)
            .is_ok_and(|regex| TRIALS.iter().any(|text| regex.find_iter(text).any(|(start, end)| start == end))),
        _ => false,
    };
    if finds_places { Err(format!("normalizer: the pattern {pattern} matches without a letter")) } else { Ok(()) }
}

/// Walks all of a character map of SentencePiece: the number of bytes of a double-array trie, its units of 32 bits, and
/// the replacements, each ended by a zero byte. The layout of a unit is that of the `darts-clone` library:
///
/// ```text
/// bits 0–7 label, 8 "the next unit is a value", 9 "the offset counts in 256", 10–30 offset
/// ```
///
/// `None` if any text would be looked up outside the trie or replaced by what is no text.
fn check_character_map(bytes: &[u8]) -> Option<()> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (trie, replacements) = rest.split_at_checked(u32::from_le_bytes(*size) as usize / 4 * 4)?;
    let replacements = std::str::from_utf8(replacements).ok()?;
    let units: Vec<u32> = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
    let mut seen = vec![false; units.len()];
    // Where the bytes after a node are looked up: each byte is added without carrying.
    let mut open = vec![offset(*units.first()?)];
    while let Some(base) = open.pop() {
        if std::mem::replace(seen.get_mut(base)?, true) {
            continue;
        }
        for byte in 1..=255 {
            let at = base ^ byte;
            let unit = *units.get(at)?;
            if (unit & (1 << 31 | 0xff)) as usize != byte {
                continue;
            }
            let base = at ^ offset(unit);
            open.push(base);
            if unit >> 8 & 1 == 1 {
                let start = (units.get(base)? & !(1 << 31)) as usize;
                replacements.get(start..)?;
            }
        }
    }
    Some(())
}

/// The bytes of a text in base64 with its padding and nothing else, as RFC 4648 has it.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let padded = text.as_bytes();
    let letters = padded.strip_suffix(b"==").or(padded.strip_suffix(b"=")).unwrap_or(padded);
    if !padded.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(padded.len() / 4 * 3);
    for group in letters.chunks(4) {
        let mut bits = 0;
        for letter in group {
            bits = bits << 6 | u32::from(value(*letter)?);
        }
        bits <<= 6 * (4 - group.len());
        let [_, whole @ ..] = bits.to_be_bytes();
        let (whole, rest) = whole.split_at(group.len() * 6 / 8);
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A character map in which `a` becomes `bc`: a root, its 256 children, and the value of the one for `a`.
    fn character_map() -> Vec<u8> {
        let mut units = vec![0u32; 1024];
        // The root's children stand at 256 + byte.
        units[0] = 256 << 10;
        let child = 256 ^ usize::from(b'a');
        // The value of the child stands at 512.
        units[child] = ((child ^ 512) as u32) << 10 | 1 << 8 | u32::from(b'a');
        units[512] = 2 | 1 << 31;
        let mut map = (units.len() as u32 * 4).to_le_bytes().to_vec();
        map.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        map.extend(b"x\0bc\0");
        map
    }

    fn encode_base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for at in 0..4 {
                let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
                text.push(if at <= group.len() { letter as char } else { '=' });
            }
        }
        text
    }

    #[test]
    fn base64_is_read_as_the_standard_has_it() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..bytes.len() {
            assert_eq!(decode_base64(&encode_base64(&bytes[..len])).as_deref(), Some(&bytes[..len]));
        }
        assert_eq!(decode_base64("Zm8="), Some(b"fo".to_vec()));
        for wrong in ["Zm8", "Zm9=", "Z===", "Zm 8", "Zm8=Zm8=", "====", "Zm8\u{1}"] {
            assert_eq!(decode_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_character_map_that_points_out_of_itself_is_refused() {
        let map = character_map();
        assert_eq!(check_character_map(&map), Some(()));
        let with_unit = |at: usize, unit: u32| {
            let mut map = map.clone();
            map[4 + 4 * at..8 + 4 * at].copy_from_slice(&unit.to_le_bytes());
            check_character_map(&map)
        };
        let child = 256 ^ usize::from(b'a');
        assert_eq!(with_unit(0, 4096 << 10), None, "children after the end");
        assert_eq!(with_unit(child, 4096 << 10 | u32::from(b'a')), None, "grandchildren after the end");
        assert_eq!(with_unit(512, 7), None, "a replacement after the end");
        // A child that is its own parent is walked once.
        assert_eq!(with_unit(child, ((child ^ 256) as u32) << 10 | u32::from(b'a')), Some(()));
        assert_eq!(check_character_map(&map[..7]), None);
        assert_eq!(check_character_map(&[]), None);
        assert_eq!(check_character_map(&u32::MAX.to_le_bytes()), None);
        assert_eq!(check_character_map(&[&map[..], &[0xff]].concat()), None, "no UTF-8");
    }

    #[test]
    fn only_what_turns_words_into_ids_is_kept() {
        let model = json!({"vocab": [["<unk>", 0.0]], "unk_id": 0});
        let whole = json!({"version": "1.0", "decoder": {"type": 7}, "padding": [], "model": model});
        let kept = needed(whole, Pieces::Unigram).unwrap();
        let model = json!({"type": "Unigram", "vocab": [["<unk>", 0.0]], "unk_id": 0});
        assert_eq!(kept, json!({"version": "1.0", "model": model}));
    }

    #[test]
    fn what_would_panic_later_is_named() {
        let told = |whole: Value, pieces| needed(whole, pieces).unwrap_err();
        let unigram = |normalizer: Value| {
            told(json!({"model": {"type": "Unigram", "unk_id": 0}, "normalizer": normalizer}), Pieces::Unigram)
        };
        let sequence = |map: Value| json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": map}]});
        assert_eq!(told(json!([]), Pieces::Unigram), "it is no JSON object");
        assert_eq!(told(json!({"model": []}), Pieces::Unigram), "it has no model");
        assert_eq!(told(json!({"model": {"type": "BPE"}}), Pieces::Unigram), "its model is \"BPE\", not \"Unigram\"");
        assert!(told(json!({"model": {}}), Pieces::Unigram).contains("unk_id"));
        assert!(unigram(json!({"type": "Precompiled"})).contains("no character map"));
        assert!(unigram(sequence(json!("Zm9="))).contains("no base64"));
        assert!(unigram(sequence(json!("////////"))).contains("points out of itself"));
        for pattern in [json!({"String": ""}), json!({"Regex": ""}), json!({"Regex": r"\b"}), json!({"Regex": "x*|$"})]
        {
            let told = unigram(json!({"type": "Replace", "pattern": pattern, "content": " "}));
            assert!(told.ends_with("matches without a letter"), "{told}");
        }
        let pairs = |more: Value| {
            let mut model = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
            model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            told(json!({"model": model}), Pieces::BytePairs)
        };
        assert!(pairs(json!({"continuing_subword_prefix": "##"})).contains("\"##\""));
        assert!(pairs(json!({"vocab": {"a": 4_294_967_295u32}})).contains("the id 4294967295"));
        assert!(pairs(json!({"unk_token": "b"})).contains("there is no \"b\""));
    }
}
