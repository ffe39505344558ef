//! Which model: its card, the folder of its weights, and LoRAs on top. `sample` and `eval` find theirs here.

use crate::report::Failure;
use ace_plus::{Ace, Card, Error, card::Files, digest, fetch::Hub, lean::Lean, pipeline::Numbers};
use burn::tensor::Device;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The model that is used when none is named.
pub const DEFAULT: &str = "tiny";
/// Folder of the shipped models, in a clone.
const MODELS: &str = "models";

/// Which model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelArgs {
    /// Built-in card by its name, or a folder with a card.toml [default: tiny]
    #[arg(long, value_name = "NAME|DIR")]
    pub model: Option<String>,
    /// Folder of the weights that the card names [default: the card's own folder, then the Hugging Face cache]
    #[arg(long, value_name = "DIR")]
    pub weights: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Files in other places than the card's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// A LoRA file and how strongly it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// A card and where its weights are.
#[derive(Debug)]
pub struct Model {
    /// Everything about the model that is not code.
    pub card: Card,
    /// Folder in which they are looked for first.
    pub weights: PathBuf,
    /// Where they are looked for then, if the card says that they are published.
    pub hub: Option<Hub>,
}

impl Model {
    /// Finds the card and the folder of its weights; reads no weights yet.
    ///
    /// # Errors
    /// If there is no such card, it cannot be used, or the folder is missing.
    pub fn find(args: &ModelArgs) -> anyhow::Result<Self> {
        let name = args.model.as_deref().unwrap_or(DEFAULT);
        // A bare name is a built-in card if there is one; `./tiny` is always a folder.
        let is_bare = !name.contains(['/', '\\']);
        let (mut card, home) = match Card::builtin(name) {
            Ok(card) if is_bare => (card, shipped(&Path::new(MODELS).join(name))),
            Err(unknown) if is_bare && !Path::new(name).exists() => return Err(unknown.into()),
            _ => {
                let path = Path::new(name);
                let home = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
                (Card::load(path)?, home.to_owned())
            }
        };
        let named = [
            (&args.overrides.flux, &mut card.weights.flux),
            (&args.overrides.autoencoder, &mut card.weights.autoencoder),
            (&args.overrides.t5, &mut card.weights.t5),
            (&args.overrides.clip, &mut card.weights.clip),
        ];
        for (path, places) in named {
            if let Some(path) = path {
                // An absolute path is the same from every folder.
                *places = std::path::absolute(path).map_err(Error::io(path))?.into();
            }
        }
        let hub = if card.repository.is_empty() { None } else { Hub::from_env().ok() };
        let weights = args.weights.clone().unwrap_or(home);
        let must_be = args.weights.is_some() || hub.is_none();
        if must_be && !weights.as_os_str().is_empty() && !weights.is_dir() {
            return Err(Failure::new(
                format!("{}: there is no such folder with the weights of {}", weights.display(), card.name),
                "say where they are with --weights DIR; a clone has those of the miniature in models/tiny",
            )
            .into());
        }
        Ok(Self { card, weights, hub })
    }

    /// Where everything of the model is.
    ///
    /// # Errors
    /// If something is missing; all of it is named.
    pub fn locate(&self) -> anyhow::Result<Files> {
        Ok(self.card.locate(&self.weights, self.hub.as_ref())?)
    }

    /// Name and fingerprint of everything that the model consists of: its card, networks and tokenizers.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn files(&self) -> anyhow::Result<Vec<(String, String)>> {
        // Where files lie is no property of the model.
        let card = Card { weights: self.card.weights.nowhere(), ..self.card.clone() };
        let mut found = vec![("card".to_owned(), digest::of_bytes(format!("{card:?}").as_bytes()))];
        for (part, path) in self.locate()?.iter() {
            found.push((part.to_string(), digest::fingerprint(path)?));
        }
        Ok(found)
    }

    /// Loads every network, and the LoRAs on top.
    ///
    /// # Errors
    /// If a file is missing, truncated or foreign.
    pub fn load(&self, loras: &[Lora], numbers: Numbers, device: &Device) -> anyhow::Result<Ace> {
        let mut ace = Ace::load_files(&self.card, &self.locate()?, numbers, device)?;
        for lora in loras {
            let skipped = ace.add_lora(&lora.path, lora.weight)?.skipped;
            if let [first, ..] = &skipped[..] {
                let more = if skipped.len() > 1 { format!(" (and {} more)", skipped.len() - 1) } else { String::new() };
                eprintln!("{}: skipped what is for the text encoders: {first}{more}", lora.path.display());
            }
        }
        Ok(ace)
    }

    /// The model with the LoRAs on top, of which nothing is loaded yet.
    ///
    /// # Errors
    /// If a file is missing or cannot be opened.
    pub fn lean(&self, loras: &[Lora], numbers: Numbers, device: &Device) -> anyhow::Result<Lean> {
        let loras: Vec<_> = loras.iter().map(|lora| (lora.path.clone(), lora.weight)).collect();
        Ok(Lean::new(&self.card, &self.locate()?, &loras, numbers, device)?)
    }
}

/// A shipped file or folder: from the current folder if it is there, or else from the clone this program was built in.
pub fn shipped(path: &Path) -> PathBuf {
    let clone = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(|root| root.join(path));
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
        let args = ModelArgs { model: Some("giant".into()), ..ModelArgs::default() };
        let error = Model::find(&args).unwrap_err();
        assert_eq!(error.to_string(), "there is no built-in card \"giant\"");
    }

    #[test]
    fn the_miniature_is_found_from_anywhere_in_a_clone() {
        assert!(shipped(Path::new("models/tiny/card.toml")).is_file());
        assert_eq!(shipped(Path::new("models/no-such-thing")), Path::new("models/no-such-thing"));
    }
}
