//! Where a stem of a LoRA file belongs: which rows of which layer.
//!
//! The transformer itself is asked: each of its layers is written down under every name that a dialect has for it.
//! Nothing is guessed from a name (`_` stands for a dot or for itself), and no size is assumed.

use super::dialect;
use crate::network::flux as keys;
use ace_nn::flux::Flux;
use std::{collections::HashMap, ops::Range};

/// A layer that a file can change.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// BFL's path.
    pub path: String,
    /// Rows of the weight, or the width of a norm.
    pub output: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Linear {
        /// Columns of the weight.
        input: usize,
        has_bias: bool,
        /// Features of a token's latents, if the layer reads them with their conditions: its adapters may be narrower.
        latent: Option<usize>,
    },
    Norm,
}

/// Rows of a layer under one name.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Index of the layer.
    pub layer: usize,
    pub rows: Range<usize>,
    /// Whether the name's second half of the rows is the layer's first.
    pub swapped: bool,
}

/// Every name of every layer.
#[derive(Debug)]
pub(super) struct Places {
    pub layers: Vec<Layer>,
    dotted: HashMap<String, Place>,
    underscored: HashMap<String, Place>,
}

impl Places {
    /// The names of a transformer's layers.
    pub fn of(flux: &mut Flux) -> Self {
        let [_, latent] = flux.final_layer.linear.features();
        let mut layers = Vec::new();
        flux.for_each_linear(&mut |path, linear| {
            let [input, output] = linear.features();
            let latent = (path == "img_in").then_some(latent);
            let kind = Kind::Linear { input, has_bias: linear.bias.is_some(), latent };
            layers.push(Layer { path: path.to_owned(), output, kind });
        });
        flux.for_each_norm(&mut |path, norm| {
            let output = norm.scale.lazy_shape()[0];
            layers.push(Layer { path: path.to_owned(), output, kind: Kind::Norm });
        });

        let (mut dotted, mut underscored) = (HashMap::new(), HashMap::new());
        for (layer, spelled) in layers.iter().enumerate() {
            for (name, rows, swapped) in spelled.names() {
                let place = Place { layer, rows, swapped };
                underscored.insert(name.replace('.', "_"), place.clone());
                dotted.insert(name, place);
            }
        }
        Self { layers, dotted, underscored }
    }

    /// The place of a stem.
    pub fn find(&self, stem: &str) -> Option<&Place> {
        dialect::unprefixed(stem).find_map(|(name, is_underscored)| {
            let names = if is_underscored { &self.underscored } else { &self.dotted };
            names.get(name)
        })
    }
}

/// XLabs' name for the end of BFL's path; `qkv` is queries, keys and values, also where BFL's layer has more rows.
const XLABS: [(&str, &str); 6] = [
    (".img_attn.qkv", ".processor.qkv_lora1"),
    (".img_attn.proj", ".processor.proj_lora1"),
    (".txt_attn.qkv", ".processor.qkv_lora2"),
    (".txt_attn.proj", ".processor.proj_lora2"),
    (".linear1", ".processor.qkv_lora"),
    (".linear2", ".processor.proj_lora"),
];

impl Layer {
    /// BFL's, diffusers' and XLabs' names, each with its rows and whether their halves are swapped.
    fn names(&self) -> Vec<(String, Range<usize>, bool)> {
        let mut names = vec![(self.path.clone(), 0..self.output, false)];

        // diffusers' names are listed by module path, of which BFL's is one rename away.
        let (parameter, input) = match self.kind {
            Kind::Linear { input, .. } => ("weight", input),
            Kind::Norm => ("scale", self.output),
        };
        let path = format!("{}.{parameter}", self.path);
        let path = keys::BFL.renames.iter().fold(path, |path, (ours, theirs)| path.replace(theirs, ours));
        let theirs = keys::DIFFUSERS.rows(&path);
        let last = theirs.keys.len() - 1;
        for (part, key) in theirs.keys.iter().enumerate() {
            // Queries, keys and values are as tall as the layer is wide; the feed-forward, behind them, has the rest.
            let end = if part == last { self.output } else { (part + 1) * input };
            let name = key.strip_suffix(".weight").unwrap_or(key);
            names.push((name.to_owned(), part * input..end, theirs.swapped));
        }

        for (ours, theirs) in XLABS {
            if let Some(block) = self.path.strip_suffix(ours) {
                let rows = if theirs.contains("qkv") { 0..3 * input } else { 0..self.output };
                names.push((format!("{block}{theirs}"), rows, false));
            }
        }
        names
    }
}

impl Kind {
    /// How many of an adapter's `columns` stay at the left when it is widened to the layer's; the others move to the
    /// right end and zeros come between. `None` if it cannot be widened.
    ///
    /// A token is `[latents | masked image | change image | mask]` and networks differ in what they have of it: latents
    /// alone, all but the change image, all. Each column stays with its meaning; the rest of the model's columns sees
    /// nothing of the adapter: in a wider input layer the latents come first, then their conditions.
    pub fn kept_columns(&self, columns: usize) -> Option<usize> {
        let Self::Linear { input, latent, .. } = *self else { return None };
        if columns == input {
            return Some(columns);
        }
        let latent = latent?;
        if columns == latent && input > columns {
            return Some(latent);
        }
        let lacks_change_image = columns > 2 * latent && input == columns + latent;
        lacks_change_image.then_some(2 * latent)
    }
}

impl Place {
    /// The layer's row of the name's row `i`.
    pub fn row(&self, i: usize) -> usize {
        let len = self.rows.len();
        self.rows.start + if self.swapped { (i + len / 2) % len } else { i }
    }
}
