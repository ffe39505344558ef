//! Row by row: norms, with what follows them.

use burn::tensor::Shape;
use burn_cubecl::{
    cubecl::{self, prelude::*},
    ops::numeric::empty_device_dtype,
    tensor::CubeTensor,
};

/// Units of a cube that share a row of a stream: a square.
const WIDE: u32 = 256;
/// Units of a cube that share a head.
const NARROW: u32 = 64;

/// The sum of every unit's number, for all units, in an order that depends on nothing but their count, `side²`.
#[cube]
fn sum_of_units(value: f32, #[comptime] side: usize) -> f32 {
    let mut parts = Shared::<[f32]>::new_slice(comptime!(side * side));
    let mut sums = Shared::<[f32]>::new_slice(side);
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    if unit < side {
        let mut sum = 0.0f32;
        for i in 0..side {
            sum += parts[unit * side + i];
        }
        sums[unit] = sum;
    }
    sync_cube();
    let mut sum = 0.0f32;
    for i in 0..side {
        sum += sums[i];
    }
    // Whoever shares this memory next waits until all have read it.
    sync_cube();
    sum
}

/// A cube takes the row `CUBE_POS_X` of the example `CUBE_POS_Y`; shift and scale have one row for all, or one for each.
#[cube(launch)]
fn modulate_kernel<S: Float, H: Float>(
    x: &Tensor<S>,
    shift: &Tensor<H>,
    scale: &Tensor<H>,
    output: &mut Tensor<H>,
    epsilon: f32,
    #[comptime] side: usize,
    #[define(S, H)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS_X as usize;
    let example = CUBE_POS_Y as usize;
    let width = x.shape(2);
    let units = comptime!(side * side);
    let first = UNIT_POS as usize;
    let from = example * x.stride(0) + row * x.stride(1);

    let mut sum = 0.0f32;
    let mut i = first;
    while i < width {
        sum += f32::cast_from(x[from + i * x.stride(2)]);
        i += units;
    }
    let mean = sum_of_units(sum, side) / f32::cast_from(width);
    let mut squares = 0.0f32;
    i = first;
    while i < width {
        let centred = f32::cast_from(x[from + i * x.stride(2)]) - mean;
        squares += centred * centred;
        i += units;
    }
    let variance = sum_of_units(squares, side) / f32::cast_from(width);
    let spread = f32::sqrt(variance + epsilon);

    let mut told = example * shift.stride(0);
    let mut scaled = example * scale.stride(0);
    if shift.shape(1) > 1 {
        told += row * shift.stride(1);
        scaled += row * scale.stride(1);
    }
    let to = example * output.stride(0) + row * output.stride(1);
    let step = output.stride(2);
    i = first;
    while i < width {
        let normed = (f32::cast_from(x[from + i * x.stride(2)]) - mean) / spread;
        let factor = f32::cast_from(scale[scaled + i * scale.stride(2)]) + 1.0f32;
        let shifted = normed * factor + f32::cast_from(shift[told + i * shift.stride(2)]);
        output[to + i * step] = H::cast_from(shifted);
        i += units;
    }
}

/// A cube takes the token `CUBE_POS_X` in the head `CUBE_POS_Y` of all examples' heads.
#[cube(launch)]
fn norm_turn_kernel<F: Float, T: Float>(
    rows: &Tensor<F>,
    scale: &Tensor<F>,
    cos: &Tensor<T>,
    sin: &Tensor<T>,
    output: &mut Tensor<F>,
    column: u32,
    epsilon: f32,
    #[comptime] side: usize,
    #[define(F, T)] _dtypes: [ElemType; 2],
) {
    let token = CUBE_POS_X as usize;
    let heads = output.shape(1);
    let example = CUBE_POS_Y as usize / heads;
    let head = CUBE_POS_Y as usize % heads;
    let width = output.shape(3);
    let pairs = width / 2;
    let units = comptime!(side * side);
    let first = UNIT_POS as usize;
    let from = example * rows.stride(0) + token * rows.stride(1) + (column as usize + head * width) * rows.stride(2);

    let mut squares = 0.0f32;
    let mut pair = first;
    while pair < pairs {
        let even = f32::cast_from(rows[from + 2 * pair * rows.stride(2)]);
        let odd = f32::cast_from(rows[from + (2 * pair + 1) * rows.stride(2)]);
        squares += even * even + odd * odd;
        pair += units;
    }
    let root = f32::sqrt(sum_of_units(squares, side) / f32::cast_from(width) + epsilon);

    let to = example * output.stride(0) + head * output.stride(1) + token * output.stride(2);
    let step = output.stride(3);
    pair = first;
    while pair < pairs {
        let even = f32::cast_from(rows[from + 2 * pair * rows.stride(2)]) / root;
        let odd = f32::cast_from(rows[from + (2 * pair + 1) * rows.stride(2)]) / root;
        let even = even * f32::cast_from(scale[2 * pair * scale.stride(0)]);
        let odd = odd * f32::cast_from(scale[(2 * pair + 1) * scale.stride(0)]);
        let cosine = f32::cast_from(cos[token * cos.stride(2) + pair * cos.stride(3)]);
        let sine = f32::cast_from(sin[token * sin.stride(2) + pair * sin.stride(3)]);
        output[to + 2 * pair * step] = F::cast_from(even * cosine - odd * sine);
        output[to + (2 * pair + 1) * step] = F::cast_from(even * sine + odd * cosine);
        pair += units;
    }
}

/// The element type of a tensor's kernels.
pub fn element(tensor: &CubeTensor) -> ElemType {
    burn::backend::cubecl::dtype_to_storage_type(tensor.dtype)
}

pub fn modulate(x: CubeTensor, shift: CubeTensor, scale: CubeTensor, epsilon: f32) -> CubeTensor {
    let shape = x.meta.shape().clone();
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), shape.clone(), shift.dtype);
    let dtypes = [element(&x), element(&shift)];
    modulate_kernel::launch(
        &output.client,
        CubeCount::Static(shape[1] as u32, shape[0] as u32, 1),
        CubeDim::new_1d(WIDE),
        x.into_tensor_arg(),
        shift.into_tensor_arg(),
        scale.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        epsilon,
        WIDE.isqrt() as usize,
        dtypes,
    );
    output
}

pub fn norm_turn(
    rows: CubeTensor,
    scale: CubeTensor,
    [cos, sin]: [CubeTensor; 2],
    column: u32,
    shape: Shape,
    epsilon: f32,
) -> CubeTensor {
    let output = empty_device_dtype(rows.client.clone(), rows.device.clone(), shape.clone(), rows.dtype);
    let dtypes = [element(&rows), element(&cos)];
    norm_turn_kernel::launch(
        &output.client,
        CubeCount::Static(shape[2] as u32, (shape[0] * shape[1]) as u32, 1),
        CubeDim::new_1d(NARROW),
        rows.into_tensor_arg(),
        scale.into_tensor_arg(),
        cos.into_tensor_arg(),
        sin.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        column,
        epsilon,
        NARROW.isqrt() as usize,
        dtypes,
    );
    output
}
