//! How fast the parts of an edit are on a device: networks of random weights on random inputs, nothing is read.
//!
//! What is here makes the work and does it; whoever measures has the clock.

use crate::{
    Ace, Card, Edit, Error, Event, Networks, Result, Segmenter, Stage,
    cost::{self, Sequence, autoencoder, flux as transformer, text},
    segment::Click,
    text::{TextConditioning, Tokenizers},
};
use ace_nn::{
    autoencoder::AutoEncoder,
    flux::{Flux, FluxInput},
    limit,
    lora::{Linear, Linears},
    sam::SamConfig,
    t5::T5,
    weight::{PackedMatrix, Packing, Weight},
};
use burn::{
    module::{Module, ModuleMapper, Param},
    prelude::*,
    tensor::{DType, Distribution, FloatDType},
};
use image::{GrayImage, Luma, Rgb, RgbImage};
use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
    time::{Duration, Instant},
};

/// Hears the name of each part of the work that is done.
pub type Laps<'a> = &'a mut dyn FnMut(&'static str);

/// Something that can be done again and again.
pub struct Work {
    /// What it is.
    pub name: &'static str,
    /// Numbers of the networks that it runs.
    pub parameters: u64,
    /// Operations of one time.
    pub operations: f64,
    run: Box<dyn FnMut(Laps<'_>) -> Result<()>>,
}

impl Work {
    /// Does it once; the device has finished when this returns.
    ///
    /// # Errors
    /// If the work itself fails.
    pub fn run(&mut self, laps: Laps<'_>) -> Result<()> {
        (self.run)(laps)
    }
}

/// How the networks are held.
#[derive(Debug, Clone)]
pub struct Holding {
    /// Numbers of transformer and text encoder; the autoencoder computes in f32.
    pub dtype: FloatDType,
    /// To what matrices of blocks are packed, if they are.
    pub packing: Option<Packing>,
    /// Where it computes.
    pub device: Device,
}

impl Holding {
    /// One pass of the transformer.
    ///
    /// # Errors
    /// If the device does not compute in these numbers.
    pub fn flux(&self, card: &Card, sequence: Sequence) -> Result<Vec<Work>> {
        self.check()?;
        let flux = self.random_flux(card);
        let input = self.flux_input(&flux, card, sequence);
        Ok(vec![Work {
            name: "step",
            parameters: transformer::numbers(&card.flux, |_| true).all(),
            operations: transformer::forward_operations(&card.flux, sequence),
            run: Box::new(move |laps| {
                wait(flux.forward(input.clone()));
                laps("step");
                Ok(())
            }),
        }])
    }

    /// Both ways of the autoencoder, on a square picture of so many pixels a side.
    pub fn vae(&self, card: &Card, side: usize) -> Vec<Work> {
        let network = self.random_autoencoder(card);
        let (config, cells) = (&card.autoencoder, side / card.autoencoder.downscale());
        let size = [side; 2];
        let picture = self.uniform([1, 3, side, side]);
        let latents = self.uniform([1, config.latent_channels, cells, cells]);
        let work = |name, half: cost::autoencoder::Half, once: Box<dyn Fn()>| Work {
            name,
            parameters: half.numbers(),
            operations: half.operations(),
            run: Box::new(move |laps| {
                once();
                laps(name);
                Ok(())
            }),
        };
        let (encoder, decoder) = (network.clone(), network);
        vec![
            work("encode", autoencoder::encoder(config, size), Box::new(move || wait(encoder.encode(picture.clone())))),
            work("decode", autoencoder::decoder(config, size), Box::new(move || wait(decoder.decode(latents.clone())))),
        ]
    }

    /// A look at a picture with MobileSAM at its published size, and the answer to a click.
    ///
    /// # Errors
    /// If the picture cannot be looked at.
    pub fn sam(&self) -> Result<Vec<Work>> {
        let config = SamConfig::mobile();
        let network = config.init(&self.device).map(&mut Randomize {
            is_bias: false,
            dtype: FloatDType::F32,
            device: &self.device,
        });
        let encoder = network.image_encoder.num_params() as u64;
        let decoder = network.num_params() as u64 - encoder;
        let segmenter = Arc::new(Segmenter::new(network, &config, &self.device));
        let picture = RgbImage::from_fn(1024, 768, |x, y| Rgb([(x / 4) as u8, (y / 3) as u8, ((x * y) / 9) as u8]));
        let embedding = segmenter.embed(&picture)?;
        let answering = Arc::clone(&segmenter);
        let click = Click { x: 400.0, y: 300.0, is_inside: true };
        Ok(vec![
            Work {
                name: "look",
                parameters: encoder,
                operations: cost::sam::encoder(&config.encoder, config.decoder.transformer_dim),
                run: Box::new(move |laps| {
                    segmenter.embed(&picture)?.wait();
                    laps("look");
                    Ok(())
                }),
            },
            Work {
                name: "click",
                parameters: decoder,
                operations: cost::sam::decoder(&config),
                run: Box::new(move |laps| {
                    answering.mask(&embedding, &[click], None)?;
                    laps("click");
                    Ok(())
                }),
            },
        ])
    }

    /// T5 on so many tokens.
    ///
    /// # Errors
    /// As [`Holding::flux`].
    pub fn t5(&self, card: &Card, tokens: usize) -> Result<Vec<Work>> {
        self.check()?;
        let t5 = self.random_t5(card);
        let rows = card.t5.vocab_size as i32;
        let ids: Vec<i32> = (0..tokens as i32).map(|at| (at * 7919) % rows).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens]), &self.device);
        let (blocks, others) = text::t5_numbers(&card.t5);
        Ok(vec![Work {
            name: "t5",
            parameters: blocks.all() + others,
            operations: text::t5_operations(&card.t5, tokens),
            run: Box::new(move |laps| {
                wait(t5.forward(ids.clone()));
                laps("t5");
                Ok(())
            }),
        }])
    }

    /// A whole edit of a square picture, half of it under the mask; its words are embedded beforehand. `tokenizers` are not
    /// asked anything.
    ///
    /// # Errors
    /// As [`Holding::flux`], or if the card makes no such edit.
    pub fn edit(&self, card: &Card, tokenizers: Tokenizers, side: u32, steps: usize) -> Result<Vec<Work>> {
        self.check()?;
        let mut card = card.clone();
        let cells = side as usize / (2 * card.autoencoder.downscale());
        let sequence = Sequence { image: cells * cells, text: card.text.t5_max_length };
        card.canvas.max_seq_len = card.canvas.max_seq_len.max(sequence.image);
        let size = [side as usize; 2];
        let encoded = if card.canvas.change_image { 2.0 } else { 1.0 };
        let operations = encoded * autoencoder::encoder(&card.autoencoder, size).operations()
            + steps as f64 * transformer::forward_operations(&card.flux, sequence)
            + autoencoder::decoder(&card.autoencoder, size).operations();
        let text = TextConditioning {
            prompt_embeds: self.uniform([1, sequence.text, card.flux.context_in_dim]),
            pooled_prompt_embeds: self.uniform([1, card.flux.vec_in_dim]),
        };
        let networks = Networks {
            flux: self.random_flux(&card),
            autoencoder: self.random_autoencoder(&card),
            // Nobody asks them, so nothing is allocated for them.
            t5: card.t5.init(&self.device),
            clip: card.clip.init(&self.device),
        };
        let parameters = transformer::numbers(&card.flux, |_| true).all() + autoencoder::numbers(&card.autoencoder);
        let image = RgbImage::from_fn(side, side, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]));
        let mask = GrayImage::from_fn(side, side, |x, _| Luma([if x < side / 2 { 255 } else { 0 }]));
        let edit = Edit::new("a picture").image(image).mask(mask).steps(steps);
        let ace = Ace::of(card, networks, tokenizers, self.dtype, &self.device);
        let run = move |laps: Laps<'_>| {
            let mut stage = None;
            ace.run_on(&edit, &text, &mut |event| {
                match event {
                    Event::Stage(next) => stage.replace(next).into_iter().for_each(|done| lap(done, laps)),
                    // What follows the steps is theirs.
                    Event::Step { .. } => laps("step"),
                    Event::Tick => {}
                }
                ControlFlow::Continue(())
            })?;
            stage.into_iter().for_each(|done| lap(done, laps));
            Ok(())
        };
        Ok(vec![Work { name: "edit", parameters, operations, run: Box::new(run) }])
    }

    fn check(&self) -> Result<()> {
        if self.device.supports_dtype(self.dtype) {
            return Ok(());
        }
        Err(Error::input(format!("this device does not compute in {:?}", self.dtype), "choose f32"))
    }

    fn random_flux(&self, card: &Card) -> Flux {
        let mut flux = card.flux.init(&self.device);
        flux.for_each_linear(&mut |path, linear| {
            if path.contains("_blocks.") {
                self.pack(linear);
            }
        });
        flux.each_weight(&mut |weight| self.divide(weight));
        flux.map(&mut Randomize { is_bias: false, dtype: self.dtype, device: &self.device })
    }

    fn random_t5(&self, card: &Card) -> T5 {
        let mut t5 = card.t5.init(&self.device);
        t5.each_linear(&mut |linear| self.pack(linear));
        t5.each_weight(&mut |weight| self.divide(weight));
        t5.map(&mut Randomize { is_bias: false, dtype: self.dtype, device: &self.device })
    }

    fn random_autoencoder(&self, card: &Card) -> AutoEncoder {
        let network = card.autoencoder.init(&self.device);
        network.map(&mut Randomize { is_bias: false, dtype: FloatDType::F32, device: &self.device })
    }

    fn flux_input(&self, flux: &Flux, card: &Card, sequence: Sequence) -> FluxInput {
        let [rows, columns] = sequence.grid();
        let ids: Vec<[f32; 3]> =
            (0..rows).flat_map(|row| (0..columns).map(move |column| [0.0, row as f32, column as f32])).collect();
        FluxInput {
            tokens: self.uniform([1, sequence.image, card.flux.in_channels]).cast(self.dtype),
            rope: flux.rope(sequence.text, &ids, &self.device),
            prompt_embeds: self.uniform([1, sequence.text, card.flux.context_in_dim]).cast(self.dtype),
            pooled_prompt_embeds: self.uniform([1, card.flux.vec_in_dim]).cast(self.dtype),
            timesteps: Tensor::from_data([0.5f32], &self.device),
            guidance: Tensor::from_data([30.0f32], &self.device),
        }
    }

    /// Makes a matrix of random numbers in parts, if the device does not take it as one tensor.
    fn divide(&self, weight: &mut Weight) {
        let [rows, columns] = weight.shape();
        let runs = limit::runs(rows, columns * DType::from(self.dtype).size(), &self.device);
        if runs.len() > 1 && weight.id().is_some() {
            let largest = largest(&[rows, columns]);
            let random = |rows: Range<usize>| {
                Tensor::<2>::random([rows.len(), columns], Distribution::Uniform(-largest, largest), &self.device)
                    .cast(self.dtype)
            };
            *weight = Weight::Split(runs.into_iter().map(random).collect());
        }
    }

    /// Packs a matrix of random numbers before a wide one is ever there.
    fn pack(&self, linear: &mut Linear) {
        let shape = linear.weight.shape();
        let Some(packing) = self.packing.filter(|packing| shape[1].is_multiple_of(packing.block_len())) else { return };
        let largest = largest(&shape);
        let values = Tensor::<2>::random(shape, Distribution::Uniform(-largest, largest), &self.device);
        let values: Vec<f32> = values.into_data().iter::<f32>().collect();
        linear.weight = PackedMatrix::pack(packing, shape, &values, &self.device).into();
    }

    /// Numbers between −1 and 1.
    fn uniform<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &self.device)
    }
}

/// What ends when a stage ends; steps have said so themselves.
fn lap(stage: Stage, laps: Laps<'_>) {
    match stage {
        Stage::Text | Stage::Denoise => {}
        Stage::Encode => laps("encode"),
        Stage::Decode => laps("decode"),
    }
}

/// Numbers up to this keep the size of what passes through.
fn largest(shape: &[usize]) -> f64 {
    (3.0 / shape[1..].iter().product::<usize>().max(1) as f64).sqrt()
}

/// Waits until a tensor is there.
fn wait<const D: usize>(tensor: Tensor<D>) {
    drop(tensor.into_data());
}

/// Fills a network on the device: biases with zeros, norms with ones, everything else with random numbers.
struct Randomize<'a> {
    is_bias: bool,
    dtype: FloatDType,
    device: &'a Device,
}

impl ModuleMapper for Randomize<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.is_bias = name == "bias";
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let value: Tensor<D> = match (D, self.is_bias) {
            (1, true) => Tensor::zeros(shape, self.device),
            (1, false) => Tensor::ones(shape, self.device),
            _ => {
                let largest = largest(&shape);
                Tensor::random(shape, Distribution::Uniform(-largest, largest), self.device)
            }
        };
        Param::from_tensor(value.cast(self.dtype))
    }
}

/// Operations per second of a product of two square matrices: larger ones until one takes long enough to be measured, then
/// the best of a few. Of burn's product and that of a linear layer the faster one counts.
pub fn matmul_peak(dtype: FloatDType, device: &Device) -> f64 {
    const LARGEST: usize = 8192;
    const LONG: Duration = Duration::from_millis(100);
    const TIMES: usize = 3;
    let mut size = 1024;
    loop {
        let matrix = || Tensor::<2>::random([size, size], Distribution::Default, device).cast(DType::from(dtype));
        let (a, b) = (matrix(), matrix());
        let linear = Linear { weight: b.clone().into(), bias: None, lora: Vec::new() };
        let mut best = Duration::MAX;
        for product in [&(|| a.clone().matmul(b.clone())) as &dyn Fn() -> Tensor<2>, &|| linear.forward(a.clone())] {
            for time in 0..=TIMES {
                let begin = Instant::now();
                // One number of the product must be there before the clock stops.
                wait(product().narrow(0, 0, 1).narrow(1, 0, 1));
                if time > 0 {
                    best = best.min(begin.elapsed());
                }
            }
        }
        if best >= LONG || size >= LARGEST {
            return 2.0 * (size as f64).powi(3) / best.as_secs_f64().max(f64::MIN_POSITIVE);
        }
        size *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, model::Component};

    fn tiny() -> (Card, Tokenizers) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
        let files = Model::find(folder).unwrap().files().unwrap();
        let card = Card::builtin("tiny").unwrap();
        let read = |component| files.of(component);
        let tokenizers = Tokenizers::read(&card, read(Component::T5Tokenizer), read(Component::ClipTokenizer)).unwrap();
        (card, tokenizers)
    }

    #[test]
    fn every_work_is_done_and_says_its_parts() {
        let (card, tokenizers) = tiny();
        let holding = |packing| Holding { dtype: FloatDType::F32, packing, device: Device::default() };
        let laps = |work: &mut Work| {
            let mut names = Vec::new();
            work.run(&mut |name| names.push(name)).unwrap();
            names
        };
        for packing in [None, Some(Packing::Q8_0)] {
            let holding = holding(packing);
            let sequence = Sequence { image: 16, text: 8 };
            let mut flux = holding.flux(&card, sequence).unwrap().remove(0);
            assert_eq!((laps(&mut flux), laps(&mut flux)), (vec!["step"], vec!["step"]));
            assert_eq!(laps(&mut holding.t5(&card, 8).unwrap()[0]), ["t5"]);
        }
        let mut both = holding(None).vae(&card, 32);
        assert_eq!(both.iter_mut().map(|work| laps(work).remove(0)).collect::<Vec<_>>(), ["encode", "decode"]);
        let whole = both.iter().map(|work| work.operations).sum::<f64>();
        let mut edit = holding(None).edit(&card, tokenizers, 32, 2).unwrap().remove(0);
        assert_eq!(laps(&mut edit), ["encode", "step", "step", "decode"]);
        assert!(edit.operations > whole);
    }

    #[test]
    fn random_weights_leave_the_stream_as_large_as_it_was() {
        let (card, _) = tiny();
        let holding = Holding { dtype: FloatDType::F32, packing: None, device: Device::default() };
        let flux = holding.random_flux(&card);
        let input = holding.flux_input(&flux, &card, Sequence { image: 16, text: 8 });
        let output: Vec<f32> = flux.forward(input).into_data().iter::<f32>().collect();
        let mean = output.iter().map(|value| value.abs()).sum::<f32>() / output.len() as f32;
        assert!((1e-3..1e3).contains(&mean), "{mean}");
    }
}
