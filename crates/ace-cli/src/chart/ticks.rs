//! Where an axis has numbers, and how they are written.

use super::Scale;

/// The range that `values` take, with some room around it, and wide enough to be one.
pub fn range(values: impl Iterator<Item = f64> + Clone, scale: Scale) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    match scale {
        Scale::Logarithmic => (low / 1.1, high * 1.1),
        Scale::Linear => {
            let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(f64::MIN_POSITIVE);
            // What cannot be negative is not shown below zero.
            (if low >= 0.0 { (low - room).max(0.0) } else { low - room }, high + room)
        }
    }
}

/// Numbers of a vertical axis.
pub fn up(low: f64, high: f64, scale: Scale) -> Vec<f64> {
    if scale == Scale::Linear {
        return even(low, high, 5.0);
    }
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let digits = |digits: &'static [f64]| {
        let ticks = decades.clone().flat_map(move |decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
        ticks.filter(|tick| (low..=high).contains(tick)).collect::<Vec<f64>>()
    };
    // Over many decades the tens are enough, and not all of them.
    match (digits(&[1.0]), digits(&[1.0, 2.0, 5.0])) {
        (tens, _) if tens.len() > 4 => tens.iter().copied().step_by(tens.len().div_ceil(6)).collect(),
        (_, fine) if fine.len() >= 3 => fine,
        _ => even(low, high, 4.0),
    }
}

/// Numbers 1, 2 or 5 of a decade apart, at most so many and one.
pub fn even(low: f64, high: f64, most: f64) -> Vec<f64> {
    let decade = ((high - low) / most).log10().floor();
    let apart = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * 10f64.powf(decade));
    let apart = apart.into_iter().find(|apart| (high - low) / apart <= most).unwrap_or(high - low);
    let (from, to) = ((low / apart).ceil() as i64, (high / apart).floor() as i64);
    (from..=to).map(|tick| tick as f64 * apart).collect()
}

/// Steps 1, 2 or 5 of a decade apart, at most eight.
pub fn steps(first: f64, last: f64) -> Vec<f64> {
    even(first, last, 8.0).into_iter().filter(|tick| *tick == tick.round()).collect()
}

/// Whole numbers in full, others with two significant figures.
pub fn number(value: f64) -> String {
    if value == value.round() && value.abs() < 1e7 {
        return format!("{value}");
    }
    if !(1e-3..1e4).contains(&value.abs()) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let decimals = (1 - value.abs().log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(up(0.04, 1.1, Scale::Logarithmic), [0.05, 0.1, 0.2, 0.5, 1.0]);
        assert_eq!(up(1.0, 1.5, Scale::Logarithmic).len(), 3);
        assert_eq!(up(1e-9, 1e9, Scale::Logarithmic).len(), 5);
        assert_eq!(up(0.0, 10.0, Scale::Linear), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(steps(10.0, 2000.0), [500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(steps(1.0, 2.0), [1.0, 2.0]);
    }

    #[test]
    fn a_range_is_never_empty() {
        for (values, scale) in
            [([0.0, 0.0], Scale::Linear), ([3.0, 3.0], Scale::Linear), ([3.0, 3.0], Scale::Logarithmic)]
        {
            let (low, high) = range(values.into_iter(), scale);
            assert!(low < high && low >= 0.0, "{values:?} became {low} to {high}");
        }
        assert_eq!(range([1.0, 2.0].into_iter(), Scale::Linear), (0.95, 2.05));
    }

    #[test]
    fn numbers_are_short() {
        let said = [0.05, 0.123, 1.0, 12345.0, 2e-5, 2.34e-7, -0.5].map(number);
        assert_eq!(said, ["0.05", "0.12", "1", "12345", "2e-5", "2.3e-7", "-0.5"]);
    }
}
