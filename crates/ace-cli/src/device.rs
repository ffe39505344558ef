//! Where tensors live: the one place that names a backend and makes a [`Device`].

use crate::report::Failure;
use burn::tensor::{Device, Tensor};
use std::panic;

/// Every backend the program can be built with; the feature of the same name builds it in. Those before the last
/// compute on a card; a build with several prefers the earlier.
const BACKENDS: [&str; 6] = ["cuda", "rocm", "metal", "vulkan", "wgpu", "flex"];
/// The backend that needs no card.
const CPU: &str = "flex";

/// Makes the device of a backend: the one asked for, or else the only card backend of this build, or else the CPU.
///
/// # Errors
/// If there is no such backend, it is not part of this build, or it finds no device.
pub fn open(backend: Option<&str>) -> anyhow::Result<Device> {
    open_nth(backend, 0)
}

/// As [`open`], the `nth` of the backend's cards, counted from 0, and around again where there are fewer.
///
/// # Errors
/// As [`open`].
pub fn open_nth(backend: Option<&str>, nth: usize) -> anyhow::Result<Device> {
    let name = match backend {
        Some(name) => name,
        None => default_backend(&compiled()).ok_or_else(|| {
            let hint = format!("build with one of them: --features {CPU} runs anywhere");
            Failure::new("no backend is part of this build", hint)
        })?,
    };
    let Some(make) = maker(name) else {
        let here = compiled().join(", ");
        return Err(match BACKENDS.contains(&name) {
            true => Failure::misuse(
                format!("backend {name} is not part of this build, which has: {here}"),
                format!("build it in: cargo xtask <verb> --backend {name}, or cargo build --features {name}"),
            ),
            false => Failure::misuse(
                format!("there is no backend {name:?}; this build has: {here}"),
                format!("other backends are built with cargo features of their names: {}", others(&compiled())),
            ),
        }
        .into());
    };
    // Looking for all cards wakes their driver: only where there may be more than one to choose from.
    let cards = if nth > 0 { cards(name) } else { Vec::new() };
    let device = if cards.is_empty() { make() } else { cards[nth % cards.len()].clone() };
    if name != CPU
        && let Err(reason) = probe(&device)
    {
        let here: Vec<_> = compiled().into_iter().filter(|other| *other != name).collect();
        let here = match here.as_slice() {
            [] => String::new(),
            here => format!("this build also has: {}; ", here.join(", ")),
        };
        let hint = format!("{here}cargo xtask <verb> --backend NAME builds another: {}", others(&compiled()));
        return Err(Failure::new(format!("backend {name} finds no device that computes: {reason}"), hint).into());
    }
    Ok(device)
}

/// A device's backend and its own name: `cuda (NVIDIA H200)`.
pub fn name(device: &Device) -> String {
    let first = compiled().into_iter().find(|name| maker(name).is_some_and(|make| make() == *device));
    let backend = first.or_else(|| compiled().into_iter().find(|name| cards(name).contains(device)));
    let card = card_name(device).unwrap_or_else(cpu_name);
    match backend {
        Some(backend) => format!("{backend} ({card})"),
        None => card,
    }
}

/// How many parts of a training step to measure at once: on the CPU one for each thread of the processor, because small
/// networks leave most of them idle; on a card one, because it has its own queue. `sharers` processes share the processor.
pub fn workers(device: &Device, sharers: usize) -> usize {
    if is_cpu(device) { threads(sharers) } else { 1 }
}

/// Whether a device is the processor itself.
pub fn is_cpu(device: &Device) -> bool {
    maker(CPU).is_some_and(|make| make() == *device)
}

/// The processor itself, if its backend is part of this build.
pub fn cpu() -> Option<Device> {
    maker(CPU).map(|make| make())
}

/// Backends that are part of this build.
fn compiled() -> Vec<&'static str> {
    BACKENDS.into_iter().filter(|name| maker(name).is_some()).collect()
}

/// Backends that are not part of this build.
fn others(compiled: &[&str]) -> String {
    BACKENDS.into_iter().filter(|name| !compiled.contains(name)).collect::<Vec<_>>().join(", ")
}

/// The backend to use when none is asked for.
fn default_backend(compiled: &[&'static str]) -> Option<&'static str> {
    let cards: Vec<_> = compiled.iter().copied().filter(|name| *name != CPU).collect();
    // Vulkan and Metal are wgpu pinned to one interface and bring it along.
    let pinned = cards.iter().any(|name| matches!(*name, "vulkan" | "metal"));
    let cards: Vec<_> = cards.into_iter().filter(|name| !(pinned && *name == "wgpu")).collect();
    match cards.as_slice() {
        [only] => Some(only),
        several if compiled.contains(&CPU) || several.is_empty() => compiled.contains(&CPU).then_some(CPU),
        several => several.first().copied(),
    }
}

/// What makes a backend's first device, if the backend is part of this build.
fn maker(name: &str) -> Option<fn() -> Device> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Some(Device::flex),
        #[cfg(any(feature = "wgpu", feature = "wgpu-software"))]
        "wgpu" => Some(|| Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Some(|| Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        "metal" => Some(|| Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Some(|| Device::cuda(0)),
        #[cfg(feature = "rocm")]
        "rocm" => Some(|| Device::rocm(0)),
        _ => None,
    }
}

/// All cards of a backend that can have several.
fn cards(name: &str) -> Vec<Device> {
    match name {
        #[cfg(feature = "wgpu")]
        "wgpu" => several(burn::tensor::DeviceType::Wgpu),
        #[cfg(feature = "vulkan")]
        "vulkan" => several(burn::tensor::DeviceType::Vulkan),
        #[cfg(feature = "cuda")]
        "cuda" => several(burn::tensor::DeviceType::Cuda),
        #[cfg(feature = "rocm")]
        "rocm" => several(burn::tensor::DeviceType::Rocm),
        _ => Vec::new(),
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
fn several(kind: burn::tensor::DeviceType) -> Vec<Device> {
    Device::enumerate(kind).to_vec()
}

/// Adds two numbers: backends tell of a missing driver or card by panicking at the first use.
fn probe(device: &Device) -> Result<(), String> {
    let silenced = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    // Nothing of ours is left half done by a panic in there, and a device that panicked is not used again.
    let add = panic::AssertUnwindSafe(|| (Tensor::<1>::from_data([1.0f32, 2.0], device) + 1.0).into_data());
    let sum = panic::catch_unwind(add);
    panic::set_hook(silenced);
    match sum {
        Ok(sum) if sum.iter::<f32>().eq([2.0, 3.0]) => Ok(()),
        Ok(sum) => Err(format!("1 + 1 and 2 + 1 gave {:?}", sum.iter::<f32>().collect::<Vec<_>>())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its driver does not answer");
            Err(text.lines().next().unwrap_or_default().to_owned())
        }
    }
}

#[cfg(any(feature = "wgpu", feature = "wgpu-software", feature = "cuda", feature = "rocm"))]
fn card_name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(any(feature = "wgpu", feature = "wgpu-software", feature = "cuda", feature = "rocm")))]
fn card_name(_device: &Device) -> Option<String> {
    None
}

/// The processor as it names itself, where the system tells, and how many threads it runs.
fn cpu_name() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let threads = match threads(1) {
        1 => "1 thread".to_owned(),
        several => format!("{several} threads"),
    };
    format!("{}, {threads}", told.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

/// Threads of the processor for this process, one of `sharers`.
pub fn threads(sharers: usize) -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / sharers).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_card_backend_is_the_default_and_the_cpu_where_there_are_none_or_several() {
        assert_eq!(default_backend(&["flex"]), Some("flex"));
        assert_eq!(default_backend(&["cuda"]), Some("cuda"));
        assert_eq!(default_backend(&["cuda", "flex"]), Some("cuda"));
        assert_eq!(default_backend(&["vulkan", "wgpu"]), Some("vulkan"));
        assert_eq!(default_backend(&["cuda", "wgpu", "flex"]), Some("flex"));
        assert_eq!(default_backend(&["cuda", "wgpu"]), Some("cuda"));
        assert_eq!(default_backend(&[]), None);
    }

    #[cfg(feature = "flex")]
    #[test]
    fn a_device_is_known_by_its_backend() {
        assert!(name(&open(Some("flex")).unwrap()).starts_with("flex ("));
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let error = open(Some("abacus")).unwrap_err();
        assert!(error.to_string().starts_with("there is no backend \"abacus\"; this build has: "), "{error}");
    }
}
