//! How fast a product with a packed matrix is, beside the dense one, and how far from it: processor seconds of all cores, in
//! turns, the least of each.
//!
//! ```text
//! cargo run --release -p ace-kernels --example packed --features flex,burn/simd,burn/rayon [-- ROWS OUT IN]
//! ```

#![allow(clippy::print_stdout)]

use ace_kernels::packed::{PackedMatrix, Packing};
use burn::{prelude::*, tensor::Distribution};
use std::{fs, time::Instant};

/// How often each is measured; the least counts.
const ROUNDS: usize = 7;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let all: Vec<[usize; 3]> = match sizes[..] {
        [rows, output, input] => vec![[rows, output, input]],
        _ => vec![[1536, 4096, 1024], [1536, 9216, 3072]],
    };
    for [rows, output, input] in all {
        measure(rows, [output, input]);
    }
}

fn measure(rows: usize, shape: [usize; 2]) {
    let device = Device::default();
    let wide = Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let x = Tensor::<2>::random([rows, shape[1]], Distribution::Normal(0.0, 1.0), &device);
    let values: Vec<f32> = wide.clone().into_data_as::<f32>().iter::<f32>().collect();
    let packed: Vec<PackedMatrix> =
        Packing::WRITTEN.into_iter().map(|packing| PackedMatrix::pack(packing, shape, &values, &device)).collect();

    let mut ways: Vec<(String, Box<dyn Fn() -> Tensor<2>>)> = Vec::new();
    let (dense, x_dense) = (wide.clone(), x.clone());
    ways.push(("dense".into(), Box::new(move || x_dense.clone().matmul(dense.clone().transpose()))));
    for packed in &packed {
        let (name, matrix, x) = (packed.packing.name(), packed.clone(), x.clone());
        ways.push((format!("{name} widened"), Box::new(move || matrix.multiply(x.clone()))));
    }
    for packed in &packed {
        let (name, matrix, x) = (packed.packing.name(), packed.clone(), x.clone());
        ways.push((name.to_owned(), Box::new(move || matrix.project(x.clone(), None))));
    }
    let mut least = vec![(f64::MAX, f64::MAX); ways.len()];
    for _ in 0..ROUNDS {
        for (least, (_, way)) in least.iter_mut().zip(&ways) {
            let (begin, before) = (Instant::now(), processor());
            drop(way());
            let (wall, processor) = (begin.elapsed().as_secs_f64(), processor() - before);
            *least = (least.0.min(wall), least.1.min(processor));
        }
    }
    let exact = ways[0].1();
    println!("[{rows}, {}] × {shape:?}ᵀ", shape[1]);
    for ((name, way), (wall, processor)) in ways.iter().zip(&least) {
        let error = norm(way() - exact.clone()) / norm(exact.clone());
        let ratio = processor / least[0].1;
        println!("{name:>14}: {processor:.4} s of processors ({wall:.4} s), {ratio:.2} of dense, error {error:.1e}");
    }
}

fn norm(x: Tensor<2>) -> f32 {
    x.clone().powf_scalar(2.0).sum().into_scalar::<f32>().sqrt()
}

/// Seconds that all threads of this process have computed; 0 where the system does not say.
fn processor() -> f64 {
    // Nanoseconds on a processor, of every thread.
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let spent = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    tasks.filter_map(spent).sum::<f64>() / 1e9
}
