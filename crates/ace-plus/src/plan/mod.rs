//! What memory an edit takes, before a weight is read: arithmetic on the card, the headers of its files and the size of the
//! picture; and ways to hold the model, from the fastest to the one that takes least.
//!
//! ```text
//! words ▶ encode ▶ denoise ▶ decode        peak = the highest of the four, each
//!   what stays anyway + weights that the part holds + what it computes with
//! ```
//!
//! Weights follow from shapes and types, to the byte. What a part computes with was counted on the CPU (see [`work`]). On a
//! card the same is allocated, but its pool holds some back.

pub mod work;

use crate::{
    Card, Edit, Error, Model, Placement, Result,
    canvas::Canvas,
    cost::Sequence,
    model::Component,
    unit::{Condition, Join},
};
use ace_weights::{Footprint, Network, Source};
use burn::tensor::DType;

/// What the program has besides: its tables, its threads, what it reads files with.
const PROGRAM: u64 = 3_000_000;

/// What of an edit decides how much memory it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Rows and columns of the largest canvas, in pixels.
    pub canvas: [usize; 2],
    /// Pictures of that size that are encoded at once.
    pub encoded: usize,
    /// Tokens of all units, conditions behind them included, and of the words.
    pub sequence: Sequence,
    /// Steps.
    pub num_steps: usize,
    /// Side of the autoencoder's tiles, if the edit says it.
    pub tile: Option<usize>,
}

impl Extent {
    /// That of an edit, the largest of its regions.
    ///
    /// # Errors
    /// If its pictures do not fit each other or the card.
    pub fn of(edit: &Edit, card: &Card) -> Result<Self> {
        let edits = edit.one_by_one();
        let mut largest: Option<Self> = None;
        for edit in if edits.is_empty() { std::slice::from_ref(edit) } else { &edits } {
            let extent = Self::of_canvases(&edit.prepare(card)?.canvases, edit, card)?;
            if largest.as_ref().is_none_or(|known| known.sequence.image < extent.sequence.image) {
                largest = Some(extent);
            }
        }
        largest.ok_or_else(|| Error::input("there is nothing to edit", "say what should be seen"))
    }

    fn of_canvases(canvases: &[Canvas], edit: &Edit, card: &Card) -> Result<Self> {
        let settings = edit.settings(card)?;
        let sizes: Vec<[usize; 2]> = canvases.iter().map(|canvas| [canvas.image.height, canvas.image.width]).collect();
        let mut extent = Self::of_sizes(&sizes, settings.course.num_steps, card);
        extent.tile = settings.tile.map(|tile| tile as usize);
        if !edit.picture_prompts().is_empty() {
            extent.sequence.text += card.prompt_tokens();
        }
        Ok(extent)
    }

    /// That of canvases of these sizes, rows and columns in pixels.
    pub fn of_sizes(sizes: &[[usize; 2]], num_steps: usize, card: &Card) -> Self {
        let pictures = card.unit.conditions.iter().filter(|condition| **condition != Condition::Mask).count();
        let token = 2 * card.autoencoder.downscale();
        let tokens_of = |[height, width]: [usize; 2]| height / token * (width / token);
        let tokens: usize = sizes.iter().copied().map(tokens_of).sum();
        let (tokens, behind) = match card.unit.join {
            Join::Channels => (tokens, 0),
            Join::Sequence => (tokens, tokens * pictures),
            // The last canvas is what is made, the others are what it is shown.
            Join::Context => {
                let made = sizes.last().map_or(0, |size| tokens_of(*size));
                (made, tokens - made)
            }
        };
        let canvas = sizes.iter().copied().max_by_key(|[height, width]| height * width).unwrap_or_default();
        let sequence = Sequence { image: tokens + behind, text: card.text.t5_max_length };
        Self { canvas, encoded: pictures.max(1), sequence, num_steps, tile: None }
    }
}

/// What the networks take, as they will be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// The transformer.
    pub flux: Footprint,
    /// The sequence encoder.
    pub t5: Footprint,
    /// The pooled encoder.
    pub clip: Footprint,
    /// The autoencoder.
    pub autoencoder: Footprint,
    /// Numbers of what reads pictures as prompts, in bytes.
    pub prompter: u64,
    /// Numbers of LoRAs, in bytes; the transformer then keeps its modulations while it runs.
    pub adapters: u64,
}

impl Weights {
    /// Reads the headers of a model's files.
    ///
    /// # Errors
    /// If a file is missing, or does not fit the card.
    pub fn of(model: &Model) -> Result<Self> {
        let (card, dtype) = (model.card(), model.holds_in());
        let files = model.files()?;
        let bytes = |source: &Source| -> Result<u64> {
            let file = source.open()?;
            let numbers: usize = file.shapes()?.values().map(|shape| shape.iter().product::<usize>()).sum();
            Ok((numbers * DType::from(dtype).size()) as u64)
        };
        let (mut adapters, mut prompter) = (0, 0);
        for (source, _) in files.adapters() {
            adapters += bytes(source)?;
        }
        if card.vision.is_some() {
            for component in [Component::Vision, Component::Redux] {
                prompter += bytes(files.of(component))?;
            }
        }
        let autoencoder = files.of(Component::AutoEncoder).open()?;
        Ok(Self {
            flux: model.open(Network::Flux)?.flux_footprint(&card.flux_in_file(), dtype)?,
            t5: model.open(Network::T5)?.t5_footprint(&card.t5, dtype)?,
            clip: model.open(Network::Clip)?.clip_footprint(&card.clip, dtype)?,
            autoencoder: autoencoder.autoencoder_footprint(&card.autoencoder)?,
            prompter,
            adapters,
        })
    }
}

/// A part of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// `words`, `encode`, `denoise`, `decode`.
    pub name: &'static str,
    /// How its network is held.
    pub how: &'static str,
    /// Bytes of weights while it runs, of other networks too if they stay.
    pub held: u64,
    /// Bytes of what it computes with.
    pub work: u64,
}

impl Part {
    /// The most memory while it runs, the program's own included.
    pub fn peak(&self) -> u64 {
        PROGRAM + self.held + self.work
    }
}

/// One way to hold a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where its networks are.
    pub placement: Placement,
    /// Where the text encoders are.
    pub text_placement: Placement,
    /// Side of the autoencoder's tiles in pixels.
    pub tile: Option<usize>,
    /// What each part takes.
    pub parts: [Part; 4],
}

impl Plan {
    /// The most memory at once.
    pub fn peak(&self) -> u64 {
        self.parts.iter().map(Part::peak).max().unwrap_or_default()
    }

    /// A model that is held so.
    pub fn follow(&self, model: Model) -> Model {
        model.placement(self.placement).text_placement(self.text_placement)
    }

    /// What it is called in a few words.
    pub fn about(&self) -> String {
        let held = match (self.placement, self.text_placement) {
            (Placement::Resident, _) => "all networks stay",
            (Placement::OneAtATime, Placement::Streamed) => "one network at a time, T5 layer by layer",
            (Placement::OneAtATime, _) => "one network at a time",
            (_, Placement::Streamed) => "transformer and T5 block by block",
            _ => "one network at a time, the transformer block by block",
        };
        match self.tile {
            Some(tile) => format!("{held}, tiles of {tile} pixels"),
            None => held.to_owned(),
        }
    }
}

/// Placements of the model and of its text encoders, fastest first. A transformer that is streamed is read again in every
/// step, a T5 that is streamed once for each instruction.
const PLACEMENTS: [(Placement, Placement); 5] = [
    (Placement::Resident, Placement::Resident),
    (Placement::OneAtATime, Placement::OneAtATime),
    (Placement::OneAtATime, Placement::Streamed),
    (Placement::Streamed, Placement::OneAtATime),
    (Placement::Streamed, Placement::Streamed),
];

/// Sides of tiles, in pixels. Tiles change colours a little, so everything else is tried first.
const TILES: [usize; 3] = [512, 256, 128];

/// Every way, in the order in which they are preferred.
pub fn ways(card: &Card, weights: &Weights, dtype: DType, extent: &Extent) -> Vec<Plan> {
    let longest = extent.canvas[0].max(extent.canvas[1]);
    let tiles: Vec<Option<usize>> = match extent.tile {
        Some(tile) => vec![Some(tile)],
        None => std::iter::once(None).chain(TILES.into_iter().filter(|tile| *tile < longest).map(Some)).collect(),
    };
    let placements = |tile: Option<usize>| PLACEMENTS.into_iter().map(move |placements| (placements, tile));
    let one = |(placements, tile)| plan(card, weights, dtype, extent, placements, tile);
    tiles.into_iter().flat_map(placements).map(one).collect()
}

/// One way.
pub fn plan(
    card: &Card,
    weights: &Weights,
    dtype: DType,
    extent: &Extent,
    (placement, text_placement): (Placement, Placement),
    tile: Option<usize>,
) -> Plan {
    let Weights { flux, t5, clip, autoencoder, prompter, adapters } = weights;
    let is_resident = placement == Placement::Resident;
    let (streams_flux, streams_t5) =
        (placement == Placement::Streamed, !is_resident && text_placement == Placement::Streamed);
    // What is there all the time.
    let all = flux.all() + adapters + t5.all() + clip.all() + autoencoder.all() + prompter;
    let shell = |network: &Footprint| network.rest + network.repacked;
    let stays = match is_resident {
        true => all,
        false => (if streams_flux { shell(flux) + adapters } else { 0 }) + if streams_t5 { shell(t5) } else { 0 },
    };
    let rows = (extent.sequence.text * card.t5.d_model * dtype.size()) as u64;
    let own = |bytes: u64| if is_resident { 0 } else { bytes };
    let streamed = |network: &Footprint| network.streamed() - shell(network);
    let words = own((if streams_t5 { streamed(t5) + rows } else { t5.all() }).max(clip.all()).max(*prompter));
    let work = work::denoise(&card.flux, extent.sequence, dtype);
    let (denoise, pass) = match (streams_flux, *adapters > 0) {
        (true, _) => streaming(&flux.blocks, card.flux.depth, work),
        (false, false) => (own(flux.without_modulations()), work[1]),
        (false, true) => (own(flux.all() + adapters), work[1]),
    };
    let modulations = if is_resident || (*adapters > 0 && !streams_flux) {
        0
    } else {
        work::modulations(&card.flux, extent.num_steps, dtype)
    };
    let text = work::embeddings(card, extent.sequence.text, dtype);
    let side = |canvas: [usize; 2]| tile.map_or(canvas, |tile| canvas.map(|side| side.min(tile)));
    let (canvas, encoded) = (side(extent.canvas), if tile.is_some() { 1 } else { extent.encoded });
    let part = |name, how, held, work| Part { name, how, held: stays + held, work };
    let how = |streams: bool, streamed: &'static str| match (is_resident, streams) {
        (true, _) => "stays",
        (false, true) => streamed,
        (false, false) => "read for each edit",
    };
    let picture = if tile.is_some() { "in tiles" } else { "as a whole" };
    let parts = [
        part("words", how(streams_t5, "layer by layer"), words, work::t5(&card.t5, extent.sequence.text, dtype)),
        part(
            "encode",
            picture,
            own(autoencoder.all()),
            text + work::encode(&card.autoencoder, canvas, encoded) + work::pixels(extent.canvas),
        ),
        part(
            "denoise",
            how(streams_flux, "block by block"),
            denoise,
            text + modulations + pass + work::pixels(extent.canvas),
        ),
        part(
            "decode",
            picture,
            own(autoencoder.all()),
            text + work::decode(&card.autoencoder, canvas) + work::pixels(extent.canvas),
        ),
    ];
    Plan { placement, text_placement, tile, parts }
}

/// Two blocks, one at work and the one that follows it (the first after the last), and what the one at work computes with, where
/// both together are most.
fn streaming(blocks: &[u64], depth: usize, [double, single]: [u64; 2]) -> (u64, u64) {
    let next = blocks.iter().cycle().skip(1);
    let of =
        |(index, (block, next)): (usize, (&u64, &u64))| (block + next, if index < depth { double } else { single });
    blocks.iter().zip(next).enumerate().map(of).max_by_key(|(held, work)| held + work).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> (Card, Weights) {
        let card = Card::builtin("flux1-fill-dev").unwrap();
        // About the published sizes: the transformer in 4.5 bits, T5 in 8.5.
        let blocks = [vec![150_000_000; 19], vec![60_000_000; 38]].concat();
        let flux = Footprint { blocks, modulations: 1_800_000_000, rest: 120_000_000, ..Footprint::default() };
        let t5 =
            Footprint { blocks: vec![205_000_000; 24], table: 526_000_000, rest: 2_000_000, ..Footprint::default() };
        let clip = Footprint { rest: 492_000_000, ..Footprint::default() };
        let autoencoder = Footprint { rest: 335_000_000, ..Footprint::default() };
        (card, Weights { flux, t5, clip, autoencoder, prompter: 0, adapters: 0 })
    }

    fn all(extent: &Extent) -> Vec<Plan> {
        let (card, weights) = published();
        ways(&card, &weights, DType::F32, extent)
    }

    #[test]
    fn what_is_tried_later_takes_less_or_streams_less() {
        let (card, _) = published();
        let extent = Extent::of_sizes(&[[1024, 1024]], 28, &card);
        let ways = all(&extent);
        assert_eq!((ways[0].placement, ways[0].tile), (Placement::Resident, None));
        // Untiled ways come first; each placement takes no more with tiles than without.
        for (whole, tiled) in ways[..5].iter().zip(&ways[5..10]) {
            assert_eq!((whole.placement, whole.tile, tiled.tile), (tiled.placement, None, Some(512)));
            assert!(tiled.peak() <= whole.peak());
        }
        let peaks: Vec<u64> = [0, 1, 4].map(|at| ways[at].peak()).to_vec();
        assert!(peaks.is_sorted_by(|a, b| a > b), "{peaks:?}");
    }

    #[test]
    fn six_gigabytes_hold_a_packed_transformer_whose_modulations_have_left() {
        let (card, weights) = published();
        let extent = Extent::of_sizes(&[[512, 512]], 28, &card);
        let fits = all(&extent).into_iter().find(|plan| plan.peak() <= 6_000_000_000).unwrap();
        assert_eq!((fits.placement, fits.tile), (Placement::OneAtATime, None));
        let with = Weights { adapters: 100_000_000, ..weights };
        let fits =
            ways(&card, &with, DType::F32, &extent).into_iter().find(|plan| plan.peak() <= 6_000_000_000).unwrap();
        assert_eq!(fits.placement, Placement::Streamed, "a LoRA keeps them");
    }

    #[test]
    fn a_tile_that_is_asked_for_is_kept() {
        let (card, _) = published();
        let extent = Extent { tile: Some(320), ..Extent::of_sizes(&[[512, 512]], 28, &card) };
        assert!(all(&extent).iter().all(|plan| plan.tile == Some(320)));
    }

    #[test]
    fn conditions_behind_the_noise_are_tokens_too() {
        let mut card = Card::builtin("flux1-fill-dev").unwrap();
        assert_eq!(Extent::of_sizes(&[[512, 256]], 2, &card).sequence.image, 512);
        card.unit.join = Join::Sequence;
        assert_eq!(Extent::of_sizes(&[[512, 256], [512, 512]], 2, &card).sequence.image, 2 * (512 + 1024));
        // Of a context only what is made has noise, and it is the last.
        let kontext = Card::builtin("flux1-kontext-dev").unwrap();
        assert_eq!(Extent::of_sizes(&[[1024, 1024], [512, 512]], 2, &kontext).sequence.image, 4096 + 1024);
        let mut edit = Edit::new("words").size(512, 512);
        assert_eq!(Extent::of(&edit, &kontext).unwrap().sequence, Sequence { image: 1024, text: 512 });
        let redux = Card::builtin("flux1-kontext-dev+redux").unwrap();
        edit = edit.picture_prompt(image::RgbImage::new(8, 8), 1.0).picture_prompt(image::RgbImage::new(9, 9), 0.5);
        assert_eq!(Extent::of(&edit, &redux).unwrap().sequence.text, 512 + 729);
    }
}
