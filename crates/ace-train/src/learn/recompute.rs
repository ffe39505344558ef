//! Gradients of the transformer block by block: memory is that of one block and of what each was given.
//!
//! ```text
//! forward, without a graph     embed ─▶ block ─▶ block ─▶ … ─▶ block ─▶
//!                                  keep x₀    keep x₁       keep xₙ
//! backward, a graph at a time                                    loss(project(xₙ)) ─▶ ∂xₙ
//!                                        block(x₁)·∂x₂ ─▶ ∂x₁ ◀─ …   ◀─┘
//!                              embed·∂x₀ ◀─┘
//! ```
//!
//! Every block runs twice, which costs a third of the step's time, and the graph of a single block is all that is ever
//! alive. What lies before the first parameter that learns gets no graph and no gradient. Blocks come from a [`Blocks`], so
//! that those of a large base can be fetched, one or two at a time, in both directions.

use ace_nn::flux::{Blocks, DoubleBlock, Flux, FluxInput, Shared, SingleBlock, Streams, Walk};
use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    prelude::*,
    tensor::Gradients,
};
use std::ops::ControlFlow;

/// Blocks without a graph.
pub(super) struct Plain<'a>(pub &'a mut dyn Blocks);

impl Blocks for Plain<'_> {
    fn double(&mut self, index: usize, own: &DoubleBlock) -> DoubleBlock {
        self.0.double(index, own).valid()
    }

    fn single(&mut self, index: usize, own: &SingleBlock) -> SingleBlock {
        self.0.single(index, own).valid()
    }
}

/// Runs the blocks without a graph and keeps what each was given.
struct Recorder<'a> {
    blocks: &'a mut dyn Blocks,
    double: Vec<(Tensor<3>, Tensor<3>)>,
    single: Vec<Tensor<3>>,
}

impl Walk for Recorder<'_> {
    fn double(
        &mut self,
        index: usize,
        own: &DoubleBlock,
        img: Tensor<3>,
        txt: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), (Tensor<3>, Tensor<3>)> {
        let block = self.blocks.double(index, own).valid();
        self.double.push((img.clone(), txt.clone()));
        ControlFlow::Continue(block.forward(img, txt, shared.vec.clone(), &shared.rope))
    }

    fn single(&mut self, index: usize, own: &SingleBlock, x: Tensor<3>, shared: &Shared) -> ControlFlow<(), Tensor<3>> {
        let block = self.blocks.single(index, own).valid();
        self.single.push(x.clone());
        ControlFlow::Continue(block.forward(x, shared.vec.clone(), &shared.rope))
    }
}

/// Which gradients have to travel: those that something that learns waits for.
struct Needs {
    /// Whether the streams' gradient goes on below double block `i`, or single block `i - depth`.
    below: Vec<bool>,
    /// Whether the conditioning vector's gradient is wanted.
    vec: bool,
    /// Whether anything before the blocks learns.
    embed: bool,
}

impl Needs {
    fn of(flux: &Flux, inputs_learn: bool) -> Self {
        let vec = inputs_learn || learns(&flux.time_in) || learns(&flux.vector_in) || learns(&flux.guidance_in);
        let embed = vec || learns(&flux.img_in) || learns(&flux.txt_in);
        let mut any = embed;
        let mut below = Vec::new();
        for block in flux.double_blocks.iter().map(learns).chain(flux.single_blocks.iter().map(learns)) {
            below.push(any);
            any |= block;
        }
        below.push(any);
        Self { below, vec, embed }
    }
}

/// Whether a part has a parameter that learns.
fn learns<M: Module>(module: &M) -> bool {
    struct Walk(bool);
    impl ModuleVisitor for Walk {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.val().is_require_grad();
        }
    }
    let mut walk = Walk(false);
    module.visit(&mut walk);
    walk.0
}

/// Gradients of many parts, by parameter.
#[derive(Default)]
struct Collected(GradientsParams);

impl Collected {
    /// Takes what `gradients` has for the parameters of `part`, which no other part has.
    fn take<M: Module>(&mut self, gradients: &mut Gradients, part: &M) {
        struct Move<'a>(GradientsParams, &'a mut GradientsParams);
        impl ModuleVisitor for Move<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(gradient) = self.0.remove::<D>(param.id) {
                    self.1.register(param.id, gradient);
                }
            }
        }
        part.visit(&mut Move(GradientsParams::from_module(gradients, part), &mut self.0));
    }
}

/// A tensor whose gradient is wanted if `is_wanted`.
fn leaf<const D: usize>(x: Tensor<D>, is_wanted: bool) -> Tensor<D> {
    let x = Tensor::from_inner(x);
    if is_wanted { x.require_grad() } else { x }
}

/// The conditioning vector for one part, and the sum of its gradients so far.
struct Conditioning {
    vec: Tensor<2>,
    is_wanted: bool,
    gradient: Option<Tensor<2>>,
}

impl Conditioning {
    fn leaf(&self) -> Tensor<2> {
        leaf(self.vec.clone(), self.is_wanted)
    }

    fn add(&mut self, leaf: &Tensor<2>, gradients: &mut Gradients) {
        if let Some(more) = leaf.grad_remove(gradients).filter(|_| self.is_wanted) {
            self.gradient = Some(match self.gradient.take() {
                Some(sum) => sum + more,
                None => more,
            });
        }
    }
}

/// `Σ y·∂y`, whose gradient at `y` is `∂y`.
fn pull<const D: usize>(y: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    (y * Tensor::from_inner(gradient)).sum()
}

/// Loss and gradients of `flux`, and of `inputs`: networks that make what it is asked, if they learn.
///
/// `ask` makes the input from `inputs`: once without a graph, and once more with one if something before the blocks learns.
/// `judge` makes the loss from the network's answer. All parameters are on a device with gradients, all else is not.
///
/// # Shapes
/// - judge: from `[B, L, out_channels]` to the loss, `[1]`, and whatever else is to be known of the answer
pub fn gradients<I: Module, T>(
    flux: &Flux,
    blocks: &mut dyn Blocks,
    inputs: &I,
    ask: impl Fn(&I) -> FluxInput,
    judge: impl FnOnce(Tensor<3>) -> (Tensor<1>, T),
) -> (T, GradientsParams) {
    let needs = Needs::of(flux, learns(inputs));
    let ends = flux.ends();
    let mut collected = Collected::default();

    let question = ask(&inputs.valid());
    let rope = question.rope.clone();
    let streams = ends.valid().embed(question);
    let (text_len, image_len) = (streams.txt.dims()[1], streams.img.dims()[1]);
    let shared = Shared { vec: streams.vec.clone(), rope };
    let mut recorder = Recorder { blocks, double: Vec::new(), single: Vec::new() };
    let ControlFlow::Continue(x) = flux.run(&mut recorder, streams, &shared) else {
        unreachable!("the recorder never breaks");
    };
    let Recorder { blocks, double, single } = recorder;
    let Shared { vec, rope } = shared;
    let mut vec = Conditioning { vec, is_wanted: needs.vec, gradient: None };

    // What comes after the blocks.
    let head = ends.valid().train();
    let (x, v) = (leaf(x, needs.below[double.len() + single.len()]), vec.leaf());
    let (loss, known) = judge(head.project_over(x.clone().narrow(1, text_len, image_len), v.clone(), &rope));
    let mut gradients = loss.backward();
    collected.take(&mut gradients, &head);
    vec.add(&v, &mut gradients);
    let mut dx = x.grad_remove(&mut gradients);
    drop((x, gradients));

    for (index, given) in single.into_iter().enumerate().rev() {
        let Some(gradient) = dx.take() else { break };
        let block = blocks.single(index, &flux.single_blocks[index]).valid().train();
        let (x, v) = (leaf(given, needs.below[double.len() + index]), vec.leaf());
        let mut gradients = pull(block.forward(x.clone(), v.clone(), &rope), gradient).backward();
        collected.take(&mut gradients, &block);
        vec.add(&v, &mut gradients);
        dx = x.grad_remove(&mut gradients);
    }

    let mut streams = dx.map(|dx| (dx.clone().narrow(1, text_len, image_len), dx.narrow(1, 0, text_len)));
    for (index, (img, txt)) in double.into_iter().enumerate().rev() {
        let Some((img_gradient, txt_gradient)) = streams.take() else { break };
        let block = blocks.double(index, &flux.double_blocks[index]).valid().train();
        let wanted = needs.below[index];
        let (img, txt, v) = (leaf(img, wanted), leaf(txt, wanted), vec.leaf());
        let (img_out, txt_out) = block.forward(img.clone(), txt.clone(), v.clone(), &rope);
        let mut gradients = (pull(img_out, img_gradient) + pull(txt_out, txt_gradient)).backward();
        collected.take(&mut gradients, &block);
        vec.add(&v, &mut gradients);
        streams = img.grad_remove(&mut gradients).zip(txt.grad_remove(&mut gradients));
    }

    if let Some((img_gradient, txt_gradient)) = streams.filter(|_| needs.embed) {
        let (embedding, inputs) = (ends.valid().train(), inputs.valid().train());
        let Streams { img, txt, vec: v } = embedding.embed(ask(&inputs));
        let mut sum = pull(img, img_gradient) + pull(txt, txt_gradient);
        if let Some(gradient) = vec.gradient {
            sum = sum + pull(v, gradient);
        }
        let mut gradients = sum.backward();
        collected.take(&mut gradients, &embedding);
        collected.take(&mut gradients, &inputs);
    }
    (known, collected.0)
}
