//! The two kinds of transformer block: double (text and image keep weights of their own and meet in the attention)
//! and single (one stream, attention and feed-forward side by side).
//!
//! What a layer makes of all tokens of a large picture may be more than a device takes as one tensor (4608 tokens times the 21504
//! features of `linear1` are 396 MB in f32): wide layers then take some tokens at a time, and attention meets them again.

use super::modulation::Modulation;
use crate::{
    attention::{self, Stream},
    layers::RmsNorm,
    lora::Linear,
    rope::Rope,
    segments::Segments,
};
use ace_kernels::{
    gelu_tanh,
    limit::{join, runs},
};
use burn::{module::Module, prelude::*, tensor::assert_shape};
use std::ops::Range;

/// RMS norms of queries and keys, over each head.
#[derive(Module, Debug)]
pub struct QkNorm {
    /// Over queries, `[head]`.
    pub query_norm: RmsNorm,
    /// Over keys, `[head]`.
    pub key_norm: RmsNorm,
}

impl QkNorm {
    fn new(head_dim: usize, device: &Device) -> Self {
        Self { query_norm: RmsNorm::new(head_dim, device), key_norm: RmsNorm::new(head_dim, device) }
    }

    /// What rows of queries, keys and values bring to an attention.
    fn stream(&self, rows: Tensor<3>) -> Stream {
        Stream { rows, query_scale: self.query_norm.scale.val(), key_scale: self.key_norm.scale.val() }
    }

    /// What a stream brings to an attention through `layer`: several streams where its rows are more than one tensor holds.
    /// Examples on one sequence (`packed`) stay together.
    fn streams(&self, layer: &Linear, x: Tensor<3>, packed: bool) -> Vec<Stream> {
        if packed {
            return vec![self.stream(layer.forward(x))];
        }
        let [_, width] = layer.features();
        runs_of_tokens(&x, width).iter().map(|run| self.stream(layer.forward(tokens(&x, run)))).collect()
    }

    fn for_each(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut RmsNorm)) {
        f(&format!("{path}.query_norm"), &mut self.query_norm);
        f(&format!("{path}.key_norm"), &mut self.key_norm);
    }
}

/// Attention of streams over each other, text first; each row is `[q | k | v | rest]`, head-major. What becomes of each stream's
/// rows.
pub(super) fn attend(streams: Vec<Stream>, num_heads: usize, epsilon: f64, rope: &Rope) -> Vec<Tensor<3>> {
    let Some(segments) = rope.segments() else {
        let [cos, sin] = rope.tables(0);
        return attention::apart(streams, None, num_heads, epsilon, cos, sin);
    };
    let all = segments.attend(&streams, |example, streams| {
        let [cos, sin] = rope.tables(example);
        attention::joint(streams, num_heads, epsilon, cos, sin)
    });
    let mut first = 0;
    let of = |stream: &Stream| {
        let len = stream.rows.dims()[1];
        first += len;
        all.clone().narrow(1, first - len, len)
    };
    streams.iter().map(of).collect()
}

/// Runs of tokens for which rows of `width` features are as much as the device takes in one tensor: all tokens, as a rule.
fn runs_of_tokens(x: &Tensor<3>, width: usize) -> Vec<Range<usize>> {
    let [batch, len, _] = x.dims();
    runs(len, batch * width * x.dtype().size(), &x.device())
}

/// Some tokens of a stream.
fn tokens(x: &Tensor<3>, run: &Range<usize>) -> Tensor<3> {
    x.clone().narrow(1, run.start, run.len())
}

/// The attention weights of one stream of a double block.
#[derive(Module, Debug)]
pub struct StreamAttention {
    /// `[3·D, D]`
    pub qkv: Linear,
    /// Over queries and keys.
    pub norm: QkNorm,
    /// `[D, D]`
    pub proj: Linear,
}

/// `out_layer(gelu(in_layer(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[mlp_ratio·D, D]`
    pub in_layer: Linear,
    /// `[D, mlp_ratio·D]`
    pub out_layer: Linear,
}

impl Mlp {
    /// # Shapes
    /// - x, output: `[B, L, D]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [_, hidden] = self.in_layer.features();
        let of = |run: Range<usize>| self.out_layer.forward(gelu_tanh(self.in_layer.forward(tokens(&x, &run))));
        join(runs_of_tokens(&x, hidden).into_iter().map(of).collect(), 1)
    }
}

/// Sizes that a block needs to know.
#[derive(Debug, Clone, Copy)]
pub struct BlockSize {
    /// `D`
    pub hidden_size: usize,
    /// Heads; `D / num_heads` features each.
    pub num_heads: usize,
    /// Width of the feed-forward.
    pub mlp_hidden: usize,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
}

/// Text and image streams with weights of their own and one attention over both.
#[derive(Module, Debug)]
pub struct DoubleBlock {
    /// Image stream: two modulations.
    pub img_mod: Modulation,
    /// Image stream: attention.
    pub img_attn: StreamAttention,
    /// Image stream: feed-forward.
    pub img_mlp: Mlp,
    /// Text stream: two modulations.
    pub txt_mod: Modulation,
    /// Text stream: attention.
    pub txt_attn: StreamAttention,
    /// Text stream: feed-forward.
    pub txt_mlp: Mlp,
    num_heads: usize,
}

impl DoubleBlock {
    /// A block with empty weights.
    pub fn new(size: BlockSize, device: &Device) -> Self {
        let d = size.hidden_size;
        let attn = || StreamAttention {
            qkv: if size.qkv_bias { Linear::new(d, 3 * d, device) } else { Linear::without_bias(d, 3 * d, device) },
            norm: QkNorm::new(d / size.num_heads, device),
            proj: Linear::new(d, d, device),
        };
        let mlp = || Mlp {
            in_layer: Linear::new(d, size.mlp_hidden, device),
            out_layer: Linear::new(size.mlp_hidden, d, device),
        };
        Self {
            img_mod: Modulation::new(d, 2, device),
            img_attn: attn(),
            img_mlp: mlp(),
            txt_mod: Modulation::new(d, 2, device),
            txt_attn: attn(),
            txt_mlp: mlp(),
            num_heads: size.num_heads,
        }
    }

    /// # Shapes
    /// - img: `[B, L, D]`, txt: `[B, T, D]`, vec: `[B, D]`; `rope` covers text first, then image
    /// - of N packed examples: img `[1, ΣL, D]`, txt `[1, ΣT, D]`, vec `[N, D]`
    /// - output: `(img, txt)` as given
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn forward(&self, img: Tensor<3>, txt: Tensor<3>, vec: Tensor<2>, rope: &Rope) -> (Tensor<3>, Tensor<3>) {
        self.through(img, txt, vec, rope, |streams, num_heads, epsilon| attend(streams, num_heads, epsilon, rope))
    }

    /// [`DoubleBlock::forward`] with an attention of the caller's, which is given streams (of text, then of image), heads and the
    /// norms' epsilon, and answers for each stream.
    pub(super) fn through(
        &self,
        img: Tensor<3>,
        txt: Tensor<3>,
        vec: Tensor<2>,
        rope: &Rope,
        attend: impl FnOnce(Vec<Stream>, usize, f64) -> Vec<Tensor<3>>,
    ) -> (Tensor<3>, Tensor<3>) {
        let ([batch, ..], [hidden_size, _]) = (img.dims(), self.img_attn.proj.features());
        assert_shape!(img, [batch, _, hidden_size]);
        assert_shape!(txt, [batch, _, hidden_size]);
        let batch = rope.examples(batch);
        assert_shape!(vec, [batch, hidden_size]);
        let [image, text] = [rope.segments().map(Segments::image), rope.segments().map(Segments::text)];
        let [img_attn_mod, img_mlp_mod] = self.img_mod.forward::<2>(vec.clone()).map(|shift| shift.over(image));
        let [txt_attn_mod, txt_mlp_mod] = self.txt_mod.forward::<2>(vec).map(|shift| shift.over(text));
        let packed = rope.segments().is_some();
        let streams = |attn: &StreamAttention, normed| attn.norm.streams(&attn.qkv, normed, packed);
        let mut both = streams(&self.txt_attn, txt_attn_mod.modulate(txt.clone()));
        let texts = both.len();
        both.extend(streams(&self.img_attn, img_attn_mod.modulate(img.clone())));
        let mut attended = attend(both, self.num_heads, self.img_attn.norm.query_norm.epsilon());
        let img_attended = attended.split_off(texts);
        let proj = |attn: &StreamAttention, parts: Vec<Tensor<3>>| {
            join(parts.into_iter().map(|part| attn.proj.forward(part)).collect(), 1)
        };

        let img = img_attn_mod.add(img, proj(&self.img_attn, img_attended));
        let img = img_mlp_mod.add(img.clone(), self.img_mlp.forward(img_mlp_mod.modulate(img)));
        let txt = txt_attn_mod.add(txt, proj(&self.txt_attn, attended));
        let txt = txt_mlp_mod.add(txt.clone(), self.txt_mlp.forward(txt_mlp_mod.modulate(txt)));
        (img, txt)
    }

    /// Calls `f` with the path and each linear layer of the block.
    pub fn for_each_linear(&mut self, f: &mut dyn FnMut(&str, &mut Linear)) {
        f("img_mod.lin", &mut self.img_mod.lin);
        f("img_attn.qkv", &mut self.img_attn.qkv);
        f("img_attn.proj", &mut self.img_attn.proj);
        f("img_mlp.0", &mut self.img_mlp.in_layer);
        f("img_mlp.2", &mut self.img_mlp.out_layer);
        f("txt_mod.lin", &mut self.txt_mod.lin);
        f("txt_attn.qkv", &mut self.txt_attn.qkv);
        f("txt_attn.proj", &mut self.txt_attn.proj);
        f("txt_mlp.0", &mut self.txt_mlp.in_layer);
        f("txt_mlp.2", &mut self.txt_mlp.out_layer);
    }

    /// Calls `f` with the path and each norm of queries or keys of the block.
    pub fn for_each_norm(&mut self, f: &mut dyn FnMut(&str, &mut RmsNorm)) {
        self.img_attn.norm.for_each("img_attn.norm", f);
        self.txt_attn.norm.for_each("txt_attn.norm", f);
    }
}

/// One stream; attention and feed-forward run side by side on the same normed input.
#[derive(Module, Debug)]
pub struct SingleBlock {
    /// One modulation.
    pub modulation: Modulation,
    /// `[3·D + mlp, D]`: queries, keys, values, then the feed-forward's input.
    pub linear1: Linear,
    /// `[D, D + mlp]`: what attention gave, then what the feed-forward gave.
    pub linear2: Linear,
    /// Over queries and keys.
    pub norm: QkNorm,
    num_heads: usize,
    hidden_size: usize,
}

impl SingleBlock {
    /// A block with empty weights.
    pub fn new(size: BlockSize, device: &Device) -> Self {
        let d = size.hidden_size;
        Self {
            modulation: Modulation::new(d, 1, device),
            linear1: Linear::new(d, 3 * d + size.mlp_hidden, device),
            linear2: Linear::new(d + size.mlp_hidden, d, device),
            norm: QkNorm::new(d / size.num_heads, device),
            num_heads: size.num_heads,
            hidden_size: d,
        }
    }

    /// # Shapes
    /// - x, output: `[B, T + L, D]`, text first; vec: `[B, D]`; `rope` covers all of `x`
    /// - of N packed examples: x `[1, ΣT + ΣL, D]`, all texts first; vec `[N, D]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn forward(&self, x: Tensor<3>, vec: Tensor<2>, rope: &Rope) -> Tensor<3> {
        self.through(x, vec, rope, |streams, num_heads, epsilon| attend(streams, num_heads, epsilon, rope))
    }

    /// [`SingleBlock::forward`] with an attention of the caller's, which is given the one stream (or its parts), heads and the
    /// norms' epsilon, and answers for each.
    pub(super) fn through(
        &self,
        x: Tensor<3>,
        vec: Tensor<2>,
        rope: &Rope,
        attend: impl FnOnce(Vec<Stream>, usize, f64) -> Vec<Tensor<3>>,
    ) -> Tensor<3> {
        let ([batch, ..], hidden_size) = (x.dims(), self.hidden_size);
        assert_shape!(x, [batch, _, hidden_size]);
        let batch = rope.examples(batch);
        assert_shape!(vec, [batch, hidden_size]);
        let both = rope.segments().map(Segments::both);
        let [modulation] = self.modulation.forward::<1>(vec).map(|shift| shift.over(both));
        // The feed-forward's input follows queries, keys and values, and comes out behind the joined heads.
        let streams = self.norm.streams(&self.linear1, modulation.modulate(x.clone()), both.is_some());
        let attended = attend(streams, self.num_heads, self.norm.query_norm.epsilon());
        let parts = attended.into_iter().map(|part| self.linear2.forward(part)).collect();
        modulation.add(x, join(parts, 1))
    }

    /// Calls `f` with the path and each linear layer of the block.
    pub fn for_each_linear(&mut self, f: &mut dyn FnMut(&str, &mut Linear)) {
        f("linear1", &mut self.linear1);
        f("linear2", &mut self.linear2);
        f("modulation.lin", &mut self.modulation.lin);
    }

    /// Calls `f` with the path and each norm of queries or keys of the block.
    pub fn for_each_norm(&mut self, f: &mut dyn FnMut(&str, &mut RmsNorm)) {
        self.norm.for_each("norm", f);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        flux::{Flux, FluxInput},
        lora::Linears,
        testing::{device, flux, flux_input, relative_error, values},
        weight::Weight,
    };
    use ace_kernels::limit::within;
    use burn::{
        module::{Module, ModuleMapper, Param},
        prelude::*,
        tensor::DType,
    };

    #[test]
    fn tokens_taken_some_at_a_time_become_what_all_of_them_do() {
        let flux = flux(&device());
        let input = flux_input(&flux, &device());
        let whole = values(flux.forward(input.clone()));
        // A single block's rows are 224 numbers wide, and there are two of every token.
        for tokens in [1, 2, 4, 10] {
            let parts = within(tokens * 2 * 224 * size_of::<f32>(), || flux.forward(input.clone()));
            let error = relative_error(&values(parts), &whole);
            assert!(error <= 1e-6, "{tokens} tokens at a time: {error:e}");
        }
    }

    /// The same network in f16.
    fn narrowed(flux: &Flux) -> Flux {
        struct Narrow;
        impl ModuleMapper for Narrow {
            fn map_float<const N: usize>(&mut self, param: Param<Tensor<N>>) -> Param<Tensor<N>> {
                param.map(|value| value.cast(DType::F16))
            }
        }
        flux.clone().map(&mut Narrow)
    }

    fn in_halves(input: FluxInput) -> FluxInput {
        FluxInput {
            tokens: input.tokens.cast(DType::F16),
            prompt_embeds: input.prompt_embeds.cast(DType::F16),
            pooled_prompt_embeds: input.pooled_prompt_embeds.cast(DType::F16),
            ..input
        }
    }

    #[test]
    fn sixteen_bits_answer_as_thirty_two_up_to_their_rounding_even_where_the_stream_is_larger_than_they_hold() {
        let mut whole = flux(&device());
        for larger in [1.0, 3e4] {
            // What a block adds is projected by a matrix as large as this; in the end a norm takes it away.
            for block in &mut whole.single_blocks {
                block.linear2.shift_bias(Tensor::full([32], larger, &device()));
            }
            let (halves, input) = (narrowed(&whole), flux_input(&whole, &device()));
            let ours = halves.forward(in_halves(input.clone()));
            assert_eq!(ours.dtype(), DType::F16);
            let error = relative_error(&values(ours), &values(whole.forward(input)));
            assert!(error <= 5e-3, "{larger}: {error:e}");
        }
    }

    #[test]
    #[should_panic(expected = "single block 1 makes a number that f16 does not hold")]
    fn the_first_block_whose_numbers_are_too_large_is_named() {
        let mut flux = flux(&device());
        let input = in_halves(flux_input(&flux, &device()));
        flux.single_blocks[1].linear2.shift_bias(Tensor::full([32], 1e6, &device()));
        narrowed(&flux).forward(input);
    }

    #[test]
    fn a_network_of_split_matrices_answers_as_the_whole_one() {
        let whole = flux(&device());
        let mut split = whole.clone();
        let mut parts = 0;
        split.each_weight(&mut |weight| {
            let rows = weight.val().split(9, 0);
            parts += rows.len();
            *weight = Weight::Split(rows);
        });
        assert!(parts > 200, "{parts} parts");
        let input = flux_input(&whole, &device());
        let error = relative_error(&values(split.forward(input.clone())), &values(whole.forward(input)));
        assert!(error <= 1e-6, "{error:e}");
    }
}
