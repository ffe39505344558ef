//! How fast convolutions of the published autoencoder's shapes are, beside a matrix product: operations of the plain
//! formula per second of wall time and of processor time, so that a convolution that takes fewer shows more than the product reaches.
//!
//! ```text
//! cargo run --release -p ace-kernels --example convolution --features flex,burn/simd,burn/rayon
//! ```

#![allow(clippy::print_stdout)]

use ace_kernels::{Convolution, Pages, conv2d, group_norm_silu};
use burn::{prelude::*, tensor::Distribution};
use std::time::Instant;

#[global_allocator]
static PAGES: Pages = Pages::new();

/// How often each is measured; the least counts.
const ROUNDS: usize = 3;

fn main() {
    let device = Device::flex();
    let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let square = Tensor::<2>::random([3072, 3072], Distribution::Normal(0.0, 1.0), &device);
    let product = least(|| square.clone().matmul(square.clone()).narrow(0, 0, 1).sum());
    report("matrix product", product, 2.0 * 3072_f64.powi(3));

    let same = Convolution::same(3);
    let halved = Convolution { stride: 2, padding: (0, 1), doubled: false };
    for (input, output, side, kernel, how) in [
        (128, 128, 512, 3, same),
        (256, 128, 512, 3, same),
        (256, 256, 256, 3, same),
        (512, 512, 128, 3, same),
        (512, 512, 64, 3, same),
        (256, 256, 256, 3, Convolution { doubled: true, ..same }),
        (256, 128, 512, 1, Convolution::same(1)),
        (3, 128, 512, 3, same),
        (128, 3, 512, 3, same),
        (128, 128, 512, 3, halved),
        (256, 256, 256, 3, halved),
    ] {
        let (x, weight) = (random([1, input, side, side]), random([output, input, kernel, kernel]));
        // Channels beside each other, as another convolution leaves them.
        let x = x.permute([0, 2, 3, 1]).reshape([1, side * side * input]).reshape([1, side, side, input]);
        let x = x.permute([0, 3, 1, 2]);
        let [height, width] = [side; 2].map(|side| how.output_side(if how.doubled { 2 * side } else { side }, kernel));
        let operations = (2 * kernel * kernel * input * output * height * width) as f64;
        let time = least(|| conv2d(x.clone(), weight.clone(), None, None, how).narrow(1, 0, 1).narrow(2, 0, 1).sum());
        report(&format!("{input} to {output} at {side}², {kernel}×{kernel}, {how:?}"), time, operations);
    }
    let x = random([1, 128, 512, 512]).permute([0, 2, 3, 1]).reshape([1, 512 * 512 * 128]).reshape([1, 512, 512, 128]);
    let (x, ones) = (x.permute([0, 3, 1, 2]), Tensor::<1>::ones([128], &device));
    let time = least(|| group_norm_silu(x.clone(), 32, ones.clone(), ones.clone(), 1e-6).narrow(2, 0, 1).sum());
    // A difference, a product, a sum, and SiLU's exponential function.
    report("group norm with SiLU of 128 channels at 512²", time, 20.0 * 128.0 * 512.0 * 512.0);
}

fn report(name: &str, [wall, processor]: [f64; 2], operations: f64) {
    let rate = |seconds: f64| operations / seconds / 1e9;
    println!("{name}: {wall:.3} s, {processor:.2} processor s, {:.0} / {:.0} GFLOP/s", rate(wall), rate(processor));
}

/// The least of several times, in seconds: wall and processor.
fn least(f: impl Fn() -> Tensor<1>) -> [f64; 2] {
    let time = || {
        let (begin, before) = (Instant::now(), processor());
        let result: f32 = f().into_scalar();
        assert!(!result.is_nan());
        [begin.elapsed().as_secs_f64(), processor() - before]
    };
    (0..=ROUNDS).map(|_| time()).fold([f64::MAX; 2], |least, time| [least[0].min(time[0]), least[1].min(time[1])])
}

/// Processor seconds of this process, where the system tells.
fn processor() -> f64 {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // Nanoseconds on a processor, thread by thread.
    threads
        .filter_map(|thread| read(thread.path().join("schedstat")).split_whitespace().next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}
