//! MobileSAM's parts.

use super::{Findings, recording::Recording};
use ace_nn::sam::{MaskDecoder, PromptEncoder, Role, SamConfig, TinyVit};
use ace_weights::network::sam::SAM;
use anyhow::Result;
use burn::{module::Module, prelude::*};

/// What makes masks of an embedding, under the names that it has in the whole.
#[derive(Module, Debug)]
struct Small {
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
}

fn config(recording: &Recording) -> Result<SamConfig> {
    Ok(serde_json::from_value(recording.config()?)?)
}

/// What looks at the picture.
pub fn encoder(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let SamConfig { encoder, decoder, .. } = config(recording)?;
    let vit: TinyVit = recording.weights(encoder.init(decoder.transformer_dim, device), &SAM, device)?;
    let embedding = vit.forward(recording.tensor("input.image")?);
    Ok(vec![("embedding".into(), recording.error("output.embedding", embedding)?)])
}

/// What makes masks, for every kind of prompt.
pub fn decoder(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config = config(recording)?;
    let width = config.decoder.transformer_dim;
    let small = Small {
        prompt_encoder: PromptEncoder::new(width, config.mask_in_chans, config.encoder.img_size, device),
        mask_decoder: config.decoder.init(device),
    };
    let Small { prompt_encoder, mask_decoder } = recording.weights(small, &SAM, device)?;
    let embedding = recording.tensor::<4>("input.embedding")?;
    let (points, corners) = (recording.tensor::<2>("input.points")?, recording.tensor::<2>("input.box")?);
    let mask = recording.tensor::<4>("input.mask")?;
    let grid = config.grid();
    let positions = prompt_encoder.grid(grid, grid);
    let mut findings = vec![("positions".into(), recording.error("output.positions", positions.clone())?)];

    let nowhere = Tensor::zeros([1, 2], device);
    let clicks = Tensor::cat(vec![points.clone(), nowhere], 0);
    let both = Tensor::cat(vec![points, corners.clone()], 0);
    let boxed = [Role::TopLeft, Role::BottomRight];
    let clicked = [Role::In, Role::Out, Role::Nothing];
    let cases = [
        ("clicks", clicks.clone(), clicked.to_vec(), None),
        ("box", corners, boxed.to_vec(), None),
        ("both", both, [&clicked[..2], &boxed].concat(), None),
        ("mask", clicks, clicked.to_vec(), Some(mask)),
    ];
    for (name, places, roles, mask) in cases {
        let tokens = prompt_encoder.forward(places, &roles);
        let added = mask.map_or_else(|| prompt_encoder.no_mask(), |mask| prompt_encoder.mask(mask));
        let masks = mask_decoder.forward(embedding.clone() + added, positions.clone(), tokens.clone());
        for (what, error) in [
            ("tokens", recording.error(&format!("output.{name}_tokens"), tokens)?),
            ("masks", recording.error(&format!("output.{name}_masks"), masks.logits)?),
            ("scores", recording.error(&format!("output.{name}_scores"), masks.scores)?),
        ] {
            findings.push((format!("{name}, {what}"), error));
        }
    }
    Ok(findings)
}
