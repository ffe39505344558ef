//! `ace convert`: a network's weights, or a LoRA, in another spelling or precision.

use crate::{args::ConvertArgs, interrupted, progress::Progress, report};
use ace_plus::Card;
use ace_weights::convert::{self, Content, Format, Options};
use burn::tensor::Device;
use std::process::ExitCode;

/// Bytes in a unit that people read.
const MEGABYTE: u64 = 1_000_000;

/// Converts one file or folder.
///
/// # Errors
/// If it cannot be converted, or Ctrl-C stops it; then nothing was written.
pub fn run(args: &ConvertArgs) -> anyhow::Result<ExitCode> {
    let options = Options {
        format: args.format,
        precision: args.dtype,
        network: args.network,
        card: args.card.as_deref().map(Card::find).transpose()?.map(|card| card.described()),
        shard_size: args.shard_size * MEGABYTE,
        force: args.force,
    };
    crate::listen_to_interrupts("stopping; nothing will be written");
    let mut progress = None;
    let report = convert::convert(&args.input, &args.output, &options, &Device::default(), &mut |done, total| {
        progress.get_or_insert_with(|| Progress::new("MB", 0, total / MEGABYTE)).at(done / MEGABYTE, "");
        !interrupted()
    })?;
    drop(progress);
    let format = Format::ALL.iter().find(|(_, format)| *format == report.format).map_or("", |(name, _)| name);
    let kind = if report.content == Content::Tensors { String::new() } else { format!(" as {format}") };
    let content = match report.content {
        Content::Network(network) => network.title().to_owned(),
        Content::Lora(dialect) => format!("LoRA ({})", dialect.name()),
        Content::Tensors => "what torch saved".to_owned(),
    };
    if let [first, ..] = &report.skipped[..] {
        report::note(&format!("left out what is for the text encoders: {first}, {} keys in all", report.skipped.len()));
    }
    let files: Vec<_> = report.files.iter().map(|file| file.display().to_string()).collect();
    report::print(&format!(
        "{content}{kind}: {} tensors, {} → {}",
        report.tensors,
        report::bytes(report.bytes),
        files.join(", ")
    ));
    Ok(ExitCode::SUCCESS)
}
