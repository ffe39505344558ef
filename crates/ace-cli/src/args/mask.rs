//! Words of `ace mask`.

use ace_plus::segment::Frame;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Places are pixels from the upper left corner. One click may mean a part or the whole; more clicks, or a box, leave less doubt.

Examples:
  ace mask photo.png --click 320,200 --weights mobile_sam.safetensors
  ace mask photo.png --click 320,200 --click 350,260 --click-out 40,40 -o mask.png --weights mobile_sam.safetensors
  ace mask photo.png --box 100,80,420,390 -o mask.png --weights mobile_sam.safetensors
  ace sample --image photo.png --mask mask.png -p \"make the car red\"";

/// `ace mask`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MaskArgs {
    /// Picture
    #[arg(value_name = "FILE")]
    pub image: PathBuf,
    /// A place on what is meant; may be given several times
    #[arg(long, value_name = "X,Y", value_parser = place, allow_hyphen_values = true)]
    pub click: Vec<[f32; 2]>,
    /// A place that is not part of what is meant; may be given several times
    #[arg(long, value_name = "X,Y", value_parser = place, allow_hyphen_values = true)]
    pub click_out: Vec<[f32; 2]>,
    /// A box around what is meant
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", value_parser = frame, allow_hyphen_values = true)]
    pub frame: Option<Frame>,
    /// MobileSAM, as safetensors under its own names
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Where the mask goes: white is what is meant
    #[arg(short, long, value_name = "FILE", default_value = "mask.png")]
    pub out: PathBuf,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

fn numbers<const N: usize>(text: &str) -> Option<[f32; N]> {
    let numbers: Vec<f32> = text.split(',').map(|number| number.trim().parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

fn place(text: &str) -> Result<[f32; 2], String> {
    numbers(text).ok_or_else(|| "two numbers with a comma between, such as 120,80".to_owned())
}

fn frame(text: &str) -> Result<Frame, String> {
    let [left, top, right, bottom] =
        numbers(text).ok_or_else(|| "left, top, right and bottom, such as 100,80,420,390".to_owned())?;
    Ok(Frame { left, top, right, bottom })
}
