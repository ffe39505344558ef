//! Our own operations on burn's CPU backend: on all cores, with the processor's vectors, and backward by hand so that
//! little is kept.
//!
//! [`Own`] is the list of them, [`pictures`] that of those on pictures, which have no gradients of their own. They compute in f32; [`call`] says which tensors may go there. Where they are called
//! from stands the plain implementation too, and the tests there hold the two together.

mod activation;
mod attention;
mod call;
mod conv;
mod group_norm;
mod halves;
mod linear;
pub(crate) mod memory;
mod norm;
mod pictures;
pub(crate) mod product;
#[cfg(feature = "autodiff")]
mod record;
mod rope;
pub(crate) mod simd;
mod streams;
mod tile;
mod transpose;
mod weight;

pub use activation::Activation;
pub use call::attend as attend_heads;
pub use call::{activate, add_low_rank, adds, attend_rows, gate_add, modulate, project, root_norm, turn};
pub use linear::{Base, Branch};
pub use pictures::{convolve, norm_groups};

use attention::{Heads, HeadsOut, Sizes};
use burn::{
    backend::{Backend, ExtensionType, Flex, backend_extension, tensor::FloatTensor},
    tensor::Shape,
};
use burn_flex::FlexTensor;
use memory::{New, dense};
use streams::{Common, Stream};

/// A tensor that may be missing.
#[derive(ExtensionType, Debug, Clone)]
pub enum Maybe<B: Backend> {
    /// It is there.
    Some(FloatTensor<B>),
    /// It is not.
    None,
}

impl<B: Backend> Maybe<B> {
    pub fn of(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::None, Self::Some)
    }

    pub fn get(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Some(tensor) => Some(tensor),
            Self::None => None,
        }
    }
}

/// The operations. Callers have checked shapes, and [`call`] types and devices.
#[backend_extension(Flex, Autodiff: cfg(feature = "autodiff"))]
pub trait Own: Backend {
    /// An activation of every number.
    fn activate(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self>;

    /// `layer_norm(x)·(1 + scale) + shift`
    fn modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// `x/√(mean(x²) + ε)·scale`
    fn root_norm(x: FloatTensor<Self>, scale: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    /// `x + gate·y`
    fn gate_add(x: FloatTensor<Self>, gate: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Pairs of numbers turned; the tables have no gradients.
    fn turn(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `softmax(q·kᵀ/√d)·v`
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Attention over the rows of one or two streams; `scales` and `second_scales` are those of queries and keys.
    #[allow(clippy::too_many_arguments)]
    fn attend_rows(
        first: FloatTensor<Self>,
        query_scale: FloatTensor<Self>,
        key_scale: FloatTensor<Self>,
        #[extension_type] second: Maybe<Self>,
        #[extension_type] second_query_scale: Maybe<Self>,
        #[extension_type] second_key_scale: Maybe<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// `x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ` of a weight in f32 or 16 bits, or another sum in the place of `x·Wᵀ`; `a` and `b` are both there or both missing.
    #[allow(clippy::too_many_arguments)]
    fn project(
        x: FloatTensor<Self>,
        base: FloatTensor<Self>,
        kind: Base,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] a: Maybe<Self>,
        #[extension_type] b: Maybe<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

impl Own for Flex {
    fn activate(x: FlexTensor, kind: Activation) -> FlexTensor {
        activation::forward(kind, x)
    }

    fn modulate(x: FlexTensor, shift: FlexTensor, scale: FlexTensor, epsilon: f64) -> FlexTensor {
        norm::modulate(x, shift, scale, epsilon as f32)
    }

    fn root_norm(x: FlexTensor, scale: FlexTensor, epsilon: f64) -> FlexTensor {
        norm::rms_norm(x, scale, epsilon as f32)
    }

    fn gate_add(x: FlexTensor, gate: FlexTensor, y: FlexTensor) -> FlexTensor {
        norm::gate_add(x, gate, y)
    }

    fn turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        rope::turn(x, cos, sin, false)
    }

    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor) -> FlexTensor {
        attend([q, k, v].map(in_heads).each_ref()).0
    }

    fn attend_rows(
        first: FlexTensor,
        query_scale: FlexTensor,
        key_scale: FlexTensor,
        second: Maybe<Self>,
        second_query_scale: Maybe<Self>,
        second_key_scale: Maybe<Self>,
        cos: FlexTensor,
        sin: FlexTensor,
        heads: usize,
        epsilon: f64,
    ) -> FlexTensor {
        let second = stream_of(second, second_query_scale, second_key_scale);
        let inputs = RowInputs::new([first, query_scale, key_scale], second, [cos, sin], heads, epsilon);
        streams::forward(&inputs.streams(), inputs.common()).0
    }

    fn project(
        x: FlexTensor,
        base: FlexTensor,
        kind: Base,
        bias: Maybe<Self>,
        a: Maybe<Self>,
        b: Maybe<Self>,
        scale: f64,
    ) -> FlexTensor {
        let branch = a.get().zip(b.get()).map(|(a, b)| Branch { a, b, scale: scale as f32 });
        linear::forward(x, (kind, base), bias.get(), branch).0
    }
}

/// Rows of a second stream with the scales of its queries and keys, if there is one.
fn stream_of(rows: Maybe<Flex>, query_scale: Maybe<Flex>, key_scale: Maybe<Flex>) -> Option<[FlexTensor; 3]> {
    Some([rows.get()?, query_scale.get()?, key_scale.get()?])
}

/// A tensor that [`Heads::of`] understands: itself, or a copy.
fn in_heads(tensor: FlexTensor) -> FlexTensor {
    if Heads::of(&tensor).is_some() { tensor } else { tensor.to_contiguous() }
}

/// The heads of a tensor that [`in_heads`] gave.
fn heads(tensor: &FlexTensor) -> Heads<'_> {
    let Some(heads) = Heads::of(tensor) else { panic!("heads whose rows lie together, not {tensor:?}") };
    heads
}

fn attention_sizes(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor) -> Sizes {
    let (q, k, v) = (q.layout().shape(), k.layout().shape(), v.layout().shape());
    Sizes {
        batch: q[0],
        heads: q[1],
        queries: q[2],
        keys: k[2],
        width: q[3],
        value_width: v[3],
        factor: (q[3] as f64).sqrt().recip() as f32,
    }
}

/// The output and the logarithms of the softmaxes' sums.
fn attend([q, k, v]: [&FlexTensor; 3]) -> (FlexTensor, FlexTensor) {
    let sizes = attention_sizes(q, k, v);
    let Sizes { batch, heads: count, queries, value_width, .. } = sizes;
    let mut out = New::of(batch * count * queries * value_width);
    let mut lse = New::of(batch * count * queries);
    // Heads lie side by side in a token's row, so that joining them moves nothing.
    let steps = [queries * count * value_width, value_width, count * value_width];
    let to = HeadsOut { numbers: out.shared(), steps };
    attention::forward(sizes, [q, k, v].map(heads), to, lse.all());
    let strides = [steps[0], steps[1], steps[2], 1].map(|step| step as isize).to_vec();
    let layout = burn_flex::Layout::new(Shape::new([batch, count, queries, value_width]), strides, 0);
    (out.strided(layout), lse.tensor(Shape::new([batch, count, queries])))
}

/// What attention over rows is given, dense.
#[derive(Debug, Clone)]
struct RowInputs {
    /// Of each stream: rows, the queries' scale, the keys'.
    streams: Vec<[FlexTensor; 3]>,
    /// Cosines and sines.
    turn: [FlexTensor; 2],
    heads: usize,
    epsilon: f32,
}

impl RowInputs {
    fn new(
        first: [FlexTensor; 3],
        second: Option<[FlexTensor; 3]>,
        turn: [FlexTensor; 2],
        heads: usize,
        epsilon: f64,
    ) -> Self {
        let streams = [Some(first), second].into_iter().flatten().map(|stream| stream.map(dense)).collect();
        Self { streams, turn: turn.map(dense), heads, epsilon: epsilon as f32 }
    }

    fn streams(&self) -> Vec<Stream<'_>> {
        self.streams.iter().map(|[fused, query, key]| Stream { fused, scales: [query, key] }).collect()
    }

    fn common(&self) -> Common<'_> {
        Common { heads: self.heads, epsilon: self.epsilon, cos: &self.turn[0], sin: &self.turn[1] }
    }
}
