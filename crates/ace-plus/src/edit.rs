//! What a user asks for: words, pictures, and how to go about it.

use crate::{
    Error, Result,
    canvas::{self, Canvas, Inputs},
    card::Card,
};
use burn::tensor::TensorData;
use image::{GrayImage, RgbImage};

/// Whose way from pixels to canvas and back an edit goes, to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compat {
    /// diffusers' `FluxFillPipeline`: picture and mask as given, the whole decoded picture back, words uncleaned.
    Diffusers,
}

impl Compat {
    /// Every one of them by name.
    pub const ALL: [(&'static str, Self); 1] = [("diffusers", Self::Diffusers)];

    /// What it is called.
    pub fn name(self) -> &'static str {
        // Every one is listed.
        Self::ALL.iter().find(|(_, compat)| *compat == self).map_or("", |(name, _)| name)
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find_map(|(known, compat)| (*known == name).then_some(*compat))
    }
}

/// Which generator draws the noise of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeedNoise {
    /// ChaCha20: the same on every machine and backend.
    #[default]
    ChaCha,
    /// What torch draws on a CPU in f32 and diffusers begins with, bit for bit ([`crate::torch_noise`]).
    Torch,
}

/// One edit, or one picture made from words alone. Build it up with the methods; what is not said, the card says.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The user's words.
    pub instruction: String,
    /// The picture to edit; none to start from nothing.
    pub image: Option<RgbImage>,
    /// What to repaint of it, white; everything if absent.
    pub mask: Option<GrayImage>,
    /// Pictures to take something from.
    pub references: Vec<RgbImage>,
    /// Width and height in pixels when there is no image.
    pub size: Option<(u32, u32)>,
    /// The noise follows from it.
    pub seed: u64,
    /// How it follows.
    pub seed_noise: SeedNoise,
    /// Euler steps.
    pub num_steps: Option<usize>,
    /// Guidance that is embedded.
    pub guidance: Option<f32>,
    /// What is blanked under the mask, 0..1: 1 hides it from the network, 0 shows it.
    pub repainting_scale: f32,
    /// Give back the input's own pixels wherever the mask is black.
    pub keep_outside: bool,
    /// Initial noise instead of the seed's: `[1, 16, h, w]`, or packed `[1, L, 64]`.
    pub noise: Option<TensorData>,
    /// Another program's preparation instead of ours.
    pub compat: Option<Compat>,
}

impl Edit {
    /// An edit that so far has only words.
    pub fn new(instruction: impl Into<String>) -> Self {
        Self {
            instruction: instruction.into(),
            image: None,
            mask: None,
            references: Vec::new(),
            size: None,
            seed: 0,
            seed_noise: SeedNoise::default(),
            num_steps: None,
            guidance: None,
            repainting_scale: 1.0,
            keep_outside: true,
            noise: None,
            compat: None,
        }
    }

    /// The picture to edit.
    pub fn image(mut self, image: RgbImage) -> Self {
        self.image = Some(image);
        self
    }

    /// What to repaint, white; of the size of the image.
    pub fn mask(mut self, mask: GrayImage) -> Self {
        self.mask = Some(mask);
        self
    }

    /// One more picture to take something from.
    pub fn reference(mut self, reference: RgbImage) -> Self {
        self.references.push(reference);
        self
    }

    /// Width and height in pixels when there is no image.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    /// The noise follows from it: the same on every backend.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Euler steps.
    pub fn num_steps(mut self, num_steps: usize) -> Self {
        self.num_steps = Some(num_steps);
        self
    }

    /// What is blanked under the mask, 0..1.
    pub fn repainting_scale(mut self, scale: f32) -> Self {
        self.repainting_scale = scale;
        self
    }

    /// The defaults of one of the card's tasks.
    ///
    /// # Errors
    /// If the card has no such task.
    pub fn task(mut self, card: &Card, name: &str) -> Result<Self> {
        self.repainting_scale = card.find_task(name)?.repainting_scale;
        Ok(self)
    }

    /// The pictures, with the card's size where none is given.
    pub fn inputs(&self, card: &Card) -> Inputs<'_> {
        Inputs {
            image: self.image.as_ref(),
            mask: self.mask.as_ref(),
            references: &self.references,
            size: self.size.unwrap_or(card.sampling.size),
            repainting_scale: self.repainting_scale,
        }
    }

    /// The canvases of the edit, the edited picture's last.
    ///
    /// # Errors
    /// If its pictures do not fit each other or the card.
    pub fn canvases(&self, card: &Card) -> Result<Vec<Canvas>> {
        let inputs = self.inputs(card);
        match self.compat {
            Some(Compat::Diffusers) => Ok(vec![canvas::compose_plain(&inputs, &card.canvas)?]),
            None => canvas::compose(&inputs, &card.canvas),
        }
    }

    /// Refuses what cannot be asked, before any work is done; pictures are checked where they are composed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.instruction.trim().is_empty() {
            return Err(Error::input("the instruction is empty", "say what should be seen or changed"));
        }
        if self.num_steps == Some(0) {
            return Err(Error::input("num_steps is 0", "choose 1 or more"));
        }
        Ok(())
    }
}
