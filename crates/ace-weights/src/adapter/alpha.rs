//! How strongly branches count in files that do not say so by a tensor: diffusers leaves PEFT's configuration in the
//! header, PEFT itself in a file beside.

use super::CONFIG;
use crate::{Error, Result, WeightFile};
use serde_json::{Map, Value};
use std::{fs, io::ErrorKind};

/// Where diffusers leaves it.
const ENTRY: &str = "lora_adapter_metadata";
/// What it puts before the transformer's keys, here and in the configuration.
const TRANSFORMER: &str = "transformer.";
/// What PEFT puts before all keys, but not in its configuration.
const PEFT: &str = "base_model.model.";

/// PEFT's configuration, empty if the file has none.
#[derive(Debug, Default)]
pub(super) struct PeftHeader(Map<String, Value>);

impl PeftHeader {
    /// Reads a file's header, or else the configuration beside it.
    ///
    /// # Errors
    /// If the configuration is no JSON object, or gives alphas by regular expressions, which PEFT allows and nobody
    /// writes.
    pub fn of(file: &WeightFile) -> Result<Self> {
        let (text, place) = match file.metadata()?.remove(ENTRY) {
            Some(text) => (text, format!("{ENTRY} in the header")),
            None => {
                let beside = file.path().with_file_name(CONFIG);
                // Other files of that folder say nothing about this one.
                let is_pefts = file.path().file_stem().is_some_and(|name| name == "adapter_model");
                match if is_pefts { fs::read_to_string(&beside) } else { Err(ErrorKind::NotFound.into()) } {
                    Ok(text) => (text, format!("{CONFIG} beside it")),
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
                    Err(error) => return Err(Error::io(&beside)(error)),
                }
            }
        };
        let header = serde_json::from_str(&text)
            .map(Self)
            .map_err(|source| file.misfit(format!("{place}: {source}"), "save the adapter again"))?;
        let is_plain = |pattern: &str| {
            pattern.strip_prefix('^').unwrap_or(pattern).chars().all(|c| c.is_alphanumeric() || "._-".contains(c))
        };
        for prefix in ["", TRANSFORMER] {
            if let Some(pattern) = header.alphas(prefix).into_iter().flat_map(Map::keys).find(|key| !is_plain(key)) {
                let reason = format!("{place}: alpha_pattern {pattern:?} is not the name of a layer");
                return Err(file.misfit(reason, "regular expressions are not read; save alphas as tensors"));
            }
        }
        Ok(header)
    }

    /// `alpha / rank` of a stem that has no alpha of its own; 1 if the header says nothing.
    pub fn ratio(&self, stem: &str, rank: usize) -> f64 {
        let (prefix, name) = stem.strip_prefix(TRANSFORMER).map_or(("", stem), |name| (TRANSFORMER, name));
        let name = name.strip_prefix(PEFT).unwrap_or(name);
        let is_meant = |pattern: &str| match pattern.strip_prefix('^') {
            Some(whole) => name == whole,
            None => name.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        let own = self.alphas(prefix).and_then(|all| all.iter().find(|(pattern, _)| is_meant(pattern)));
        let alpha = own.map(|(_, alpha)| alpha).or_else(|| self.entry(prefix, "lora_alpha")).and_then(Value::as_f64);
        let is_by_root = self.entry(prefix, "use_rslora").and_then(Value::as_bool).unwrap_or(false);
        let rank = rank as f64;
        alpha.map_or(1.0, |alpha| alpha / if is_by_root { rank.sqrt() } else { rank })
    }

    /// Alphas of single layers.
    fn alphas(&self, prefix: &str) -> Option<&Map<String, Value>> {
        self.entry(prefix, "alpha_pattern").and_then(Value::as_object)
    }

    fn entry(&self, prefix: &str, name: &str) -> Option<&Value> {
        self.0.get(&format!("{prefix}{name}"))
    }
}
