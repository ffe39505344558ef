//! How LoRA files spell: who wrote a key, and what the key is to its layer.
//!
//! A key is a *stem*, the layer in some spelling, and an ending. Endings mean the same in every dialect, so that one
//! table reads them all; which dialect a file is in matters to people only.

/// Who wrote a file, told by the spelling of its keys. Declared in the order in which a mixed file is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// sd-scripts and the ACE++ release: `lora_unet_<BFL path with _>.lora_down.weight`.
    Kohya,
    /// XLabs: `double_blocks.0.processor.qkv_lora1.down.weight`.
    XLabs,
    /// BFL's control adapters: BFL's paths with a bias for every layer and new scales for the norms.
    BflControl,
    /// PEFT's own prefix, as fal's trainer writes it before BFL's paths: `base_model.model.<path>.lora_A.weight`.
    Peft,
    /// OneTrainer: `lora_transformer_<diffusers path with _>.lora_down.weight`.
    OneTrainer,
    /// SimpleTuner with LyCORIS: `lycoris_<diffusers path with _>.lora_down.weight`.
    SimpleTuner,
    /// ComfyUI and those who write for it: `diffusion_model.<BFL path>.lora_up.weight`, also `.diff` and `.diff_b`.
    ComfyUi,
    /// swift, which ACE++ was trained with: `model.<BFL path>.lora_A.<adapter>.weight`.
    Swift,
    /// diffusers: `transformer.<diffusers path>.lora_A.weight`, the prefix sometimes left out.
    Diffusers,
    /// BFL's paths with nothing before them.
    Bfl,
}

impl Dialect {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kohya => "kohya",
            Self::XLabs => "XLabs",
            Self::BflControl => "BFL control",
            Self::Peft => "PEFT",
            Self::OneTrainer => "OneTrainer",
            Self::SimpleTuner => "SimpleTuner",
            Self::ComfyUi => "ComfyUI",
            Self::Swift => "swift",
            Self::Diffusers => "diffusers",
            Self::Bfl => "BFL",
        }
    }

    /// The dialect of a file with these keys; `None` if none of them changes a layer of a FLUX transformer.
    pub(super) fn of<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let parsed = keys.filter(|key| !is_for_text_encoder(key)).filter_map(parse);
        let found = parsed.clone().filter_map(|(stem, role)| Self::of_stem(stem, role)).min()?;
        let has_norms = parsed.clone().any(|(stem, role)| role == Role::Value && stem.ends_with("_norm"));
        Some(if found == Self::Bfl && has_norms { Self::BflControl } else { found })
    }

    fn of_stem(stem: &str, role: Role) -> Option<Self> {
        // A checkpoint has values only.
        if role == Role::Value {
            return None;
        }
        if stem.contains(".processor.") {
            return Some(Self::XLabs);
        }
        let behind = |(prefix, dialect): &(&str, Self)| stem.starts_with(prefix).then_some(*dialect);
        DIALECTS.iter().find_map(behind).or_else(|| {
            let root = stem.split('.').next().unwrap_or_default();
            let roots = [(&BFL_ROOTS[..], Self::Bfl), (&DIFFUSERS_ROOTS, Self::Diffusers)];
            roots.into_iter().find_map(|(roots, dialect)| roots.contains(&root).then_some(dialect))
        })
    }
}

/// What stands before a layer's name, and who writes so; a longer prefix comes first.
const DIALECTS: [(&str, Dialect); 8] = [
    ("lora_unet_", Dialect::Kohya),
    ("lora_transformer_", Dialect::OneTrainer),
    ("lycoris_", Dialect::SimpleTuner),
    ("base_model.model.", Dialect::Peft),
    ("diffusion_model.", Dialect::ComfyUi),
    ("model.diffusion_model.", Dialect::ComfyUi),
    ("model.", Dialect::Swift),
    ("transformer.", Dialect::Diffusers),
];
/// What BFL's paths begin with.
const BFL_ROOTS: [&str; 8] =
    ["double_blocks", "single_blocks", "img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer"];
/// What diffusers' paths begin with.
const DIFFUSERS_ROOTS: [&str; 7] = [
    "transformer_blocks",
    "single_transformer_blocks",
    "x_embedder",
    "context_embedder",
    "time_text_embed",
    "norm_out",
    "proj_out",
];

/// The layer's name without what dialects put before it: every reading that is possible, with whether the dots of the
/// path were written as `_`.
pub(super) fn unprefixed(stem: &str) -> impl Iterator<Item = (&str, bool)> {
    let prefixed = DIALECTS.iter().filter_map(|(prefix, _)| Some((stem.strip_prefix(prefix)?, prefix.ends_with('_'))));
    prefixed.chain([(stem, false)])
}

/// What a key is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The down projection `A`, `[rank, in]`.
    Down,
    /// The up projection `B`, `[out, rank]`.
    Up,
    /// One number: the branch counts `alpha / rank`.
    Alpha,
    /// Bias of the up projection, `[out]`: as strong as the branch.
    UpBias,
    /// What to add to the weight, `[out, in]`, or to a norm's scale.
    Diff,
    /// What to add to the bias, `[out]`.
    DiffBias,
    /// A whole parameter: a norm's new scale.
    Value,
}

/// Endings, a longer one before those that it ends with.
const ENDINGS: [(&str, Role); 16] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".down.weight", Role::Down),
    (".up.weight", Role::Up),
    (".lora_B.bias", Role::UpBias),
    (".alpha", Role::Alpha),
    (".scale.diff", Role::Diff),
    (".weight.diff", Role::Diff),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".scale", Role::Value),
    (".weight", Role::Value),
];

/// Cuts a key into stem and role; `None` for an ending that no dialect has.
pub(super) fn parse(key: &str) -> Option<(&str, Role)> {
    named(key).or_else(|| ENDINGS.iter().find_map(|(ending, role)| Some((key.strip_suffix(ending)?, *role))))
}

/// PEFT puts the adapter's name before the last word: `….lora_A.<adapter>.weight`.
fn named(key: &str) -> Option<(&str, Role)> {
    let (rest, last) = key.rsplit_once('.')?;
    let (rest, _adapter) = rest.rsplit_once('.')?;
    let (stem, factor) = rest.rsplit_once('.')?;
    match (factor, last) {
        ("lora_A", "weight") => Some((stem, Role::Down)),
        ("lora_B", "weight") => Some((stem, Role::Up)),
        ("lora_B", "bias") => Some((stem, Role::UpBias)),
        _ => None,
    }
}

/// Parts of keys of other kinds of adapter, and what they are.
const FOREIGN: [(&str, &str); 10] = [
    (".dora_scale", "a DoRA magnitude"),
    (".lora_magnitude_vector", "a DoRA magnitude"),
    (".set_weight", "a weight to put in the place of the model's"),
    (".reshape_weight", "a new shape for the model's weight"),
    (".lokr_", "a factor of a LoKr"),
    (".hada_", "a factor of a LoHa"),
    (".oft_", "a rotation of an OFT"),
    (".lora_mid", "the core of a Tucker decomposition"),
    (".w_norm", "a LyCORIS norm"),
    (".b_norm", "a LyCORIS norm"),
];

/// What a key of another kind of adapter is.
pub(super) fn foreign(key: &str) -> Option<&'static str> {
    FOREIGN.iter().find_map(|(part, what)| key.contains(part).then_some(*what))
}

/// Whether a key belongs to a text encoder: adapters change the transformer alone.
pub(super) fn is_for_text_encoder(key: &str) -> bool {
    // `bundle_emb.` are OneTrainer's learned words, rows of the encoders' embeddings.
    const PREFIXES: [&str; 8] = [
        "lora_te_",
        "lora_te1_",
        "lora_te2_",
        "lora_te3_",
        "text_encoder.",
        "text_encoder_2.",
        "text_encoders.",
        "bundle_emb.",
    ];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}
