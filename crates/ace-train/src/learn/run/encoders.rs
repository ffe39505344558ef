//! Runs in which an encoder learns alone: the autoencoder, and T5 that learns to read.

use super::Run;
use crate::{
    Error,
    judge::sheet::{self, Row},
    learn::{
        autoencoder::AutoEncoderObjective,
        events::{Outcome, RunEvent, RunObserver},
        group,
        reading::{ReadingObjective, TextReader},
        results,
        trainer::Trainer,
    },
};
use ace_nn::autoencoder::AutoEncoder;
use ace_plus::{canvas::Plane, pixels};
use ace_weights::Network;
use burn::module::Module;
use image::RgbImage;

impl Run<'_> {
    pub(super) fn autoencoder(&self, observer: RunObserver<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let (recipe, card) = (&self.recipe, &self.start.card());
        let mut model = group::agree(self.group, self.start.autoencoder(recipe, &learning))?;
        if recipe.autoencoder.as_ref().is_some_and(|section| section.decoder_only) {
            model.encoder = model.encoder.no_grad();
        }
        let mut trainer = Trainer::new(model, &recipe.optimizer);
        let objective = AutoEncoderObjective::new(recipe, self.data.as_ref(), card, &learning);
        let mut objective = group::agree(self.group, objective)?;
        let examples = group::lead(self.group, || self.preview_examples())?.unwrap_or_default();
        let stopped = self.turn(
            &mut trainer,
            &mut objective,
            observer,
            &mut |model: &AutoEncoder| {
                let rows = examples.iter().map(|(_, example)| {
                    let planes = example.planes(&card.canvas)?;
                    let decode =
                        |plane| pixels::download(model.decode(model.encode(pixels::upload(plane, self.device))));
                    let both = |row: Row, plane| {
                        row.with("picture", Plane::to_rgb(plane)).with("decoded", decode(plane).to_rgb())
                    };
                    Ok(planes.iter().fold(Row::default(), both))
                });
                Ok(sheet::sheet(&rows.collect::<Result<Vec<_>, Error>>()?))
            },
            &mut |_, _, _| Ok(None),
        )?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let weights = group::lead(self.group, || {
            let model = trainer.result();
            let (shift_factor, scaling_factor) = self.measure(&model)?;
            observer(RunEvent::Measured { shift_factor, scaling_factor });
            let file = card.weights.autoencoder.first();
            results::write_network(&self.options.out, file, &model, Network::AutoEncoder, &self.note())
        })?;
        Ok(Outcome::Finished { step: trainer.step, weights: weights.into_iter().collect() })
    }

    /// Mean and one over the standard deviation of raw latents, on answers.
    fn measure(&self, model: &AutoEncoder) -> Result<(f32, f32), Error> {
        let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0.0f64);
        for index in 0..64 {
            let plane = self.data.example(index)?.planes(&self.start.card().canvas)?.swap_remove(0);
            let (mean, _) = model.encode_posterior(pixels::upload(&plane, self.device));
            for value in mean.into_data().convert::<f32>().iter::<f32>() {
                sum += f64::from(value);
                squares += f64::from(value).powi(2);
                count += 1.0;
            }
        }
        let mean = sum / count;
        Ok((mean as f32, (squares / count - mean * mean).sqrt().recip() as f32))
    }

    /// T5 on sentences of the world.
    pub(super) fn reading(&self, observer: RunObserver<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let recipe = &self.recipe;
        let t5 = group::agree(self.group, self.start.t5(recipe, &learning))?;
        let tokenizers = group::agree(self.group, self.start.tokenizers())?;
        let size = recipe.data.world.unwrap_or_default();
        let mut objective = ReadingObjective::new(recipe, self.data.as_ref(), size, tokenizers);
        let reader = TextReader::new(t5, objective.slots(), recipe.seed, &learning);
        let mut trainer = Trainer::new(reader, &recipe.optimizer);
        let draw = &mut |_: &TextReader| Ok(RgbImage::new(1, 1));
        if self.turn(&mut trainer, &mut objective, observer, draw, &mut |_, _, _| Ok(None))? {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let weights = group::lead(self.group, || {
            let file = self.start.card().weights.t5.first();
            results::write_network(&self.options.out, file, &trainer.result().t5, Network::T5, &self.note())
        })?;
        Ok(Outcome::Finished { step: trainer.step, weights: weights.into_iter().collect() })
    }
}
