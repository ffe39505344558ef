//! The transformer: its linear layers.

use super::{Numbers, Sequence};
use ace_nn::flux::{FluxConfig, SINUSOID_DIM};

/// One linear layer: its path, and its features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// BFL's name, as `double_blocks.3.img_attn.qkv`.
    pub path: String,
    /// Features in.
    pub input: usize,
    /// Features out.
    pub output: usize,
    /// Which tokens pass through it.
    pub rows: Rows,
}

/// Which tokens pass through a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those of the pictures.
    Image,
    /// Those of the words.
    Text,
    /// All of them.
    Both,
    /// None: one row for the whole example.
    One,
}

impl Layer {
    /// Numbers of its matrix and bias.
    pub fn numbers(&self, has_bias: bool) -> u64 {
        (self.output * (self.input + usize::from(has_bias))) as u64
    }

    /// Rows of one example.
    fn rows(&self, sequence: Sequence) -> usize {
        match self.rows {
            Rows::Image => sequence.image,
            Rows::Text => sequence.text,
            Rows::Both => sequence.all(),
            Rows::One => 1,
        }
    }
}

/// Every linear layer of the transformer, in order.
pub fn layers(flux: &FluxConfig) -> Vec<Layer> {
    let (d, mlp) = (flux.hidden_size, flux.mlp_hidden());
    let layer = |path: String, input, output, rows| Layer { path, input, output, rows };
    let mut layers = vec![layer("img_in".to_owned(), flux.in_channels, d, Rows::Image)];
    let mut embedder = |name: &str, input| {
        layers.push(layer(format!("{name}.in_layer"), input, d, Rows::One));
        layers.push(layer(format!("{name}.out_layer"), d, d, Rows::One));
    };
    embedder("time_in", SINUSOID_DIM);
    embedder("vector_in", flux.vec_in_dim);
    if flux.guidance_embed {
        embedder("guidance_in", SINUSOID_DIM);
    }
    layers.push(layer("txt_in".to_owned(), flux.context_in_dim, d, Rows::Text));
    for block in 0..flux.depth {
        for (stream, rows) in [("img", Rows::Image), ("txt", Rows::Text)] {
            let name = |part: &str| format!("double_blocks.{block}.{stream}_{part}");
            layers.push(layer(name("mod.lin"), d, 6 * d, Rows::One));
            layers.push(layer(name("attn.qkv"), d, 3 * d, rows));
            layers.push(layer(name("attn.proj"), d, d, rows));
            layers.push(layer(name("mlp.0"), d, mlp, rows));
            layers.push(layer(name("mlp.2"), mlp, d, rows));
        }
    }
    for block in 0..flux.depth_single_blocks {
        let name = |part: &str| format!("single_blocks.{block}.{part}");
        layers.push(layer(name("linear1"), d, 3 * d + mlp, Rows::Both));
        layers.push(layer(name("linear2"), d + mlp, d, Rows::Both));
        layers.push(layer(name("modulation.lin"), d, 3 * d, Rows::One));
    }
    layers.push(layer("final_layer.adaLN_modulation.1".to_owned(), d, 2 * d, Rows::One));
    layers.push(layer("final_layer.linear".to_owned(), d, flux.out_channels, Rows::Image));
    layers
}

/// Whether a layer has a bias.
fn has_bias(flux: &FluxConfig, path: &str) -> bool {
    flux.qkv_bias || !path.ends_with("attn.qkv")
}

/// Numbers of the transformer whose paths `wanted` takes.
pub fn numbers(flux: &FluxConfig, wanted: impl Fn(&str) -> bool) -> Numbers {
    let head = 2 * (flux.hidden_size / flux.num_heads) as u64;
    let norms = |kind: &str, blocks: usize, of_each: u64| {
        (0..blocks).filter(|block| wanted(&format!("{kind}.{block}.norm"))).count() as u64 * of_each
    };
    let mut numbers = Numbers {
        matrices: 0,
        vectors: norms("double_blocks", flux.depth, 2 * head) + norms("single_blocks", flux.depth_single_blocks, head),
    };
    for layer in layers(flux).into_iter().filter(|layer| wanted(&layer.path)) {
        numbers.matrices += (layer.input * layer.output) as u64;
        numbers.vectors += if has_bias(flux, &layer.path) { layer.output as u64 } else { 0 };
    }
    numbers
}

/// Numbers of low-rank branches, by each layer's rank.
pub fn branches(flux: &FluxConfig, rank: impl Fn(&str) -> Option<usize>) -> u64 {
    let branch = |layer: Layer| rank(&layer.path).map_or(0, |rank| rank * (layer.input + layer.output));
    layers(flux).into_iter().map(branch).sum::<usize>() as u64
}

/// Multiplications and additions of one example's forward pass: two for each number of a matrix and each row that passes
/// it, and those of the attention's two products.
pub fn forward_operations(flux: &FluxConfig, sequence: Sequence) -> f64 {
    let linear = |layer: Layer| 2.0 * layer.rows(sequence) as f64 * (layer.input * layer.output) as f64;
    let linear: f64 = layers(flux).into_iter().map(linear).sum();
    let attention = 4.0 * (sequence.all() as f64).powi(2) * flux.hidden_size as f64;
    linear + attention * (flux.depth + flux.depth_single_blocks) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;
    use burn::{module::Module, tensor::Device};

    #[test]
    fn numbers_are_those_of_the_network() {
        let config = Card::builtin("tiny").unwrap().flux;
        for qkv_bias in [true, false] {
            let config = FluxConfig { qkv_bias, ..config.clone() };
            let mut network = config.init(&Device::default());
            assert_eq!(numbers(&config, |_| true).all(), network.num_params() as u64);
            let mut found = Vec::new();
            network.for_each_linear(&mut |path, linear| found.push((path.to_owned(), linear.features())));
            let counted: Vec<_> =
                layers(&config).into_iter().map(|layer| (layer.path, [layer.input, layer.output])).collect();
            assert_eq!(counted, found);
        }
    }

    #[test]
    fn the_published_network_has_twelve_billion() {
        let flux = Card::builtin("flux1-fill-dev").unwrap().flux;
        // diffusers counts 11 901 408 320 in FLUX.1-dev; FLUX.1-Fill has 320 columns of 3072 more.
        assert_eq!(numbers(&flux, |_| true).all(), 11_901_408_320 + 320 * 3072);
    }

    #[test]
    fn branches_are_as_large_as_rank_and_layers_say() {
        let flux = Card::builtin("tiny").unwrap().flux;
        let rank = |path: &str| (path == "double_blocks.0.img_attn.qkv").then_some(8);
        assert_eq!(branches(&flux, rank), 8 * (128 + 384));
    }

    #[test]
    fn operations_grow_with_the_square_of_the_tokens_in_attention_alone() {
        let flux = Card::builtin("tiny").unwrap().flux;
        let of = |image, text| forward_operations(&flux, Sequence { image, text });
        // f(2S) − 2·f(S) is what is quadratic, less the rows of one.
        let quadratic = 4.0 * 128.0 * 6.0 * (100.0f64 * 100.0);
        let ones: f64 = layers(&flux)
            .iter()
            .filter(|layer| layer.rows == Rows::One)
            .map(|layer| 2.0 * (layer.input * layer.output) as f64)
            .sum();
        assert!((of(100, 100) - 2.0 * of(50, 50) - 2.0 * quadratic + ones).abs() < 1.0);
    }
}
