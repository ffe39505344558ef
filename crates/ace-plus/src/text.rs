//! From the user's words to what the transformer reads: T5's sequence and CLIP's summary.

use crate::{
    Error, Result,
    card::Card,
    tokenizer::{ClipTokenizer, T5Tokenizer, clean},
};
use ace_nn::{
    clip::Clip,
    poll::{Poll, to_the_end},
    t5::T5,
};
use ace_weights::Source;
use burn::prelude::*;
use std::{ops::ControlFlow, path::Path};

/// The wrong `eos_token_id` of old CLIP configurations; for them transformers takes the largest id as the end.
const LEGACY_END: i64 = 2;

/// The two tokenizers of a card.
#[derive(Debug)]
pub struct Tokenizers {
    t5: T5Tokenizer,
    clip: ClipTokenizer,
    t5_max_length: usize,
    clip_max_length: usize,
    clean: bool,
    clip_end_id: i64,
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

impl TextConditioning {
    /// Several, one after the other in a batch.
    pub fn batch(all: Vec<Self>) -> Self {
        let (sequences, pooled) = all.into_iter().map(|text| (text.prompt_embeds, text.pooled_prompt_embeds)).unzip();
        let (sequences, pooled): (Vec<_>, Vec<_>) = (sequences, pooled);
        Self { prompt_embeds: Tensor::cat(sequences, 0), pooled_prompt_embeds: Tensor::cat(pooled, 0) }
    }
}

impl Tokenizers {
    /// Reads a card's tokenizers from where they are: T5's file, CLIP's folder.
    ///
    /// # Errors
    /// If a file is missing or no tokenizer, or has ids that the card's encoders do not have.
    pub fn read(card: &Card, t5: &Source, clip: &Source) -> Result<Self> {
        let (t5_path, clip_path) = (t5.path(), clip.path());
        let t5 = T5Tokenizer::read(t5, &card.text.placeholders)?;
        let clip = ClipTokenizer::read(clip)?;
        check_rows(t5_path, t5.vocab_size(), "T5", card.t5.vocab_size)?;
        check_rows(clip_path, clip.vocab_size(), "CLIP", card.clip.vocab_size)?;
        let clip_end_id = card.text.clip_end_id.unwrap_or(clip.end_id());
        Ok(Self {
            t5: match card.text.prepend {
                Some(prepend) => t5.prepending(prepend),
                None => t5,
            },
            clip,
            t5_max_length: card.text.t5_max_length,
            clip_max_length: card.text.clip_max_length.unwrap_or(usize::MAX).min(card.clip.max_position_embeddings),
            clean: card.text.clean,
            clip_end_id,
        })
    }

    /// The ids of an instruction, cleaned of stray blanks if the card says so.
    pub fn ids(&self, instruction: &str) -> TokenIds {
        let text = if self.clean { clean(instruction) } else { instruction.to_owned() };
        let clip = self.clip.encode(&text, self.clip_max_length);
        let end = match self.clip_end_id {
            LEGACY_END => clip.iter().copied().max().unwrap_or_default(),
            id => id,
        };
        // transformers takes the first token if there is no such id.
        let clip_end = clip.iter().position(|id| *id == end).unwrap_or(0);
        TokenIds { t5: self.t5.encode(&text, self.t5_max_length), clip, clip_end }
    }
}

/// Refuses ids for which an encoder has no row.
fn check_rows(path: &Path, ids: usize, encoder: &str, rows: usize) -> Result<()> {
    if ids <= rows {
        return Ok(());
    }
    let reason = format!("its largest id is {}, the {encoder} of the card knows {rows}", ids - 1);
    Err(Error::format(path, reason, "tokenizer and encoder are of two models"))
}

/// Encodes a batch of instructions.
pub fn encode(t5: &T5, clip: &Clip, batch: &[TokenIds], device: &Device) -> TextConditioning {
    to_the_end(|poll| encode_polled(t5, clip, batch, device, poll))
}

/// As [`encode`]; breaks off where `poll` does.
pub fn encode_polled(
    t5: &T5,
    clip: &Clip,
    batch: &[TokenIds],
    device: &Device,
    poll: Poll<'_>,
) -> ControlFlow<(), TextConditioning> {
    ControlFlow::Continue(TextConditioning {
        prompt_embeds: sequence_polled(t5, batch, device, poll)?,
        pooled_prompt_embeds: summary_polled(clip, batch, device, poll)?,
    })
}

/// CLIP's summaries alone, `[B, hidden_size]`; breaks off where `poll` does.
pub fn summary_polled(clip: &Clip, batch: &[TokenIds], device: &Device, poll: Poll<'_>) -> ControlFlow<(), Tensor<2>> {
    let ends: Vec<usize> = batch.iter().map(|one| one.clip_end).collect();
    clip.forward_polled(upload(batch, |one| &one.clip, device), &ends, poll)
}

/// T5's sequences alone, `[B, T, d_model]`; breaks off where `poll` does.
pub fn sequence_polled(t5: &T5, batch: &[TokenIds], device: &Device, poll: Poll<'_>) -> ControlFlow<(), Tensor<3>> {
    t5.forward_polled(upload(batch, |one| &one.t5, device), poll)
}

/// Ids on the device, `[B, T]`.
fn upload(batch: &[TokenIds], ids: fn(&TokenIds) -> &Vec<i64>, device: &Device) -> Tensor<2, Int> {
    let len = batch.first().map_or(0, |first| ids(first).len());
    let flat: Vec<i32> = batch.iter().flat_map(|one| ids(one).iter().map(|id| *id as i32)).collect();
    Tensor::from_data(TensorData::new(flat, [batch.len(), len]), device)
}
