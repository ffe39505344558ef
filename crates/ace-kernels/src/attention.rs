//! Multi-head attention: `softmax(q·kᵀ/√d)·v`, over burn's fused operation where a device has one.
//!
//! # Precision
//! A row's weights are positive and divided by their own sum, so that its roundings scale the output by a few units of
//! the last place and shift nothing.

#[cfg(feature = "cube")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex;
use crate::{
    gelu_tanh,
    limit::{self, join},
    rms_norm, rotate_pairs,
};
use burn::{
    prelude::*,
    tensor::{DType, assert_shape, module::attention, ops::AttentionModuleOptions},
};

/// Scores that exist at a time where a backend holds them, in bytes: what WebGPU promises of one buffer. At 4608 tokens those
/// of FLUX's 24 heads would be 2 GB.
const MOST_SCORES: usize = 128 << 20;

/// `softmax(q·kᵀ/√d)·v`, every position sees every other. No scale is passed on: burn's fused kernels are used only
/// with their own default, which is the same 1/√d.
///
/// # Shapes
/// - q, output: `[B, heads, L, d]`
/// - k, v: `[B, heads, M, d]`
///
/// # Panics
/// If these shapes do not agree.
pub fn full(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    check(&q, &k, &v);
    #[cfg(feature = "flex")]
    if let Some(output) = flex::attend_heads([&q, &k, &v]) {
        return output;
    }
    let most = limit::most_bytes(&q.device()).map_or(MOST_SCORES, |most| most.min(MOST_SCORES));
    // In f16 the sum of a softmax is too coarse.
    let dtype = q.dtype();
    let [q, k, v] = [q, k, v].map(|heads| if dtype == DType::F16 { heads.cast(DType::F32) } else { heads });
    in_blocks(q, k, v, most).cast(dtype)
}

/// As [`plain`], for so many queries at a time that their scores take at most `most` bytes. Under autodiff all at once: it
/// keeps the scores anyway.
fn in_blocks(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, most: usize) -> Tensor<4> {
    let ([batch, heads, queries, _], [_, _, keys, _]) = (q.dims(), k.dims());
    let at_once = (most / (batch * heads * keys * size_of::<f32>()).max(1)).max(1);
    if q.device().is_autodiff() || at_once >= queries {
        return plain(q, k, v);
    }
    let block = |first: usize| {
        let q = q.clone().narrow(2, first, at_once.min(queries - first));
        plain(q, k.clone(), v.clone())
    };
    join((0..queries).step_by(at_once).map(block).collect(), 2)
}

fn plain(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    attention(q, k, v, None, None, AttentionModuleOptions::default())
}

/// What one stream brings to [`joint`].
#[derive(Debug, Clone)]
pub struct Stream {
    /// `[B, L, 3·heads·d + rest]`: queries, keys and values, each head after head, and what is not for the attention.
    pub rows: Tensor<3>,
    /// `[d]`, what normed queries are multiplied with.
    pub query_scale: Tensor<1>,
    /// `[d]`, what normed keys are multiplied with.
    pub key_scale: Tensor<1>,
}

/// Attention of all streams over all streams, one after the other on the sequence: queries and keys of every head are
/// normed ([`rms_norm`]) and turned ([`rotate_pairs`]), then [`full`]. What else rows hold goes through [`gelu_tanh`]
/// and follows the joined heads.
///
/// # Shapes
/// - rows: `[B, Lᵢ, 3·heads·d + rest]` with the same `rest`
/// - cos, sin: `[1, 1, L, d/2]` with `L = ΣLᵢ`
/// - output: `[B, L, heads·d + rest]`
///
/// # Panics
/// If these shapes do not agree.
pub fn joint(streams: Vec<Stream>, num_heads: usize, epsilon: f64, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<3> {
    check_streams(&streams, num_heads, &cos, &sin);
    #[cfg(feature = "flex")]
    if let Some(output) = fused(&streams, num_heads, epsilon, [&cos, &sin]) {
        return output;
    }
    join(plain_apart(streams, None, num_heads, epsilon, cos, sin), 1)
}

/// As [`joint`], what becomes of each stream's rows apart: where they are many, all of them in one tensor may be more than a
/// device takes. All streams also attend to tokens that ask nothing, whose keys (normed and turned) and values are `kept`.
///
/// # Shapes
/// - kept: `[B, heads, M, d]` each
/// - output: `[B, Lᵢ, heads·d + rest]`
///
/// # Panics
/// If these shapes do not agree.
pub fn apart(
    streams: Vec<Stream>,
    kept: Option<[Tensor<4>; 2]>,
    num_heads: usize,
    epsilon: f64,
    cos: Tensor<4>,
    sin: Tensor<4>,
) -> Vec<Tensor<3>> {
    check_streams(&streams, num_heads, &cos, &sin);
    #[cfg(feature = "flex")]
    if kept.is_none()
        && let Some(output) = fused(&streams, num_heads, epsilon, [&cos, &sin])
    {
        let mut first = 0;
        let lens = streams.iter().map(|stream| stream.rows.dims()[1]);
        let of = |len| {
            first += len;
            output.clone().narrow(1, first - len, len)
        };
        return lens.map(of).collect();
    }
    plain_apart(streams, kept, num_heads, epsilon, cos, sin)
}

fn check_streams(streams: &[Stream], num_heads: usize, cos: &Tensor<4>, sin: &Tensor<4>) {
    let [_, _, tokens, pairs] = cos.dims();
    assert_shape!(cos, [1, 1, tokens, pairs]);
    assert_shape!(sin, [1, 1, tokens, pairs]);
    let (width, [batch, _, row]) = (2 * pairs, streams.first().map_or([0; 3], |stream| stream.rows.dims()));
    assert!(row >= 3 * num_heads * width, "rows of {row} for {num_heads} heads of {width}");
    for Stream { rows, query_scale, key_scale } in streams {
        assert_shape!(rows, [batch, _, row]);
        assert_shape!(query_scale, [width]);
        assert_shape!(key_scale, [width]);
    }
    let len: usize = streams.iter().map(|stream| stream.rows.dims()[1]).sum();
    assert!(len == tokens, "heads of all streams, [batch, heads, len, width]: axis 2 expected {tokens}, got {len}");
}

#[cfg(feature = "flex")]
fn fused(streams: &[Stream], num_heads: usize, epsilon: f64, turns: [&Tensor<4>; 2]) -> Option<Tensor<3>> {
    let inputs: Vec<_> =
        streams.iter().map(|stream| (&stream.rows, [&stream.query_scale, &stream.key_scale])).collect();
    flex::attend_rows(&inputs, turns, num_heads, epsilon)
}

fn plain_apart(
    streams: Vec<Stream>,
    kept: Option<[Tensor<4>; 2]>,
    num_heads: usize,
    epsilon: f64,
    cos: Tensor<4>,
    sin: Tensor<4>,
) -> Vec<Tensor<3>> {
    let attended = 2 * cos.dims()[3] * num_heads;
    let (mut q, mut k, mut v, mut rests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut token = 0;
    for Stream { rows, query_scale, key_scale } in streams {
        let ([_, len, row], first) = (rows.dims(), 3 * attended);
        let tables = [&cos, &sin].map(|table| table.clone().narrow(2, token, len));
        let heads = |column, scale| norm_turn(&rows, column, num_heads, scale, epsilon, &tables);
        q.push(heads(0, query_scale));
        k.push(heads(attended, key_scale));
        v.push(split_heads(rows.clone().narrow(2, 2 * attended, attended), num_heads));
        token += len;
        rests.push((len, (row > first).then(|| gelu_tanh(rows.narrow(2, first, row - first)))));
    }
    if let Some([keys, values]) = kept {
        k.push(keys);
        v.push(values);
    }
    let heads = join_heads(full(join(q, 2), join(k, 2), join(v, 2)));
    let mut first = 0;
    let of = |(len, rest): (usize, Option<Tensor<3>>)| {
        first += len;
        let own = heads.clone().narrow(1, first - len, len);
        match rest {
            Some(rest) => Tensor::cat(vec![own, rest], 2),
            None => own,
        }
    };
    rests.into_iter().map(of).collect()
}

/// Heads of rows from a column on, normed ([`rms_norm`]) and turned ([`rotate_pairs`]), `[B, heads, L, d]`.
fn norm_turn(
    rows: &Tensor<3>,
    column: usize,
    num_heads: usize,
    scale: Tensor<1>,
    epsilon: f64,
    [cos, sin]: &[Tensor<4>; 2],
) -> Tensor<4> {
    #[cfg(feature = "cube")]
    if let Some(heads) = cube::norm_turn(rows, &scale, [cos, sin], column, num_heads, epsilon) {
        return heads;
    }
    let heads = split_heads(rows.clone().narrow(2, column, num_heads * scale.dims()[0]), num_heads);
    rotate_pairs(rms_norm(heads, scale, epsilon), cos.clone(), sin.clone())
}

/// Splits the last axis into heads: `[B, L, heads·d]` to `[B, heads, L, d]`.
///
/// # Panics
/// If the width is not a multiple of `num_heads`.
pub fn split_heads(x: Tensor<3>, num_heads: usize) -> Tensor<4> {
    let [batch, len, width] = x.dims();
    assert!(width.is_multiple_of(num_heads), "{width} features are not a multiple of {num_heads} heads");
    x.reshape([batch, len, num_heads, width / num_heads]).swap_dims(1, 2)
}

/// Joins heads again: `[B, heads, L, d]` to `[B, L, heads·d]`.
pub fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, len, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, len, heads * width])
}

/// As [`full`], with each position seeing only itself and what came before.
///
/// # Panics
/// As [`full`].
pub fn causal(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    check(&q, &k, &v);
    attention(q, k, v, None, None, AttentionModuleOptions { is_causal: true, ..Default::default() })
}

/// `softmax(q·kᵀ + bias)·v`: T5's attention, without the 1/√d.
///
/// # Shapes
/// - bias: `[B, heads, L, M]`
///
/// # Panics
/// As [`full`], and if `bias` has another shape.
pub fn biased(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Tensor<4>) -> Tensor<4> {
    check(&q, &k, &v);
    let ([batch, heads, queries, _], [_, _, keys, _]) = (q.dims(), k.dims());
    assert_shape!(bias, [batch, heads, queries, keys]);
    let dtype = q.dtype();
    let [q, k, v, bias] = [q, k, v, bias].map(|part| if dtype == DType::F16 { part.cast(DType::F32) } else { part });
    let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
    attention(q, k, v, None, Some(bias), options).cast(dtype)
}

fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>) {
    let ([batch, heads, _, width], [_, _, keys, _]) = (q.dims(), k.dims());
    assert_shape!(k, [batch, heads, _, width]);
    assert_shape!(v, [batch, heads, keys, _]);
}

#[cfg(test)]
mod tests {
    use super::{Stream, apart, biased, causal, full, joint, plain, plain_apart};
    use crate::{
        limit::join,
        testing::{Inputs, compare, random, relative_error, values},
    };
    use burn::{prelude::*, tensor::DType};

    const SHAPE: [usize; 4] = [2, 3, 5, 8];

    fn inputs() -> [Tensor<4>; 3] {
        [1, 2, 3].map(|seed| random(SHAPE, seed))
    }

    /// The formula in f64; `score(head, query, key, q·k)`, a key with the score −∞ is not seen.
    fn reference(score: impl Fn(usize, usize, usize, f64) -> f64) -> Vec<f64> {
        let [batch, heads, len, width] = SHAPE;
        let [q, k, v] = inputs().map(values);
        let mut output = Vec::new();
        for head in 0..batch * heads {
            let row = |all: &[f64], i: usize| all[(head * len + i) * width..][..width].to_vec();
            for i in 0..len {
                let dot = |j: usize| row(&q, i).iter().zip(row(&k, j)).map(|(q, k)| q * k).sum::<f64>();
                let weights: Vec<f64> = (0..len).map(|j| score(head, i, j, dot(j)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                output.extend((0..width).map(|d| (0..len).map(|j| weights[j] / sum * row(&v, j)[d]).sum::<f64>()));
            }
        }
        output
    }

    #[test]
    fn the_three_kinds_follow_their_formulas() {
        let scale = 8f64.sqrt().recip();
        let [q, k, v] = inputs();
        let bias = random([2, 3, 5, 5], 4);
        let biases = values(bias.clone());
        for (name, ours, expected) in [
            ("full", full(q.clone(), k.clone(), v.clone()), reference(|_, _, _, dot| dot * scale)),
            (
                "causal",
                causal(q.clone(), k.clone(), v.clone()),
                reference(|_, i, j, dot| if j > i { f64::NEG_INFINITY } else { dot * scale }),
            ),
            ("biased", biased(q, k, v, bias), reference(|head, i, j, dot| dot + biases[(head * 5 + i) * 5 + j])),
        ] {
            let error = relative_error(&values(ours), &expected);
            assert!(error <= 1e-6, "{name}: {error:e}");
        }
    }

    #[test]
    fn queries_may_be_taken_some_at_a_time() {
        let [q, k, v] = inputs();
        let [batch, heads, len, _] = SHAPE;
        let row = batch * heads * len * size_of::<f32>();
        let whole = values(plain(q.clone(), k.clone(), v.clone()));
        for most in [0, row, 2 * row, 3 * row + 1, len * row] {
            let parts = values(super::in_blocks(q.clone(), k.clone(), v.clone(), most));
            assert!(relative_error(&parts, &whole) <= 1e-6, "{most} bytes");
        }
    }

    #[test]
    fn equal_scores_over_many_keys_give_the_mean() {
        // As many keys as the largest picture has tokens, all with the same score: the longest sum of a softmax.
        let (q, k, v) = (
            random([1, 1, 4, 8], 1),
            Tensor::zeros([1, 1, 8192, 8], &super::super::testing::device()),
            random([1, 1, 8192, 8], 3) + 1.0,
        );
        let all = values(v.clone());
        let means = (0..8).map(|d| all.iter().skip(d).step_by(8).sum::<f64>() / 8192.0);
        let expected: Vec<f64> = means.collect::<Vec<_>>().repeat(4);
        let error = relative_error(&values(full(q, k, v)), &expected);
        assert!(error <= 2e-6, "{error:e}");
    }

    #[test]
    #[should_panic(
        expected = "assert_shape!(k, [batch, heads, _, width]): axis 3 expected 8, got 6 (dims [2, 3, 5, 6])"
    )]
    fn heads_of_another_width_are_a_mistake() {
        let [q, _, v] = inputs();
        full(q, random([2, 3, 5, 6], 2), v);
    }

    #[test]
    fn gradients_follow_the_plain_formula() {
        // Queries, keys, features of both and of values; several tiles of queries and of keys, and odd sizes.
        for (heads, queries, keys, width, value_width) in
            [(3, 5, 5, 8, 8), (1, 300, 1100, 16, 16), (2, 129, 77, 12, 20), (20, 3, 600, 4, 7), (1, 1, 2, 2, 2)]
        {
            let shapes: [&[usize]; 3] =
                [&[2, heads, queries, width], &[2, heads, keys, width], &[2, heads, keys, value_width]];
            compare(
                "heads after each other",
                &shapes,
                [1e-6, 5e-6],
                |i| full(i.get::<4>(0) * 3.0, i.get(1), i.get(2)),
                |i| plain(i.get::<4>(0) * 3.0, i.get(1), i.get(2)),
            );
            // Heads beside each other in a token's row, and the output joined again.
            let shapes: [&[usize]; 3] =
                [&[2, queries, heads, width], &[2, keys, heads, width], &[2, keys, heads, value_width]];
            let heads = |i: &Inputs, index: usize| i.get::<4>(index).swap_dims(1, 2);
            compare(
                "heads beside each other",
                &shapes,
                [1e-6, 5e-6],
                |i| full(heads(i, 0), heads(i, 1), heads(i, 2)).swap_dims(1, 2),
                |i| plain(heads(i, 0), heads(i, 1), heads(i, 2)).swap_dims(1, 2),
            );
        }
    }

    /// `f` of streams from inputs (rows and two scales each) and tables.
    fn streams(
        i: &Inputs,
        count: usize,
        [len, width]: [usize; 2],
        f: impl Fn(Vec<Stream>, Tensor<4>, Tensor<4>) -> Tensor<3>,
    ) -> Tensor<3> {
        let stream = |s: usize| Stream {
            rows: i.get::<3>(3 * s),
            query_scale: i.get::<1>(3 * s + 1),
            key_scale: i.get::<1>(3 * s + 2),
        };
        let streams: Vec<Stream> = (0..count).map(stream).collect();
        let rows = &streams[0].rows;
        let angles = random([1, 1, len, width / 2], 50).cast(rows.dtype()) * 5.0;
        let [cos, sin] = [angles.clone().cos(), angles.sin()]
            .map(|table| if rows.is_autodiff() { Tensor::from_inner(table) } else { table });
        f(streams, cos, sin)
    }

    fn plain_joint(streams: Vec<Stream>, heads: usize, epsilon: f64, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<3> {
        join(plain_apart(streams, None, heads, epsilon, cos, sin), 1)
    }

    #[test]
    fn streams_come_back_apart_and_hear_of_what_was_kept() {
        let stream = |seed: u64, len: usize| Stream {
            rows: random([2, len, 3 * 2 * 8 + 5], seed),
            query_scale: random([8], seed + 1),
            key_scale: random([8], seed + 2),
        };
        let streams = || vec![stream(1, 4), stream(11, 7), stream(21, 2)];
        let tables = || [41, 42].map(|seed| random::<4>([1, 1, 13, 4], seed));
        let [cos, sin] = tables();
        let whole = joint(streams(), 2, 1e-6, cos.clone(), sin.clone());
        let parts = apart(streams(), None, 2, 1e-6, cos.clone(), sin.clone());
        assert_eq!(parts.iter().map(|part| part.dims()[1]).collect::<Vec<_>>(), [4, 7, 2]);
        assert!(relative_error(&values(join(parts, 1)), &values(whole.clone())) <= 1e-6);
        // A stream of its own is as good as keys and values that somebody kept: of the last stream, here.
        let heads = |index: usize| super::split_heads(streams()[2].rows.clone().narrow(2, index * 16, 16), 2);
        let turn = |table: Tensor<4>| table.narrow(2, 11, 2);
        let keys = crate::rms_norm(heads(1), streams()[2].key_scale.clone(), 1e-6);
        let keys = crate::rotate_pairs(keys, turn(cos.clone()), turn(sin.clone()));
        let [cos, sin] = tables().map(|table| table.narrow(2, 0, 11));
        let asked = apart(streams()[..2].to_vec(), Some([keys, heads(2)]), 2, 1e-6, cos, sin);
        assert!(relative_error(&values(join(asked, 1)), &values(whole.narrow(1, 0, 11))) <= 1e-6);
    }

    #[test]
    fn joint_attention_follows_the_plain_formula() {
        for (batch, heads, lens, width, rest) in [
            (1, 2, [40, 0], 16, 13),
            (2, 3, [7, 0], 6, 0),
            (2, 3, [7, 12], 6, 0),
            (1, 2, [100, 61], 8, 5),
            (1, 1, [1, 1], 2, 1),
        ] {
            let row = 3 * heads * width + rest;
            let shapes: [&[usize]; 6] =
                [&[batch, lens[0], row], &[width], &[width], &[batch, lens[1], row], &[width], &[width]];
            let count = if lens[1] == 0 { 1 } else { 2 };
            let sizes = [lens[0] + lens[1], width];
            compare(
                &format!("{count} streams of {lens:?}, {rest} beside"),
                &shapes[..3 * count],
                [1e-6, 5e-6],
                |i| streams(i, count, sizes, |streams, cos, sin| joint(streams, heads, 1e-6, cos, sin)),
                |i| streams(i, count, sizes, |streams, cos, sin| plain_joint(streams, heads, 1e-6, cos, sin)),
            );
        }
    }

    /// Queries, keys, values and weights are rounded to bf16 where a processor multiplies these.
    #[test]
    fn joint_attention_of_sixteen_bits_is_that_of_the_formula_up_to_their_rounding() {
        // Odd numbers of keys, and heads that fill no panel.
        for (lens, heads, width, rest) in [([45, 20], 2, 12, 7), ([130, 3], 1, 64, 0), ([33, 64], 3, 40, 16)] {
            let len = lens[0] + lens[1];
            let run = |dtype: DType| {
                let rows = |i: usize| random([1, lens[i], 3 * heads * width + rest], i as u64 + 1).cast(DType::BF16);
                let scale = |seed| random([width], seed).cast(DType::BF16).cast(dtype);
                let stream = |i: usize| Stream {
                    rows: rows(i).cast(dtype),
                    query_scale: scale(5 + i as u64),
                    key_scale: scale(7 + i as u64),
                };
                let angles = random::<4>([1, 1, len, width / 2], 9).cast(dtype);
                let (cos, sin) = (angles.clone().cos(), angles.sin());
                match dtype {
                    DType::BF16 => joint(vec![stream(0), stream(1)], heads, 1e-6, cos, sin),
                    _ => plain_joint(vec![stream(0), stream(1)], heads, 1e-6, cos, sin),
                }
            };
            let (ours, expected) = (run(DType::BF16), run(DType::F64));
            assert_eq!(ours.dtype(), DType::BF16);
            let error = relative_error(&values(ours.cast(DType::F64)), &values(expected));
            assert!(error <= 1e-2, "{lens:?}: {error:e}");
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let gradients = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let device = super::super::testing::device().autodiff();
                let leaf = |seed: u64, len: usize| {
                    let data = random([1, 2, len, 32], seed).into_data();
                    Tensor::<4>::from_data(data, &device).require_grad()
                };
                let leaves = [leaf(1, 400), leaf(2, 1300), leaf(3, 1300)];
                let [q, k, v] = leaves.clone();
                let y = full(q, k, v);
                let gradients = (y * Tensor::from_inner(random([1, 2, 400, 32], 4))).sum().backward();
                leaves.map(|leaf| leaf.grad(&gradients).expect("a leaf").into_data())
            })
        };
        let alone = gradients(1);
        assert_eq!(gradients(2), alone);
        assert_eq!(gradients(5), alone);
    }

    #[test]
    #[should_panic(expected = "axis 2 expected 6, got 5")]
    fn tables_of_another_length_are_a_mistake() {
        let one = || random([4], 1);
        let stream = Stream { rows: random([1, 5, 24], 2), query_scale: one(), key_scale: one() };
        joint(vec![stream], 2, 1e-6, random([1, 1, 6, 2], 3), random([1, 1, 6, 2], 4));
    }
}
