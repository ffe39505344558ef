//! Who runs the blocks: the seam between the transformer's diagram and the memory and time of a machine.
//!
//! [`Flux::forward_with`](super::Flux::forward_with) embeds, hands block after block to a [`Walk`], and projects. A walk
//! decides where the block's weights come from and whether the block runs at all:
//!
//! * [`Resident`] runs the network's own blocks and can be cancelled between them;
//! * a streaming walk leaves the given block aside (its weights are empty) and runs a copy whose weights it has fetched
//!   for this index, while it fetches the next;
//! * a cache of the first block's answer returns what it is given instead of running the block, and adds what the
//!   blocks added last time after the last one;
//! * a recomputing walk runs the blocks without a graph and keeps what each was given, so that the backward pass can
//!   run them again one by one, with a graph.
//!
//! The last two may hold another walk that runs the blocks which they do want.

use super::{DoubleBlock, SingleBlock};
use crate::{poll::Poll, rope::Rope};
use burn::prelude::*;
use std::ops::ControlFlow;

/// What all blocks are told alike.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Conditioning vector, `[B, D]`.
    pub vec: Tensor<2>,
    /// Turning of `[text ; image]` positions.
    pub rope: Rope,
}

/// Runs the blocks, in order: all double blocks, then all single blocks. `Break` leaves the forward.
pub trait Walk {
    /// What double block `index` makes of both streams.
    ///
    /// # Shapes
    /// - img: `[B, L, D]`, txt: `[B, T, D]`
    /// - output: `(img, txt)` as given
    fn double(
        &mut self,
        index: usize,
        block: &DoubleBlock,
        img: Tensor<3>,
        txt: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), (Tensor<3>, Tensor<3>)>;

    /// What single block `index` makes of the one stream.
    ///
    /// # Shapes
    /// - x, output: `[B, T + L, D]`, text first
    fn single(
        &mut self,
        index: usize,
        block: &SingleBlock,
        x: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), Tensor<3>>;
}

/// All weights are in the network: each block runs as it is, after the poll has been asked.
pub struct Resident<'a> {
    poll: Poll<'a>,
}

impl<'a> Resident<'a> {
    /// Asks `poll` before each block.
    pub fn new(poll: Poll<'a>) -> Self {
        Self { poll }
    }
}

impl Walk for Resident<'_> {
    fn double(
        &mut self,
        _index: usize,
        block: &DoubleBlock,
        img: Tensor<3>,
        txt: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), (Tensor<3>, Tensor<3>)> {
        (self.poll)()?;
        ControlFlow::Continue(block.forward(img, txt, shared.vec.clone(), &shared.rope))
    }

    fn single(
        &mut self,
        _index: usize,
        block: &SingleBlock,
        x: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), Tensor<3>> {
        (self.poll)()?;
        ControlFlow::Continue(block.forward(x, shared.vec.clone(), &shared.rope))
    }
}

/// Where the weights of the blocks come from, for whoever runs a block more than once: the network's own memory, or a file.
pub trait Blocks: Send {
    /// The blocks that follow belong to a pass at this time, the pass's `timesteps`.
    fn at(&mut self, _time: f32) {}

    /// Double block `index` with all its weights. `own` is the network's: what learns in it is in the answer too, under
    /// the same parameter ids.
    fn double(&mut self, index: usize, own: &DoubleBlock) -> DoubleBlock;

    /// Single block `index`, as [`Blocks::double`].
    fn single(&mut self, index: usize, own: &SingleBlock) -> SingleBlock;
}

/// All weights are in the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own;

impl Blocks for Own {
    fn double(&mut self, _index: usize, own: &DoubleBlock) -> DoubleBlock {
        own.clone()
    }

    fn single(&mut self, _index: usize, own: &SingleBlock) -> SingleBlock {
        own.clone()
    }
}

/// Runs the blocks that a [`Blocks`] gives, after the poll has been asked.
pub struct Fetched<'a, 'b> {
    blocks: &'a mut dyn Blocks,
    poll: Poll<'b>,
}

impl<'a, 'b> Fetched<'a, 'b> {
    /// Takes blocks from `blocks`; asks `poll` before each.
    pub fn new(blocks: &'a mut dyn Blocks, poll: Poll<'b>) -> Self {
        Self { blocks, poll }
    }
}

impl Walk for Fetched<'_, '_> {
    fn double(
        &mut self,
        index: usize,
        own: &DoubleBlock,
        img: Tensor<3>,
        txt: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), (Tensor<3>, Tensor<3>)> {
        (self.poll)()?;
        let block = self.blocks.double(index, own);
        ControlFlow::Continue(block.forward(img, txt, shared.vec.clone(), &shared.rope))
    }

    fn single(&mut self, index: usize, own: &SingleBlock, x: Tensor<3>, shared: &Shared) -> ControlFlow<(), Tensor<3>> {
        (self.poll)()?;
        ControlFlow::Continue(self.blocks.single(index, own).forward(x, shared.vec.clone(), &shared.rope))
    }
}

#[cfg(test)]
mod tests {
    use super::{DoubleBlock, Shared, SingleBlock, Walk};
    use crate::{
        flux::{Flux, FluxInput, Streams},
        testing::{device, flux, flux_config, flux_input, random, random_on, relative_error, values},
    };
    use burn::{
        module::{Module, ModuleVisitor, Param, ParamId},
        optim::GradientsParams,
        prelude::*,
    };
    use std::{collections::HashMap, ops::ControlFlow};

    type Both = (Tensor<3>, Tensor<3>);

    /// Blocks from elsewhere, whatever the network itself holds.
    struct Streamed {
        double: Vec<DoubleBlock>,
        single: Vec<SingleBlock>,
    }

    impl Walk for Streamed {
        fn double(
            &mut self,
            index: usize,
            _block: &DoubleBlock,
            img: Tensor<3>,
            txt: Tensor<3>,
            shared: &Shared,
        ) -> ControlFlow<(), Both> {
            ControlFlow::Continue(self.double[index].forward(img, txt, shared.vec.clone(), &shared.rope))
        }

        fn single(
            &mut self,
            index: usize,
            _block: &SingleBlock,
            x: Tensor<3>,
            shared: &Shared,
        ) -> ControlFlow<(), Tensor<3>> {
            ControlFlow::Continue(self.single[index].forward(x, shared.vec.clone(), &shared.rope))
        }
    }

    #[test]
    fn blocks_may_come_from_elsewhere() {
        let whole = flux(&device());
        let input = flux_input(&whole, &device());
        let Flux { double_blocks: double, single_blocks: single, .. } = whole.clone();
        let empty = flux_config().init(&device());
        let lean = Flux { double_blocks: empty.double_blocks, single_blocks: empty.single_blocks, ..whole.clone() };
        let streamed = lean.forward_with(&mut Streamed { double, single }, input.clone());
        let streamed = streamed.continue_value().expect("nothing breaks");
        assert_eq!(streamed.into_data(), whole.forward(input).into_data());
    }

    /// Runs the first block; if it answers as it did the last time, what the others added then is added now.
    struct FirstBlockCache<W> {
        inner: W,
        blocks: [usize; 2],
        first: Option<Both>,
        added: Option<Tensor<3>>,
        skips: bool,
        ran: usize,
    }

    impl<W: Walk> Walk for FirstBlockCache<W> {
        fn double(
            &mut self,
            index: usize,
            block: &DoubleBlock,
            img: Tensor<3>,
            txt: Tensor<3>,
            shared: &Shared,
        ) -> ControlFlow<(), Both> {
            if index > 0 && self.skips {
                return ControlFlow::Continue((img, txt));
            }
            self.ran += 1;
            let (img, txt) = self.inner.double(index, block, img, txt, shared)?;
            if index == 0 {
                let last_time = self.first.replace((img.clone(), txt.clone()));
                self.skips =
                    last_time.is_some_and(|(last, _)| relative_error(&values(img.clone()), &values(last)) < 0.1);
            }
            ControlFlow::Continue((img, txt))
        }

        fn single(
            &mut self,
            index: usize,
            block: &SingleBlock,
            x: Tensor<3>,
            shared: &Shared,
        ) -> ControlFlow<(), Tensor<3>> {
            let is_last = index + 1 == self.blocks[1];
            if self.skips {
                let added = self.added.clone().filter(|_| is_last);
                return ControlFlow::Continue(added.map_or(x.clone(), |added| x + added));
            }
            self.ran += 1;
            let x = self.inner.single(index, block, x, shared)?;
            if let (true, Some((img, txt))) = (is_last, self.first.clone()) {
                self.added = Some(x.clone() - Tensor::cat(vec![txt, img], 1));
            }
            ControlFlow::Continue(x)
        }
    }

    #[test]
    fn blocks_may_be_skipped() {
        let flux = flux(&device());
        let input = flux_input(&flux, &device());
        let Flux { double_blocks: double, single_blocks: single, .. } = flux.clone();
        let blocks = [double.len(), single.len()];
        let inner = Streamed { double, single };
        let mut cache = FirstBlockCache { inner, blocks, first: None, added: None, skips: false, ran: 0 };
        let mut run = |input: FluxInput| {
            let before = cache.ran;
            let velocity = flux.forward_with(&mut cache, input).continue_value().expect("nothing breaks");
            (values(velocity), cache.ran - before)
        };
        let whole = values(flux.forward(input.clone()));
        assert_eq!(run(input.clone()), (whole.clone(), 5));
        let (again, ran) = run(input.clone());
        assert!(ran == 1 && relative_error(&again, &whole) < 1e-6);
        // A step further on the way, the answer is close and the work a fifth.
        let near = FluxInput { tokens: input.tokens.clone() + random([2, 6, 12], 21) * 0.01, ..input.clone() };
        let (skipped, ran) = run(near.clone());
        let error = relative_error(&skipped, &values(flux.forward(near)));
        assert!(ran == 1 && error > 0.0 && error < 0.1, "{ran} blocks ran, {error}");
        assert_eq!(run(FluxInput { tokens: random([2, 6, 12], 22), ..input }).1, 5);
    }

    /// Keeps what each block was given.
    #[derive(Default)]
    struct Recorder {
        double: Vec<Both>,
        single: Vec<Tensor<3>>,
        last: Option<Tensor<3>>,
        shared: Option<Shared>,
    }

    impl Walk for Recorder {
        fn double(
            &mut self,
            _index: usize,
            block: &DoubleBlock,
            img: Tensor<3>,
            txt: Tensor<3>,
            shared: &Shared,
        ) -> ControlFlow<(), Both> {
            self.double.push((img.clone(), txt.clone()));
            ControlFlow::Continue(block.forward(img, txt, shared.vec.clone(), &shared.rope))
        }

        fn single(
            &mut self,
            _index: usize,
            block: &SingleBlock,
            x: Tensor<3>,
            shared: &Shared,
        ) -> ControlFlow<(), Tensor<3>> {
            self.single.push(x.clone());
            let x = block.forward(x, shared.vec.clone(), &shared.rope);
            (self.last, self.shared) = (Some(x.clone()), Some(shared.clone()));
            ControlFlow::Continue(x)
        }
    }

    /// Every parameter's gradient, in the order of the network's parameters.
    fn in_order(flux: &Flux, gradients: &HashMap<ParamId, Vec<f64>>) -> Vec<f64> {
        struct Order<'a>(&'a HashMap<ParamId, Vec<f64>>, Vec<f64>);
        impl ModuleVisitor for Order<'_> {
            fn visit_float<const N: usize>(&mut self, param: &Param<Tensor<N>>) {
                self.1.extend(self.0.get(&param.id).expect("every parameter learns"));
            }
        }
        let mut order = Order(gradients, Vec::new());
        flux.visit(&mut order);
        order.1
    }

    /// Adds the gradients of a module's parameters.
    fn collect<M: Module>(module: &M, gradients: &GradientsParams, all: &mut HashMap<ParamId, Vec<f64>>) {
        struct Collect<'a>(&'a GradientsParams, &'a mut HashMap<ParamId, Vec<f64>>);
        impl ModuleVisitor for Collect<'_> {
            fn visit_float<const N: usize>(&mut self, param: &Param<Tensor<N>>) {
                if let Some(gradient) = self.0.get::<N>(param.id) {
                    let gradient = values(gradient);
                    match self.1.get_mut(&param.id) {
                        Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, more)| *sum += more),
                        None => drop(self.1.insert(param.id, gradient)),
                    }
                }
            }
        }
        module.visit(&mut Collect(gradients, all));
    }

    #[test]
    fn blocks_may_be_run_again_for_their_gradients() {
        let learning = device().autodiff();
        let flux = flux(&learning);
        let input = flux_input(&flux, &learning);
        let wanted = random_on([2, 6, 8], 31, &learning);

        // The usual way: one graph over everything.
        let mut gradients = (flux.forward(input.clone()) * wanted.clone()).sum().backward();
        let mut expected = HashMap::new();
        collect(&flux, &GradientsParams::from_module(&mut gradients, &flux), &mut expected);

        // Forward without a graph; what each block was given is all that is kept.
        let mut recorder = Recorder::default();
        let frozen = flux.valid();
        let plain = flux_input(&frozen, &device());
        assert!(frozen.forward_with(&mut recorder, plain).is_continue());
        let Shared { vec, rope } = recorder.shared.expect("the blocks ran");

        // Backward: what comes after the blocks, each block from the last to the first, what comes before them.
        let mut ours = HashMap::new();
        let leaf = |x: Tensor<3>| Tensor::from_inner(x).require_grad();
        let given = || Tensor::from_inner(vec.clone()).require_grad();
        let mut step = |scalar: Tensor<1>, leaves: &[&Tensor<3>], vec: Option<&Tensor<2>>| {
            let mut gradients = scalar.backward();
            let of = leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients).expect("reached")).collect::<Vec<_>>();
            let vec = vec.map(|vec| vec.grad_remove(&mut gradients).expect("reached"));
            collect(&flux, &GradientsParams::from_module(&mut gradients, &flux), &mut ours);
            (of, vec)
        };
        let (x, v) = (leaf(recorder.last.expect("the blocks ran")), given());
        let projected = flux.project(x.clone().narrow(1, 5, 6), v.clone());
        let (mut dx, dv) = step((projected * wanted).sum(), &[&x], Some(&v));
        let mut dvec = dv.expect("asked for");
        for (block, x) in flux.single_blocks.iter().zip(recorder.single).rev() {
            let (x, v) = (leaf(x), given());
            let y = block.forward(x.clone(), v.clone(), &rope);
            let (next, dv) = step((y * Tensor::from_inner(dx.remove(0))).sum(), &[&x], Some(&v));
            (dx, dvec) = (next, dvec + dv.expect("asked for"));
        }
        let (mut dtxt, mut dimg) = (dx[0].clone().narrow(1, 0, 5), dx[0].clone().narrow(1, 5, 6));
        for (block, (img, txt)) in flux.double_blocks.iter().zip(recorder.double).rev() {
            let (img, txt, v) = (leaf(img), leaf(txt), given());
            let (img_out, txt_out) = block.forward(img.clone(), txt.clone(), v.clone(), &rope);
            let scalar = (img_out * Tensor::from_inner(dimg)).sum() + (txt_out * Tensor::from_inner(dtxt)).sum();
            let (mut next, dv) = step(scalar, &[&img, &txt], Some(&v));
            (dtxt, dimg) = (next.remove(1), next.remove(0));
            dvec = dvec + dv.expect("asked for");
        }
        let Streams { img, txt, vec } = flux.embed(input);
        let scalar = (img * Tensor::from_inner(dimg)).sum()
            + (txt * Tensor::from_inner(dtxt)).sum()
            + (vec * Tensor::from_inner(dvec)).sum();
        step(scalar, &[], None);

        let error = relative_error(&in_order(&flux, &ours), &in_order(&flux, &expected));
        assert!(error < 1e-6, "{error:e}");
    }
}
