//! The text encoders: T5 and CLIP.

use super::Numbers;
use ace_nn::{clip::ClipConfig, t5::T5Config};

/// Numbers of T5's layers (four projections, a gated feed-forward, two norms each) and of everything else.
pub fn t5_numbers(t5: &T5Config) -> (Numbers, u64) {
    let (d, layers) = (t5.d_model, t5.num_layers);
    let matrices = 4 * d * t5.num_heads * t5.d_kv + 3 * d * t5.d_ff;
    let blocks = Numbers { matrices: (layers * matrices) as u64, vectors: (layers * 2 * d) as u64 };
    (blocks, (t5.vocab_size * d + t5.relative_attention_num_buckets * t5.num_heads + d) as u64)
}

/// Numbers of CLIP's layers (four projections, a feed-forward, two norms each) and of everything else.
pub fn clip_numbers(clip: &ClipConfig) -> (Numbers, u64) {
    let (d, wide, layers) = (clip.hidden_size, clip.intermediate_size, clip.num_layers);
    let (matrices, vectors) = (4 * d * d + 2 * d * wide, 4 * d + wide + d + 4 * d);
    let blocks = Numbers { matrices: (layers * matrices) as u64, vectors: (layers * vectors) as u64 };
    (blocks, ((clip.vocab_size + clip.max_position_embeddings) * d + 2 * d) as u64)
}

/// Operations of T5 on so many tokens.
pub fn t5_operations(t5: &T5Config, tokens: usize) -> f64 {
    let (blocks, _) = t5_numbers(t5);
    let attention = 4.0 * (tokens * tokens * t5.num_heads * t5.d_kv * t5.num_layers) as f64;
    2.0 * tokens as f64 * blocks.matrices as f64 + attention
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;
    use burn::{module::Module, tensor::Device};

    #[test]
    fn the_encoders_have_the_numbers_of_their_networks() {
        let device = Device::default();
        for card in ["tiny", "flux1-fill-dev"].map(|name| Card::builtin(name).unwrap()) {
            let all = |(blocks, others): (Numbers, u64)| blocks.all() + others;
            assert_eq!(all(t5_numbers(&card.t5)), card.t5.init(&device).num_params() as u64);
            assert_eq!(all(clip_numbers(&card.clip)), card.clip.init(&device).num_params() as u64);
        }
    }
}
