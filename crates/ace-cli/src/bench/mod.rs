//! `ace bench`: how fast something is on this machine, beside what its processor can do.

mod infer;
mod train;

use crate::args::BenchVerb;
use std::process::ExitCode;

/// Measures, and prints what came out.
///
/// # Errors
/// If what is asked for cannot be, or the device does not compute in its numbers.
pub fn run(what: &BenchVerb, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    match what {
        BenchVerb::Train(args) => train::run(args, backend),
        BenchVerb::Flux(args) => infer::flux(args, backend),
        BenchVerb::Vae(args) => infer::vae(args, backend),
        BenchVerb::Sam(args) => infer::sam(args, backend),
        BenchVerb::T5(args) => infer::t5(args, backend),
        BenchVerb::Edit(args) => infer::edit(args, backend),
    }
}

/// Median of some numbers, the smallest and the largest; zeros if there are none.
fn spread(numbers: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let [Some(first), Some(last)] = [numbers.first(), numbers.last()].map(|end| end.copied()) else { return [0.0; 3] };
    let middle = numbers.len() / 2;
    let median =
        if numbers.len().is_multiple_of(2) { (numbers[middle - 1] + numbers[middle]) / 2.0 } else { numbers[middle] };
    [median, first, last]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(super::spread([3.0, 1.0, 9.0]), [3.0, 1.0, 9.0]);
        assert_eq!(super::spread([3.0, 1.0, 9.0, 4.0]), [3.5, 1.0, 9.0]);
        assert_eq!(super::spread([]), [0.0; 3]);
    }
}
