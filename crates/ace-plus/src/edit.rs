//! What a user asks for: words, pictures, and how to go about it.

use crate::{Error, Result, canvas::Inputs, card::Card};
use burn::tensor::TensorData;
use image::{GrayImage, RgbImage};

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
            num_steps: None,
            guidance: None,
            repainting_scale: 1.0,
            keep_outside: true,
            noise: None,
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
