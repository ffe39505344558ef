//! The autoencoder in tiles: diffusers' numbers, and no seam in a picture of the miniature.

use crate::support::{self, device, values};
use ace_nn::limit;
use ace_plus::{
    Card,
    canvas::Plane,
    pixels::{self, Tiling, download, upload},
};
use ace_weights::WeightFile;
use std::path::Path;

/// `|ours − theirs| / |theirs|`.
fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let off = square(&mut ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b)));
    (off / square(&mut theirs.iter().map(|value| f64::from(*value)))).sqrt()
}

#[test]
fn tiles_are_those_of_diffusers() {
    let card = Card::load(&support::data("fill")).expect("a folder of diffusers'");
    let vae = WeightFile::open(&support::data("fill").join("vae")).expect("weights");
    let autoencoder = vae.autoencoder(&card.autoencoder, &device()).expect("an autoencoder");
    let file = WeightFile::open(&support::data("").join("tiling.safetensors")).expect("a recording");
    let recorded = |key: &str| file.tensor::<4>(key, None, &device()).expect("a recording");
    let cells: usize = file.metadata().expect("a header")["cells"].parse().expect("a number");
    let tiling = Tiling::new(cells * autoencoder.downscale(), autoencoder.downscale()).expect("large enough");

    let latents =
        values(pixels::encode(&autoencoder, &[&download(recorded("image"))], Some(tiling), &device()).remove(0));
    let off = error(&latents, &values(recorded("latents")));
    assert!(off < 1e-5, "latents are off by {off:e}");
    let decoded = pixels::decode(&autoencoder, &recorded("given"), Some(tiling));
    let off = error(&decoded.data, &values(recorded("decoded")));
    assert!(off < 1e-5, "the picture is off by {off:e}");
    // One tile that holds everything is the whole.
    let large = Tiling::new(4096, autoencoder.downscale()).expect("large enough");
    let whole = values(autoencoder.decode(recorded("given")));
    assert_eq!(pixels::decode(&autoencoder, &recorded("given"), Some(large)).data, whole);
    // A device that takes no larger tensor gets tiles unasked: the same as if they had been asked for.
    let [side, numbers] = [cells * autoencoder.downscale(), autoencoder.numbers_of_a_pixel()];
    let tiled = pixels::decode(&autoencoder, &recorded("given"), Some(tiling)).data;
    let unasked = limit::within(side * side * numbers * size_of::<f32>(), || {
        let image = download(recorded("image"));
        (
            pixels::encode(&autoencoder, &[&image], None, &device()),
            pixels::decode(&autoencoder, &recorded("given"), None),
        )
    });
    assert_eq!(unasked.1.data, tiled);
    let off = error(&values(unasked.0[0].clone()), &values(recorded("latents")));
    assert!(off < 1e-5, "latents are off by {off:e}");
}

/// The mean step between neighbouring columns, over the columns that `is_meant`.
fn steps(plane: &Plane, is_meant: impl Fn(usize) -> bool) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for row in plane.data.chunks(plane.width) {
        for x in (1..plane.width).filter(|x| is_meant(*x)) {
            sum += f64::from((row[x] - row[x - 1]).abs());
            count += 1;
        }
    }
    sum / f64::from(count)
}

#[test]
fn a_tiled_picture_has_no_seam_and_is_close_to_the_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let card = Card::builtin("tiny").expect("a sound card");
    let file = WeightFile::open(&folder.join("autoencoder.safetensors")).expect("shipped");
    let autoencoder = file.autoencoder(&card.autoencoder, &device()).expect("shipped");
    // The shipped scene, nine times as large: nine tiles of 64, with a quarter of overlap.
    let scene = ace_plus::picture::read_rgb(&folder.join("examples/image.png")).expect("shipped");
    let picture = image::imageops::resize(&scene, 192, 192, image::imageops::FilterType::Triangle);
    let plane = Plane::from_rgb(&picture);
    let latents = autoencoder.encode(upload(&plane, &device()));
    let at = |side| pixels::decode(&autoencoder, &latents, Tiling::new(side, autoencoder.downscale()));
    let (tiled, whole) = (at(64), download(autoencoder.decode(latents.clone())));
    let mean = |plane: &Plane| {
        let off = plane.data.iter().zip(&whole.data).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        off / whole.data.len() as f64 * 127.5
    };
    // Each tile has norms of its own: colours drift, as in diffusers. The README says by how much.
    assert!(mean(&tiled) < 12.0, "off by {} of 255 levels on average", mean(&tiled));
    assert!(mean(&at(128)) < 8.0, "off by {} of 255 levels on average", mean(&at(128)));
    // Where tiles meet, neighbouring columns differ as they do in the whole, within a tenth.
    let meets = |x: usize| x.is_multiple_of(48) || x % 48 == 16;
    let (at_seams, without) = (steps(&tiled, meets), steps(&whole, meets));
    assert!(at_seams < 1.1 * without, "steps of {at_seams} at seams, {without} in the whole");
}
