//! Times one double and one single block of a transformer of hidden size 1024, over 1024 image and 512 text tokens,
//! with a low-rank branch on every linear layer of a frozen base: forward, in f32 and in bf16, and forward with backward. Beside the wall
//! time it prints the processor time, so that what runs on one core only is seen.
//!
//! `time [RUNS]`

use ace_nn::{
    flux::{BlockSize, DoubleBlock, SingleBlock},
    lora::{Linear, LoraBranch},
    rope::Rope,
};
use burn::{
    module::{Module, ModuleMapper, Param},
    optim::GradientsParams,
    prelude::*,
    tensor::DType,
};
use std::time::Instant;

const HIDDEN: usize = 1024;
const HEADS: usize = 8;
const IMAGE: usize = 1024;
const TEXT: usize = 512;
const RANK: usize = 16;

fn main() {
    let runs = std::env::args().nth(1).and_then(|runs| runs.parse().ok()).unwrap_or(5);
    let device = Device::flex();
    let size = BlockSize { hidden_size: HIDDEN, num_heads: HEADS, mlp_hidden: 4 * HIDDEN, qkv_bias: true };
    let rope = |device: &Device| {
        let ids: Vec<[f32; 3]> =
            (0..TEXT).map(|_| [0.0; 3]).chain((0..IMAGE).map(|i| [0.0, (i / 32) as f32, (i % 32) as f32])).collect();
        Rope::new(&ids, &[16, 56, 56], 10_000.0, device)
    };
    let training = device.clone().autodiff();
    let mut double = frozen(DoubleBlock::new(size, &training), &training);
    double.for_each_linear(&mut |_, linear| branch(linear, &training));
    let mut single = frozen(SingleBlock::new(size, &training), &training);
    single.for_each_linear(&mut |_, linear| branch(linear, &training));
    let (double_plain, single_plain) = (double.valid(), single.valid());

    let (img, txt) = (random([1, IMAGE, HIDDEN], &device), random([1, TEXT, HIDDEN], &device));
    let (all, vec) = (random([1, TEXT + IMAGE, HIDDEN], &device), random([1, HIDDEN], &device));
    let tables = rope(&device);
    report("double, forward", runs, || {
        let (img, txt) = double_plain.forward(img.clone(), txt.clone(), vec.clone(), &tables);
        f64::from(img.sum().into_scalar::<f32>()) + f64::from(txt.sum().into_scalar::<f32>())
    });
    report("single, forward", runs, || {
        let x = single_plain.forward(all.clone(), vec.clone(), &tables);
        f64::from(x.sum().into_scalar::<f32>())
    });
    let half = |x: &Tensor<3>| x.clone().cast(DType::BF16);
    let (double_half, single_half) = (in_half(double_plain.clone()), in_half(single_plain.clone()));
    let (img_half, txt_half, all_half) = (half(&img), half(&txt), half(&all));
    let vec_half = vec.clone().cast(DType::BF16);
    report("double, forward in bf16", runs, || {
        let (img, txt) = double_half.forward(img_half.clone(), txt_half.clone(), vec_half.clone(), &tables);
        f64::from(img.cast(DType::F32).sum().into_scalar::<f32>())
            + f64::from(txt.cast(DType::F32).sum().into_scalar::<f32>())
    });
    report("single, forward in bf16", runs, || {
        let x = single_half.forward(all_half.clone(), vec_half.clone(), &tables);
        f64::from(x.cast(DType::F32).sum().into_scalar::<f32>())
    });
    let tables = rope(&training);
    let leaf = |x: &Tensor<3>| Tensor::from_inner(x.clone()).require_grad();
    report("double, forward and backward", runs, || {
        let (img, txt) = (leaf(&img), leaf(&txt));
        let (a, b) = double.forward(img.clone(), txt.clone(), Tensor::from_inner(vec.clone()), &tables);
        let mut gradients = (a.powi_scalar(2).sum() + b.powi_scalar(2).sum()).backward();
        let params = GradientsParams::from_module(&mut gradients, &double);
        let dx = img.grad_remove(&mut gradients).into_iter().chain(txt.grad_remove(&mut gradients));
        dx.map(|dx| f64::from(dx.abs().sum().into_scalar::<f32>())).sum::<f64>() + params.len() as f64
    });
    report("single, forward and backward", runs, || {
        let x = leaf(&all);
        let y = single.forward(x.clone(), Tensor::from_inner(vec.clone()), &tables);
        let mut gradients = y.powi_scalar(2).sum().backward();
        let params = GradientsParams::from_module(&mut gradients, &single);
        let dx = x.grad_remove(&mut gradients);
        dx.map(|dx| f64::from(dx.abs().sum().into_scalar::<f32>())).unwrap_or_default() + params.len() as f64
    });
}

/// Runs `f` once for nothing, then `runs` times, and prints the best wall time with its processor time.
#[expect(clippy::print_stdout, reason = "an example's output")]
fn report(name: &str, runs: usize, f: impl Fn() -> f64) {
    let mut value = f();
    let mut best = (f64::INFINITY, 0.0, 0.0);
    for _ in 0..runs {
        let ((user, system), start) = (processor(), Instant::now());
        value = f();
        let wall = start.elapsed().as_secs_f64();
        if wall < best.0 {
            let after = processor();
            best = (wall, after.0 - user, after.1 - system);
        }
    }
    println!("{name:30} wall {:.3} s, user {:.2} s, system {:.2} s   ({value:.6e})", best.0, best.1, best.2);
}

/// User and system seconds of this process, where the system tells.
fn processor() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).flat_map(str::parse).collect();
    match fields[..] {
        [user, system, ..] => (user / 100.0, system / 100.0),
        _ => (0.0, 0.0),
    }
}

fn branch(linear: &mut Linear, device: &Device) {
    let [input, output] = linear.features();
    let factor = |shape: [usize; 2]| Tensor::from_inner(random(shape, &device.clone().inner()) * 0.1);
    linear.lora.push(LoraBranch::from_factors(factor([RANK, input]), factor([output, RANK]), 1.0));
}

/// The module with random weights that do not learn.
fn frozen<M: Module>(module: M, device: &Device) -> M {
    struct Walk<'a>(&'a Device);
    impl ModuleMapper for Walk<'_> {
        fn map_float<const N: usize>(&mut self, param: Param<Tensor<N>>) -> Param<Tensor<N>> {
            let shape: [usize; N] = param.lazy_shape().dims();
            let scale = (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
            let filled = random(shape, &self.0.clone().inner()) * if N == 1 { 0.5 } else { scale };
            Param::from_tensor(Tensor::from_inner(filled))
        }
    }
    module.map(&mut Walk(device)).no_grad()
}

/// The module in bf16.
fn in_half<M: Module>(module: M) -> M {
    struct Walk;
    impl ModuleMapper for Walk {
        fn map_float<const N: usize>(&mut self, param: Param<Tensor<N>>) -> Param<Tensor<N>> {
            param.map(|x| x.cast(DType::BF16))
        }
    }
    module.map(&mut Walk)
}

fn random<const N: usize>(shape: [usize; N], device: &Device) -> Tensor<N> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ shape.iter().product::<usize>() as u64 | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_: usize| {
            state = u64::wrapping_add(u64::wrapping_mul(state, 6_364_136_223_846_793_005), 1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
