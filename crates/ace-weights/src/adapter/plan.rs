//! What a LoRA file asks for: its keys sorted by layer, every shape checked, before a weight is read.

use super::{
    alpha::PeftHeader,
    dialect::{self, Dialect, Role},
    place::{Kind, Layer, Place, Places},
};
use crate::{Error, Result, WeightFile};
use std::collections::BTreeMap;

/// Everything that a file asks for.
#[derive(Debug)]
pub(super) struct Plan {
    pub dialect: Dialect,
    /// Layers by path, each with the parts of the file that change it.
    pub layers: BTreeMap<String, (Layer, Vec<Part>)>,
    /// Keys for the text encoders.
    pub skipped: Vec<String>,
}

/// One stem of a file: the rows it changes, and its keys.
#[derive(Debug)]
pub(super) struct Part {
    stem: String,
    pub place: Place,
    keys: BTreeMap<Role, String>,
    /// Of the factors; 0 if there are none.
    pub rank: usize,
    /// `alpha / rank`.
    pub ratio: f64,
}

impl Part {
    pub fn key(&self, role: Role) -> Option<&str> {
        self.keys.get(&role).map(String::as_str)
    }
}

const FOREIGN_FILE: &str = "this LoRA belongs to another model or is in a spelling that is not read";
const OTHER_SIZE: &str = "this LoRA belongs to a model of another size";

impl Plan {
    /// Sorts a file's keys.
    ///
    /// # Errors
    /// If a key has no place, is of another kind of adapter or of another shape, or two change the same rows.
    pub fn of(file: &WeightFile, places: &Places) -> Result<Self> {
        let shapes = file.shapes()?;
        let (mut stems, mut skipped, mut strange) = (BTreeMap::new(), Vec::new(), Vec::new());
        for key in shapes.keys() {
            if dialect::is_for_text_encoder(key) {
                skipped.push(key.clone());
                continue;
            }
            if let Some(what) = dialect::foreign(key) {
                let hint = "only plain LoRAs are read; let the trainer save one, or merge this into a checkpoint";
                return Err(file.misfit(format!("{key} is {what}, which is not read"), hint));
            }
            let Some((stem, role)) = dialect::parse(key).filter(|(stem, _)| places.find(stem).is_some()) else {
                strange.push(key);
                continue;
            };
            let keys: &mut BTreeMap<_, _> = stems.entry(stem).or_default();
            if let Some(first) = keys.insert(role, key.clone()) {
                return Err(file.misfit(format!("{first} and {key} are the same factor"), "keep one adapter per file"));
            }
        }
        if let Some(first) = strange.first() {
            let more = if strange.len() > 1 { format!(" (and {} more)", strange.len() - 1) } else { String::new() };
            return Err(file.misfit(format!("{first} has no place in the transformer{more}"), FOREIGN_FILE));
        }
        let Some(dialect) = Dialect::of(shapes.keys().map(String::as_str)) else {
            return Err(empty(file, &skipped));
        };

        let header = PeftHeader::of(file)?;
        let mut layers: BTreeMap<String, (Layer, Vec<Part>)> = BTreeMap::new();
        for (stem, keys) in stems {
            // Stems were looked up above; one without a place cannot be here.
            let Some(place) = places.find(stem) else { continue };
            let layer = &places.layers[place.layer];
            let mut part = Part { stem: stem.to_owned(), place: place.clone(), keys, rank: 0, ratio: 1.0 };
            part.check(file, layer, &shapes)?;
            if let Some(down) = part.key(Role::Down) {
                part.rank = shapes[down][0];
                part.ratio = match part.key(Role::Alpha) {
                    Some(key) => number(file, key)? / part.rank as f64,
                    None => header.ratio(stem, part.rank),
                };
            }
            let (_, parts) = layers.entry(layer.path.clone()).or_insert_with(|| (layer.clone(), Vec::new()));
            let overlaps =
                |other: &&Part| other.place.rows.start < place.rows.end && place.rows.start < other.place.rows.end;
            if let Some(other) = parts.iter().find(overlaps) {
                return Err(file.misfit(
                    format!("{} and {stem} change the same rows of {}", other.stem, layer.path),
                    "the file holds an adapter in two spellings; keep one of them",
                ));
            }
            parts.push(part);
        }
        Ok(Self { dialect, layers, skipped })
    }
}

/// Why there is nothing to do.
fn empty(file: &WeightFile, skipped: &[String]) -> Error {
    match skipped.first() {
        Some(first) => file.misfit(
            format!("{first} and the others are for the text encoders"),
            "adapters change the transformer; this file has nothing for it",
        ),
        None => file.misfit("no branch is in this file", FOREIGN_FILE),
    }
}

impl Part {
    /// Whether the keys belong together and have the shapes of the layer's rows.
    fn check(&self, file: &WeightFile, layer: &Layer, shapes: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        let height = self.place.rows.len();
        let of = |role| self.key(role).map(|key| (key, &shapes[key]));
        let vector = |role| match of(role) {
            Some((key, shape)) if *shape != [height] => {
                Err(file.misfit(format!("{key} is {shape:?}, {} takes [{height}]", layer.path), OTHER_SIZE))
            }
            _ => Ok(()),
        };
        let Kind::Linear { input, has_bias, .. } = layer.kind else {
            let (allowed, strange): (Vec<_>, Vec<_>) =
                self.keys.iter().partition(|(role, _)| matches!(role, Role::Value | Role::Diff));
            if let Some((_, key)) = strange.first() {
                return Err(file.misfit(format!("{key} has no place in a norm"), FOREIGN_FILE));
            }
            return allowed.iter().try_for_each(|(role, _)| vector(**role));
        };
        if let Some(key) = self.key(Role::Value) {
            let hint = "a LoRA holds branches; this looks like a checkpoint, which is a model's own file";
            return Err(file.misfit(format!("{key} is a whole weight"), hint));
        }
        match (of(Role::Down), of(Role::Up)) {
            (Some((down, a)), Some((up, b))) => {
                let fits = a.len() == 2 && b.len() == 2 && a[0] > 0 && a[0] == b[1] && b[0] == height;
                if !fits || layer.kind.kept_columns(a[1]).is_none() {
                    let hint = match layer.kind {
                        Kind::Linear { latent: Some(latent), .. } if a.get(1) == Some(&(2 * latent)) => {
                            "an adapter with a control image on the channels needs a model that has them"
                        }
                        _ => OTHER_SIZE,
                    };
                    return Err(file.misfit(
                        format!(
                            "{down} is {a:?} and {up} is {b:?}, the layer takes {input} and gives {height}{}",
                            if height == layer.output { "" } else { " there" }
                        ),
                        hint,
                    ));
                }
            }
            (None, None) => {
                if let Some(key) = self.key(Role::Alpha).or(self.key(Role::UpBias)) {
                    return Err(file.misfit(format!("{key} stands without factors"), "the file is incomplete"));
                }
            }
            (Some((key, _)), None) | (None, Some((key, _))) => {
                return Err(file.misfit(format!("{key} stands without its other factor"), "the file is incomplete"));
            }
        }
        if let Some((key, shape)) = of(Role::Diff)
            && !matches!(shape[..], [rows, columns] if rows == height && layer.kind.kept_columns(columns).is_some())
        {
            return Err(file.misfit(format!("{key} is {shape:?}, the layer has [{height}, {input}]"), OTHER_SIZE));
        }
        if let Some(key) = self.key(Role::UpBias).or(self.key(Role::DiffBias))
            && !has_bias
        {
            return Err(file.misfit(format!("{key} has no place: {} has no bias", layer.path), FOREIGN_FILE));
        }
        vector(Role::UpBias)?;
        vector(Role::DiffBias)
    }
}

/// A tensor that is one number.
fn number(file: &WeightFile, key: &str) -> Result<f64> {
    match file.floats(key)?[..] {
        [number] => Ok(f64::from(number)),
        ref numbers => {
            Err(file.misfit(format!("{key} has {} numbers, expected one", numbers.len()), "the file is broken"))
        }
    }
}
