//! From the user's words to what the transformer reads: T5's sequence and CLIP's summary.

use crate::{
    Result,
    card::Card,
    tokenizer::{ClipTokenizer, T5Tokenizer, clean},
};
use ace_nn::{clip::Clip, t5::T5};
use burn::prelude::*;
use std::path::Path;

/// The two tokenizers of a card.
#[derive(Debug)]
pub struct Tokenizers {
    t5: T5Tokenizer,
    clip: ClipTokenizer,
    t5_max_length: usize,
    clip_max_length: usize,
}

/// An instruction as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenIds {
    /// For T5: padded to the card's length.
    pub t5: Vec<i64>,
    /// For CLIP: padded to its positions.
    pub clip: Vec<i64>,
    /// Where CLIP's text ends: the first end-of-text token.
    pub clip_end: usize,
}

/// What the transformer reads of an instruction.
#[derive(Debug, Clone)]
pub struct TextConditioning {
    /// T5's last hidden state, `[B, T, d_model]`.
    pub prompt_embeds: Tensor<3>,
    /// CLIP's pooled state, `[B, hidden_size]`.
    pub pooled_prompt_embeds: Tensor<2>,
}

impl Tokenizers {
    /// Reads the tokenizers that a card names, relative to the folder of its weights.
    ///
    /// # Errors
    /// If a file is missing or no tokenizer.
    pub fn load(card: &Card, folder: &Path) -> Result<Self> {
        let t5 = T5Tokenizer::from_file(&folder.join(&card.text.t5_tokenizer), &card.text.placeholders)?;
        Ok(Self {
            t5: t5.prepending(card.text.prepend),
            clip: ClipTokenizer::from_dir(&folder.join(&card.text.clip_tokenizer))?,
            t5_max_length: card.text.t5_max_length,
            clip_max_length: card.clip.max_position_embeddings,
        })
    }

    /// The ids of an instruction, cleaned of stray blanks.
    pub fn ids(&self, instruction: &str) -> TokenIds {
        let text = clean(instruction);
        let clip = self.clip.encode(&text, self.clip_max_length);
        let clip_end = clip.iter().position(|id| *id == self.clip.end_id()).unwrap_or(clip.len() - 1);
        TokenIds { t5: self.t5.encode(&text, self.t5_max_length), clip, clip_end }
    }
}

/// Encodes a batch of instructions.
pub fn encode(t5: &T5, clip: &Clip, batch: &[TokenIds], device: &Device) -> TextConditioning {
    let upload = |ids: fn(&TokenIds) -> &Vec<i64>| {
        let len = batch.first().map_or(0, |first| ids(first).len());
        let flat: Vec<i32> = batch.iter().flat_map(|one| ids(one).iter().map(|id| *id as i32)).collect();
        Tensor::<2, Int>::from_data(TensorData::new(flat, [batch.len(), len]), device)
    };
    let ends: Vec<usize> = batch.iter().map(|one| one.clip_end).collect();
    TextConditioning {
        prompt_embeds: t5.forward(upload(|one| &one.t5)),
        pooled_prompt_embeds: clip.forward(upload(|one| &one.clip), &ends),
    }
}
