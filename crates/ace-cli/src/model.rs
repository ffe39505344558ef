//! Which model: its card, the folder of its weights, and LoRAs on top. `sample`, `train` and `eval` find theirs here.

use crate::{miniature, report::Failure};
use ace_plus::{
    Card, Model,
    model::DEFAULT,
    request::{LoraRequest, ModelRequest},
};
use clap::Args;
use std::{
    env,
    path::{Path, PathBuf},
};

/// Folder of the shipped models, in a clone.
const MODELS: &str = "models";

/// Which model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ModelArgs {
    /// Built-in card by its name, NAME+ADDITION (models/README.md lists both), or a folder with a card.toml, or one that
    /// diffusers wrote [default: tiny]
    #[arg(long, value_name = "NAME|DIR")]
    pub model: Option<String>,
    /// Folder of the weights that the card names [default: the card's own folder, then the Hugging Face cache]
    #[arg(long, value_name = "DIR")]
    pub weights: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Files in other places than the card's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Overrides {
    /// Another file or folder for the transformer: fp8, GGUF, diffusers' …
    #[arg(long, value_name = "FILE|DIR")]
    pub flux: Option<PathBuf>,
    /// Another file or folder for the autoencoder
    #[arg(long, value_name = "FILE|DIR")]
    pub autoencoder: Option<PathBuf>,
    /// Another file or folder for T5
    #[arg(long, value_name = "FILE|DIR")]
    pub t5: Option<PathBuf>,
    /// Another file or folder for CLIP
    #[arg(long, value_name = "FILE|DIR")]
    pub clip: Option<PathBuf>,
}

impl ModelArgs {
    /// Which model is asked for, as it can be stored.
    pub fn request(&self) -> ModelRequest {
        let Overrides { flux, autoencoder, t5, clip } = self.overrides.clone();
        let named = [("flux", flux), ("autoencoder", autoencoder), ("t5", t5), ("clip", clip)];
        ModelRequest {
            name: self.model.clone(),
            weights: self.weights.clone(),
            networks: named.into_iter().filter_map(|(word, path)| Some((word.to_owned(), path?))).collect(),
            ..ModelRequest::default()
        }
    }
}

/// A LoRA file and how strongly it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The file.
    pub path: PathBuf,
    /// 1 as it was trained, 0 not at all.
    pub weight: f64,
}

impl Lora {
    /// `FILE` or `FILE:WEIGHT`. What follows a colon and is no number belongs to the file's name, as in `C:\lora`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, weight) = match text.rsplit_once(':') {
            Some((path, weight)) => match weight.trim().parse::<f64>() {
                Ok(weight) => (path, weight),
                Err(_) => (text, 1.0),
            },
            None => (text, 1.0),
        };
        if path.is_empty() {
            return Err("no file is named".to_owned());
        }
        if !weight.is_finite() {
            return Err(format!("weight {weight} is not a finite number"));
        }
        Ok(Self { path: path.into(), weight })
    }

    /// As it can be stored.
    pub fn request(&self) -> LoraRequest {
        LoraRequest { file: self.path.clone().into(), weight: self.weight }
    }
}

/// Finds a model; reads no weights yet. Relative paths begin at `base`.
///
/// # Errors
/// If there is no such card, it cannot be used, or the folder of its weights is missing.
pub fn find(asked: &ModelRequest, base: &Path) -> anyhow::Result<Model> {
    let name = asked.name.as_deref().unwrap_or(DEFAULT);
    let is_path = name.contains(['/', '\\']) || Card::builtin(name).is_err();
    let name = if is_path { base.join(name).display().to_string() } else { name.to_owned() };
    let mut model = match is_path && !Path::new(&name).exists() {
        // The message names what was said, not where it was looked for.
        true => Model::find(asked.name.as_deref().unwrap_or(DEFAULT))?,
        false => Model::find(&name)?,
    };
    if !is_path {
        let folder = Path::new(MODELS).join(&name);
        model = match folder.is_dir() {
            true => model.weights(folder),
            false if name == DEFAULT => miniature::files().fold(model, |model, (name, bytes)| model.bytes(name, bytes)),
            false => model,
        };
    }
    let model = asked.apply(model, base)?;
    let folder = model.folder();
    if asked.weights.is_some() && !folder.is_dir() {
        let what = format!("{}: there is no such folder with the weights of {}", folder.display(), model.card().name);
        return Err(Failure::new(what, "say where they are with --weights DIR").into());
    }
    Ok(model)
}

/// A T5 of fewer numbers reads words faster than a file of embeddings is worth.
const LARGE_T5: u64 = 100_000_000;

/// A model that keeps embeddings of words in the user's cache, if its encoders are large enough.
pub fn keeping_text(model: Model) -> Model {
    let (blocks, others) = ace_plus::cost::text::t5_numbers(&model.card().t5);
    let folder = (blocks.all() + others >= LARGE_T5).then(cache_folder).flatten();
    model.text_cache(folder.map(|folder| folder.join("words")))
}

/// The folder in which programs may keep what they can make again, where there is one.
fn cache_folder() -> Option<PathBuf> {
    let place = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = place("XDG_CACHE_HOME").or_else(|| place("LOCALAPPDATA"));
    let caches = caches.or_else(|| Some(place("HOME")?.join(".cache")));
    Some(caches?.join("ace-plus"))
}

/// A shipped file: from the current folder if it is there, or else from the clone whose cargo runs this program.
pub fn shipped(path: &Path) -> PathBuf {
    let clone = env::var_os("CARGO_MANIFEST_DIR");
    let clone = clone.and_then(|here| Some(Path::new(&here).ancestors().nth(2)?.join(path)));
    match clone {
        Some(clone) if !path.exists() && clone.exists() => clone,
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_after_the_last_colon_is_a_weight() {
        let parsed = |text| Lora::parse(text).map(|lora| (lora.path.to_str().unwrap().to_owned(), lora.weight));
        assert_eq!(parsed("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(parsed("a.safetensors:0.8"), Ok(("a.safetensors".into(), 0.8)));
        assert_eq!(parsed("a:b:-1"), Ok(("a:b".into(), -1.0)));
        assert_eq!(parsed(r"C:\lora.safetensors"), Ok((r"C:\lora.safetensors".into(), 1.0)));
        assert!(parsed(":0.5").is_err());
        assert!(parsed("a:nan").is_err());
        assert!(parsed("").is_err());
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let asked = ModelRequest { name: Some("giant".into()), ..ModelRequest::default() };
        let error = find(&asked, Path::new("")).unwrap_err();
        assert_eq!(error.to_string(), "there is no built-in card \"giant\"");
    }

    #[test]
    fn the_miniature_is_part_of_the_program() {
        let model = find(&ModelRequest::default(), Path::new("")).unwrap();
        model.files().unwrap();
    }
}
