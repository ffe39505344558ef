//! Words for values, read; what cannot be one is answered with what can.

use ace_nn::weight::Packing;
use ace_plus::{
    Compat, Placement, SeedNoise,
    request::DTYPES,
    sample::{Sampler, Schedule},
};
use ace_weights::{
    Network,
    convert::{Format, Precision},
};
use burn::tensor::FloatDType;

/// A kind of numbers by its name.
pub fn dtype(name: &str) -> Result<FloatDType, String> {
    let found = DTYPES.iter().find_map(|(known, dtype)| (*known == name).then_some(*dtype));
    found.ok_or_else(|| format!("known are: {}", DTYPES.map(|(known, _)| known).join(", ")))
}

/// The name of a kind of numbers.
pub fn dtype_name(dtype: FloatDType) -> &'static str {
    DTYPES.iter().find_map(|(name, known)| (*known == dtype).then_some(*name)).unwrap_or("f32")
}

/// A packing by its name.
pub fn packing(name: &str) -> Result<Packing, String> {
    named(name, &Packing::WRITTEN.map(|packing| (packing.name(), packing)))
}

/// A placement by its name.
pub fn placement(name: &str) -> Result<Placement, String> {
    named(name, &Placement::ALL)
}

/// A sampler by its name.
pub fn sampler(name: &str) -> Result<Sampler, String> {
    named(name, &Sampler::ALL)
}

/// A schedule by its name.
pub fn schedule(name: &str) -> Result<Schedule, String> {
    named(name, &Schedule::ALL)
}

/// A format by its name.
pub fn format(name: &str) -> Result<Format, String> {
    named(name, &Format::ALL)
}

/// A precision by its name.
pub fn precision(name: &str) -> Result<Precision, String> {
    named(name, &Precision::ALL)
}

/// A network by the word that cards have for it.
pub fn network(name: &str) -> Result<Network, String> {
    named(name, &Network::ALL.map(|network| (network.word(), network)))
}

/// What has a name.
pub fn named<T: Copy>(name: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find_map(|(known, value)| (*known == name).then_some(*value));
    let known = || all.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("known are: {}", known()))
}

/// Another program by its name.
pub fn compat(name: &str) -> Result<Compat, String> {
    let known = || Compat::ALL.map(|(known, _)| known).join(", ");
    Compat::from_name(name).ok_or_else(|| format!("known are: {}", known()))
}

/// Another program's generator by its name.
pub fn seed_noise(name: &str) -> Result<SeedNoise, String> {
    if name == "torch" { Ok(SeedNoise::Torch) } else { Err("known is: torch".to_owned()) }
}

/// A count that is not 0.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("choose 1 or more".to_owned()),
    }
}

/// A number above 0.
pub fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("not a number above 0".to_owned()),
    }
}

/// A number that is one: `nan` and `inf` parse as floats and would end in a black picture.
pub fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a finite number".to_owned()),
    }
}
