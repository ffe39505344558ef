//! What a user asks for: words, pictures, and how to go about it.

use crate::{
    Error, Result,
    canvas::Inputs,
    card::{Card, Need, Task},
    prompt::{self, PicturePrompt},
    sample::{Cache, Choice, Sampler, Schedule, SeedNoise, Shift},
};
use burn::tensor::TensorData;
use image::{GrayImage, RgbImage};
use serde::{Deserialize, Serialize};

/// Whose way from pixels to canvas and back an edit goes, to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// diffusers' pipeline of the model: for one that fills, picture and mask as given; for others, pictures stretched as it
    /// does it. The whole decoded picture back, words uncleaned.
    Diffusers,
    /// The official ACE++ programs: 30 columns cut at the seam and the rest stretched over them, the whole decoded picture
    /// back, in the canvas's size if there is no reference; its bytes as the card says.
    Official,
}

impl Compat {
    /// Every one of them by name.
    pub const ALL: [(&'static str, Self); 2] = [("diffusers", Self::Diffusers), ("official", Self::Official)];

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

/// One edit, or one picture made from words alone. Build it up with the methods, in any order; what is not said, the task
/// says, and then the card.
#[derive(Debug, Clone)]
pub struct Edit {
    instruction: String,
    image: Option<RgbImage>,
    mask: Option<GrayImage>,
    references: Vec<RgbImage>,
    picture_prompts: Vec<PicturePrompt>,
    map: Option<RgbImage>,
    regions: Vec<(GrayImage, String)>,
    task: Option<String>,
    size: Option<(u32, u32)>,
    seed: u64,
    seed_noise: SeedNoise,
    noise: Option<TensorData>,
    num_steps: Option<usize>,
    sampler: Option<Sampler>,
    schedule: Option<Schedule>,
    shift: Option<f64>,
    cache: Option<Cache>,
    masked_steps: Option<usize>,
    guidance: Option<f32>,
    repainting_scale: Option<f32>,
    keep_outside: bool,
    feather: u32,
    tile: Option<u32>,
    compat: Option<Compat>,
}

/// What an edit says, its task and the card, put together.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The kind of edit, if one is named.
    pub task: Option<&'a Task>,
    /// The way from noise to latents.
    pub course: Choice,
    /// Guidance that is embedded.
    pub guidance: f32,
    /// What is blanked under the mask: 1 hides it from the network, 0 shows it.
    pub repainting_scale: f32,
    /// Width and height of a picture that is made from nothing, in pixels.
    pub size: (u32, u32),
    /// The autoencoder works in tiles of at most so many pixels along a side.
    pub tile: Option<u32>,
}

impl Edit {
    /// An edit that so far has only words.
    pub fn new(instruction: impl Into<String>) -> Self {
        Self {
            instruction: instruction.into(),
            image: None,
            mask: None,
            references: Vec::new(),
            picture_prompts: Vec::new(),
            map: None,
            regions: Vec::new(),
            task: None,
            size: None,
            seed: 0,
            seed_noise: SeedNoise::default(),
            noise: None,
            num_steps: None,
            sampler: None,
            schedule: None,
            shift: None,
            cache: None,
            masked_steps: None,
            guidance: None,
            repainting_scale: None,
            keep_outside: true,
            feather: 0,
            tile: None,
            compat: None,
        }
    }

    /// Other words.
    pub fn instruction(mut self, instruction: impl Into<String>) -> Self {
        self.instruction = instruction.into();
        self
    }

    /// The picture to edit.
    pub fn image(mut self, image: RgbImage) -> Self {
        self.image = Some(image);
        self
    }

    /// What to repaint, white; of the size of the image. Without one, everything.
    pub fn mask(mut self, mask: GrayImage) -> Self {
        self.mask = Some(mask);
        self
    }

    /// One more picture to take something from.
    pub fn reference(mut self, reference: RgbImage) -> Self {
        self.references.push(reference);
        self
    }

    /// One more picture that is read as words are, for models with Redux on top: what is made resembles it as a whole. It
    /// counts `scale` times.
    pub fn picture_prompt(self, picture: RgbImage, scale: f32) -> Self {
        self.prompted_by(PicturePrompt { picture, scale, pooled_scale: 1.0 })
    }

    /// As [`Edit::picture_prompt`], with all that can be said of it.
    pub fn prompted_by(mut self, prompt: PicturePrompt) -> Self {
        self.picture_prompts.push(prompt);
        self
    }

    /// One more place of the image with words of its own. Regions are edited one after the other, each seeing what those
    /// before it have made, instead of mask and words of the whole.
    pub fn region(mut self, mask: GrayImage, instruction: impl Into<String>) -> Self {
        self.regions.push((mask, instruction.into()));
        self
    }

    /// Your own drawing of the image (contours, depths), for tasks that want one; of the size of the image.
    pub fn map(mut self, map: RgbImage) -> Self {
        self.map = Some(map);
        self
    }

    /// One of the card's tasks: what it wants to see, and its defaults for whatever is not said here.
    pub fn task(mut self, name: impl Into<String>) -> Self {
        self.task = Some(name.into());
        self
    }

    /// Width and height in pixels when there is no image; with one, if the network is shown it as it is.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    /// The noise follows from it: the same on every backend.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Which generator draws the noise of the seed.
    pub fn seed_noise(mut self, seed_noise: SeedNoise) -> Self {
        self.seed_noise = seed_noise;
        self
    }

    /// Initial noise instead of the seed's: `[1, 16, h, w]`, or packed `[1, L, 64]`.
    pub fn noise(mut self, noise: TensorData) -> Self {
        self.noise = Some(noise);
        self
    }

    /// Steps from noise to latents.
    pub fn steps(mut self, num_steps: usize) -> Self {
        self.num_steps = Some(num_steps);
        self
    }

    /// How a step is taken.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = Some(sampler);
        self
    }

    /// How the times of the steps are spread.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// How far they are shifted towards noise, the same for pictures of any size: `t` becomes `s·t / (1 + (s − 1)·t)`.
    pub fn shift(mut self, factor: f64) -> Self {
        self.shift = Some(factor);
        self
    }

    /// Which steps need not be computed.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Only every so many-th step asks for the tokens outside the mask; 1 asks always, by another way.
    pub fn masked_steps(mut self, every: usize) -> Self {
        self.masked_steps = Some(every);
        self
    }

    /// Guidance that is embedded.
    pub fn guidance(mut self, guidance: f32) -> Self {
        self.guidance = Some(guidance);
        self
    }

    /// What is blanked under the mask, 0..1: 1 hides it from the network, 0 shows it.
    pub fn repainting_scale(mut self, scale: f32) -> Self {
        self.repainting_scale = Some(scale);
        self
    }

    /// Whether to give back the input's own pixels wherever the mask is black; so unless said. Of an image that is too
    /// large for the budget, only the mask's surroundings are then edited, at native resolution.
    pub fn keep_outside(mut self, keep_outside: bool) -> Self {
        self.keep_outside = keep_outside;
        self
    }

    /// Pixels outside the mask over which the edit fades into the image; 0 for none.
    pub fn feather(mut self, pixels: u32) -> Self {
        self.feather = pixels;
        self
    }

    /// The autoencoder works in tiles of at most so many pixels along a side, instead of in one piece.
    pub fn tile(mut self, pixels: u32) -> Self {
        self.tile = Some(pixels);
        self
    }

    /// Another program's preparation instead of ours.
    pub fn compat(mut self, compat: Compat) -> Self {
        self.compat = Some(compat);
        self
    }

    /// Its words.
    pub fn words(&self) -> &str {
        &self.instruction
    }

    /// The picture to edit.
    pub fn input(&self) -> Option<&RgbImage> {
        self.image.as_ref()
    }

    /// What to repaint of it.
    pub fn masked(&self) -> Option<&GrayImage> {
        self.mask.as_ref()
    }

    /// Pictures to take something from.
    pub fn references(&self) -> &[RgbImage] {
        &self.references
    }

    /// Pictures that are read as words are.
    pub fn picture_prompts(&self) -> &[PicturePrompt] {
        &self.picture_prompts
    }

    /// The user's own drawing of the image.
    pub fn drawing(&self) -> Option<&RgbImage> {
        self.map.as_ref()
    }

    /// Width and height that are asked for.
    pub fn asked_size(&self) -> Option<(u32, u32)> {
        self.size
    }

    /// The kind of edit, if one is named.
    pub fn task_name(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// From what its noise follows.
    pub fn seed_number(&self) -> u64 {
        self.seed
    }

    /// Which generator draws it.
    pub fn generator(&self) -> SeedNoise {
        self.seed_noise
    }

    /// The noise that is given instead.
    pub fn given_noise(&self) -> Option<&TensorData> {
        self.noise.as_ref()
    }

    /// Whether the input's own pixels are given back wherever the mask is black.
    pub fn keeps_outside(&self) -> bool {
        self.keep_outside && self.compat.is_none()
    }

    /// Over how many pixels the edit fades into the image.
    pub(crate) fn fade(&self) -> u32 {
        self.feather
    }

    /// Another program's preparation, if one is asked for.
    pub fn compatible_with(&self) -> Option<Compat> {
        self.compat
    }

    /// The edits of its regions, each with its mask and words; none if it has no regions. The image of all but the first
    /// is what the one before it made.
    pub fn one_by_one(&self) -> Vec<Self> {
        let whole = Self { regions: Vec::new(), ..self.clone() };
        let one = |(mask, words): &(GrayImage, String)| whole.clone().mask(mask.clone()).instruction(words.clone());
        self.regions.iter().map(one).collect()
    }

    /// What it says, its task and the card, put together.
    ///
    /// # Errors
    /// If the card has no such task.
    pub fn settings<'a>(&self, card: &'a Card) -> Result<Settings<'a>> {
        let task = self.task.as_deref().map(|name| card.find_task(name)).transpose()?;
        let sampling = &card.sampling;
        // A network that is shown pictures as they are has nothing hidden from it.
        let unsaid = if card.unit.shown().is_some() { 0.0 } else { 1.0 };
        Ok(Settings {
            task,
            course: Choice {
                sampler: self.sampler.unwrap_or(sampling.sampler),
                schedule: self.schedule.unwrap_or(sampling.schedule),
                shift: self.shift.map_or(sampling.shift, Shift::fixed),
                num_steps: self.num_steps.unwrap_or(sampling.num_steps),
                cache: self.cache.unwrap_or_default(),
                masked_steps: self.masked_steps,
            },
            guidance: self.guidance.unwrap_or(sampling.guidance),
            repainting_scale: self.repainting_scale.or(task.map(|task| task.repainting_scale)).unwrap_or(unsaid),
            size: self.size.unwrap_or(sampling.size),
            tile: self.tile,
        })
    }

    /// The pictures, with the card's size where none is given.
    ///
    /// # Errors
    /// As [`Edit::settings`].
    pub fn inputs(&self, card: &Card) -> Result<Inputs<'_>> {
        let settings = self.settings(card)?;
        Ok(Inputs {
            image: self.image.as_ref(),
            mask: self.mask.as_ref(),
            references: &self.references,
            size: settings.size,
            repainting_scale: settings.repainting_scale,
        })
    }

    /// What its task needs and it does not have; a reference stands there as often as one is missing.
    ///
    /// # Errors
    /// As [`Edit::settings`].
    pub fn missing(&self, card: &Card) -> Result<Vec<Need>> {
        let Some(task) = self.settings(card)?.task else { return Ok(Vec::new()) };
        let needs = |need| task.needs.iter().filter(|needed| **needed == need).count();
        let mut missing = Vec::new();
        // To show the network what is under the mask takes an image, whether the card says so or not.
        if (needs(Need::Image) > 0 || task.repainting_scale < 1.0) && self.image.is_none() {
            missing.push(Need::Image);
        }
        if needs(Need::Mask) > 0 && self.mask.is_none() && self.regions.is_empty() {
            missing.push(Need::Mask);
        }
        missing.extend(vec![Need::Reference; needs(Need::Reference).saturating_sub(self.references.len())]);
        Ok(missing)
    }

    /// Refuses what cannot be made, before any weight is read: that may take minutes.
    ///
    /// # Errors
    /// The edit's own: words, steps, task and pictures that do not fit each other or the card.
    pub fn check(&self, card: &Card) -> Result<()> {
        let edits = self.one_by_one();
        for edit in if edits.is_empty() { std::slice::from_ref(self) } else { &edits } {
            edit.check_one(card)?;
        }
        Ok(())
    }

    fn check_one(&self, card: &Card) -> Result<()> {
        prompt::check(&self.picture_prompts, card)?;
        if self.instruction.trim().is_empty() && self.picture_prompts.is_empty() {
            return Err(Error::input("the instruction is empty", "say what should be seen or changed"));
        }
        if self.num_steps == Some(0) {
            return Err(Error::input("num_steps is 0", "choose 1 or more"));
        }
        self.check_course(card)?;
        if let Some(need) = self.missing(card)?.first() {
            let name = self.task.as_deref().unwrap_or_default();
            let about = card.find_task(name)?.about.clone();
            return Err(Error::input(format!("task {name} needs {}", need.words()), format!("{name}: {about}")));
        }
        self.prepare(card).map(drop)
    }

    /// Refuses ways from noise to latents that there are not.
    ///
    /// # Errors
    /// What is wrong with the shift, the cache or masked steps, and whether the card has no such task.
    pub fn check_course(&self, card: &Card) -> Result<()> {
        let Choice { cache, masked_steps, .. } = self.settings(card)?.course;
        if let Some(shift) = self.shift.filter(|shift| !(shift.is_finite() && *shift > 0.0)) {
            return Err(Error::input(format!("shift is {shift}"), "choose a number above 0; 1 shifts nothing"));
        }
        if matches!(cache, Cache::Mag { .. }) && card.sampling.mag_ratios.is_empty() {
            return Err(Error::Uncalibrated { card: card.name.clone() });
        }
        let Some(every) = masked_steps else { return Ok(()) };
        if every == 0 {
            return Err(Error::input("masked_steps is 0", "choose 1 or more"));
        }
        if cache != Cache::Off {
            return Err(Error::input("a cache and masked steps do not go together", "choose one of them"));
        }
        if card.unit.mask_columns(card.flux.out_channels, card.autoencoder.downscale()).is_none() {
            return Err(Error::input(
                format!("the network of card {} sees no mask", card.name),
                "leave masked steps out, or use a card of FLUX-Fill or ACE++",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_never_overwritten_by_a_task() {
        let card = Card::builtin("tiny").unwrap();
        let task = card.task.iter().find(|task| task.repainting_scale == 0.0).unwrap();
        let scale = |edit: Edit| edit.settings(&card).unwrap().repainting_scale;
        assert_eq!(scale(Edit::new("words")), 1.0);
        assert_eq!(scale(Edit::new("words").task(&task.name)), 0.0);
        assert_eq!(scale(Edit::new("words").repainting_scale(0.5).task(&task.name)), 0.5);
        assert_eq!(scale(Edit::new("words").task(&task.name).repainting_scale(0.5)), 0.5);
        assert!(Edit::new("words").task("no such task").settings(&card).is_err());
    }

    #[test]
    fn a_task_says_what_it_lacks() {
        let card = Card::builtin("tiny").unwrap();
        let lacks = |edit: Edit| edit.missing(&card).unwrap();
        let picture = || RgbImage::new(64, 64);
        let of = |task: &str| Edit::new("words").task(task);
        assert_eq!(lacks(of("recolor")), [Need::Image, Need::Mask]);
        assert_eq!(lacks(of("subject")), [Need::Reference]);
        assert_eq!(lacks(of("compose")), [Need::Reference, Need::Reference]);
        assert_eq!(lacks(of("compose").reference(picture())), [Need::Reference]);
        assert_eq!(lacks(of("subject").reference(picture())), []);
        assert_eq!(lacks(of("text_to_image")), []);
        let error = of("recolor").check(&card).unwrap_err();
        assert_eq!(error.to_string(), "task recolor needs an image");
    }
}
