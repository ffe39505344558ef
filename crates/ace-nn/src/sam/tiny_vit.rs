//! TinyViT as MobileSAM has it: a stage of convolutions, three of attention within windows, and a neck.

use super::layers::{ConvNorm, Kernel, PixelNorm};
use crate::{
    attention,
    layers::{LayerNorm, empty},
    lora::Linear,
};
use ace_kernels::gelu;
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::assert_shape,
};
use serde::{Deserialize, Serialize};

/// What the norms of a block add to a variance.
const EPSILON: f64 = 1e-5;
/// How much wider a block is inside, in convolutions and in feed-forwards.
const EXPANSION: usize = 4;

/// Sizes of a [`TinyVit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TinyVitConfig {
    /// Pixels along a side of the picture.
    pub img_size: usize,
    /// Widths of the stages; the first one convolves.
    pub embed_dims: Vec<usize>,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Heads in each stage; the first one has none that are used.
    pub num_heads: Vec<usize>,
    /// Cells along a side of a window in each stage; as with the heads.
    pub window_sizes: Vec<usize>,
    /// Cells of a stage along a side for one of the next, between each two stages.
    pub strides: Vec<usize>,
}

impl TinyVitConfig {
    /// TinyViT-5M on 1024² pixels, 64² cells from the third stage on.
    pub fn mobile() -> Self {
        Self {
            img_size: 1024,
            embed_dims: vec![64, 128, 160, 320],
            depths: vec![2, 2, 6, 2],
            num_heads: vec![2, 4, 5, 10],
            window_sizes: vec![7, 7, 14, 7],
            strides: vec![2, 2, 1],
        }
    }

    /// Cells along a side of the embedding.
    pub fn grid(&self) -> usize {
        self.strides.iter().fold(self.img_size.div_ceil(4), |side, stride| side.div_ceil(*stride))
    }

    /// An encoder with empty weights, to embeddings of `width` features.
    ///
    /// # Panics
    /// If the lists are not of one length, or a width is not a multiple of its heads.
    pub fn init(&self, width: usize, device: &Device) -> TinyVit {
        let Self { embed_dims, depths, num_heads, window_sizes, strides, .. } = self;
        let stages = embed_dims.len();
        let lengths = [depths.len(), num_heads.len(), window_sizes.len(), strides.len() + 1];
        assert!(lengths.into_iter().all(|length| length == stages), "lists of {lengths:?} for {stages} stages");
        let first = embed_dims[0];
        let stage = |index: usize| {
            let dim = embed_dims[index];
            let (convolutions, blocks) = if index == 0 { (depths[0], 0) } else { (0, depths[index]) };
            let attend = |_| Attend::new(dim, num_heads[index], window_sizes[index], device);
            let next = (index + 1 < stages).then(|| [dim, embed_dims[index + 1]]);
            Stage {
                convolutions: (0..convolutions).map(|_| Convolve::new(dim, device)).collect(),
                blocks: (0..blocks).map(attend).collect(),
                downsample: next.map(|widths| Downsample::new(widths, strides[index], device)),
            }
        };
        TinyVit {
            patch_embed: PatchEmbed {
                conv1: ConvNorm::new([3, first / 2], 3, 2, device),
                conv2: ConvNorm::new([first / 2, first], 3, 2, device),
            },
            layers: (0..stages).map(stage).collect(),
            neck: Neck {
                conv1: Kernel::new([width, embed_dims[stages - 1], 1, 1], device),
                norm1: PixelNorm::new(width, device),
                conv2: Kernel::new([width, width, 3, 3], device),
                norm2: PixelNorm::new(width, device),
            },
        }
    }
}

/// Pixels to a quarter of their size.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// Half the size.
    pub conv1: ConvNorm,
    /// And half again.
    pub conv2: ConvNorm,
}

/// A block of convolutions: wide, over each channel alone, narrow again, on top of what came.
#[derive(Module, Debug)]
pub struct Convolve {
    /// 1×1, to four times the width.
    pub conv1: ConvNorm,
    /// 3×3 over each channel alone.
    pub conv2: ConvNorm,
    /// 1×1, back.
    pub conv3: ConvNorm,
}

impl Convolve {
    /// A block with empty weights.
    pub fn new(dim: usize, device: &Device) -> Self {
        let wide = EXPANSION * dim;
        Self {
            conv1: ConvNorm::new([dim, wide], 1, 1, device),
            conv2: ConvNorm::depthwise(wide, 1, device),
            conv3: ConvNorm::new([wide, dim], 1, 1, device),
        }
    }

    /// # Shapes
    /// - x, output: `[B, dim, H, W]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let wide = gelu(self.conv1.forward(x.clone(), None));
        let wide = gelu(self.conv2.forward(wide, None));
        gelu(self.conv3.forward(wide, Some(x)))
    }
}

/// To another width, and mostly half the size.
#[derive(Module, Debug)]
pub struct Downsample {
    /// 1×1, to the new width.
    pub conv1: ConvNorm,
    /// 3×3 over each channel alone, with the stride.
    pub conv2: ConvNorm,
    /// 1×1.
    pub conv3: ConvNorm,
}

impl Downsample {
    /// One with empty weights.
    pub fn new([input, output]: [usize; 2], stride: usize, device: &Device) -> Self {
        Self {
            conv1: ConvNorm::new([input, output], 1, 1, device),
            conv2: ConvNorm::depthwise(output, stride, device),
            conv3: ConvNorm::new([output, output], 1, 1, device),
        }
    }

    /// # Shapes
    /// - x: `[B, in, H, W]`; output: `[B, out, ⌈H / stride⌉, ⌈W / stride⌉]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = gelu(self.conv1.forward(x, None));
        self.conv3.forward(gelu(self.conv2.forward(x, None)), None)
    }
}

/// Attention among the cells of a window, with a bias for every distance.
#[derive(Module, Debug)]
pub struct WindowAttention {
    /// Before all else.
    pub norm: LayerNorm,
    /// `[3·dim, dim]`, head after head its query, key and value.
    pub qkv: Linear,
    /// `[dim, dim]`
    pub proj: Linear,
    /// `[heads, window²]`: one for every pair of distances down and across.
    pub attention_biases: Param<Tensor<2>>,
    window: usize,
}

impl WindowAttention {
    fn new(dim: usize, heads: usize, window: usize, device: &Device) -> Self {
        assert!(dim.is_multiple_of(heads), "{dim} features are not a multiple of {heads} heads");
        Self {
            norm: LayerNorm::new(dim, EPSILON, device),
            qkv: Linear::new(dim, 3 * dim, device),
            proj: Linear::new(dim, dim, device),
            attention_biases: empty([heads, window * window], device),
            window,
        }
    }

    /// The bias of every cell for every other, `[1, heads, window², window²]`. The distances are numbered as they are
    /// met when the first cell is compared with all: (down, across) is `down · window + across`.
    fn biases(&self) -> Tensor<4> {
        let (window, table) = (self.window, self.attention_biases.val());
        let cells = window * window;
        let far = |a: usize, b: usize| (a / window).abs_diff(b / window) * window + (a % window).abs_diff(b % window);
        let places: Vec<i32> = (0..cells).flat_map(|a| (0..cells).map(move |b| far(a, b) as i32)).collect();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [cells * cells]), &table.device());
        let heads = table.dims()[0];
        table.select(1, places).reshape([1, heads, cells, cells])
    }

    /// # Shapes
    /// - x, output: `[windows, window², dim]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [windows, cells, dim] = x.dims();
        let heads = self.attention_biases.lazy_shape()[0];
        let width = dim / heads;
        let rows = self.qkv.forward(self.norm.forward(x)).reshape([windows, cells, heads, 3 * width]).swap_dims(1, 2);
        let part = |index: usize| rows.clone().narrow(3, index * width, width);
        let queries = part(0) * (width as f64).sqrt().recip();
        let bias = self.biases().expand([windows, heads, cells, cells]);
        self.proj.forward(attention::join_heads(attention::biased(queries, part(1), part(2), bias)))
    }
}

/// A feed-forward with its norm.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Before all else.
    pub norm: LayerNorm,
    /// `[4·dim, dim]`
    pub fc1: Linear,
    /// `[dim, 4·dim]`
    pub fc2: Linear,
}

/// A block of attention: within windows, a convolution over each channel alone, and a feed-forward.
#[derive(Module, Debug)]
pub struct Attend {
    /// Within windows.
    pub attn: WindowAttention,
    /// Over their borders.
    pub local_conv: ConvNorm,
    /// Feed-forward.
    pub mlp: Mlp,
}

impl Attend {
    /// A block with empty weights.
    ///
    /// # Panics
    /// If the width is not a multiple of the heads.
    pub fn new(dim: usize, heads: usize, window: usize, device: &Device) -> Self {
        Self {
            attn: WindowAttention::new(dim, heads, window, device),
            local_conv: ConvNorm::depthwise(dim, 1, device),
            mlp: Mlp {
                norm: LayerNorm::new(dim, EPSILON, device),
                fc1: Linear::new(dim, EXPANSION * dim, device),
                fc2: Linear::new(EXPANSION * dim, dim, device),
            },
        }
    }

    /// # Shapes
    /// - x, output: `[B, dim, H, W]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = x.permute([0, 2, 3, 1]);
        let x = x.clone() + self.in_windows(x);
        let x = self.local_conv.forward(x.permute([0, 3, 1, 2]), None).permute([0, 2, 3, 1]);
        let wide = gelu(self.mlp.fc1.forward(self.mlp.norm.forward(x.clone())));
        (x + self.mlp.fc2.forward(wide)).permute([0, 3, 1, 2])
    }

    /// Windows from the upper left corner on; where they reach over the edge there are zeros, which are attended to.
    fn in_windows(&self, x: Tensor<4>) -> Tensor<4> {
        let ([batch, height, width, dim], window) = (x.dims(), self.attn.window);
        let [down, across] = [height, width].map(|side| side.div_ceil(window));
        let [full_height, full_width] = [down, across].map(|windows| windows * window);
        let x = if [full_height, full_width] == [height, width] {
            x
        } else {
            let canvas = Tensor::zeros([batch, full_height, full_width, dim], &x.device());
            canvas.slice_assign([0..batch, 0..height, 0..width, 0..dim], x)
        };
        let windows = x.reshape([batch, down, window, across, window, dim]).swap_dims(2, 3);
        let rows = self.attn.forward(windows.reshape([batch * down * across, window * window, dim]));
        let x = rows.reshape([batch, down, across, window, window, dim]).swap_dims(2, 3);
        let x: Tensor<4> = x.reshape([batch, full_height, full_width, dim]);
        x.slice([0..batch, 0..height, 0..width, 0..dim])
    }
}

/// Blocks of one width.
#[derive(Module, Debug)]
pub struct Stage {
    /// Blocks of the first stage; a file calls them blocks too.
    pub convolutions: Vec<Convolve>,
    /// Blocks of all others.
    pub blocks: Vec<Attend>,
    /// To the next stage.
    pub downsample: Option<Downsample>,
}

/// From the last stage's width to the embedding's.
#[derive(Module, Debug)]
pub struct Neck {
    /// 1×1.
    pub conv1: Kernel,
    /// Over channels.
    pub norm1: PixelNorm,
    /// 3×3.
    pub conv2: Kernel,
    /// Over channels.
    pub norm2: PixelNorm,
}

/// What looks at the picture.
#[derive(Module, Debug)]
pub struct TinyVit {
    /// Pixels to a quarter of their size.
    pub patch_embed: PatchEmbed,
    /// Stages.
    pub layers: Vec<Stage>,
    /// To the embedding's width.
    pub neck: Neck,
}

impl TinyVit {
    /// # Shapes
    /// - image: `[B, 3, S, S]`, normalized
    /// - output: `[B, D, S/16, S/16]` with the published strides
    ///
    /// # Panics
    /// If the picture has not three channels.
    pub fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        assert_shape!(image, [_, 3, _, _]);
        let mut x = gelu(self.patch_embed.conv1.forward(image, None));
        x = self.patch_embed.conv2.forward(x, None);
        for stage in &self.layers {
            x = stage.convolutions.iter().fold(x, |x, block| block.forward(x));
            x = stage.blocks.iter().fold(x, |x, block| block.forward(x));
            if let Some(downsample) = &stage.downsample {
                x = downsample.forward(x);
            }
        }
        let x = self.neck.norm1.forward(self.neck.conv1.same(x));
        self.neck.norm2.forward(self.neck.conv2.same(x))
    }
}
