//! What masked steps cost and how far off they end, by the share of the picture that is masked: on a FLUX-Fill of hidden
//! 1024 with random weights, 4 + 8 blocks, 1024 image and 512 text tokens. Its velocity is no model's, so that the error
//! says how old keys and values may be, not what is seen in a picture; `docs/sampling.md` has both.
//!
//! `masked [STEPS] [HIDDEN]`

use ace_nn::flux::Flux;
use ace_plus::{
    Card, latents,
    sample::{Course, Denoised, Denoiser, MaskedSteps, Schedule, Shift},
    text::TextConditioning,
    unit::Units,
};
use burn::{
    module::{Module, ModuleMapper, Param},
    prelude::*,
    tensor::{Distribution, FloatDType},
};
use std::{ops::ControlFlow, time::Instant};

const SIDE: usize = 32;
const TOKENS: usize = SIDE * SIDE;
const TEXT: usize = 512;

#[expect(clippy::print_stdout, reason = "an example's output")]
fn main() -> ace_plus::Result<()> {
    let number = |at: usize, default: usize| std::env::args().nth(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (steps, hidden) = (number(1, 8), number(2, 1024));
    let device = Device::default();
    device.seed(1);
    let mut config = Card::builtin("flux1-fill-dev")?.flux;
    (config.hidden_size, config.num_heads) = (hidden, hidden / 128);
    (config.depth, config.depth_single_blocks) = (4, 8);
    let flux = randomized(config.init(&device), &device);
    let random = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let text = TextConditioning {
        prompt_embeds: random([1, TEXT, config.context_in_dim]),
        pooled_prompt_embeds: random([1, 1, config.vec_in_dim]).squeeze_dim(1),
    };
    let noise = random([1, TOKENS, 64]);
    let image = random([1, TOKENS, 64]);
    println!("share  every  seconds  of plain  blocks  of plain  error under the mask");
    for share in [5, 20, 50, 100] {
        let units = units(&image, share);
        let denoiser = Denoiser { flux: &flux, units: &units, text: &text, guidance: 30.0, dtype: FloatDType::F32 };
        let walk = |every: Option<usize>| -> ace_plus::Result<(Denoised, f64)> {
            let times = Schedule::Flux.times(steps, TOKENS, &Shift::default());
            let masked = every.map(|every| MaskedSteps { every, columns: 64..320 });
            let begin = (Instant::now(), processor());
            let walked = denoiser.denoise(noise.clone(), &Course { masked, ..Course::euler(times) }, &mut |_| {
                ControlFlow::Continue(())
            })?;
            device.sync().map_err(|error| ace_plus::Error::Device { reason: format!("{error:?}") })?;
            // Processor time where the system tells it: other work on the machine does not count.
            let seconds = processor().zip(begin.1).map_or(begin.0.elapsed().as_secs_f64(), |(now, then)| now - then);
            Ok((walked, seconds))
        };
        let (plain, seconds) = walk(None)?;
        println!("{share:>4} %  plain  {seconds:>7.1}            {:>6.1}", plain.work.blocks);
        for every in [2, 4, 8] {
            let (walked, took) = walk(Some(every))?;
            let masked = masked(share);
            let of = |tokens: &Tensor<3>| tokens.clone().narrow(1, 0, masked);
            let length = |x: Tensor<3>| x.powi_scalar(2).sum().into_scalar::<f32>().sqrt();
            let error = length(of(&walked.tokens) - of(&plain.tokens)) / length(of(&plain.tokens));
            let (blocks, of_plain) = (walked.work.blocks, walked.work.blocks / plain.work.blocks);
            let ratio = took / seconds;
            println!("        {every:>5}  {took:>7.1}  {ratio:>8.2}  {blocks:>6.1}  {of_plain:>8.2}  {error:.1e}");
        }
    }
    Ok(())
}

/// Tokens under a mask of so many percent.
fn masked(percent: usize) -> usize {
    TOKENS * percent / 100
}

/// The masked image's latents, and a mask over the first so many percent of the tokens.
fn units(image: &Tensor<3>, percent: usize) -> Units {
    let mask: Vec<f32> =
        (0..TOKENS).flat_map(|token| vec![f32::from(u8::from(token < masked(percent))); 256]).collect();
    let mask = Tensor::from_data(TensorData::new(mask, [1, TOKENS, 256]), &image.device());
    Units {
        beside: Some(Tensor::cat(vec![image.clone(), mask], 2)),
        behind: None,
        ids: latents::ids([SIDE, SIDE], 0),
        grids: vec![[2 * SIDE, 2 * SIDE]],
        is_reference: vec![false; TOKENS],
    }
}

/// Seconds that the cores have spent on this process.
fn processor() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold blanks: user and system time are the 12th and 13th field, in hundredths.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / 100.0)
}

/// Random weights: matrices keep the variance of what they are given.
fn randomized(flux: Flux, device: &Device) -> Flux {
    struct Random<'a>(&'a Device);
    impl ModuleMapper for Random<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let id = param.id;
            let shape = param.lazy_shape();
            let deviation = if D > 1 { (shape[D - 1] as f64).sqrt().recip() } else { 0.1 };
            let mean = if D > 1 { 0.0 } else { 0.5 };
            let values = Tensor::random(shape, Distribution::Normal(mean, deviation), self.0);
            Param::initialized(id, values)
        }
    }
    flux.map(&mut Random(device))
}
