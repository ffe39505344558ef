//! How a matrix of weights is held, and `x·Wᵀ` with it.
//!
//! A matrix is `[out, in]`, as in the published files. It is *dense* (a parameter in f32, bf16 or f16, as its file has it),
//! *packed* (fewer bits and a scale per block: see [`ace_kernels::packed`]), *split* (some rows in each of several tensors,
//! where it is more than a device takes as one: see [`ace_kernels::limit`]) or *absent*: it lies in a file or in another
//! memory, and comes when its block runs. A packed matrix stays as small as it is; every use widens it anew, and so does
//! its gradient. Callers need not know which they have.

use crate::layers::empty;
pub use ace_kernels::packed::{PackedMatrix, Packing};
use ace_kernels::{
    limit::{join, runs},
    linear,
};
use burn::{
    module::{
        Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
    },
    prelude::*,
    tensor::{DType, FloatDType},
};
use std::ops::Range;

/// A matrix of weights, `[out, in]`.
///
/// To burn a dense one is a parameter. Walks over a module pass the others by: they do not learn, are not counted, and
/// nothing is allocated for them.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Numbers that can learn.
    Dense(Param<Tensor<2>>),
    /// Numbers of few bits, frozen.
    Packed(Box<PackedMatrix>),
    /// Rows behind each other, `[outᵢ, in]` on a device without gradients, frozen.
    Split(Vec<Tensor<2>>),
    /// Elsewhere; its shape is known.
    Absent([usize; 2]),
}

impl Weight {
    /// A dense matrix that is zero until a checkpoint or an initializer fills it.
    pub fn empty(shape: [usize; 2], device: &Device) -> Self {
        Self::Dense(empty(shape, device))
    }

    /// `[out, in]`; nothing is allocated.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(param) => {
                let shape = param.lazy_shape();
                [shape[0], shape[1]]
            }
            Self::Packed(packed) => packed.shape(),
            Self::Split(parts) => {
                let columns = parts.first().map_or(0, |part| part.dims()[1]);
                [parts.iter().map(|part| part.dims()[0]).sum(), columns]
            }
            Self::Absent(shape) => *shape,
        }
    }

    /// Bytes that it takes where it is no parameter: a walk over a module counts those.
    pub fn frozen_bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.bytes(),
            Self::Split(parts) => parts.iter().map(|part| part.shape().num_elements() * part.dtype().size()).sum(),
            Self::Dense(_) | Self::Absent(_) => 0,
        }
    }

    /// The parameter's id, if it is one.
    pub fn id(&self) -> Option<ParamId> {
        self.param().map(|param| param.id)
    }

    /// The parameter, if it is one.
    pub fn param(&self) -> Option<&Param<Tensor<2>>> {
        match self {
            Self::Dense(param) => Some(param),
            Self::Packed(_) | Self::Split(_) | Self::Absent(_) => None,
        }
    }

    /// Whether the numbers are here.
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Absent(_))
    }

    /// Its numbers, `[out, in]`: those of a packed matrix in f32. Those of a split matrix are more than its device takes.
    ///
    /// # Panics
    /// If it is absent.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Dense(param) => param.val(),
            Self::Packed(packed) => packed.widen(FloatDType::F32),
            Self::Split(parts) => Tensor::cat(parts.clone(), 0),
            Self::Absent(shape) => absent(*shape),
        }
    }

    /// Some of its rows, in the order of their numbers.
    ///
    /// # Shapes
    /// - rows: `[n]`
    /// - output: `[n, in]`
    ///
    /// # Panics
    /// If it is absent.
    pub fn select(&self, rows: Tensor<1, Int>) -> Tensor<2> {
        let Self::Split(parts) = self else { return self.val().select(0, rows) };
        let mut first = 0;
        let of = |part: &Tensor<2>| {
            // What lies in another part is read as some row of this one, and counts nothing.
            let (count, own) = (part.dims()[0] as i64, rows.clone() - first);
            first += count;
            let nearest = own.clone().clamp(0, count - 1);
            let is_here = nearest.clone().equal(own).float().cast(part.dtype());
            part.clone().select(0, nearest) * is_here.unsqueeze_dim::<2>(1)
        };
        let sum = parts.iter().map(of).reduce(|sum, rows| sum + rows);
        sum.unwrap_or_else(|| Tensor::zeros([0, 0], &rows.device()))
    }

    /// `x·Wᵀ + bias`
    ///
    /// # Shapes
    /// - x: `[.., in]`; bias: `[out]`
    /// - output: `[.., out]`
    ///
    /// # Panics
    /// If it is absent.
    pub fn multiply<const N: usize>(&self, x: Tensor<N>, bias: Option<Tensor<1>>) -> Tensor<N> {
        match self {
            Self::Dense(param) => linear(x, param.val(), bias, None),
            Self::Split(parts) => {
                let is_learning = x.device().is_autodiff();
                let mut first = 0;
                let of = |part: &Tensor<2>| {
                    let (from, count) = (first, part.dims()[0]);
                    first += count;
                    let part = if is_learning { part.clone().autodiff() } else { part.clone() };
                    linear(x.clone(), part, bias.clone().map(|bias| bias.narrow(0, from, count)), None)
                };
                join(parts.iter().map(of).collect(), N - 1)
            }
            Self::Packed(packed) => {
                let mut shape = x.dims();
                let [output, input] = packed.shape();
                let rows = shape[..N - 1].iter().product::<usize>();
                shape[N - 1] = output;
                packed.project(x.reshape([rows, input]), bias).reshape(shape)
            }
            Self::Absent(shape) => absent(*shape),
        }
    }

    /// Changes its numbers in f32, some rows at a time where that is all that its device takes, and returns to their dtype; a
    /// packed matrix becomes a dense or a split one in f32, for nobody can say which scales the new numbers need.
    ///
    /// # Panics
    /// If it is absent.
    pub fn change(self, mut change: impl FnMut(Range<usize>, Tensor<2>) -> Tensor<2>) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.map(|value| change_rows(0, value, &mut change))),
            Self::Split(parts) => {
                let mut first = 0;
                let of = |part: Tensor<2>| {
                    first += part.dims()[0];
                    change_rows(first - part.dims()[0], part, &mut change)
                };
                Self::Split(parts.into_iter().map(of).collect())
            }
            Self::Packed(packed) => {
                let [rows, columns] = packed.shape();
                let runs = runs(rows, columns * size_of::<f32>(), &packed.words.device());
                let of = |rows: Range<usize>| change(rows.clone(), packed.rows(rows).widen(FloatDType::F32));
                let mut parts: Vec<_> = runs.into_iter().map(of).collect();
                match parts.len() {
                    1 => parts.remove(0).into(),
                    _ => Self::Split(parts),
                }
            }
            Self::Absent(shape) => absent(shape),
        }
    }
}

/// Changes rows, of which the first has the number `first` in its matrix, in f32 and returns to their dtype.
fn change_rows(
    first: usize,
    rows: Tensor<2>,
    change: &mut impl FnMut(Range<usize>, Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let ([count, columns], dtype) = (rows.dims(), rows.dtype());
    let runs = runs(count, columns * size_of::<f32>(), &rows.device());
    let of = |run: Range<usize>| {
        let part = rows.clone().slice([run.clone(), 0..columns]).cast(DType::F32);
        change(first + run.start..first + run.end, part).cast(dtype)
    };
    join(runs.into_iter().map(of).collect(), 0)
}

impl From<Tensor<2>> for Weight {
    fn from(values: Tensor<2>) -> Self {
        Self::Dense(Param::from_tensor(values))
    }
}

impl From<Param<Tensor<2>>> for Weight {
    fn from(param: Param<Tensor<2>>) -> Self {
        Self::Dense(param)
    }
}

impl From<PackedMatrix> for Weight {
    fn from(packed: PackedMatrix) -> Self {
        Self::Packed(Box::new(packed))
    }
}

/// Ends what cannot go on.
fn absent(shape: [usize; 2]) -> ! {
    panic!("a matrix {shape:?} is used that is not here: a walk over streamed blocks fetches it")
}

/// Changes a parameter in f32 and returns to its dtype.
pub fn change_in_f32<const N: usize>(
    param: Param<Tensor<N>>,
    change: impl FnOnce(Tensor<N>) -> Tensor<N>,
) -> Param<Tensor<N>> {
    param.map(|value| {
        let dtype = value.dtype();
        change(value.cast(DType::F32)).cast(dtype)
    })
}

impl Module for Weight {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        match self {
            Self::Dense(param) => param.collect_devices(devices),
            Self::Packed(packed) => {
                let device = packed.words.device();
                if !devices.contains(&device) {
                    devices.push(device);
                }
                devices
            }
            Self::Split(parts) => {
                let own = parts.iter().map(Tensor::device).filter(|device| !devices.contains(device));
                let own: Option<Device> = own.into_iter().next();
                devices.extend(own);
                devices
            }
            Self::Absent(_) => devices,
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.fork(device)),
            frozen => frozen.to_device(device),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.to_device(device)),
            Self::Packed(packed) => {
                let PackedMatrix { words, scales, packing, exact } = *packed;
                let inner = device.clone().inner();
                let (words, scales) = (words.to_device(&inner), scales.to_device(&inner));
                PackedMatrix { words, scales, packing, exact }.into()
            }
            Self::Split(parts) => {
                let inner = device.clone().inner();
                Self::Split(parts.into_iter().map(|part| part.to_device(&inner)).collect())
            }
            Self::Absent(shape) => Self::Absent(shape),
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if let Self::Dense(param) = self {
            param.visit(visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(Module::map(param, mapper)),
            other => other,
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.materialize()),
            other => other,
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.valid()),
            // The numbers of a packed matrix are constants, with and without gradients of others.
            other => other.clone(),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.train()),
            other => other,
        }
    }
}

impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(param) => param.content(content),
            Self::Packed(packed) => {
                content.add_formatted(&format!("{} {:?}", packed.packing.name(), packed.shape())).optional()
            }
            Self::Split(parts) => {
                content.add_formatted(&format!("{:?} in {} parts", self.shape(), parts.len())).optional()
            }
            Self::Absent(shape) => content.add_formatted(&format!("absent {shape:?}")).optional(),
        }
    }

    fn num_params(&self) -> usize {
        self.param().map_or(0, ModuleDisplayDefault::num_params)
    }
}

impl ModuleDisplay for Weight {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lora::{Linear, LoraBranch},
        testing::{device, random, random_on, relative_error, values},
    };
    use ace_kernels::limit::within;

    fn packed(shape: [usize; 2]) -> PackedMatrix {
        let numbers: Vec<f32> = values(random(shape, 3)).into_iter().map(|value| value as f32).collect();
        PackedMatrix::pack(Packing::Nf4, shape, &numbers, &device())
    }

    #[test]
    fn what_is_no_parameter_is_passed_by_on_every_walk() {
        let layer =
            |weight: Weight| Linear { weight, bias: Some(Param::from_tensor(random([40], 4))), lora: Vec::new() };
        for weight in [packed([40, 64]).into(), Weight::Absent([40, 64])] {
            let is_present = weight.is_present();
            let layer = layer(weight);
            assert_eq!((layer.features(), Module::num_params(&layer), layer.weight.id()), ([64, 40], 40, None));
            let walked = layer.clone().to_device(&device()).fork(&device()).train().no_grad().valid();
            assert_eq!((walked.weight.is_present(), walked.features()), (is_present, [64, 40]));
            assert_eq!(walked.devices(), [device()]);
        }
        // A dense matrix has the name that it has in a checkpoint.
        struct Names(Vec<String>);
        impl ModuleVisitor for Names {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.0.push(name.to_owned());
            }

            fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
                self.0.push("·".to_owned());
            }
        }
        let mut names = Names(Vec::new());
        layer(random([40, 64], 5).into()).visit(&mut names);
        assert_eq!(names.0[..3], ["weight", "·", "bias"]);
    }

    #[test]
    fn branches_learn_on_a_packed_base_as_on_the_same_base_widened() {
        let learning = device().autodiff();
        let branch = LoraBranch::from_factors(random_on([4, 64], 6, &learning), random_on([40, 4], 7, &learning), 0.5);
        let base = packed([40, 64]);
        let run = |weight: Weight| {
            let layer = Linear { weight, bias: None, lora: vec![branch.clone()] };
            let x = random_on([2, 5, 64], 8, &learning).require_grad();
            let y = layer.forward(x.clone());
            let mut gradients = (y.clone() * random_on([2, 5, 40], 9, &learning)).sum().backward();
            let [a, b] = [&branch.lora_a, &branch.lora_b].map(|factor| factor.val().grad_remove(&mut gradients));
            [
                values(y.inner()),
                values(x.grad_remove(&mut gradients).expect("x learns")),
                values(a.expect("A learns")),
                values(b.expect("B learns")),
            ]
        };
        let wide = Param::from_tensor(Tensor::from_inner(base.widen(FloatDType::F32))).set_require_grad(false);
        for (ours, theirs) in run(base.into()).iter().zip(run(wide.into())) {
            assert!(relative_error(ours, &theirs) < 1e-5);
        }
    }

    #[test]
    fn a_packed_matrix_that_is_changed_becomes_dense() {
        let base = packed([40, 64]);
        let by = random([40, 64], 10);
        let plus = |rows: Range<usize>, weight: Tensor<2>| weight + by.clone().slice([rows, 0..64]);
        let changed = Weight::from(base.clone()).change(plus);
        assert!(changed.id().is_some());
        let expected = values(base.widen(FloatDType::F32) + by.clone());
        assert_eq!(values(changed.val()), expected);
        // Where it is too large for that, a split one.
        let changed = within(64 * 4 * 7, || Weight::from(base.clone()).change(plus));
        assert!(matches!(&changed, Weight::Split(parts) if parts.len() == 6));
        assert_eq!(values(changed.val()), expected);
        // And one of sixteen bits takes twice its room on the way.
        let halves = random([40, 64], 11).cast(DType::F16);
        let changed = within(64 * 2 * 40, || Weight::from(halves.clone()).change(plus));
        assert_eq!(values(changed.val()), values((halves.cast(DType::F32) + by).cast(DType::F16)));
    }

    /// A matrix in parts of at most seven rows.
    fn split(values: &Tensor<2>) -> Weight {
        Weight::Split(values.clone().split(7, 0))
    }

    #[test]
    fn a_split_matrix_computes_as_the_whole_one() {
        let whole = random([40, 64], 3);
        let parts = split(&whole);
        assert_eq!((parts.shape(), parts.frozen_bytes()), ([40, 64], 40 * 64 * 4));
        let bias = Param::from_tensor(random([40], 4));
        let branch = LoraBranch::from_factors(random([4, 64], 6), random([40, 4], 7), 0.5);
        let layer = |weight: Weight| Linear { weight, bias: Some(bias.clone()), lora: vec![branch.clone()] };
        let x = random([2, 5, 64], 8);
        let [ours, expected] = [layer(parts.clone()), layer(whole.clone().into())];
        assert!(relative_error(&values(ours.forward(x.clone())), &values(expected.forward(x.clone()))) < 1e-6);
        let (fused, branches) = ours.fuse();
        assert!(matches!(&fused.weight, Weight::Split(parts) if parts.len() == 6));
        let (whole_fused, _) = expected.fuse();
        assert!(relative_error(&values(fused.forward(x.clone())), &values(whole_fused.forward(x.clone()))) < 1e-6);
        assert!(relative_error(&values(fused.unfuse(branches).weight.val()), &values(whole.clone())) < 1e-6);
        let rows = Tensor::<1, Int>::from_data([39, 0, 6, 7, 20, 6], &device());
        assert_eq!(values(parts.select(rows.clone())), values(Weight::from(whole).select(rows)));
    }

    #[test]
    fn branches_learn_on_a_split_base_as_on_the_whole_one() {
        let learning = device().autodiff();
        let whole = random([40, 64], 3);
        let branch = LoraBranch::from_factors(random_on([4, 64], 6, &learning), random_on([40, 4], 7, &learning), 0.5);
        let run = |weight: Weight| {
            let x = random_on([2, 5, 64], 8, &learning).require_grad();
            let layer = Linear { weight, bias: None, lora: vec![branch.clone()] };
            let mut gradients = (layer.forward(x.clone()) * random_on([2, 5, 40], 9, &learning)).sum().backward();
            let [a, b] = [&branch.lora_a, &branch.lora_b].map(|factor| factor.val().grad_remove(&mut gradients));
            [x.grad_remove(&mut gradients), a.map(Tensor::unsqueeze), b.map(Tensor::unsqueeze)]
                .map(|gradient: Option<Tensor<3>>| values(gradient.expect("it learns")))
        };
        let frozen = Param::from_tensor(Tensor::from_inner(whole.clone())).set_require_grad(false);
        for (ours, theirs) in run(split(&whole)).iter().zip(run(frozen.into())) {
            assert!(relative_error(ours, &theirs) < 1e-6);
        }
    }
}
