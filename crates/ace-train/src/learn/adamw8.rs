//! AdamW that holds its moments in 8 bits: 2 bytes and a little for every number that learns instead of 8.
//!
//! Numbers are held in blocks of 256 behind each other, each block with a scale of its own, as Dettmers et al. propose
//! ([arXiv:2110.02861](https://arxiv.org/abs/2110.02861)), in simpler codes than theirs:
//!
//! ```text
//! first moment   m = q · s          q = −127 … 127     s = max |m| / 127
//! second moment  v = (q · s)²       q =    0 … 255     s = max √v / 255
//! ```
//!
//! The root is held because its range is half as wide, and what is above zero never becomes zero, for it is divided by.
//! A moment moves by less than a code from one step to the next, so it would stand still if it were rounded to the
//! nearest. Instead a pattern that moves on with every step decides which way each number is rounded; over the steps the
//! mean is right. It follows from position and step alone: the same run gives the same bytes, killed and resumed or not.

use burn::{
    optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource},
    prelude::*,
    tensor::{DType, FloatDType, IntDType},
};

/// Numbers that share a scale.
pub const BLOCK: usize = 256;

/// AdamW with decoupled weight decay and bias correction.
#[derive(Debug, Clone)]
pub struct AdamW8 {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Moments of one parameter of rank `D`.
#[derive(Debug, Clone)]
pub struct Moments<const D: usize> {
    first: Held,
    second: Held,
    /// Steps done.
    time: i32,
}

/// Numbers in 8 bits.
#[derive(Debug, Clone)]
struct Held {
    /// `[blocks, 256]`
    codes: Tensor<2, Int>,
    /// `[blocks, 1]`
    scales: Tensor<2>,
}

impl Held {
    fn widened(&self) -> Tensor<2> {
        self.codes.clone().cast(FloatDType::F32) * self.scales.clone()
    }

    fn to_device(&self, device: &Device) -> Self {
        Self { codes: self.codes.clone().to_device(device), scales: self.scales.clone().to_device(device) }
    }

    /// Numbers of either sign.
    fn signed(values: Tensor<2>, pattern: Tensor<2>) -> Self {
        let scales = scales(values.clone().abs(), 127.0);
        let codes = (values / scales.clone() + pattern).floor().clamp(-127.0, 127.0);
        Self { codes: codes.cast(IntDType::I8), scales }
    }

    /// Numbers from 0 on.
    fn unsigned(values: Tensor<2>, pattern: Tensor<2>) -> Self {
        let scales = scales(values.clone(), 255.0);
        let is_nothing = values.clone().equal_elem(0.0);
        let codes = (values / scales.clone() + pattern).floor().clamp(1.0, 255.0).mask_fill(is_nothing, 0.0);
        Self { codes: codes.cast(IntDType::U8), scales }
    }

    fn flatten(&self, prefix: &str, [codes, scales]: [&str; 2], out: &mut StateSink) {
        out.push_tensor(prefix, codes, self.codes.to_data());
        out.push_tensor(prefix, scales, self.scales.to_data());
    }

    fn unflatten(
        prefix: &str,
        [codes, scales]: [&str; 2],
        dtype: DType,
        src: &mut StateSource,
        device: &Device,
    ) -> Option<Self> {
        Some(Self {
            codes: Tensor::from_data(src.take_tensor(prefix, codes)?, (device, dtype)),
            scales: Tensor::from_data(src.take_tensor(prefix, scales)?, (device, DType::F32)),
        })
    }
}

/// What the largest of a block is divided by to be the last code; 1 in a block of nothing.
fn scales(sizes: Tensor<2>, last: f64) -> Tensor<2> {
    let largest = sizes.max_dim(1);
    let is_nothing = largest.clone().equal_elem(0.0);
    (largest / last).mask_fill(is_nothing, 1.0)
}

/// For every number where between two codes it is rounded up at this step, in 0..1: multiples of irrational numbers, which
/// fall everywhere alike.
fn pattern(blocks: usize, time: i32, device: &Device) -> Tensor<2> {
    const ALONG: f64 = 0.618_033_988_749_895;
    const ACROSS: f64 = 0.754_877_666_246_693;
    const STEPS: f64 = 0.569_840_290_998_053;
    let rows: Vec<f32> =
        (0..blocks).map(|block| (block as f64 * ACROSS + f64::from(time) * STEPS).fract() as f32).collect();
    let columns: Vec<f32> = (0..BLOCK).map(|column| (column as f64 * ALONG).fract() as f32).collect();
    let rows = Tensor::<2>::from_data(TensorData::new(rows, [blocks, 1]), (device, DType::F32));
    let columns = Tensor::<2>::from_data(TensorData::new(columns, [1, BLOCK]), (device, DType::F32));
    let sum = rows + columns;
    let whole = sum.clone().floor();
    sum - whole
}

/// A parameter's numbers in blocks; zeros fill the last one.
fn in_blocks<const D: usize>(tensor: Tensor<D>) -> Tensor<2> {
    let count = tensor.shape().num_elements();
    let blocks = count.div_ceil(BLOCK);
    let flat = tensor.reshape([count]).cast(DType::F32);
    let flat = match blocks * BLOCK - count {
        0 => flat,
        missing => Tensor::cat(vec![flat.clone(), Tensor::zeros([missing], (&flat.device(), DType::F32))], 0),
    };
    flat.reshape([blocks, BLOCK])
}

impl Optimizer for AdamW8 {
    type State<const D: usize> = Moments<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Moments<D>>,
    ) -> (Tensor<D>, Option<Moments<D>>) {
        let (shape, device) = (tensor.shape(), tensor.device());
        let gradient = in_blocks(gradient);
        let squares = gradient.clone() * gradient.clone();
        let (fresh, more) = (gradient * (1.0 - self.beta_1), squares * (1.0 - self.beta_2));
        let (first, second, time) = match state {
            Some(Moments { first, second, time }) => {
                let root = second.widened();
                let second = root.clone() * root * self.beta_2 + more;
                (first.widened() * self.beta_1 + fresh, second, time + 1)
            }
            None => (fresh, more, 1),
        };
        let root = (second / (1.0 - self.beta_2.powi(time))).sqrt();
        let change = first.clone() / (1.0 - self.beta_1.powi(time)) / (root.clone() + self.epsilon);
        let [blocks, _] = change.dims();
        let change = change.reshape([blocks * BLOCK]).narrow(0, 0, shape.num_elements()).reshape(shape);
        let moved = tensor * (1.0 - rate * self.weight_decay) - change * rate;

        let pattern = pattern(blocks, time, &device);
        // The correction was for this step's change alone.
        let root = root * (1.0 - self.beta_2.powi(time)).sqrt();
        let state =
            Moments { first: Held::signed(first, pattern.clone()), second: Held::unsigned(root, pattern), time };
        (moved, Some(state))
    }

    fn to_device<const D: usize>(state: Moments<D>, device: &Device) -> Moments<D> {
        Moments { first: state.first.to_device(device), second: state.second.to_device(device), time: state.time }
    }
}

const FIRST: [&str; 2] = ["first.codes", "first.scales"];
const SECOND: [&str; 2] = ["second.codes", "second.scales"];
const TIME: &str = "time";

impl<const D: usize> RecordState for Moments<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        self.first.flatten(prefix, FIRST, out);
        self.second.flatten(prefix, SECOND, out);
        out.push_tensor(prefix, TIME, TensorData::from([self.time]));
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        Some(Self {
            first: Held::unflatten(prefix, FIRST, DType::I8, src, device)?,
            second: Held::unflatten(prefix, SECOND, DType::U8, src, device)?,
            time: src.take_tensor(prefix, TIME)?.convert::<i32>().iter::<i32>().next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{recipe::OptimizerState, trainer::optimizer};
    use ace_plus::sample;
    use burn::{
        module::{Module, Param},
        optim::{GradientsParams, ModuleOptimizer},
        tensor::Bytes,
    };

    #[derive(Module, Debug)]
    struct Layer {
        weight: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    fn layer() -> Layer {
        let device = Device::default().autodiff();
        // 700 numbers are two blocks and a part of one.
        Layer {
            weight: Param::from_tensor(Tensor::zeros([20, 35], &device)),
            bias: Param::from_tensor(Tensor::zeros([20], &device)),
        }
    }

    fn made(state: OptimizerState) -> ModuleOptimizer {
        let text = "steps = 1\nbatch = 1\nlearning_rate = 1.0";
        let mut recipe: crate::learn::recipe::OptimizerRecipe = toml::from_str(text).unwrap();
        recipe.state = state;
        optimizer(&recipe)
    }

    /// A step towards a known layer, on random inputs whose columns are of very different size.
    fn step(optimizer: &mut ModuleOptimizer, layer: Layer, at: u64, rate: f64) -> (Layer, f32) {
        let device = Device::default().autodiff();
        let random =
            |shape: [usize; 2], stream| sample::gaussian(shape, &mut sample::rng(9, stream), &Device::default());
        let sizes: Vec<f32> = (0..35).map(|column| 0.9f32.powi(column)).collect();
        let sizes = Tensor::<1>::from_data(TensorData::new(sizes, [35]), &Device::default()).unsqueeze::<2>();
        let (x, known) = (random([16, 35], at + 1) * sizes, random([20, 35], 0));
        let wanted = x.clone().matmul(known.transpose()) + 0.5;
        let (x, wanted) = (Tensor::from_inner(x), Tensor::from_inner(wanted));
        let error = x.matmul(layer.weight.val().transpose()) + layer.bias.val().unsqueeze::<2>() - wanted;
        let loss = (error.clone() * error).mean();
        let value = loss.clone().inner().into_scalar::<f32>();
        assert!(device.is_autodiff());
        let gradients = GradientsParams::from_grads(loss.backward(), &layer);
        (optimizer.step(rate, layer, gradients), value)
    }

    fn losses(state: OptimizerState) -> (Vec<f32>, ModuleOptimizer) {
        let (mut optimizer, mut layer, mut losses) = (made(state), layer(), Vec::new());
        for at in 0..400 {
            let loss;
            (layer, loss) = step(&mut optimizer, layer, at, 0.02 * (1.0 - at as f64 / 400.0));
            losses.push(loss);
        }
        (losses, optimizer)
    }

    #[test]
    fn it_learns_what_32_bits_learn_in_a_quarter_of_the_memory() {
        let ((wide, wide_state), (narrow, narrow_state)) =
            (losses(OptimizerState::F32), losses(OptimizerState::EightBit));
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        for part in [0..50, 100..200, 300..400] {
            let (wide, narrow) = (mean(&wide[part.clone()]), mean(&narrow[part.clone()]));
            assert!((narrow / wide - 1.0).abs() < 0.1, "losses of steps {part:?}: {narrow} beside {wide}");
        }
        assert!(mean(&narrow[300..]) < 0.05 * narrow[0], "{} to {}", narrow[0], mean(&narrow[300..]));

        // 720 numbers: three blocks and one.
        let numbers = [700, 20];
        let bytes = |state: OptimizerState| numbers.iter().map(|numbers| state.bytes(*numbers)).sum::<u64>();
        assert_eq!([bytes(OptimizerState::F32), bytes(OptimizerState::EightBit)], [8 * 720, 2 * 4 * 256 + 4 * 8]);
        let stored = |optimizer: &ModuleOptimizer| optimizer.into_bytes().unwrap().len() as u64;
        let [wide, narrow] = [stored(&wide_state), stored(&narrow_state)];
        // Names and alignment come on top.
        assert!(wide > 8 * 720 && narrow > 2 * 4 * 256 && narrow < wide, "{narrow} beside {wide}");
    }

    #[test]
    fn it_goes_on_bit_by_bit_after_it_was_stored() {
        let (mut whole, mut model) = (made(OptimizerState::EightBit), layer());
        for at in 0..5 {
            model = step(&mut whole, model, at, 0.01).0;
        }
        let bytes = whole.into_bytes().unwrap().to_vec();
        let mut stored = made(OptimizerState::EightBit).from_bytes(Bytes::from_bytes_vec(bytes)).unwrap();
        let mut again = model.clone();
        for at in 5..9 {
            model = step(&mut whole, model, at, 0.01).0;
            again = step(&mut stored, again, at, 0.01).0;
        }
        assert_eq!(model.weight.to_data(), again.weight.to_data());
        assert_eq!(model.bias.to_data(), again.bias.to_data());
    }

    #[test]
    fn a_number_is_right_on_average_and_never_nothing() {
        let device = Device::default();
        let values: Vec<f32> = (0..BLOCK).map(|at| if at == 0 { 255.0 } else { 100.0 + at as f32 / 256.0 }).collect();
        let values = Tensor::<2>::from_data(TensorData::new(values, [1, BLOCK]), &device);
        let mean = |held: &dyn Fn(Tensor<2>) -> Held| {
            let sum = (1..=200).map(|time| held(pattern(1, time, &device)).widened()).reduce(|sum, more| sum + more);
            sum.unwrap() / 200.0
        };
        for held in
            [&(|at| Held::unsigned(values.clone(), at)) as &dyn Fn(_) -> _, &|at| Held::signed(-values.clone(), at)]
        {
            let error = (mean(held).abs() - values.clone()).abs().max().into_scalar::<f32>();
            assert!(error < 0.05, "off by {error} on average");
        }
        let tiny = Tensor::<2>::from_data(
            TensorData::new([vec![1.0], vec![1e-9; 254], vec![0.0]].concat(), [1, BLOCK]),
            &device,
        );
        let held: Vec<f32> = Held::unsigned(tiny, pattern(1, 1, &device)).widened().into_data().iter::<f32>().collect();
        assert!(held[1..255].iter().all(|value| *value > 0.0) && held[255] == 0.0);
        let nothing = Held::signed(Tensor::zeros([2, BLOCK], &device), pattern(2, 1, &device)).widened();
        assert!(nothing.into_data().iter::<f32>().all(|value| value == 0.0));
    }
}
