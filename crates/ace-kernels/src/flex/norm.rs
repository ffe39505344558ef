//! Norms over the last axis, and what is done to every row around them: scale, shift, gate.
//!
//! Backward, means and variances are computed again from the input. Sums over rows (the gradients of what all rows
//! share) are taken over [`TOGETHER`] rows at a time and then over those sums, in their order.

use super::{
    memory::{GRAIN, New, Shared, dense, each, each_rows, in_rows, numbers, rows, sizes},
    simd::{sum, sum2, wide},
};
use burn::tensor::Shape;
use burn_flex::FlexTensor;

/// Rows whose sum one task takes.
const TOGETHER: usize = 32;

/// `layer_norm(x)·(1 + scale) + shift`: `x` `[.., width]`, scale and shift one row for each of equal parts of its rows.
pub fn modulate(x: FlexTensor, shift: FlexTensor, scale: FlexTensor, epsilon: f32) -> FlexTensor {
    let (x, shift, scale) = (in_rows(x), dense(shift), dense(scale));
    let (from, per) = (rows(&x), Per::of(&x, &shift));
    let (shift, scale) = (numbers(&shift), numbers(&scale));
    let mut out = New::of(from.count * from.width);
    let to = out.shared();
    each_rows(from.count, from.width, |first, count| {
        for i in first..first + count {
            let at = per.at(i);
            modulate_row(
                from.row(i),
                &shift[at..][..from.width],
                &scale[at..][..from.width],
                epsilon,
                to.part(i * from.width, from.width),
            );
        }
    });
    out.tensor(x.layout().shape().clone())
}

/// Gradients of x, shift and scale, those that are wanted.
pub fn modulate_backward(
    x: FlexTensor,
    scale: FlexTensor,
    epsilon: f32,
    gradient: FlexTensor,
    wants: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let (x, scale, gradient) = (in_rows(x), dense(scale), dense(gradient));
    let (from, per) = (rows(&x), Per::of(&x, &scale));
    let width = from.width;
    let (factors, dy) = (numbers(&scale), numbers(&gradient));
    let mut dx = New::of(if wants[0] { from.count * width } else { 0 });
    let shared = dx.shared();
    let sums = per.sums(2, wants[1] || wants[2], |i, sums| {
        let dx = if wants[0] { shared.part(i * width, width) } else { &mut [] };
        let (shift, scale) = sums.split_at_mut(sums.len() / 2);
        modulate_row_backward(
            from.row(i),
            &factors[per.at(i)..][..width],
            epsilon,
            &dy[i * width..][..width],
            dx,
            shift,
            scale,
        );
    });
    let dx = wants[0].then(|| dx.tensor(x.layout().shape().clone()));
    let mut sums = sums.into_iter();
    let mut sum = |wanted: bool| sums.next().filter(|_| wanted).map(|sum| sum.tensor(scale.layout().shape().clone()));
    [dx, sum(wants[1]), sum(wants[2])]
}

/// `x + gate·y`: gate one row for each of equal parts of the rows.
pub fn gate_add(x: FlexTensor, gate: FlexTensor, y: FlexTensor) -> FlexTensor {
    let (x, gate, y) = (in_rows(x), dense(gate), in_rows(y));
    let (a, b, per) = (rows(&x), rows(&y), Per::of(&y, &gate));
    let (gate, width) = (numbers(&gate), a.width);
    let mut out = New::of(a.count * width);
    let to = out.shared();
    each_rows(a.count, width, |first, count| {
        for i in first..first + count {
            gate_add_row(a.row(i), &gate[per.at(i)..][..width], b.row(i), to.part(i * width, width));
        }
    });
    out.tensor(x.layout().shape().clone())
}

/// Gradients of gate and y, those that are wanted; that of x is the gradient itself.
pub fn gate_add_backward(
    gate: FlexTensor,
    y: Option<FlexTensor>,
    gradient: FlexTensor,
    wants: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let (gate, y, gradient) = (dense(gate), y.map(in_rows), dense(gradient));
    let (from, per) = (rows(&gradient), Per::of(&gradient, &gate));
    let (gates, width) = (numbers(&gate), from.width);
    let y = y.as_ref().map(rows);
    let mut dy = New::of(if wants[1] { from.count * width } else { 0 });
    let to = dy.shared();
    let sums = per.sums(1, wants[0], |i, sums| {
        if wants[1] {
            times(from.row(i), &gates[per.at(i)..][..width], to.part(i * width, width));
        }
        if let (Some(y), false) = (&y, sums.is_empty()) {
            add_product(sums, from.row(i), y.row(i));
        }
    });
    let dgate = sums.into_iter().next().map(|sum| sum.tensor(gate.layout().shape().clone()));
    [dgate, wants[1].then(|| dy.tensor(gradient.layout().shape().clone()))]
}

/// `x/√(mean(x²) + ε)·scale`
pub fn rms_norm(x: FlexTensor, scale: FlexTensor, epsilon: f32) -> FlexTensor {
    let (x, scale) = (in_rows(x), dense(scale));
    let (from, scale) = (rows(&x), numbers(&scale));
    let mut out = New::of(from.count * from.width);
    let to = out.shared();
    each_rows(from.count, from.width, |first, count| {
        for i in first..first + count {
            rms_row(from.row(i), scale, epsilon, to.part(i * from.width, from.width));
        }
    });
    out.tensor(x.layout().shape().clone())
}

/// Gradients of x and scale, those that are wanted.
pub fn rms_norm_backward(
    x: FlexTensor,
    scale: FlexTensor,
    epsilon: f32,
    gradient: FlexTensor,
    wants: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let (x, scale, gradient) = (in_rows(x), dense(scale), dense(gradient));
    let from = rows(&x);
    let (factors, dy, width) = (numbers(&scale), numbers(&gradient), from.width);
    let per = Per { rows: from.count.max(1), all: from.count, width };
    let mut dx = New::of(if wants[0] { from.count * width } else { 0 });
    let to = dx.shared();
    let sums = per.sums(1, wants[1], |i, sums| {
        let dx = if wants[0] { to.part(i * width, width) } else { &mut [] };
        rms_row_backward(from.row(i), factors, epsilon, &dy[i * width..][..width], dx, sums);
    });
    let dscale = sums.into_iter().next().map(|sum| sum.tensor(Shape::new([width])));
    [wants[0].then(|| dx.tensor(x.layout().shape().clone())), dscale]
}

/// The sum of all rows, `[width]`.
pub fn sum_rows(x: FlexTensor) -> FlexTensor {
    let x = in_rows(x);
    let from = rows(&x);
    let per = Per { rows: from.count.max(1), all: from.count, width: from.width };
    let mut sums = per.sums(1, true, |i, sums| add(sums, from.row(i)));
    sums.remove(0).tensor(Shape::new([from.width]))
}

/// Equal parts of the rows share one row of something.
#[derive(Clone, Copy)]
pub struct Per {
    /// How many rows share one.
    rows: usize,
    /// How many rows there are.
    all: usize,
    width: usize,
}

impl Per {
    /// # Panics
    /// If `shared` has another width, or a number of rows that is no part of those of `x`.
    fn of(x: &FlexTensor, shared: &FlexTensor) -> Self {
        let (x, shared) = (sizes(x), sizes(shared));
        let width = x.last().copied().unwrap_or(1);
        let count = |of: &[usize]| of[..of.len() - 1].iter().product::<usize>();
        let (all, parts) = (count(&x), count(&shared));
        assert!(shared.last() == Some(&width) && parts > 0 && all % parts == 0, "rows {shared:?} for those of {x:?}");
        Self { rows: all / parts, all, width }
    }

    /// Where the shared row of row `i` starts.
    fn at(&self, i: usize) -> usize {
        i / self.rows * self.width
    }

    /// Calls `f` for every row with room to add `kinds` rows to; returns each kind's sums over the rows that share one.
    /// The room is empty, and nothing is returned, if no sums are `wanted`.
    fn sums(&self, kinds: usize, wanted: bool, f: impl Fn(usize, &mut [f32]) + Sync + Send) -> Vec<New> {
        if !wanted {
            each_rows(self.all, self.width, |first, count| (first..first + count).for_each(|i| f(i, &mut [])));
            return Vec::new();
        }
        let (parts, width) = (self.all / self.rows, kinds * self.width);
        let per_part = self.rows.div_ceil(TOGETHER);
        let mut partial = New::of(parts * per_part * width);
        let to = partial.shared();
        each(parts * per_part, self.all * self.width, |task| {
            let (part, piece) = (task / per_part, task % per_part);
            let sums = to.part(task * width, width);
            sums.fill(0.0);
            let first = piece * TOGETHER;
            for i in first..(first + TOGETHER).min(self.rows) {
                f(part * self.rows + i, sums);
            }
        });
        let partial = &*partial.all();
        let total = |kind: usize| {
            let mut total = New::of(parts * self.width);
            let to: Shared<'_> = total.shared();
            // Cut by columns: there may be one part only.
            let columns = GRAIN / 16;
            let cuts = self.width.div_ceil(columns);
            each(parts * cuts, partial.len() / kinds, |task| {
                let (part, first) = (task / cuts, task % cuts * columns);
                let count = columns.min(self.width - first);
                let sums = to.part(part * self.width + first, count);
                sums.fill(0.0);
                for piece in 0..per_part {
                    add(sums, &partial[(part * per_part + piece) * width + kind * self.width + first..][..count]);
                }
            });
            total
        };
        (0..kinds).map(total).collect()
    }
}

wide! {
    fn modulate_row(x: &[f32], shift: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
        let (mean, factor) = moments(x, epsilon);
        for (((x, shift), scale), out) in x.iter().zip(shift).zip(scale).zip(out) {
            *out = (x - mean) * factor * (1.0 + scale) + shift;
        }
    }

    fn modulate_row_backward(
        x: &[f32],
        scale: &[f32],
        epsilon: f32,
        dy: &[f32],
        dx: &mut [f32],
        dshift: &mut [f32],
        dscale: &mut [f32],
    ) {
        let (mean, factor) = moments(x, epsilon);
        if !dshift.is_empty() {
            dshift.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            for ((sum, x), dy) in dscale.iter_mut().zip(x).zip(dy) {
                *sum += dy * ((x - mean) * factor);
            }
        }
        if !dx.is_empty() {
            // dx is g first, the gradient of the normed row.
            for ((dx, scale), dy) in dx.iter_mut().zip(scale).zip(dy) {
                *dx = dy * (1.0 + scale);
            }
            let count = x.len() as f32;
            let mean_g = sum(dx, |g| g) / count;
            let mean_gx = sum2(dx, x, |g, x| g * ((x - mean) * factor)) / count;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = factor * (*dx - mean_g - (x - mean) * factor * mean_gx);
            }
        }
    }

    fn gate_add_row(x: &[f32], gate: &[f32], y: &[f32], out: &mut [f32]) {
        for (((x, gate), y), out) in x.iter().zip(gate).zip(y).zip(out) {
            *out = x + gate * y;
        }
    }

    fn times(a: &[f32], b: &[f32], out: &mut [f32]) {
        a.iter().zip(b).zip(out).for_each(|((a, b), out)| *out = a * b);
    }

    fn add_product(sums: &mut [f32], a: &[f32], b: &[f32]) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }

    fn add(to: &mut [f32], what: &[f32]) {
        to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
    }

    fn rms_row(x: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
        let factor = spread(x, epsilon);
        for ((x, scale), out) in x.iter().zip(scale).zip(out) {
            *out = x * factor * scale;
        }
    }

    fn rms_row_backward(x: &[f32], scale: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32], dscale: &mut [f32]) {
        let factor = spread(x, epsilon);
        for ((sum, x), dy) in dscale.iter_mut().zip(x).zip(dy) {
            *sum += dy * (x * factor);
        }
        if !dx.is_empty() {
            for ((dx, scale), dy) in dx.iter_mut().zip(scale).zip(dy) {
                *dx = dy * scale;
            }
            let mean = sum2(dx, x, |g, x| g * (x * factor)) / x.len() as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = factor * (*dx - x * factor * mean);
            }
        }
    }
}

/// Mean and `1/√(var + ε)` of a row.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// `1/√(mean(x²) + ε)` of a row.
#[inline(always)]
pub fn spread(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + epsilon).sqrt()
}
