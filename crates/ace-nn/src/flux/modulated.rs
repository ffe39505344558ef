//! Modulations that are computed once for all steps of an edit.
//!
//! What a modulation says depends on the conditioning vector alone: time, guidance and pooled text, none of which depends on
//! the picture. Their matrices are 27 % of FLUX's numbers. Computed for all times of a schedule before the first
//! step, each matrix is fetched once, and what is kept of it is a row for each time.

use super::{Blocks, DoubleBlock, Flux, Modulation, SingleBlock};
use crate::{lora::Linear, weight::Weight};
use ace_kernels::silu;
use burn::prelude::*;
use std::slice;

/// What the conditioning vectors of an edit are made of, but for the time.
#[derive(Debug, Clone)]
pub struct Given {
    /// Guidance that is embedded.
    pub guidance: f32,
    /// Pooled text, `[1, vec_in_dim]`, in the network's dtype.
    pub pooled: Tensor<2>,
}

/// Fetches the matrix of a modulation by its layer's BFL path, `double_blocks.3.img_mod.lin`.
pub type FetchMatrix<'a> = &'a (dyn Fn(&str) -> Weight + Sync);

/// Blocks from elsewhere whose modulations have been computed.
pub struct Modulated<'a> {
    inner: &'a mut dyn Blocks,
    flux: &'a Flux,
    given: Given,
    fetch: FetchMatrix<'a>,
    /// What all modulations say at times that were asked for together.
    tables: Vec<Table>,
    /// The table and its row that are at hand.
    now: Option<(usize, usize)>,
}

/// What all modulations say at some times.
struct Table {
    times: Vec<f32>,
    /// Of the image and the text stream of each double block, `[times, 6·D]`.
    double: Vec<[Tensor<2>; 2]>,
    /// Of each single block, `[times, 3·D]`.
    single: Vec<Tensor<2>>,
}

impl<'a> Modulated<'a> {
    /// Computes what all modulations of `flux` say at `times`; matrices that are absent there are fetched one by one and
    /// dropped. The blocks come from `inner`, their modulations left as they are.
    ///
    /// # Panics
    /// If `given` does not fit the network, or `fetch` panics.
    pub fn new(inner: &'a mut dyn Blocks, flux: &'a Flux, given: Given, times: &[f32], fetch: FetchMatrix<'a>) -> Self {
        let mut modulated = Self { inner, flux, given, fetch, tables: Vec::new(), now: None };
        modulated.add(times);
        modulated
    }

    fn add(&mut self, times: &[f32]) {
        let (flux, device) = (self.flux, self.given.pooled.device());
        let scalar = |value: f32| Tensor::<1>::from_data([value], &device);
        let vec_at =
            |time: &f32| silu(flux.conditioning(scalar(*time), scalar(self.given.guidance), self.given.pooled.clone()));
        // One by one, as steps do it: products of several rows differ in the last bit, and more where activations are rounded.
        let vecs: Vec<Tensor<2>> = times.iter().map(vec_at).collect();
        let say = |path: String, modulation: &Modulation| {
            let weight = &modulation.lin.weight;
            let weight = if weight.is_present() { weight.clone() } else { (self.fetch)(&path) };
            let Linear { bias, lora, .. } = &modulation.lin;
            let linear = Linear { weight, bias: bias.clone(), lora: lora.clone() };
            Tensor::cat(vecs.iter().map(|vec| linear.forward(vec.clone())).collect(), 0)
        };
        let double = flux.double_blocks.iter().enumerate().map(|(index, block)| {
            let path = |stream| format!("double_blocks.{index}.{stream}_mod.lin");
            [say(path("img"), &block.img_mod), say(path("txt"), &block.txt_mod)]
        });
        let single = flux.single_blocks.iter().enumerate();
        let single =
            single.map(|(index, block)| say(format!("single_blocks.{index}.modulation.lin"), &block.modulation));
        let (double, single) = (double.collect(), single.collect());
        self.tables.push(Table { times: times.to_vec(), double, single });
    }

    fn find(&self, time: f32) -> Option<(usize, usize)> {
        let of_table = |(at, table): (usize, &Table)| {
            let row = table.times.iter().position(|known| known.to_bits() == time.to_bits());
            row.map(|row| (at, row))
        };
        self.tables.iter().enumerate().find_map(of_table)
    }

    /// The row at hand.
    ///
    /// # Panics
    /// If no time was said.
    fn said(&self, of: impl Fn(&Table) -> &Tensor<2>) -> Option<Tensor<2>> {
        let Some((table, row)) = self.now else { panic!("`Blocks::at` says the time of a pass before its blocks run") };
        Some(of(&self.tables[table]).clone().narrow(0, row, 1))
    }
}

impl Blocks for Modulated<'_> {
    fn at(&mut self, time: f32) {
        // A solver may look between the times of its schedule: everything is fetched once more.
        if self.find(time).is_none() {
            self.add(slice::from_ref(&time));
        }
        self.now = self.find(time);
        self.inner.at(time);
    }

    fn double(&mut self, index: usize, own: &DoubleBlock) -> DoubleBlock {
        let mut block = self.inner.double(index, own);
        block.img_mod.said = self.said(|table| &table.double[index][0]);
        block.txt_mod.said = self.said(|table| &table.double[index][1]);
        block
    }

    fn single(&mut self, index: usize, own: &SingleBlock) -> SingleBlock {
        let mut block = self.inner.single(index, own);
        block.modulation.said = self.said(|table| &table.single[index]);
        block
    }
}

/// Whether a linear layer belongs to a modulation of a block, by its BFL path or its end.
pub fn is_modulation(path: &str) -> bool {
    ["img_mod.lin", "txt_mod.lin", "modulation.lin"].iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flux::{Fetched, FluxInput, Own},
        poll::to_the_end,
        testing::{device, flux, flux_input, random, values},
    };
    use std::{cell::RefCell, collections::HashMap, sync::Mutex};

    /// The network without the matrices of its modulations, and these.
    fn apart(flux: &Flux) -> (Flux, HashMap<String, Weight>) {
        let (mut lean, taken) = (flux.clone(), RefCell::new(HashMap::new()));
        lean.for_each_linear(&mut |path, linear| {
            if is_modulation(path) {
                let absent = Weight::Absent(linear.weight.shape());
                taken.borrow_mut().insert(path.to_owned(), std::mem::replace(&mut linear.weight, absent));
            }
        });
        (lean, taken.into_inner())
    }

    #[test]
    fn a_walk_is_the_same_when_modulations_were_computed_before() {
        let flux = flux(&device());
        let input = FluxInput { tokens: random([1, 6, 12], 41), ..one(&flux) };
        let (lean, matrices) = apart(&flux);
        assert_eq!(matrices.len(), 2 * flux.double_blocks.len() + flux.single_blocks.len());
        let fetched = Mutex::new(0);
        let fetch = |path: &str| {
            *fetched.lock().expect("nothing panics") += 1;
            matrices[path].clone()
        };
        let given = Given { guidance: 2.5, pooled: input.pooled_prompt_embeds.clone() };
        let mut own = Own;
        let mut blocks = Modulated::new(&mut own, &lean, given, &[1.0, 0.7, 0.3], &fetch);
        // The last is not on the schedule.
        for time in [1.0f32, 0.3, 0.7, 1.0, 0.5, 0.5] {
            let input = FluxInput {
                timesteps: Tensor::from_data([time], &device()),
                guidance: Tensor::from_data([2.5f32], &device()),
                ..input.clone()
            };
            blocks.at(time);
            let ours = to_the_end(|poll| lean.forward_with(&mut Fetched::new(&mut blocks, poll), input.clone()));
            assert_eq!(values(ours), values(flux.forward(input)), "at {time}");
        }
        assert_eq!(*fetched.lock().expect("nothing panics"), 2 * matrices.len());
    }

    /// One example of the usual input.
    fn one(flux: &Flux) -> FluxInput {
        let FluxInput { tokens, rope, prompt_embeds, pooled_prompt_embeds, timesteps, guidance } =
            flux_input(flux, &device());
        FluxInput {
            tokens: tokens.narrow(0, 0, 1),
            rope,
            prompt_embeds: prompt_embeds.narrow(0, 0, 1),
            pooled_prompt_embeds: pooled_prompt_embeds.narrow(0, 0, 1),
            timesteps: timesteps.narrow(0, 0, 1),
            guidance: guidance.narrow(0, 0, 1),
        }
    }
}
