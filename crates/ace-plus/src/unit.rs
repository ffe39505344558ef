//! From canvases to the conditions that the transformer sees beside the noise. What belongs to one picture is a *unit*:
//! the long-context condition unit (LCU) of ACE ([arXiv:2410.00086](https://arxiv.org/abs/2410.00086)), whose conditions
//! follow the noisy latents on the sequence, or the LCU++ of ACE++
//! ([arXiv:2501.02487](https://arxiv.org/abs/2501.02487)), whose conditions join them on the channels. FLUX.1 Kontext
//! ([arXiv:2506.15742](https://arxiv.org/abs/2506.15742)) has pictures of any size behind the noise, its *context*. The
//! card says which, and which conditions a unit has.

mod context;

use crate::{
    canvas::{Canvas, Plane},
    latents::{self, PATCH},
    pixels::{self, Tiling, upload},
};
use ace_nn::{
    autoencoder::AutoEncoder,
    poll::{Poll, to_the_end},
};
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::{ControlFlow, Range};

/// Which conditions accompany the noise, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitPolicy {
    /// What a unit consists of, in the order of the channels, which follow those of the noisy latents.
    pub conditions: Vec<Condition>,
    /// Where the conditions join.
    pub join: Join,
    /// Where several pictures of a [context](Join::Context) stand.
    #[serde(default, skip_serializing_if = "is_default")]
    pub positions: Positions,
}

fn is_default(positions: &Positions) -> bool {
    *positions == Positions::default()
}

/// One condition of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Latents of the picture as it is: nothing of it is hidden, and it is never made anew.
    Image,
    /// Latents of the canvas, masked as the canvas policy says.
    MaskedImage,
    /// Latents of what lies under the mask.
    ChangeImage,
    /// The mask, folded.
    Mask,
}

/// Where conditions join the noisy latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// On the channels of the same token: LCU++, no extra tokens.
    Channels,
    /// As tokens of their own (latents ⊕ mask each): LCU.
    Sequence,
    /// As tokens of their own, of pictures of any size; only what is made has noise: FLUX.1 Kontext.
    Context,
}

/// Where several pictures of a context stand beside each other. Of one picture they say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Each at the origin, under its number on the first axis: 1, 2, …
    #[default]
    Index,
    /// All under 1 on the first axis, each right of those before it or below them, whichever keeps the whole more square.
    Offset,
}

/// What a network is shown of pictures that it is to see as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing: it makes pictures from words.
    Nothing,
    /// One, on the channels: a control image.
    Beside,
    /// Any number, behind the noise.
    Context,
}

impl UnitPolicy {
    /// Features per token that the transformer must take, for latents of `latent_features` per token and cells of
    /// `cell` pixels along a side.
    pub fn in_channels(&self, latent_features: usize, cell: usize) -> usize {
        // Every pixel of a token's mask is a feature.
        let mask_features = (cell * PATCH) * (cell * PATCH);
        match self.join {
            Join::Channels => self
                .conditions
                .iter()
                .map(|condition| if *condition == Condition::Mask { mask_features } else { latent_features })
                .fold(latent_features, |sum, features| sum + features),
            Join::Sequence => latent_features + if self.has_mask() { mask_features } else { 0 },
            Join::Context => latent_features,
        }
    }

    /// What the network is shown, if it is shown pictures as they are; `None` if it repaints what a mask leaves open.
    pub fn shown(&self) -> Option<Shown> {
        match (&self.conditions[..], self.join) {
            ([], _) => Some(Shown::Nothing),
            ([Condition::Image], Join::Channels) => Some(Shown::Beside),
            ([Condition::Image], Join::Context) => Some(Shown::Context),
            _ => None,
        }
    }

    /// Refuses conditions that have no meaning together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_shown = self.conditions.contains(&Condition::Image) || self.join == Join::Context;
        if is_shown && !matches!(self.shown(), Some(Shown::Beside | Shown::Context)) {
            return Err(
                "unit.conditions: an image that is shown as it is stands alone, on the channels or as context".into()
            );
        }
        Ok(())
    }

    /// Whether a change image is among the conditions.
    pub fn wants_change_image(&self) -> bool {
        self.conditions.contains(&Condition::ChangeImage)
    }

    /// Where a token's mask stands among what is [beside](Units::beside) it; `None` if it has none.
    pub fn mask_columns(&self, latent_features: usize, cell: usize) -> Option<Range<usize>> {
        let mask_features = (cell * PATCH) * (cell * PATCH);
        let at = self.conditions.iter().position(|condition| *condition == Condition::Mask)?;
        let before = match self.join {
            Join::Channels => at * latent_features,
            Join::Sequence | Join::Context => 0,
        };
        Some(before..before + mask_features)
    }

    fn has_mask(&self) -> bool {
        self.conditions.contains(&Condition::Mask)
    }

    fn pictures(&self) -> impl Iterator<Item = Condition> + '_ {
        self.conditions.iter().copied().filter(|condition| *condition != Condition::Mask)
    }
}

/// Who turns pictures of one size into latents, `[1, 16, H/cell, W/cell]` each.
pub type Encode<'a> = &'a mut dyn FnMut(&[&Plane]) -> ControlFlow<(), Vec<Tensor<4>>>;

/// The conditions of one edit as tokens; all units of it on one sequence.
#[derive(Debug, Clone)]
pub struct Units {
    /// What joins each noisy token on the channels, `[B, L, C]`; `None` if nothing does.
    pub beside: Option<Tensor<3>>,
    /// Tokens that stand behind the noisy ones, `[B, L', in_channels]`; LCU only.
    pub behind: Option<Tensor<3>>,
    /// Positions of the noisy tokens, then of those behind, `L + L'`.
    pub ids: Vec<[f32; 3]>,
    /// Latent cells `[h, w]` of each unit, in the order of the sequence.
    pub grids: Vec<[usize; 2]>,
    /// For each noisy token, whether it belongs to a reference.
    pub is_reference: Vec<bool>,
}

impl Units {
    /// Encodes canvases into conditions, pictures in tiles if there is a tiling; the edited picture's canvas is the last.
    pub fn encode(
        autoencoder: &AutoEncoder,
        canvases: &[Canvas],
        policy: &UnitPolicy,
        tiling: Option<Tiling>,
        device: &Device,
    ) -> Self {
        to_the_end(|poll| Self::encode_polled(autoencoder, canvases, policy, tiling, device, poll))
    }

    /// As [`Units::encode`]; breaks off where `poll` does.
    pub fn encode_polled(
        autoencoder: &AutoEncoder,
        canvases: &[Canvas],
        policy: &UnitPolicy,
        tiling: Option<Tiling>,
        device: &Device,
        poll: Poll<'_>,
    ) -> ControlFlow<(), Self> {
        let encode = &mut |planes: &[&Plane]| pixels::encode_polled(autoencoder, planes, tiling, device, poll);
        Self::encode_by(canvases, policy, autoencoder.downscale(), device, encode)
    }

    /// As [`Units::encode`], with pictures that `encode` turns into latents; breaks off where it does.
    pub fn encode_by(
        canvases: &[Canvas],
        policy: &UnitPolicy,
        cell: usize,
        device: &Device,
        encode: Encode<'_>,
    ) -> ControlFlow<(), Self> {
        if policy.join == Join::Context {
            return context::encode(canvases, policy.positions, cell, encode);
        }
        let mut beside = Vec::new();
        let mut behind = Vec::new();
        let (mut ids, mut behind_ids) = (Vec::new(), Vec::new());
        let (mut grids, mut is_reference) = (Vec::new(), Vec::new());
        for (index, canvas) in canvases.iter().enumerate() {
            // The edited picture is unit 0, as in the released models; references in a sequence count from 1.
            let unit = if index + 1 == canvases.len() { 0 } else { index + 1 };
            let [_, height, width] = canvas.image.shape();
            let grid = [height / cell, width / cell];
            let rows_columns = [grid[0] / PATCH, grid[1] / PATCH];
            let mask = latents::pack(latents::fold_mask(upload(&canvas.mask, device), cell));
            // The pictures of a canvas have one size: one pass of the autoencoder encodes them all.
            let planes: Vec<&Plane> = policy.pictures().map(|condition| picture_of(canvas, condition)).collect();
            let mut encoded = encode(&planes)?.into_iter().map(latents::pack);
            let mut next = || encoded.next().expect("one encoding per picture"); // counted two lines above
            match policy.join {
                Join::Channels => {
                    let parts: Vec<_> = policy
                        .conditions
                        .iter()
                        .map(|c| if *c == Condition::Mask { mask.clone() } else { next() })
                        .collect();
                    if !parts.is_empty() {
                        beside.push(Tensor::cat(parts, 2));
                    }
                }
                // The latter has gone its own way above.
                Join::Sequence | Join::Context => {
                    let with_mask = |latents: Tensor<3>| match policy.has_mask() {
                        true => Tensor::cat(vec![latents, mask.clone()], 2),
                        false => latents,
                    };
                    if policy.has_mask() {
                        beside.push(mask.clone());
                    }
                    // Condition tokens have the rows and columns of their picture, and a first coordinate of their own.
                    for plane in 0..planes.len() {
                        behind.push(with_mask(next()));
                        let first_axis = unit + canvases.len() * (plane + 1);
                        behind_ids.extend(latents::ids(rows_columns, first_axis));
                    }
                }
            }
            ids.extend(latents::ids(rows_columns, unit));
            let split = canvas.split / (cell * PATCH);
            is_reference.extend((0..rows_columns[0]).flat_map(|_| (0..rows_columns[1]).map(|column| column < split)));
            grids.push(grid);
        }
        ids.extend(behind_ids);
        let join = |tokens: Vec<Tensor<3>>| (!tokens.is_empty()).then(|| Tensor::cat(tokens, 1));
        ControlFlow::Continue(Self { beside: join(beside), behind: join(behind), ids, grids, is_reference })
    }

    /// Those of several edits whose canvases have one size, one after the other in a batch.
    ///
    /// # Panics
    /// If there is none, or they have not one size.
    pub fn batch(all: Vec<Self>) -> Self {
        let first = all.first().expect("a batch has an edit"); // as documented
        let (ids, grids, is_reference) = (first.ids.clone(), first.grids.clone(), first.is_reference.clone());
        assert!(all.iter().all(|units| units.grids == grids), "batch: units of several sizes");
        let join = |tokens: Vec<Tensor<3>>| (!tokens.is_empty()).then(|| Tensor::cat(tokens, 0));
        let (beside, behind): (Vec<_>, Vec<_>) = all.into_iter().map(|units| (units.beside, units.behind)).unzip();
        let flat = |parts: Vec<Option<Tensor<3>>>| join(parts.into_iter().flatten().collect());
        Self { beside: flat(beside), behind: flat(behind), ids, grids, is_reference }
    }

    /// Noisy tokens of all units, `L`.
    pub fn len(&self) -> usize {
        self.is_reference.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.is_reference.is_empty()
    }

    /// What the transformer sees: the noisy tokens with their conditions.
    ///
    /// # Shapes
    /// - noisy: `[B, L, 64]`
    /// - output: `[B, L + L', in_channels]`
    pub fn accompany(&self, noisy: Tensor<3>) -> Tensor<3> {
        let tokens = match &self.beside {
            Some(beside) => Tensor::cat(vec![noisy, beside.clone()], 2),
            None => noisy,
        };
        match &self.behind {
            Some(behind) => Tensor::cat(vec![tokens, behind.clone()], 1),
            None => tokens,
        }
    }

    /// Of what the transformer gave, the velocity of the noisy tokens.
    pub fn of_noisy(&self, velocity: Tensor<3>) -> Tensor<3> {
        velocity.narrow(1, 0, self.len())
    }

    /// Packs latents of each unit into one sequence, `[1, L, 64]`.
    pub fn pack(&self, latents: Vec<Tensor<4>>) -> Tensor<3> {
        Tensor::cat(latents.into_iter().map(latents::pack).collect(), 1)
    }

    /// Latents of each unit, `[1, 16, h, w]`, out of the sequence.
    pub fn unpack(&self, tokens: Tensor<3>) -> Vec<Tensor<4>> {
        let mut start = 0;
        self.grids
            .iter()
            .map(|grid| {
                let len = grid[0] / PATCH * (grid[1] / PATCH);
                let unit = tokens.clone().narrow(1, start, len);
                start += len;
                latents::unpack(unit, *grid)
            })
            .collect()
    }
}

fn picture_of(canvas: &Canvas, condition: Condition) -> &Plane {
    match (condition, &canvas.change) {
        (Condition::ChangeImage, Some(change)) => change,
        _ => &canvas.image,
    }
}
