//! Operations of MobileSAM: products and sums of its matrices and convolutions, norms and activations left out.

use ace_nn::sam::{SamConfig, TinyVitConfig};

/// How much wider a block is inside.
const EXPANSION: f64 = 4.0;
/// What clicks bring to the decoder beside its own five tokens: one click, and what says that there is no box.
const TOKENS: f64 = 7.0;

/// A convolution of 1×1 and one of 3×3 over each channel alone, on so many cells.
fn pointwise(input: f64, output: f64, cells: f64) -> f64 {
    2.0 * input * output * cells
}

fn depthwise(channels: f64, cells: f64) -> f64 {
    2.0 * 9.0 * channels * cells
}

/// Of a look at a picture, to `width` features.
pub fn encoder(config: &TinyVitConfig, width: usize) -> f64 {
    let TinyVitConfig { img_size, embed_dims, depths, window_sizes, strides, .. } = config;
    let first = embed_dims[0] as f64;
    let (half, mut side) = (img_size.div_ceil(2), img_size.div_ceil(4));
    let square = |side: usize| (side * side) as f64;
    let mut sum = 9.0 * (pointwise(3.0, first / 2.0, square(half)) + pointwise(first / 2.0, first, square(side)));
    for (index, (dim, depth)) in embed_dims.iter().zip(depths).enumerate() {
        let (dim, depth, cells) = (*dim as f64, *depth as f64, square(side));
        let wide = 2.0 * pointwise(dim, EXPANSION * dim, cells);
        sum += depth
            * if index == 0 {
                wide + depthwise(EXPANSION * dim, cells)
            } else {
                let window = window_sizes[index];
                let (padded, seen) = (square(side.div_ceil(window) * window), square(window));
                pointwise(dim, 4.0 * dim, padded) + 2.0 * pointwise(dim, seen, padded) + wide + depthwise(dim, cells)
            };
        if let (Some(next), Some(stride)) = (embed_dims.get(index + 1), strides.get(index)) {
            let next = *next as f64;
            sum += pointwise(dim, next, cells);
            side = side.div_ceil(*stride);
            sum += depthwise(next, square(side)) + pointwise(next, next, square(side));
        }
    }
    let (last, width) = (embed_dims[embed_dims.len() - 1] as f64, width as f64);
    sum + pointwise(last, width, square(side)) + 9.0 * pointwise(width, width, square(side))
}

/// Of the answer to one click.
pub fn decoder(config: &SamConfig) -> f64 {
    let (width, cells) = (config.decoder.transformer_dim as f64, (config.grid() * config.grid()) as f64);
    let inside = width / 2.0;
    // Queries or answers of the tokens are few; those of the cells are not.
    let cross = 2.0 * pointwise(width, inside, cells + TOKENS) + 2.0 * pointwise(TOKENS, inside, cells);
    let own = 4.0 * pointwise(width, width, TOKENS) + 2.0 * pointwise(width, config.decoder.mlp_dim as f64, TOKENS);
    let transformer = config.decoder.depth as f64 * (own + 2.0 * cross) + cross;
    let up = pointwise(width, width, cells) + pointwise(width / 4.0, width / 2.0, 4.0 * cells);
    transformer + up + pointwise(width / 8.0, 4.0, 16.0 * cells)
}

#[cfg(test)]
mod tests {
    use super::{decoder, encoder};
    use ace_nn::sam::{SamConfig, TinyVitConfig};

    #[test]
    fn one_convolution_is_counted_as_it_is_computed() {
        // A network of one stage without blocks: two convolutions of 3×3 and the neck, at 8, 4 and 4 cells.
        let config = TinyVitConfig {
            img_size: 16,
            embed_dims: vec![4],
            depths: vec![0],
            num_heads: vec![1],
            window_sizes: vec![1],
            strides: vec![],
        };
        let expected = 2 * 9 * (3 * 2 * 64 + 2 * 4 * 16) + 2 * 4 * 8 * 16 + 2 * 9 * 8 * 8 * 16;
        assert_eq!(encoder(&config, 8), f64::from(expected));
    }

    #[test]
    fn a_click_takes_a_small_part_of_a_look() {
        let config = SamConfig::mobile();
        let (look, click) = (encoder(&config.encoder, 256), decoder(&config));
        assert!(click * 10.0 < look, "{click:e} beside {look:e}");
    }
}
