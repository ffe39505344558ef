//! Words to ids: T5's unigram pieces with the `{image}` placeholders, and CLIP's lowercase byte pairs.
//!
//! Both pad to a fixed length without a mask, as the published weights expect: padding is part of what they see.

mod check;

use crate::error::{Error, Result};
use ace_weights::Source;
use check::Pieces;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, Tokenizer};

/// CLIP's words: contractions, letter runs, single digits, runs of anything else; from OpenAI's tokenizer.
const CLIP_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const CLIP_BEGIN: &str = "<|startoftext|>";
const CLIP_END: &str = "<|endoftext|>";

/// Strips the ends of an instruction and makes every run of white space one space, as the weights were trained.
pub fn clean(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Which stretches of text between placeholders T5 takes for the beginning of a word.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Prepend {
    /// Every stretch: the comma of `{image},` becomes `▁` and `,`. The scheme of training and of the full model.
    Always,
    /// Only the beginning of the text: the comma of `{image},` stays one piece.
    First,
}

/// T5's tokenizer: `text </s> <pad> <pad> …`.
#[derive(Debug)]
pub struct T5Tokenizer {
    tokenizer: Tokenizer,
    end: u32,
    pad: u32,
}

impl T5Tokenizer {
    /// Reads a `tokenizer.json` and adds `placeholders` as special tokens, which get the next free ids in their order
    /// (32100, 32101, … for the published file).
    ///
    /// # Errors
    /// If there is no such file, or it is no tokenizer with `</s>` and `<pad>`.
    pub fn from_file(path: &Path, placeholders: &[String]) -> Result<Self> {
        Self::read(&path.into(), placeholders)
    }

    /// As [`T5Tokenizer::from_file`], from wherever its bytes are.
    ///
    /// # Errors
    /// As [`T5Tokenizer::from_file`].
    pub fn read(source: &Source, placeholders: &[String]) -> Result<Self> {
        Self::from_bytes(&source.read()?, source.path(), placeholders)
    }

    fn from_bytes(bytes: &[u8], path: &Path, placeholders: &[String]) -> Result<Self> {
        let mut tokenizer = tokenizer(parse(bytes, path)?, Pieces::Unigram, path)?;
        let (end, pad) = (special_id(&tokenizer, "</s>", path)?, special_id(&tokenizer, "<pad>", path)?);
        let placeholders = placeholders.iter().map(|placeholder| AddedToken::from(placeholder.as_str(), true));
        tokenizer.add_special_tokens(placeholders).map_err(|error| not_a_tokenizer(path, &error.to_string()))?;
        Ok(Self { tokenizer, end, pad })
    }

    /// The same with another rule than the file's for text after a placeholder.
    pub fn prepending(mut self, prepend: Prepend) -> Self {
        let scheme = match prepend {
            Prepend::Always => PrependScheme::Always,
            Prepend::First => PrependScheme::First,
        };
        self.tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, true)));
        self
    }

    /// `max_length` ids: the text, cut if it must be, `</s>`, then padding.
    pub fn encode(&self, text: &str, max_length: usize) -> Vec<i64> {
        let mut ids = ids(&self.tokenizer, text);
        ids.truncate(max_length.saturating_sub(1));
        ids.push(i64::from(self.end));
        ids.resize(max_length, i64::from(self.pad));
        ids
    }

    /// The largest id and one, placeholders included: so many rows the embedding must have.
    pub fn vocab_size(&self) -> usize {
        vocab_size(&self.tokenizer)
    }
}

/// CLIP's tokenizer: `<|startoftext|> text <|endoftext|> <|endoftext|> …`. Placeholders are ordinary text to it.
#[derive(Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    pad: u32,
}

impl ClipTokenizer {
    /// Reads `vocab.json` and `merges.txt` of a folder, or its `tokenizer.json` if there is only that. Padding is
    /// what `special_tokens_map.json` says, if there is one, otherwise the end token.
    ///
    /// # Errors
    /// If a file is missing, or one is not what its name says.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::read(&dir.into())
    }

    /// As [`ClipTokenizer::from_dir`], from wherever the folder is.
    ///
    /// # Errors
    /// As [`ClipTokenizer::from_dir`].
    pub fn read(folder: &Source) -> Result<Self> {
        // What is not there is missed when it is read.
        let file = |name: &str| folder.file(name).unwrap_or_else(|| folder.path().join(name).into());
        let (json, path) = match (folder.file("vocab.json"), folder.file("tokenizer.json")) {
            (None, Some(whole)) => (read_json(&whole)?, whole.path().to_owned()),
            _ => {
                let vocab = file("vocab.json");
                (read_pair(&vocab, &file("merges.txt"))?, vocab.path().to_owned())
            }
        };
        let pad = folder.file("special_tokens_map.json").map(|map| pad_token(&map)).transpose()?.flatten();
        Self::new(json, &path, pad.as_deref())
    }

    /// A tokenizer of its JSON, which was read from `path`.
    fn new(json: Value, path: &Path, pad: Option<&str>) -> Result<Self> {
        let tokenizer = tokenizer(json, Pieces::BytePairs, path)?;
        let begin = special_id(&tokenizer, CLIP_BEGIN, path)?;
        let end = special_id(&tokenizer, CLIP_END, path)?;
        let pad = match pad {
            Some(token) => special_id(&tokenizer, token, path)?,
            None => end,
        };
        Ok(Self { tokenizer, begin, end, pad })
    }

    /// `max_length` ids: begin, the text, cut to `max_length − 2` if it must be, end, then padding.
    pub fn encode(&self, text: &str, max_length: usize) -> Vec<i64> {
        let mut ids = ids(&self.tokenizer, text);
        ids.truncate(max_length.saturating_sub(2));
        ids.insert(0, i64::from(self.begin));
        ids.push(i64::from(self.end));
        ids.resize(max_length, i64::from(self.pad));
        ids
    }

    /// The id of the end token; its first position is where CLIP's summary is read.
    pub fn end_id(&self) -> i64 {
        i64::from(self.end)
    }

    /// The largest id and one: so many rows the embedding must have.
    pub fn vocab_size(&self) -> usize {
        vocab_size(&self.tokenizer)
    }
}

/// The ids of `text` alone.
fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
    // Only an unknown piece without an unknown id can fail: `check` asked for one, `tokenizer` tried one.
    let encoding = tokenizer.encode_fast(text, false).expect("unknown text has an id");
    encoding.get_ids().iter().map(|&id| i64::from(id)).collect()
}

fn vocab_size(tokenizer: &Tokenizer) -> usize {
    tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
}

/// The tokenizer that a vocabulary and its merges stand for, as JSON.
fn read_pair(vocab: &Source, merges: &Source) -> Result<Value> {
    pair((read_json(vocab)?, vocab.path()), (&merges.read()?, merges.path()))
}

/// As [`read_pair`], of what was read from the two places.
fn pair((ids, vocab): (Value, &Path), (lines, merges): (&[u8], &Path)) -> Result<Value> {
    let (Some(begin), Some(end)) = (ids.get(CLIP_BEGIN), ids.get(CLIP_END)) else {
        return Err(not_a_tokenizer(vocab, &format!("no {CLIP_BEGIN} or no {CLIP_END}")));
    };
    let special = |id: &Value, content: &str| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
    };
    let added = [special(begin, CLIP_BEGIN), special(end, CLIP_END)];
    let lines = std::str::from_utf8(lines).map_err(|error| not_a_tokenizer(merges, &error.to_string()))?;
    // The first line may be a version. A merge of `#` never begins with that word.
    let lines: Vec<&str> = lines.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    if let Some(line) = lines.iter().find(|line| line.split(' ').count() != 2) {
        return Err(not_a_tokenizer(merges, &format!("\"{line}\" is no merge of two pieces")));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": CLIP_WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "model": {"type": "BPE", "vocab": ids, "merges": lines, "unk_token": CLIP_END,
            "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": false},
    }))
}

/// The tokenizer that a JSON describes. Truncation and padding are ours, not the file's.
fn tokenizer(json: Value, pieces: Pieces, path: &Path) -> Result<Tokenizer> {
    let needed = check::needed(json, pieces).map_err(|problem| not_a_tokenizer(path, &problem))?;
    let tokenizer: Tokenizer =
        serde_json::from_value(needed).map_err(|error| not_a_tokenizer(path, &error.to_string()))?;
    // Any text must get ids, known or not.
    tokenizer.encode_fast("a \u{e000}", false).map_err(|error| not_a_tokenizer(path, &error.to_string()))?;
    Ok(tokenizer)
}

fn special_id(tokenizer: &Tokenizer, token: &str, path: &Path) -> Result<u32> {
    tokenizer.token_to_id(token).ok_or_else(|| not_a_tokenizer(path, &format!("no {token}")))
}

/// The padding token that a `special_tokens_map.json` names, as a word or as an object with `content`.
fn pad_token(map: &Source) -> Result<Option<String>> {
    let map = read_json(map)?;
    let token = map.get("pad_token").map(|token| token.get("content").unwrap_or(token));
    Ok(token.and_then(Value::as_str).map(str::to_owned))
}

fn read_json(source: &Source) -> Result<Value> {
    parse(&source.read()?, source.path())
}

fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| not_a_tokenizer(path, &error.to_string()))
}

fn not_a_tokenizer(path: &Path, reason: &str) -> Error {
    Error::format(
        path,
        format!("not a tokenizer file: {reason}"),
        "the published folders have tokenizer.json (T5), vocab.json and merges.txt (CLIP)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A folder of this test alone, removed when it ends.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ace-tokenizer-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const T5: &str = r#"{"version": "1.0", "added_tokens": [
        {"id": 0, "content": "<pad>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false},
        {"id": 1, "content": "</s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}],
        "normalizer": null, "post_processor": null, "decoder": null,
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}, "padding": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
        "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false, "vocab": [["<pad>", 0], ["</s>", 0],
        ["<unk>", 0], ["▁", -2], ["▁a", -3], ["▁cup", -3], [",", -3]]}}"#;

    const CLIP: [&str; 2] = [
        r#"{"a": 0, "c": 1, "u": 2, "p": 3, "a</w>": 4, "p</w>": 5, ",</w>": 6, "cu": 7, "cup</w>": 8, "{</w>": 9,
        "<|startoftext|>": 10, "<|endoftext|>": 11}"#,
        "#version: 0.2\nc u\ncu p</w>\n",
    ];

    fn placeholders(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn clean_leaves_single_spaces() {
        assert_eq!(clean("  a\twhite \n cup "), "a white cup");
        assert_eq!(clean(" "), "");
    }

    #[test]
    fn t5_ends_pads_and_truncates_including_the_end() {
        let dir = Dir::new("t5");
        let t5 = T5Tokenizer::from_file(&dir.write("tokenizer.json", T5), &[]).unwrap();
        assert_eq!(t5.encode("a cup, a cup", 8), [4, 5, 6, 4, 5, 1, 0, 0]);
        assert_eq!(t5.encode("a cup, a cup", 3), [4, 5, 1]);
        assert_eq!(t5.encode("", 2), [1, 0]);
        assert_eq!(t5.encode("a", 0), [0i64; 0]);
    }

    #[test]
    fn placeholders_get_the_next_free_ids_in_order() {
        let dir = Dir::new("placeholders");
        let path = dir.write("tokenizer.json", T5);
        let t5 = T5Tokenizer::from_file(&path, &placeholders(&["<img>", "{image}"])).unwrap();
        assert_eq!(t5.vocab_size(), 9);
        assert_eq!(t5.encode("<img>{image}, a cup", 7), [7, 8, 6, 4, 5, 1, 0]);
        let always = t5.prepending(Prepend::Always);
        assert_eq!(always.encode("{image}, a cup", 7), [8, 3, 6, 4, 5, 1, 0]);
    }

    #[test]
    fn clip_lowercases_merges_and_keeps_both_ends() {
        let dir = Dir::new("clip");
        dir.write("vocab.json", CLIP[0]);
        dir.write("merges.txt", CLIP[1]);
        let clip = ClipTokenizer::from_dir(&dir.0).unwrap();
        assert_eq!(clip.encode("A  CUP,\n{a", 9), [10, 4, 8, 6, 9, 4, 11, 11, 11]);
        assert_eq!(clip.encode("a cup, a cup", 4), [10, 4, 8, 11]);
        assert_eq!(clip.encode("", 3), [10, 11, 11]);
        assert_eq!((clip.end_id(), clip.vocab_size()), (11, 12));
        dir.write("special_tokens_map.json", r#"{"pad_token": {"content": "a"}}"#);
        assert_eq!(ClipTokenizer::from_dir(&dir.0).unwrap().encode("cup", 4), [10, 8, 11, 0]);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = Dir::new("errors");
        let told = |error: Option<Error>| error.unwrap().to_string();
        let missing = told(T5Tokenizer::from_file(&dir.0.join("tokenizer.json"), &[]).err());
        assert!(missing.contains("tokenizer.json"), "{missing}");
        let missing = told(ClipTokenizer::from_dir(&dir.0).err());
        assert!(missing.contains("vocab.json"), "{missing}");
        let vocab = dir.write("vocab.json", CLIP[0]);
        let missing = told(ClipTokenizer::from_dir(&dir.0).err());
        assert!(missing.contains("merges.txt"), "{missing}");
        dir.write("merges.txt", "c u p\n");
        let wrong = told(ClipTokenizer::from_dir(&dir.0).err());
        assert!(wrong.contains("merges.txt: not a tokenizer file: \"c u p\" is no merge"), "{wrong}");
        let wrong = told(T5Tokenizer::from_file(&vocab, &[]).err());
        assert!(wrong.contains("vocab.json: not a tokenizer file"), "{wrong}");
    }

    #[test]
    fn what_is_broken_inside_an_unneeded_part_is_named_too() {
        let path = Path::new("tokenizer.json");
        for broken in ["\u{1}", "\\u12", "\\ud800"] {
            let decoder = format!(r#""decoder": {{"type": "Metaspace", "replacement": "{broken}"}}"#);
            let error = T5Tokenizer::from_bytes(T5.replace(r#""decoder": null"#, &decoder).as_bytes(), path, &[]);
            let error = error.unwrap_err();
            assert!(
                matches!(error, Error::File(ace_weights::Error::Format { .. })) && error.hint().is_some(),
                "{error}"
            );
            assert!(error.to_string().starts_with("tokenizer.json: not a tokenizer file: "), "{error}");
        }
        // A decoder turns ids into words, which nobody asks for.
        let strange = T5.replace(r#""decoder": null"#, r#""decoder": {"type": "Strange"}"#);
        T5Tokenizer::from_bytes(strange.as_bytes(), path, &[]).unwrap();
    }

    /// Numbers that look random, the same every time: Knuth's MMIX generator.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, most: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % most.max(1)
        }
    }

    /// Text that a file should not have where it is put.
    const HOSTILE: [&str; 20] = [
        "\u{1}",
        "\\u12",
        "\\ud800",
        "\\",
        "\"",
        "{",
        "]",
        ",",
        "null",
        "{}",
        "[]",
        "true",
        "-1",
        "0.5",
        "1e999",
        "4294967295",
        "18446744073709551616",
        "\"\"",
        "\"(\"",
        "\u{e9}",
    ];

    /// A few bytes changed, removed, doubled, put in, or everything after them cut off.
    fn bytes_changed(whole: &[u8], dice: &mut Dice) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            let end = (at + dice.below(12)).min(bytes.len());
            match dice.below(10) {
                0..3 => drop(bytes.splice(at..end.min(at + 1), [dice.below(256) as u8])),
                3 => bytes[at..end.min(at + 1)].iter_mut().for_each(|byte| *byte ^= 1 << dice.below(8)),
                4 | 5 => drop(bytes.drain(at..end)),
                6 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                7 | 8 => drop(bytes.splice(at..at, HOSTILE[dice.below(HOSTILE.len())].bytes())),
                _ if dice.below(8) == 0 => bytes.truncate(at),
                _ => {}
            }
        }
        bytes
    }

    /// A value somewhere in `whole`, every branch equally likely at every fork.
    fn any<'a>(whole: &'a mut Value, dice: &mut Dice) -> &'a mut Value {
        let inside = match whole {
            Value::Object(fields) => fields.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if inside == 0 || dice.below(5) == 0 {
            return whole;
        }
        let at = dice.below(inside);
        let chosen = match whole {
            Value::Object(fields) => fields.values_mut().nth(at),
            Value::Array(items) => items.get_mut(at),
            _ => None,
        };
        any(chosen.unwrap(), dice)
    }

    /// A value or two replaced by others, from elsewhere or hostile, or without one of their parts.
    fn values_changed(whole: &Value, dice: &mut Dice) -> Value {
        let mut changed = whole.clone();
        for _ in 0..=dice.below(2) {
            let other = match dice.below(3) {
                0 => any(&mut changed, dice).clone(),
                _ => serde_json::from_str(HOSTILE[dice.below(HOSTILE.len())]).unwrap_or(Value::Null),
            };
            let less = dice.below(3) == 0;
            let at = dice.below(16);
            match any(&mut changed, dice) {
                Value::Object(fields) if less => {
                    let name = fields.keys().nth(at % fields.len().max(1)).cloned().unwrap_or_default();
                    fields.remove(&name);
                }
                Value::Array(items) if less => items.truncate(at),
                value => *value = other,
            }
        }
        changed
    }

    /// Reads what was changed and uses what could be read: an error is an answer, a panic is none.
    fn survives(number: usize, changed: &[u8], read: impl FnOnce() -> Result<()> + std::panic::UnwindSafe) {
        match std::panic::catch_unwind(read) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                assert!(
                    matches!(error, Error::File(ace_weights::Error::Format { .. })) && error.hint().is_some(),
                    "change {number}: {error}"
                )
            }
            Err(_) => panic!("change {number} panics: {}", String::from_utf8_lossy(changed)),
        }
    }

    const TEXTS: [&str; 4] = ["make the circle green", "", " {image}, A\u{301}ﬁ\u{3000}\u{e000}  </s>x", "<pad> <unk>"];

    fn t5_survives(number: usize, changed: &[u8]) {
        survives(number, changed, || {
            let t5 = T5Tokenizer::from_bytes(changed, Path::new("t5"), &placeholders(&["{image}"]))?;
            TEXTS.iter().for_each(|text| drop(t5.encode(text, 26)));
            let t5 = t5.prepending(Prepend::First);
            TEXTS.iter().for_each(|text| drop(t5.encode(text, 26)));
            Ok(())
        });
    }

    fn clip_survives(number: usize, changed: &[u8], read: impl FnOnce() -> Result<Value> + std::panic::UnwindSafe) {
        survives(number, changed, || {
            let clip = ClipTokenizer::new(read()?, Path::new("clip"), None)?;
            TEXTS.iter().for_each(|text| drop(clip.encode(text, 32)));
            Ok(())
        });
    }

    /// Changes the files of a folder with `t5/` and `clip/` so many times each, and reads them.
    fn changed_files_are_answered(folder: &Path, times: usize) {
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        let (t5, vocab, merges) = (read("t5/tokenizer.json"), read("clip/vocab.json"), read("clip/merges.txt"));
        let (here, there) = (Path::new("vocab.json"), Path::new("merges.txt"));
        let ids = parse(&vocab, here).unwrap();
        let (t5_json, clip_json) = (parse(&t5, here).unwrap(), pair((ids.clone(), here), (&merges, there)).unwrap());
        let mut dice = Dice(1);
        for number in 0..times {
            t5_survives(number, &bytes_changed(&t5, &mut dice));
            t5_survives(number, values_changed(&t5_json, &mut dice).to_string().as_bytes());
            let changed = bytes_changed(&vocab, &mut dice);
            clip_survives(number, &changed, || pair((parse(&changed, here)?, here), (&merges, there)));
            let changed = bytes_changed(&merges, &mut dice);
            clip_survives(number, &changed, || pair((ids.clone(), here), (&changed, there)));
            let changed = values_changed(&clip_json, &mut dice);
            clip_survives(number, changed.to_string().as_bytes(), || Ok(changed.clone()));
        }
    }

    #[test]
    fn no_change_of_the_shipped_files_panics() {
        changed_files_are_answered(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny/tokenizers"), 600);
    }

    /// Set `ACE_TOKENIZERS` as below to run it: megabytes are read each time.
    #[test]
    fn no_change_of_the_published_files_panics() {
        let Ok(dir) = std::env::var("ACE_TOKENIZERS") else { return };
        changed_files_are_answered(Path::new(&dir), 20);
    }

    /// Set `ACE_TOKENIZERS` to a folder with the published `t5/tokenizer.json` and `clip/` to run it.
    #[test]
    fn published_tokenizers_give_the_published_ids() {
        let Ok(dir) = std::env::var("ACE_TOKENIZERS") else { return };
        let path = Path::new(&dir).join("t5/tokenizer.json");
        let mut names = placeholders(&["<img>", "{image}", "{caption}", "{mask}", "{ref_image}"]);
        names.extend((1..=9).map(|n| format!("{{image{n}}}")));
        let t5 = T5Tokenizer::from_file(&path, &names).unwrap().prepending(Prepend::Always);
        let faces = "{image}, the man faces the camera.";
        for (text, ids) in [
            ("a white paper cup", &[3, 9, 872, 1040, 4119, 1][..]),
            ("", &[1]),
            ("The logo is printed on the headphones.", &[37, 3554, 19, 5519, 30, 8, 21065, 5, 1]),
            (faces, &[32101, 3, 6, 8, 388, 8519, 8, 1861, 5, 1]),
            ("<img>{ref_image}{image1}{image9}", &[32100, 32104, 32105, 32113, 1]),
        ] {
            let encoded = t5.encode(text, 512);
            assert_eq!(&encoded[..ids.len()], ids, "{text}");
            assert!(encoded.len() == 512 && encoded[ids.len()..].iter().all(|&id| id == 0));
        }
        let single = T5Tokenizer::from_file(&path, &placeholders(&["{image}"])).unwrap().prepending(Prepend::First);
        assert_eq!(single.encode(faces, 9), [32100, 6, 8, 388, 8519, 8, 1861, 5, 1]);
        let plain = T5Tokenizer::from_file(&path, &[]).unwrap();
        assert_eq!(plain.encode("{image}", 5), [3, 2, 8221, 2, 1]);

        let clip = ClipTokenizer::from_dir(&Path::new(&dir).join("clip")).unwrap();
        for (text, ids) in [
            ("a white paper cup", &[49406, 320, 1579, 2802, 1937, 49407][..]),
            (faces, &[49406, 346, 2867, 92, 267, 518, 786, 4905, 518, 3934, 269, 49407]),
        ] {
            let encoded = clip.encode(text, 77);
            assert_eq!(&encoded[..ids.len()], ids, "{text}");
            assert!(encoded.len() == 77 && encoded[ids.len()..].iter().all(|&id| id == 49407));
        }
        let long = clip.encode(&"cup ".repeat(100), 77);
        assert_eq!((long.len(), long[75], long[76]), (77, 1937, 49407));
    }
}
