//! `[lora]`: low-rank branches of the transformer instead of its weights.

use crate::error::RecipeProblem;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::PathBuf};

/// Low-rank branches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rank of every branch that is not given another.
    pub rank: usize,
    /// Strength: the branch is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Which layers get a branch: patterns of their names, in which `*` stands for anything. The last that matches a layer
    /// says its rank. If empty, every linear layer of the blocks, as in the released adapters.
    #[serde(default)]
    pub modules: Vec<LoraModules>,
    /// Patterns of layers that get none all the same.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// In which spellings the adapter is written; ComfyUI's if empty.
    #[serde(default)]
    pub save_as: Vec<Spelling>,
    /// A LoRA file to start from, relative to the recipe. Its branches go on learning: they must have the ranks that are
    /// asked for here, keep their own strength, and stand in layers that get a branch; other layers get fresh ones.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// The LoRA of `from` becomes a part of the frozen base instead, and fresh branches are learned on top. What is
    /// written is of use together with that LoRA only.
    #[serde(default)]
    pub fuse: bool,
}

/// Layers that get a branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LoraModules {
    /// Of the common rank.
    Common(String),
    /// Of a rank of their own.
    Ranked(RankedModules),
}

/// Layers that get a branch of a rank of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankedModules {
    /// Their names, `*` for anything.
    pub pattern: String,
    /// Their rank.
    pub rank: usize,
    /// Their alpha; if absent, they count as strongly as the others.
    #[serde(default)]
    pub alpha: Option<f64>,
}

/// How an adapter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spelling {
    /// As the ACE++ release, which ComfyUI and kohya's scripts read: `NAME.safetensors`.
    #[serde(alias = "ace", alias = "comfyui")]
    Kohya,
    /// As diffusers' `load_lora_weights` reads it: `NAME-diffusers.safetensors`.
    Diffusers,
    /// As PEFT's `from_pretrained` reads it, a folder: `NAME-peft`.
    Peft,
}

impl LoraRecipe {
    /// Rank and strength of the branch that the layer at `path` gets; `None` if it gets none.
    pub fn branch(&self, path: &str) -> Option<(usize, f64)> {
        if self.exclude.iter().any(|pattern| matches(pattern, path)) {
            return None;
        }
        let scale = self.alpha / self.rank as f64;
        if self.modules.is_empty() {
            return path.contains("_blocks.").then_some((self.rank, scale));
        }
        match self.modules.iter().rfind(|modules| matches(modules.pattern(), path))? {
            LoraModules::Common(_) => Some((self.rank, scale)),
            LoraModules::Ranked(RankedModules { rank, alpha, .. }) => {
                Some((*rank, alpha.map_or(scale, |alpha| alpha / *rank as f64)))
            }
        }
    }

    /// The spellings in which the adapter is written, none twice.
    pub fn spellings(&self) -> BTreeSet<Spelling> {
        match self.save_as.is_empty() {
            true => BTreeSet::from([Spelling::Kohya]),
            false => self.save_as.iter().copied().collect(),
        }
    }

    /// What is wrong with the section, as far as it can be told without a transformer.
    pub(super) fn check(&self) -> Result<(), RecipeProblem> {
        let ranked = self.modules.iter().filter_map(LoraModules::rank);
        if self.rank == 0 || { ranked }.any(|rank| rank == 0) {
            return Err(RecipeProblem::OutOfRange { field: "lora.rank", value: 0.0, range: "1 or more" });
        }
        if self.fuse && self.from.is_none() {
            return Err(RecipeProblem::NothingToFuse);
        }
        Ok(())
    }

    /// Whether every pattern is of some layer, and any layer gets a branch.
    ///
    /// # Errors
    /// If not: with the names of the `layers` that there are.
    pub fn check_names(&self, layers: &[String]) -> Result<(), RecipeProblem> {
        let patterns = self.modules.iter().map(LoraModules::pattern).chain(self.exclude.iter().map(String::as_str));
        for pattern in patterns {
            if !layers.iter().any(|layer| matches(pattern, layer)) {
                return Err(RecipeProblem::NoSuchModule { pattern: pattern.to_owned(), known: kinds(layers) });
            }
        }
        match layers.iter().any(|layer| self.branch(layer).is_some()) {
            true => Ok(()),
            false => Err(RecipeProblem::NoModules),
        }
    }
}

impl LoraModules {
    fn pattern(&self) -> &str {
        match self {
            Self::Common(pattern) | Self::Ranked(RankedModules { pattern, .. }) => pattern,
        }
    }

    fn rank(&self) -> Option<usize> {
        match self {
            Self::Common(_) => None,
            Self::Ranked(RankedModules { rank, .. }) => Some(*rank),
        }
    }
}

/// Whether all of `text` is what `pattern` says, `*` being anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches(rest, &text[at..]))
}

/// Names with `*` for the numbers in them, each once, in the order of the network.
fn kinds(layers: &[String]) -> Vec<String> {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut kinds: Vec<String> = Vec::new();
    for layer in layers {
        // Of `img_mlp.0` and `img_mlp.2` the numbers are names; those of blocks are not.
        let mut parts: Vec<&str> = layer.split('.').collect();
        if let [first, number, ..] = parts.as_mut_slice()
            && first.ends_with("_blocks")
            && is_number(number)
        {
            *number = "*";
        }
        let kind = parts.join(".");
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(more: &str) -> LoraRecipe {
        toml::from_str(&format!("rank = 16\nalpha = 8.0\n{more}")).unwrap()
    }

    const QKV: &str = "double_blocks.11.img_attn.qkv";
    const SINGLE: &str = "single_blocks.3.linear1";

    #[test]
    fn the_last_pattern_that_matches_a_layer_says_its_rank() {
        let all = recipe("");
        assert_eq!(
            (all.branch(QKV), all.branch(SINGLE), all.branch("img_in")),
            (Some((16, 0.5)), Some((16, 0.5)), None)
        );
        let some = recipe(
            "modules = [\"double_blocks.*.img_attn.*\", { pattern = \"*_blocks.*.linear1\", rank = 4 }, \
             { pattern = \"single_blocks.3.*\", rank = 8, alpha = 16.0 }, \"img_in\"]\nexclude = [\"double_blocks.0.*\"]",
        );
        assert_eq!(some.branch(QKV), Some((16, 0.5)));
        assert_eq!(some.branch("double_blocks.0.img_attn.qkv"), None);
        assert_eq!(some.branch("double_blocks.11.txt_attn.qkv"), None);
        assert_eq!(some.branch("single_blocks.4.linear1"), Some((4, 0.5)));
        assert_eq!(some.branch(SINGLE), Some((8, 2.0)));
        assert_eq!(some.branch("img_in"), Some((16, 0.5)));
    }

    #[test]
    fn stars_are_anything_and_the_rest_is_itself() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a.*", "a.b.c", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("*.c", "a.b.cc", false),
            ("a*a", "a", false),
            ("a", "ab", false),
            ("a.b", "axb", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} of {text}");
        }
    }

    #[test]
    fn a_pattern_of_no_layer_is_refused_with_the_names_that_there_are() {
        let layers: Vec<String> = ["img_in", QKV, "double_blocks.11.img_mlp.0", "double_blocks.11.img_mlp.2", SINGLE]
            .map(str::to_owned)
            .to_vec();
        for more in ["modules = [\"single_blocks.*\", \"double.*\"]", "exclude = [\"double.*\"]"] {
            let problem = recipe(more).check_names(&layers).unwrap_err().to_string();
            assert!(problem.contains("no layer is called \"double.*\""), "{problem}");
            assert!(problem.contains("img_in, double_blocks.*.img_attn.qkv, double_blocks.*.img_mlp.0, "), "{problem}");
        }
        assert_eq!(recipe("").check_names(&layers), Ok(()));
        assert_eq!(recipe("exclude = [\"*\"]").check_names(&layers), Err(RecipeProblem::NoModules));
    }

    #[test]
    fn the_usual_spelling_has_several_names() {
        let recipe = recipe("save_as = [\"peft\", \"ace\", \"comfyui\", \"kohya\"]");
        assert_eq!(Vec::from_iter(recipe.spellings()), [Spelling::Kohya, Spelling::Peft]);
    }
}
