//! `x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ` in two passes over the output, with the frozen parts costing nothing backward.

use super::{
    memory::{New, dense, each_rows, in_rows, numbers, own, rows, sizes},
    norm::sum_rows,
    product::{Into, Matrix, multiply},
    simd::wide,
    transpose::transpose,
    weight::{Weight, in_order},
};
use burn::{
    backend::{Flex, ops::FloatTensorOps},
    tensor::{DType, Shape},
};
use burn_flex::FlexTensor;

/// A low-rank branch: `a` `[rank, in]`, `b` `[out, rank]`.
#[derive(Debug, Clone)]
pub struct Branch {
    pub a: FlexTensor,
    pub b: FlexTensor,
    pub scale: f32,
}

/// What a branch is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// `x·Wᵀ` of a weight, `[out, in]`.
    Weight,
    /// A sum that somebody else took, `[.., out]`.
    Sum,
}

/// The output, and `x·Aᵀ` if there is a branch.
pub fn forward(
    x: FlexTensor,
    (kind, base): (Base, FlexTensor),
    bias: Option<FlexTensor>,
    branch: Option<Branch>,
) -> (FlexTensor, Option<FlexTensor>) {
    let (x, bias) = (in_rows(x), bias.map(dense));
    let from = rows(&x);
    let branch = branch.map(|branch| (dense(branch.a), dense(branch.b), branch.scale));
    let mut y = match kind {
        Base::Sum => own(base),
        Base::Weight => {
            let weight = in_order(base);
            let (weight, output) = (Weight::of(&weight), weight.layout().shape()[0]);
            let mut y = New::of(from.count * output);
            let mut into = Into::Place;
            if let (Some(bias), None) = (&bias, &branch) {
                let (to, bias) = (y.shared(), numbers(bias));
                each_rows(from.count, output, |first, count| {
                    (first..first + count).for_each(|i| to.part(i * output, output).copy_from_slice(bias));
                });
                into = Into::Sum;
            }
            weight.times(y.all(), into, from);
            let mut shape = sizes(&x);
            if let Some(last) = shape.last_mut() {
                *last = output;
            }
            y.tensor(Shape::from(shape))
        }
    };
    let low = branch.map(|(a, b, scale)| {
        let [rank, input] = [0, 1].map(|axis| a.layout().shape()[axis]);
        let output = b.layout().shape()[0];
        let (a, b) = (Matrix::new(numbers(&a), rank, input, input), numbers(&b));
        let mut low = New::of(from.count * rank);
        multiply(low.all(), rank, Into::Place, 1.0, from.matrix(), a.transposed(), true);
        // The bias is one more column of B, for one more number in each row.
        let more = rank + usize::from(bias.is_some());
        let (mut lows, mut bs) = (New::of(from.count * more), New::of(more * output));
        let all = bs.all();
        transpose(b, output, rank, rank, &mut all[..rank * output], output);
        if let Some(bias) = &bias {
            all[rank * output..].copy_from_slice(numbers(bias));
        }
        scaled_rows(low.all(), rank, more, scale, lows.all());
        let (lows, bs) = (Matrix::new(lows.all(), from.count, more, more), Matrix::new(bs.all(), more, output, output));
        multiply(y.storage_mut(), output, Into::Sum, 1.0, lows, bs, true);
        low.tensor(Shape::new([from.count, rank]))
    });
    (y, low)
}

/// What [`backward`] needs of the forward pass.
#[derive(Debug, Clone)]
pub struct Kept {
    /// If the weight or A learns.
    pub x: Option<FlexTensor>,
    pub base: Base,
    /// If there is one, and x has a gradient.
    pub weight: Option<FlexTensor>,
    /// Of the weight.
    pub dtype: DType,
    pub branch: Option<Branch>,
    /// `x·Aᵀ`
    pub low: Option<FlexTensor>,
    /// Of x.
    pub shape: Vec<usize>,
}

/// Gradients of x, base, bias, A and B, those that are wanted.
pub fn backward(kept: Kept, gradient: FlexTensor, wants: [bool; 5]) -> [Option<FlexTensor>; 5] {
    let gradient = in_rows(gradient);
    let (dy, x) = (rows(&gradient), kept.x.map(in_rows));
    let (count, output) = (dy.count, dy.width);
    let input = kept.shape.last().copied().unwrap_or(1);
    let x = x.as_ref().map(rows);
    let branch = kept.branch.map(|branch| (dense(branch.a), dense(branch.b), branch.scale));

    // scale·dy·B: the gradient of x·Aᵀ.
    let dlow = branch.as_ref().filter(|_| wants[0] || wants[3]).map(|(_, b, scale)| {
        let rank = sizes(b)[1];
        let mut dlow = New::of(count * rank);
        let b = Matrix::new(numbers(b), output, rank, rank);
        multiply(dlow.all(), rank, Into::Place, *scale, dy.matrix(), b, true);
        dlow.tensor(Shape::new([count, rank]))
    });
    let dx = wants[0].then(|| {
        let mut dx = New::of(count * input);
        let mut into = Into::Place;
        if let Some(weight) = kept.weight {
            let weight = in_order(weight);
            Weight::of(&weight).times_back(dx.all(), dy);
            into = Into::Sum;
        }
        if let (Some((a, ..)), Some(dlow)) = (&branch, &dlow) {
            let rank = sizes(a)[0];
            let (a, dlow) =
                (Matrix::new(numbers(a), rank, input, input), Matrix::new(numbers(dlow), count, rank, rank));
            multiply(dx.all(), input, into, 1.0, dlow, a, true);
        }
        dx.tensor(Shape::from(kept.shape))
    });
    let dweight = x.as_ref().filter(|_| wants[1] && kept.base == Base::Weight).map(|x| {
        let mut dweight = New::of(output * input);
        multiply(dweight.all(), input, Into::Place, 1.0, dy.matrix().transposed(), x.matrix(), true);
        Flex::float_cast(dweight.tensor(Shape::new([output, input])), kept.dtype.into())
    });
    let da = x.as_ref().zip(dlow.as_ref()).filter(|_| wants[3]).map(|(x, dlow)| {
        let rank = sizes(dlow)[1];
        let mut da = New::of(rank * input);
        let dlow = Matrix::new(numbers(dlow), count, rank, rank).transposed();
        multiply(da.all(), input, Into::Place, 1.0, dlow, x.matrix(), true);
        da.tensor(Shape::new([rank, input]))
    });
    let db = branch.as_ref().zip(kept.low.as_ref()).filter(|_| wants[4]).map(|((_, _, scale), low)| {
        let rank = sizes(low)[1];
        // Its transpose first: so the long rows of dy are read as they lie.
        let mut turned = New::of(rank * output);
        let low = Matrix::new(numbers(low), count, rank, rank).transposed();
        multiply(turned.all(), output, Into::Place, *scale, low, dy.matrix(), true);
        let mut db = New::of(output * rank);
        transpose(turned.all(), rank, output, output, db.all(), rank);
        db.tensor(Shape::new([output, rank]))
    });
    let dbase = if kept.base == Base::Sum { wants[1].then(|| gradient.clone()) } else { dweight };
    [dx, dbase, wants[2].then(|| sum_rows(gradient.clone())), da, db]
}

wide! {
    /// Rows of `rank` numbers, times `scale`, as rows of `more`; what is left of each row is 1.
    fn scaled_rows(from: &[f32], rank: usize, more: usize, scale: f32, to: &mut [f32]) {
        for (from, to) in from.chunks_exact(rank).zip(to.chunks_exact_mut(more)) {
            let (low, rest) = to.split_at_mut(rank);
            low.iter_mut().zip(from).for_each(|(to, from)| *to = scale * from);
            rest.fill(1.0);
        }
    }
}
