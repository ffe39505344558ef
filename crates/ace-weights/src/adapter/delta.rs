//! What a file adds to one layer, put together on the host.
//!
//! Dialects that keep queries, keys and values apart become one branch of the fused layer, exactly: their `A` stand
//! below each other, their `B` on the diagonal,
//!
//! ```text
//! A = [A_q; A_k; A_v]  [3r, in]      B = diag(B_q, B_k, B_v)  [out, 3r]
//! ```
//!
//! and parts with the same `A`, as files cut from a fused adapter have them, share it.

use super::{
    dialect::Role,
    place::{Kind, Layer},
    plan::Part,
};
use crate::{Result, WeightFile};
use ace_nn::{
    layers::RmsNorm,
    lora::{Linear, LoraBranch},
};
use burn::{prelude::*, tensor::DType};

/// A change of one layer.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub branch: Option<LoraBranch>,
    /// To add to the weight, rows of so many columns, on the host: all of it may be more than a device takes at once.
    weight: Option<(Vec<f32>, usize)>,
    /// To add to the bias or to a norm's scale, `[out]`.
    bias: Option<Tensor<1>>,
    /// In the place of a norm's scale, `[width]`.
    value: Option<Tensor<1>>,
}

impl Delta {
    /// Reads what `parts` add to a layer, `weight` times as strong as it was trained.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn read(file: &WeightFile, layer: &Layer, parts: &[Part], weight: f64, device: &Device) -> Result<Self> {
        let vector = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [layer.output]), device);
        let matrix = |values, shape: [usize; 2]| Tensor::from_data(TensorData::new(values, shape), device);
        let rows = |roles: &[Role], columns| dense(file, layer, parts, roles, columns, weight);
        let Kind::Linear { input, .. } = layer.kind else {
            let value = parts.iter().find_map(|part| part.key(Role::Value)).map(|key| file.floats(key)).transpose()?;
            return Ok(Self { bias: rows(&[Role::Diff], 1)?.map(vector), value: value.map(vector), ..Self::default() });
        };
        let branch = branch(file, layer, input, parts)?.map(|(a, b, scale)| {
            let rank = a.len() / input;
            LoraBranch::from_factors(matrix(a, [rank, input]), matrix(b, [layer.output, rank]), weight * scale)
        });
        Ok(Self {
            branch,
            weight: rows(&[Role::Diff], input)?.map(|values| (values, input)),
            bias: rows(&[Role::UpBias, Role::DiffBias], 1)?.map(vector),
            value: None,
        })
    }

    /// Parameters of the model itself that change.
    pub fn parameters(&self) -> usize {
        usize::from(self.weight.is_some()) + usize::from(self.bias.is_some() || self.value.is_some())
    }

    /// Whether a layer's matrix changes.
    pub fn changes_weight(&self) -> bool {
        self.weight.is_some()
    }

    /// Changes a linear layer on `device`.
    pub fn change(self, linear: &mut Linear, device: &Device) {
        linear.lora.extend(self.branch);
        if let Some((values, columns)) = self.weight {
            linear.shift_weight(|rows| {
                let part = values[rows.start * columns..rows.end * columns].to_vec();
                Tensor::from_data(TensorData::new(part, [rows.len(), columns]), device)
            });
        }
        if let Some(bias) = self.bias {
            linear.shift_bias(bias);
        }
    }

    /// Changes a norm.
    pub fn change_norm(self, norm: &mut RmsNorm) {
        norm.scale = norm.scale.clone().map(|scale| {
            let dtype = scale.dtype();
            let scale = self.value.unwrap_or_else(|| scale.cast(DType::F32));
            let scale = match self.bias {
                Some(bias) => scale + bias,
                None => scale,
            };
            scale.cast(dtype)
        });
    }
}

/// `A` `[rank, in]`, `B` `[out, rank]` and `alpha / rank`.
type Factors = (Vec<f32>, Vec<f32>, f64);

/// The factors of all parts that have factors, as one branch.
fn branch(file: &WeightFile, layer: &Layer, input: usize, parts: &[Part]) -> Result<Option<Factors>> {
    // Where the ratios agree, factors stay what they are in the file; otherwise each goes into its rows of `B`.
    let mut ratios = parts.iter().filter(|part| part.rank > 0).map(|part| part.ratio);
    let Some(first) = ratios.next() else { return Ok(None) };
    let is_common = ratios.all(|ratio| ratio == first);

    let mut a: Vec<f32> = Vec::new();
    let mut ups: Vec<(&Part, usize, &str)> = Vec::new();
    for part in parts {
        let (Some(down), Some(up)) = (part.key(Role::Down), part.key(Role::Up)) else { continue };
        let down = widened(file.floats(down)?, part.rank, layer, input);
        let known = ups.iter().find_map(|(other, begin, _)| {
            let block = a.get(begin * input..(begin + part.rank) * input)?;
            (other.rank == part.rank && block == down).then_some(*begin)
        });
        let begin = known.unwrap_or(a.len() / input);
        if known.is_none() {
            a.extend(down);
        }
        ups.push((part, begin, up));
    }

    let rank = a.len() / input;
    let mut b = vec![0.0; layer.output * rank];
    for (part, begin, up) in ups {
        let ratio = if is_common { 1.0 } else { part.ratio };
        for (i, row) in file.floats(up)?.chunks_exact(part.rank).enumerate() {
            let at = part.place.row(i) * rank + begin;
            for (b, up) in b[at..at + part.rank].iter_mut().zip(row) {
                *b = (f64::from(*up) * ratio) as f32;
            }
        }
    }
    Ok(Some((a, b, if is_common { first } else { 1.0 })))
}

/// The sum of what stands under `roles`, `weight` times, in the layer's rows of `columns` each; `None` if nothing does.
fn dense(
    file: &WeightFile,
    layer: &Layer,
    parts: &[Part],
    roles: &[Role],
    columns: usize,
    weight: f64,
) -> Result<Option<Vec<f32>>> {
    let mut sum = None;
    for part in parts {
        for role in roles {
            let Some(key) = part.key(*role) else { continue };
            let values = file.floats(key)?;
            let values = widened(values, part.place.rows.len(), layer, columns);
            // The bias of an up projection is inside the branch, what is added outright is not.
            let factor = if *role == Role::UpBias { weight * part.ratio } else { weight };
            let sum = sum.get_or_insert_with(|| vec![0.0; layer.output * columns]);
            for (i, row) in values.chunks_exact(columns).enumerate() {
                let at = part.place.row(i) * columns;
                for (sum, value) in sum[at..at + columns].iter_mut().zip(row) {
                    *sum += (f64::from(*value) * factor) as f32;
                }
            }
        }
    }
    Ok(sum)
}

/// `rows` rows with zeros in the columns that the file lacks.
fn widened(values: Vec<f32>, rows: usize, layer: &Layer, input: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    let Some(kept) = layer.kind.kept_columns(columns).filter(|_| columns < input) else { return values };
    let zeros = vec![0.0; input - columns];
    values.chunks_exact(columns).flat_map(|row| [&row[..kept], &zeros[..], &row[kept..]].concat()).collect()
}
