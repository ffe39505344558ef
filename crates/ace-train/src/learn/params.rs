//! Walks over a module's parameters: ids that are the same in every process, initial values, clipping, moving average.

use crate::{Error, error::StateProblem};
use ace_plus::sample;
use ace_weights::WeightFile;
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    prelude::*,
    tensor::DType,
};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Keeps the dotted path of the parameter that a walk is at.
macro_rules! track_path {
    () => {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    };
}

/// FNV-1a: a hash that is the same in every build, unlike the standard library's.
fn stable_hash(text: &str) -> u64 {
    hash_on(0xcbf2_9ce4_8422_2325, text.as_bytes())
}

/// Goes on with a hash.
fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Gives every parameter an id that follows from its path, so that an optimizer's state finds its parameters again in
/// another process.
pub fn stable_ids<M: Module>(module: M) -> M {
    struct Walk {
        path: Vec<String>,
    }
    impl ModuleMapper for Walk {
        track_path!();
        fn map_float<const D: usize>(&mut self, mut param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.id = ParamId::from(stable_hash(&self.path.join(".")));
            param
        }
    }
    module.map(&mut Walk { path: Vec::new() })
}

/// How a parameter starts, by its path and shape.
fn initial_values(path: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| path.ends_with(suffix));
    let is_modulation = !path.starts_with("lora.")
        && ["_mod.lin.", "modulation.lin.", "adaln_modulation."].iter().any(|part| path.contains(part));
    // A block that starts as the identity and an output that starts at zero learn steadily from the first step.
    if is_modulation || path.starts_with("flux.final_layer.linear.") {
        return vec![0.0; count];
    }
    if let ([buckets, heads], true) = (shape, path.ends_with("relative_attention_bias")) {
        return nearby(*buckets, *heads);
    }
    // One stream per parameter: a value depends on seed and path, not on the order of the walk.
    let mut rng = sample::rng(seed, stable_hash(path));
    match shape {
        // The posterior starts narrow: with a standard deviation of 1 the decoder would first learn to see through noise.
        [_] if path.ends_with("encoder.conv_out.bias") => {
            (0..count).map(|i| if i < count / 2 { 0.0 } else { -8.0 }).collect()
        }
        [_] if ends(&["bias"]) => vec![0.0; count],
        // Norms.
        [_] => vec![1.0; count],
        // Embeddings: T5 starts at 1, CLIP at 0.02.
        [_, _] if ends(&["shared"]) => StandardNormal.sample_iter(&mut rng).take(count).collect(),
        [_, _] if ends(&["token_embedding", "position_embedding"]) => {
            StandardNormal.sample_iter(&mut rng).take(count).map(|value: f32| value * 0.02).collect()
        }
        // A branch starts at nothing: A random, B zero.
        [_, _] if ends(&["lora_b"]) => vec![0.0; count],
        // T5 does not divide its scores by √d: its queries start smaller by that much.
        [out, input] => {
            let scale = if path.contains(".attention.q.") { (*out as f32).powf(-0.25) } else { 1.0 };
            let limit = (6.0 / (out + input) as f32).sqrt() * scale;
            (0..count).map(|_| rng.random_range(-limit..limit)).collect()
        }
        _ => {
            let fan_in: usize = shape[1..].iter().product();
            let limit = (3.0 / fan_in as f32).sqrt();
            (0..count).map(|_| rng.random_range(-limit..limit)).collect()
        }
    }
}

/// T5's bias by distance, `[buckets, heads]`, as a language knows it: a word looks at its neighbours, one head back, the
/// next ahead, half of them close by and half further.
///
/// With a bias of noise a small encoder takes thousands of steps to find out which of two colours belongs to which of
/// two shapes, because a transformer that reads its tokens as a set never sees their order; with this one it takes a
/// hundred.
fn nearby(buckets: usize, heads: usize) -> Vec<f32> {
    let half = buckets / 2;
    let bias = |bucket: usize, head: usize| {
        // The second half of the buckets are keys behind the query; within each, half are single distances.
        let (ahead, distance) = (bucket >= half, bucket % half);
        let slope = if head < heads.div_ceil(2) { 0.5 } else { 0.2 };
        let other_side = if ahead == (head % 2 == 1) { 0.0 } else { 3.0 };
        -slope * distance as f32 - other_side
    };
    (0..buckets).flat_map(|bucket| (0..heads).map(move |head| bias(bucket, head))).collect()
}

/// Fills a network with initial values drawn on the host from `seed`: Xavier for matrices, ones for norms, zeros for
/// biases, modulations and the last layer.
pub fn initialize<M: Module>(module: M, name: &str, seed: u64, device: &Device) -> M {
    struct Walk<'a> {
        path: Vec<String>,
        seed: u64,
        device: &'a Device,
    }
    impl ModuleMapper for Walk<'_> {
        track_path!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape = param.lazy_shape();
            let values = initial_values(&self.path.join("."), &shape, self.seed);
            let mut filled = Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device));
            filled.id = param.id;
            filled
        }
    }
    module.map(&mut Walk { path: vec![name.to_owned()], seed, device })
}

/// Scales all gradients down together if their L2 norm is above `max_norm`; returns the norm before.
///
/// burn's own clipping looks at each tensor alone, which changes the direction of the step.
pub fn clip_global_norm<M: Module>(module: &M, mut grads: GradientsParams, max_norm: f64) -> (GradientsParams, f32) {
    struct Scale<'a> {
        grads: &'a mut GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                self.grads.register(param.id, grad * self.factor);
            }
        }
    }
    let mut norm = global_norm(module, &grads, 1.0);
    if norm.is_infinite() {
        // Squares leave f32 long before the gradients do: a fresh network on a plain picture gets there.
        const TINY: f64 = 1e-16;
        norm = global_norm(module, &grads, TINY) / TINY;
    }
    if norm.is_finite() && norm > max_norm {
        module.visit(&mut Scale { grads: &mut grads, factor: max_norm / norm });
    }
    (grads, norm as f32)
}

/// L2 norm of all gradients times `factor`.
fn global_norm<M: Module>(module: &M, grads: &GradientsParams, factor: f64) -> f64 {
    struct Squares<'a> {
        grads: &'a GradientsParams,
        factor: f64,
        sums: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                let grad = grad.cast(DType::F32) * self.factor;
                self.sums.push((grad.clone() * grad).sum());
            }
        }
    }
    let mut squares = Squares { grads, factor, sums: Vec::new() };
    module.visit(&mut squares);
    if squares.sums.is_empty() {
        return 0.0;
    }
    f64::from(Tensor::cat(squares.sums, 0).sum().into_scalar::<f32>()).sqrt()
}

/// An exponential moving average of the parameters that learn.
#[derive(Debug, Clone)]
pub struct Ema {
    decay: f64,
    values: HashMap<ParamId, Tensor<1>>,
}

impl Ema {
    /// Starts at the module's present values.
    pub fn new<M: Module>(module: &M, decay: f64) -> Self {
        Self { decay, values: flat_values(module) }
    }

    /// `ema ← decay·ema + (1 − decay)·value`, with a decay that grows from zero so that the start is forgotten.
    pub fn update<M: Module>(&mut self, module: &M, step: u64) {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        for (id, value) in flat_values(module) {
            let average = match self.values.remove(&id) {
                Some(old) => old * decay + value * (1.0 - decay),
                None => value,
            };
            self.values.insert(id, average);
        }
    }

    /// Goes on from other values, those of `module`.
    pub fn restart<M: Module>(&mut self, module: &M) {
        self.values = flat_values(module);
    }

    /// The module with averaged values in the place of its own.
    pub fn apply<M: Module>(&self, module: M) -> M {
        struct Walk<'a> {
            values: &'a HashMap<ParamId, Tensor<1>>,
        }
        impl ModuleMapper for Walk<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some(value) = self.values.get(&param.id) else { return param };
                let value = value.clone().reshape(param.lazy_shape());
                learned_param(param.id, value, param.val().device().is_autodiff())
            }
        }
        module.map(&mut Walk { values: &self.values })
    }
}

/// A parameter that learns, from a value without gradients.
pub(crate) fn learned_param<const D: usize>(id: ParamId, value: Tensor<D>, is_autodiff: bool) -> Param<Tensor<D>> {
    let mut param = Param::from_tensor(if is_autodiff { Tensor::from_inner(value) } else { value });
    param.id = id;
    param
}

/// The parameters that learn, by path.
pub fn learned<M: Module>(module: &M) -> BTreeMap<String, TensorData> {
    struct Walk {
        path: Vec<String>,
        values: BTreeMap<String, TensorData>,
    }
    impl ModuleVisitor for Walk {
        track_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                self.values.insert(self.path.join("."), value.inner().into_data());
            }
        }
    }
    let mut walk = Walk { path: Vec::new(), values: BTreeMap::new() };
    module.visit(&mut walk);
    walk.values
}

/// A number that two modules share if all that learns in them has the same bits.
pub fn fingerprint<M: Module>(module: &M) -> u64 {
    learned(module).iter().fold(0, |hash, (path, value)| hash_on(hash ^ stable_hash(path), value.as_bytes()))
}

/// The module with the parameters that learn taken from a file of `checkpoint` that [`learned`] filled.
///
/// # Errors
/// If one is missing or has another shape.
pub fn with_learned<M: Module>(module: M, file: &WeightFile, checkpoint: &Path) -> Result<M, Error> {
    struct Walk<'a> {
        path: Vec<String>,
        file: &'a WeightFile,
        checkpoint: &'a Path,
        error: Option<Error>,
    }
    impl ModuleMapper for Walk<'_> {
        track_path!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let old = param.val();
            if !old.is_require_grad() {
                return param;
            }
            match self.file.tensor::<D>(&self.path.join("."), None, &old.device().inner()) {
                Ok(value) if value.shape() == old.shape() => learned_param(param.id, value, true),
                Ok(value) => {
                    let problem = StateProblem::OtherShape {
                        key: self.path.join("."),
                        found: value.shape().to_vec(),
                        expected: old.shape().to_vec(),
                    };
                    self.error = Some(Error::state(self.checkpoint, problem));
                    param
                }
                Err(error) => {
                    self.error = Some(error.into());
                    param
                }
            }
        }
    }
    let mut walk = Walk { path: Vec::new(), file, checkpoint, error: None };
    let module = module.map(&mut walk);
    walk.error.map_or(Ok(module), Err)
}

/// Values of the parameters that learn, without gradients and flat.
fn flat_values<M: Module>(module: &M) -> HashMap<ParamId, Tensor<1>> {
    struct Walk {
        values: HashMap<ParamId, Tensor<1>>,
    }
    impl ModuleVisitor for Walk {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                let count = value.shape().num_elements();
                self.values.insert(param.id, value.inner().reshape([count]));
            }
        }
    }
    let mut walk = Walk { values: HashMap::new() };
    module.visit(&mut walk);
    walk.values
}

/// How many numbers learn.
pub fn count_learned<M: Module>(module: &M) -> usize {
    struct Walk {
        count: usize,
    }
    impl ModuleVisitor for Walk {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.val().is_require_grad() {
                self.count += param.lazy_shape().num_elements();
            }
        }
    }
    let mut walk = Walk { count: 0 };
    module.visit(&mut walk);
    walk.count
}
