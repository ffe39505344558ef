//! Attention over the rows of one or two streams: each row holds queries, keys and values of all heads and, after them,
//! what goes through an activation beside the attention. Norms and rotations of queries and keys, the attention, the
//! activation and the joining of heads are one operation, which keeps its inputs, its output and the softmax's sums.

use super::{
    activation::{self, Activation},
    attention::{self, Heads, HeadsOut, Sizes},
    memory::{New, Shared, each, each_rows, numbers},
    norm::spread,
    simd::{sum2, wide},
};
use burn::tensor::Shape;
use burn_flex::FlexTensor;

/// Tokens whose sums one task takes, for the gradients of the norms' scales.
const TOGETHER: usize = 32;

/// What one stream brings: dense tensors.
pub struct Stream<'a> {
    /// `[B, L, 3·heads·d + rest]`
    pub fused: &'a FlexTensor,
    /// `[d]` each: of the queries' norm, of the keys'.
    pub scales: [&'a FlexTensor; 2],
}

/// What all streams share.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    pub heads: usize,
    pub epsilon: f32,
    /// `[.., L, d/2]` over all streams.
    pub cos: &'a FlexTensor,
    pub sin: &'a FlexTensor,
}

/// Sizes of the whole.
struct Frame {
    batch: usize,
    /// Tokens of each stream.
    lens: Vec<usize>,
    /// Tokens of all.
    len: usize,
    /// Numbers of a stream's row.
    row: usize,
    heads: usize,
    /// Features of a head.
    width: usize,
    /// Numbers of a row that go through the activation.
    rest: usize,
}

impl Frame {
    fn of(streams: &[Stream<'_>], heads: usize) -> Self {
        let dims: Vec<[usize; 3]> = streams
            .iter()
            .map(|stream| {
                let shape = stream.fused.layout().shape();
                [shape[0], shape[1], shape[2]]
            })
            .collect();
        let (lens, width) = (dims.iter().map(|dims| dims[1]).collect::<Vec<_>>(), numbers(streams[0].scales[0]).len());
        let [batch, _, row] = dims[0];
        Self { batch, len: lens.iter().sum(), lens, row, heads, width, rest: row - 3 * heads * width }
    }

    /// Numbers of an output row.
    fn out(&self) -> usize {
        self.heads * self.width + self.rest
    }

    /// Numbers of q, k or v.
    fn part(&self) -> usize {
        self.batch * self.heads * self.len * self.width
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            batch: self.batch,
            heads: self.heads,
            queries: self.len,
            keys: self.len,
            width: self.width,
            value_width: self.width,
            factor: (self.width as f64).sqrt().recip() as f32,
        }
    }

    /// Distances of `[batch, heads, len, width]` one after the other.
    fn dense(&self) -> [usize; 3] {
        [self.heads * self.len * self.width, self.len * self.width, self.width]
    }

    /// Distances of heads that are joined in the output's rows.
    fn joined(&self) -> [usize; 3] {
        [self.len * self.out(), self.width, self.out()]
    }

    /// Batch, stream, token of the stream and token of all, for each row of a stream.
    fn token(&self, stream: usize, row: usize) -> (usize, usize) {
        let (batch, token) = (row / self.lens[stream], row % self.lens[stream]);
        (batch, self.lens[..stream].iter().sum::<usize>() + token)
    }

    fn heads_of<'a>(&self, packed: &'a [f32]) -> [Heads<'a>; 3] {
        [0, 1, 2].map(|i| Heads::new(&packed[i * self.part()..][..self.part()], self.dense()))
    }
}

/// The output, `[B, L, heads·d + rest]`, and the logarithms of the softmaxes' sums.
pub fn forward(streams: &[Stream<'_>], shared: Common<'_>) -> (FlexTensor, FlexTensor) {
    let frame = Frame::of(streams, shared.heads);
    let mut lse = New::of(frame.batch * frame.heads * frame.len);
    let out = joined(&frame, streams, shared, |qkv, out| attention::forward(frame.sizes(), qkv, out, lse.all()));
    (out, lse.tensor(Shape::new([frame.batch, frame.heads, frame.len])))
}

/// As [`forward`] without the sums, the products in bf16.
pub fn forward_halves(streams: &[Stream<'_>], shared: Common<'_>) -> FlexTensor {
    let frame = Frame::of(streams, shared.heads);
    joined(&frame, streams, shared, |qkv, out| attention::forward_halves(frame.sizes(), qkv, out))
}

/// What `attend` makes of queries, keys and values, and beside it the activation of what is behind them.
fn joined(
    frame: &Frame,
    streams: &[Stream<'_>],
    shared: Common<'_>,
    attend: impl FnOnce([Heads<'_>; 3], HeadsOut<'_>),
) -> FlexTensor {
    let mut packed = pack(frame, streams, shared);
    let mut out = New::of(frame.batch * frame.len * frame.out());
    let to = out.shared();
    attend(frame.heads_of(packed.all()), HeadsOut { numbers: to, steps: frame.joined() });
    for (index, stream) in streams.iter().enumerate().filter(|_| frame.rest > 0) {
        let fused = numbers(stream.fused);
        each_rows(frame.batch * frame.lens[index], frame.rest, |first, count| {
            for i in first..first + count {
                let (batch, token) = frame.token(index, i);
                let start = (batch * frame.len + token + 1) * frame.out() - frame.rest;
                let from = &fused[(i + 1) * frame.row - frame.rest..][..frame.rest];
                activation::row(Activation::GeluTanh, from, to.part(start, frame.rest));
            }
        });
    }
    out.tensor(Shape::new([frame.batch, frame.len, frame.out()]))
}

/// Queries and keys normed and turned, values as they are: `[3, batch, heads, len, width]`.
fn pack(frame: &Frame, streams: &[Stream<'_>], shared: Common<'_>) -> New {
    let mut packed = New::of(3 * frame.part());
    let to = packed.shared();
    let (width, half) = (frame.width, frame.width / 2);
    let (cos, sin) = (numbers(shared.cos), numbers(shared.sin));
    for (index, stream) in streams.iter().enumerate() {
        let (fused, scales) = (numbers(stream.fused), stream.scales.map(numbers));
        each_rows(frame.batch * frame.lens[index], 3 * frame.heads * width, |first, count| {
            for i in first..first + count {
                let (batch, token) = frame.token(index, i);
                let turn = [&cos[token * half..][..half], &sin[token * half..][..half]];
                let row = &fused[i * frame.row..][..frame.row];
                let start = (batch * frame.heads * frame.len + token) * width;
                pack_row(row, frame, scales, turn, shared.epsilon, to, start);
            }
        });
    }
    packed
}

fn pack_row(
    row: &[f32],
    frame: &Frame,
    scales: [&[f32]; 2],
    turn: [&[f32]; 2],
    epsilon: f32,
    to: Shared<'_>,
    start: usize,
) {
    let (width, step) = (frame.width, frame.len * frame.width);
    for part in 0..2 {
        let from = &row[part * frame.heads * width..][..frame.heads * width];
        norm_and_turn(from, scales[part], turn, epsilon, to, part * frame.part() + start, step);
    }
    let values = row[2 * frame.heads * width..][..frame.heads * width].chunks_exact(width);
    for (head, values) in values.enumerate() {
        to.part(2 * frame.part() + start + head * step, width).copy_from_slice(values);
    }
}

/// Gradients of each stream's rows and of its scales, where wanted.
pub fn backward(
    streams: &[Stream<'_>],
    shared: Common<'_>,
    [out, lse, gradient]: [&FlexTensor; 3],
    wants: &[[bool; 3]],
) -> Vec<[Option<FlexTensor>; 3]> {
    let frame = Frame::of(streams, shared.heads);
    let mut gradients = New::of(3 * frame.part());
    {
        let mut packed = pack(&frame, streams, shared);
        let qkv = frame.heads_of(packed.all());
        let (dq, rest) = gradients.all().split_at_mut(frame.part());
        let (dk, dv) = rest.split_at_mut(frame.part());
        let joined = |of| Heads::new(numbers(of), frame.joined());
        attention::backward(frame.sizes(), qkv, joined(out), numbers(lse), joined(gradient), [dq, dk, dv]);
    }
    let (gradients, from_out) = (&*gradients.all(), numbers(gradient));
    let (width, half) = (frame.width, frame.width / 2);
    let (cos, sin) = (numbers(shared.cos), numbers(shared.sin));
    let unpack = |(index, stream): (usize, &Stream<'_>)| {
        let wants = wants[index];
        let (fused, scales) = (numbers(stream.fused), stream.scales.map(numbers));
        let rows = frame.batch * frame.lens[index];
        let tasks = rows.div_ceil(TOGETHER);
        let mut dfused = New::of(rows * frame.row);
        let mut sums = New::of(tasks * 2 * width);
        let (to, sums_to) = (dfused.shared(), sums.shared());
        each(tasks, rows * frame.row, |task| {
            let sums = sums_to.part(task * 2 * width, 2 * width);
            sums.fill(0.0);
            for i in task * TOGETHER..((task + 1) * TOGETHER).min(rows) {
                let (batch, token) = frame.token(index, i);
                let turn = [&cos[token * half..][..half], &sin[token * half..][..half]];
                let row = &fused[i * frame.row..][..frame.row];
                let drow = to.part(i * frame.row, frame.row);
                let start = (batch * frame.heads * frame.len + token) * width;
                let (step, all) = (frame.len * width, frame.heads * width);
                for part in 0..2 {
                    norm_and_turn_backward(
                        &row[part * all..][..all],
                        scales[part],
                        turn,
                        shared.epsilon,
                        &gradients[part * frame.part() + start..],
                        step,
                        &mut drow[part * all..][..all],
                        &mut sums[part * width..][..width],
                    );
                }
                let dvalues = drow[2 * all..3 * all].chunks_exact_mut(width).enumerate();
                for (head, dvalues) in dvalues {
                    dvalues.copy_from_slice(&gradients[2 * frame.part() + start + head * step..][..width]);
                }
                if frame.rest > 0 {
                    let start = (batch * frame.len + token + 1) * frame.out() - frame.rest;
                    let dy = &from_out[start..][..frame.rest];
                    activation::row_backward(Activation::GeluTanh, &row[3 * all..], dy, &mut drow[3 * all..]);
                }
            }
        });
        let sums = &*sums.all();
        let total = |part: usize| {
            let mut total = vec![0.0; width];
            for sums in sums.chunks_exact(2 * width) {
                total.iter_mut().zip(&sums[part * width..]).for_each(|(total, sum)| *total += sum);
            }
            let mut out = New::of(width);
            out.all().copy_from_slice(&total);
            out.tensor(Shape::new([width]))
        };
        let dfused = wants[0].then(|| dfused.tensor(stream.fused.layout().shape().clone()));
        [dfused, wants[1].then(|| total(0)), wants[2].then(|| total(1))]
    };
    streams.iter().enumerate().map(unpack).collect()
}

wide! {
    /// Every head of a row, normed, scaled, its pairs turned; head `h` goes to `start + h·step`.
    fn norm_and_turn(
        row: &[f32],
        scale: &[f32],
        turn: [&[f32]; 2],
        epsilon: f32,
        to: Shared<'_>,
        start: usize,
        step: usize,
    ) {
        let width = scale.len();
        for (head, x) in row.chunks_exact(width).enumerate() {
            let factor = spread(x, epsilon);
            let out = to.part(start + head * step, width);
            let pairs = x.chunks_exact(2).zip(scale.chunks_exact(2)).zip(turn[0].iter().zip(turn[1]));
            for (out, ((x, scale), (cos, sin))) in out.chunks_exact_mut(2).zip(pairs) {
                let (a, b) = (x[0] * factor * scale[0], x[1] * factor * scale[1]);
                out[0] = a * cos - b * sin;
                out[1] = a * sin + b * cos;
            }
        }
    }

    /// From the gradients of turned heads those of the row, and what the row adds to the scale's.
    fn norm_and_turn_backward(
        row: &[f32],
        scale: &[f32],
        turn: [&[f32]; 2],
        epsilon: f32,
        gradients: &[f32],
        step: usize,
        drow: &mut [f32],
        dscale: &mut [f32],
    ) {
        let width = scale.len();
        for (head, (x, dx)) in row.chunks_exact(width).zip(drow.chunks_exact_mut(width)).enumerate() {
            let factor = spread(x, epsilon);
            let dy = &gradients[head * step..][..width];
            for ((dx, dy), (cos, sin)) in
                dx.chunks_exact_mut(2).zip(dy.chunks_exact(2)).zip(turn[0].iter().zip(turn[1]))
            {
                dx[0] = dy[0] * cos + dy[1] * sin;
                dx[1] = dy[1] * cos - dy[0] * sin;
            }
            for (((sum, dx), x), scale) in dscale.iter_mut().zip(&mut *dx).zip(x).zip(scale) {
                *sum += *dx * (x * factor);
                *dx *= scale;
            }
            let mean = sum2(dx, x, |g, x| g * (x * factor)) / width as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = factor * (*dx - x * factor * mean);
            }
        }
    }
}
