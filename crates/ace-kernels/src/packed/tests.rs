use super::{PackedMatrix, Packing, flex, packing::NF4};
use crate::testing::{device, noise, random, relative_error, values};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType, f16},
};

/// A matrix of normal numbers, packed and before.
fn matrix(packing: Packing, shape: [usize; 2]) -> (PackedMatrix, Tensor<2>) {
    let values = random(shape, 5);
    (packed(packing, values.clone()), values)
}

/// A matrix of random bits, with scales that make them numbers of a usual size.
fn bits(packing: Packing, shape: [usize; 2]) -> PackedMatrix {
    let (mut next, blocks) = (noise(8), shape[0] * shape[1] / packing.block_len());
    let mut word = || (next() * 32_768.0) as i32;
    let mut words: Vec<i32> = (0..blocks * packing.block_words()).map(|_| word() << 16 | word() & 0xffff).collect();
    if matches!(packing, Packing::E4M3 | Packing::E5M2) {
        // None of the largest exponents, where there are infinities and what is no number.
        words.iter_mut().for_each(|word| *word &= 0x3f3f_3f3f_u32.cast_signed() | 0x8080_8080_u32.cast_signed());
    }
    let count = if packing.block_scales() == 0 { shape[0] } else { blocks * packing.block_scales() };
    let mut next = noise(9);
    // Numbers that f16 has.
    let scales = (0..count).map(|_| f16::from_f32(next() / 64.0).to_f32()).collect();
    PackedMatrix::new(packing, shape, words, scales, &device())
}

/// A matrix of any packing.
fn any(packing: Packing, shape: [usize; 2]) -> PackedMatrix {
    if Packing::WRITTEN.contains(&packing) { matrix(packing, shape).0 } else { bits(packing, shape) }
}

fn packed(packing: Packing, values: Tensor<2>) -> PackedMatrix {
    let shape = values.dims();
    PackedMatrix::pack(packing, shape, &values.into_data().try_to_vec::<f32>().expect("f32"), &device())
}

fn largest(values: Tensor<2>) -> f32 {
    values.abs().max().into_scalar::<f32>()
}

#[test]
fn packed_numbers_are_near_what_they_were() {
    // Half a step of a block's scale: of 127 numbers on each side, of 8, of the widest gap of NF4's table.
    // A step of a range twice as wide, which the search may cut; one and a half of 32 steps on each side; half of
    // the gap below the largest number.
    for (packing, step) in [
        (Packing::Q8_0, 0.51 / 127.0),
        (Packing::Q4_0, 1.01 / 8.0),
        (Packing::Nf4, 0.153),
        (Packing::Q4K, 2.0 / 15.0),
        (Packing::Q5K, 2.0 / 31.0),
        (Packing::Q6K, 1.5 / 32.0),
        (Packing::E4M3, 16.1 / 448.0),
    ] {
        let shape = [6, packing.block_len().max(128)];
        let (packed, values) = matrix(packing, shape);
        assert_eq!(packed.shape(), shape);
        let error = largest(packed.widen(FloatDType::F32) - values.clone());
        let bound = step * largest(values);
        assert!(error > 0.0 && error < bound, "{packing:?}: {error} of {bound}");
    }
}

#[test]
fn every_way_to_widen_gives_the_same_numbers() {
    for packing in Packing::ALL {
        // The last takes the plain operations several parts.
        let len = packing.block_len().max(64);
        for shape in [[1, len], [5, 3 * len], [70, 256], [700, 8192]] {
            let packed = any(packing, shape);
            let of_rows = if packing.block_scales() == 0 { 4 * shape[0] } else { 0 };
            assert_eq!(packed.bytes(), packing.bytes(shape[0] * shape[1]) + of_rows);
            for dtype in [FloatDType::F32, FloatDType::BF16, FloatDType::F16] {
                let plain = packed.widen_plainly(dtype);
                assert_eq!(packed.widen(dtype).into_data(), plain.into_data(), "{packing:?} {shape:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn blocks_of_gguf_are_read_as_ggml_reads_them() {
    // A block of Q4_0 with scale 0.5: byte i holds number i in its lower half and number i + 16 in its upper.
    let bytes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
    let words: Vec<i32> = bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
    let matrix = |words, packing| PackedMatrix::new(packing, [1, 32], words, vec![0.5], &device());
    let expected: Vec<f32> = (0..16).map(|i| i as f32).chain((0..16).map(|i| 15.0 - i as f32)).collect();
    let values = matrix(words, Packing::Q4_0).widen(FloatDType::F32).into_data().try_to_vec::<f32>().expect("f32");
    assert_eq!(values, expected.iter().map(|q| 0.5 * (q - 8.0)).collect::<Vec<_>>());
    // Q8_0: bytes with a sign.
    let words: Vec<i32> =
        (0..8).map(|i| i32::from_le_bytes([4 * i as i8, -1, 127, -128].map(i8::cast_unsigned))).collect();
    let values = matrix(words, Packing::Q8_0).widen(FloatDType::F32).into_data().try_to_vec::<f32>().expect("f32");
    assert_eq!(&values[4..8], &[2.0, -0.5, 63.5, -64.0]);
}

#[test]
fn nf4_keeps_its_own_numbers_and_rounds_to_the_nearest() {
    // A block that holds the table four times, with 3 as its largest magnitude.
    let values: Vec<f32> = NF4.iter().cycle().take(64).map(|value| value * 3.0).collect();
    let matrix = packed(Packing::Nf4, Tensor::from_data(TensorData::new(values.clone(), [1, 64]), &device()));
    assert_eq!(matrix.widen(FloatDType::F32).into_data().try_to_vec::<f32>().expect("f32"), values);
    // The upper half of a byte comes first, as bitsandbytes packs: 0 and 1, 2 and 3.
    assert_eq!(matrix.words.into_data().try_to_vec::<i32>().expect("i32")[0].to_le_bytes()[..2], [0x01, 0x23]);
    let nearest = |value: f32| (0..16).min_by(|a, b| (NF4[*a] - value).abs().total_cmp(&(NF4[*b] - value).abs()));
    let values: Vec<f32> = (0..64).map(|i| i as f32 / 31.5 - 1.0).collect();
    let (words, scales) = Packing::Nf4.pack(&values, 64);
    assert_eq!(scales, [1.0]);
    for (i, value) in values.iter().enumerate() {
        let code = words[i / 8].to_le_bytes()[i % 8 / 2] >> (if i % 2 == 0 { 4 } else { 0 }) & 15;
        assert_eq!(Some(usize::from(code)), nearest(*value), "{value}");
    }
}

#[test]
fn a_block_of_zeros_stays_one() {
    for packing in Packing::WRITTEN {
        let matrix = packed(packing, Tensor::zeros([2, 256], &device()));
        assert_eq!(largest(matrix.widen(FloatDType::F32)), 0.0, "{packing:?}");
    }
}

#[test]
fn products_and_their_gradients_are_those_of_the_wide_matrix() {
    let learning = device().autodiff();
    for packing in Packing::ALL {
        // The second is widened in several parts.
        for shape in [[70, packing.block_len().max(128)], [500, 8192]] {
            let packed = any(packing, shape);
            let wide = Tensor::from_inner(packed.widen(FloatDType::F32));
            let run = |multiply: &dyn Fn(Tensor<2>) -> Tensor<2>| {
                let x = Tensor::from_inner(random([3, shape[1]], 6)).require_grad();
                let y = multiply(x.clone());
                let mut gradients = (y.clone() * Tensor::from_inner(random([3, shape[0]], 7))).sum().backward();
                (y.inner(), x.grad_remove(&mut gradients).expect("x learns"))
            };
            let (expected, expected_gradient) = run(&|x| x.matmul(wide.clone().transpose()));
            assert!(learning.is_autodiff() && largest(expected_gradient.clone()) > 0.0);
            for (name, (y, gradient)) in
                [("own", run(&|x| packed.multiply(x))), ("plain", run(&|x| packed.multiply_plainly(x)))]
            {
                let error =
                    |ours: Tensor<2>, theirs: &Tensor<2>| largest(ours - theirs.clone()) / largest(theirs.clone());
                let (value, gradient) = (error(y, &expected), error(gradient, &expected_gradient));
                assert!(value < 1e-5 && gradient < 1e-5, "{packing:?} {shape:?} {name}: {value} {gradient}");
            }
        }
    }
}

#[test]
fn products_may_be_taken_some_rows_at_a_time() {
    for packing in [Packing::Q4K, Packing::Q8_0, Packing::E4M3, Packing::Nf4] {
        let (packed, _) = matrix(packing, [50, 256]);
        let x = random([7, 256], 4);
        let whole = packed.multiply_plainly(x.clone());
        for rows in [1, 7, 49] {
            let parts = crate::limit::within(rows * 256 * 4, || packed.multiply_plainly(x.clone()));
            assert!(relative_error(&values(parts), &values(whole.clone())) <= 1e-6, "{packing:?}, {rows} rows");
        }
    }
}

#[test]
fn sixteen_bits_are_multiplied_as_the_wide_matrix_in_sixteen_bits() {
    let (packed, _) = matrix(Packing::Q4_0, [70, 128]);
    for dtype in [FloatDType::BF16, FloatDType::F16] {
        let x = random([3, 128], 6).cast(dtype);
        let expected = x.clone().matmul(packed.widen(dtype).transpose());
        let ours = packed.multiply(x);
        assert_eq!(ours.dtype(), DType::from(dtype));
        let error = largest((ours - expected.clone()).cast(DType::F32)) / largest(expected.cast(DType::F32));
        assert!(error < 4e-3, "{dtype:?}: {error}");
    }
}

#[test]
#[allow(clippy::unreadable_literal)]
fn numbers_are_packed_as_the_formats_own_programs_pack_them() {
    let values: Vec<f32> = (0..64).map(|i| i as f32 * 0.37).map(|value| value - value.floor() - 0.4).collect();
    let in_f16 = |scales: &[f32]| scales.iter().map(|scale| f16::from_f32(*scale)).collect::<Vec<_>>();
    // The `gguf` package 0.19.0: `gguf.quants.quantize`.
    let (words, scales) = Packing::Q8_0.pack(&values, 64);
    assert_eq!(
        words,
        [
            -1035339094,
            702112017,
            -1186860679,
            550590473,
            -1338447760,
            415780864,
            2133844071,
            264194039,
            2015876704,
            129384686,
            1881132632,
            -22202394,
            1729545551,
            -176214307,
            1577958470,
            -327801388,
        ]
    );
    assert_eq!(in_f16(&scales), in_f16(&[0.004_646_301_3, 0.004_566_192_6]));
    let (words, scales) = Packing::Q4_0.pack(&values, 64);
    assert_eq!(words, [-599549923, 1976185479, 206874896, 1993032343, 544656178, -1743956823, 561433410, -1742903878]);
    assert_eq!(in_f16(&scales), in_f16(&[-0.073_730_47, -0.072_509_766]));
    // bitsandbytes 0.50.2: `quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=False)`.
    let (words, scales) = Packing::Nf4.pack(&values, 64);
    assert_eq!(words, [1268699670, 982438646, 964542965, 678281188, 678215652, 391950307, -162816301, -179663150]);
    assert_eq!(scales, [0.589_999_8]);
}

/// Row `row` of what activations are rounded to for a product in bytes, in f64.
fn rounded(x: &[f32]) -> Vec<f64> {
    let block = |x: &[f32]| {
        let scale = x.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
        let code = |x: &f32| if scale == 0.0 { 0.0 } else { (x * (1.0 / scale)).round_ties_even() };
        x.iter().map(|x| f64::from(code(x)) * f64::from(scale)).collect::<Vec<_>>()
    };
    x.chunks(32).flat_map(block).collect()
}

#[test]
fn products_in_bytes_are_exact_sums_of_rounded_activations() {
    let packings = Packing::ALL.into_iter();
    // Tiles and panels that are full, odd and single; the last has panels of a row's width that share no cache.
    let shapes =
        [[1, 1, 256], [2, 31, 256], [6, 32, 512], [7, 33, 256], [29, 100, 768], [65, 257, 2304], [13, 40, 15360]];
    for (packing, [rows, outputs, columns]) in packings.flat_map(|packing| shapes.map(|shape| (packing, shape))) {
        let packed = any(packing, [outputs, columns]);
        let (x, bias) = (random([rows, columns], 11), random([outputs], 12));
        let ours = values(packed.project(x.clone(), Some(bias.clone())));
        let wide = values(packed.widen(FloatDType::F32));
        let x_values = x.clone().into_data().try_to_vec::<f32>().expect("f32");
        let (x_rounded, bias_values) = (x_values.chunks(columns).map(rounded), values(bias.clone()));
        let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        let exact: Vec<f64> = x_rounded
            .flat_map(|x| {
                let row = wide.chunks(columns).zip(&bias_values).map(|(w, bias)| dot(&x, w) + bias);
                row.collect::<Vec<_>>()
            })
            .collect();
        let widened = values(packed.clone().exactly(true).project(x.clone(), Some(bias.clone())));
        let error = relative_error(&ours, &widened);
        // A single number may be a small difference of large ones.
        assert!(error < 1e-2 || outputs == 1, "{packing:?} {rows} {outputs} {columns}: {error} from the wide product");
        if flex::projects(&packed, &x) {
            let error = relative_error(&ours, &exact);
            assert!(
                error < if outputs == 1 { 1e-4 } else { 2e-6 },
                "{packing:?} {rows} {outputs} {columns}: {error} from the exact sum"
            );
        }
        // Parts of a wider tensor are read where they lie.
        let apart = Tensor::cat(vec![x.clone(), x.clone()], 1).narrow(1, columns, columns);
        assert_eq!(values(packed.project(apart, Some(bias))), ours);
    }
}

#[test]
fn products_in_bytes_keep_what_is_no_number_and_what_is_very_small() {
    let (packed, _) = matrix(Packing::Q8_0, [40, 64]);
    for odd in [f32::NAN, f32::INFINITY] {
        let mut numbers = vec![0.5; 3 * 64];
        numbers[70] = odd;
        let x = Tensor::<2>::from_data(TensorData::new(numbers, [3, 64]), &device());
        let y = values(packed.project(x, None));
        assert!(y[..40].iter().all(|y| y.is_finite()) && y[80..].iter().all(|y| y.is_finite()));
        assert!(y[40..80].iter().all(|y| !y.is_finite()), "{odd} is lost");
    }
    let x = random([3, 64], 4) * 1e-38;
    assert!(values(packed.project(x.clone(), None)).iter().all(|y| y.abs() < 1e-35));
    assert!(values(packed.project(x * 0.0, None)).iter().all(|y| *y == 0.0));
}

#[test]
fn products_in_bytes_in_sixteen_bits_are_in_sixteen_bits() {
    let (packed, _) = matrix(Packing::Q8_0, [70, 128]);
    let x = random([3, 128], 6).cast(DType::BF16);
    let ours = packed.project(x.clone(), Some(random([70], 2).cast(DType::BF16)));
    assert_eq!(ours.dtype(), DType::BF16);
    let expected = packed.multiply(x.cast(DType::F32)) + random([70], 2).unsqueeze();
    assert!(relative_error(&values(ours.cast(DType::F32)), &values(expected)) < 1e-2);
}

/// Normal numbers.
fn normal(count: usize) -> Vec<f32> {
    let mut next = noise(21);
    let mut uniform = || f64::from(next()).mul_add(0.5, 0.5).max(1e-12);
    let pair = |_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(pair).map(|value| value as f32 * 0.02).collect()
}

#[test]
fn scales_that_are_searched_for_are_better_than_the_range_of_the_numbers() {
    let values = normal(64 * 256);
    // Codes from the least to the largest of a group, or from the largest magnitude down, with scales that are not
    // even rounded.
    let above = |most: f32| {
        let group = move |group: &[f32]| {
            let least = group.iter().copied().fold(0.0, f32::min);
            let scale = (group.iter().copied().fold(least, f32::max) - least) / most;
            group.iter().map(|value| ((value - least) / scale).round() * scale + least - value).collect::<Vec<_>>()
        };
        values.chunks(32).flat_map(group).collect::<Vec<_>>()
    };
    let six = |group: &[f32]| {
        let scale = group.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 31.0;
        group.iter().map(|value| (value / scale).round() * scale - value).collect::<Vec<_>>()
    };
    let plain = [above(15.0), above(31.0), values.chunks(16).flat_map(six).collect()];
    let size = |errors: &[f32]| errors.iter().map(|error| f64::from(*error).powi(2)).sum::<f64>().sqrt();
    let norm = size(&values);
    for ((packing, most), plain) in
        [(Packing::Q4K, 0.078), (Packing::Q5K, 0.039), (Packing::Q6K, 0.019)].into_iter().zip(plain)
    {
        let packed = PackedMatrix::pack(packing, [64, 256], &values, &device());
        let ours = packed.widen(FloatDType::F32).into_data().try_to_vec::<f32>().expect("f32");
        let errors: Vec<f32> = ours.iter().zip(&values).map(|(ours, value)| ours - value).collect();
        let (ours, plain) = (size(&errors) / norm, size(&plain) / norm);
        assert!(ours < 0.97 * plain && ours < most, "{packing:?}: {ours}, plainly {plain}");
    }
}

#[test]
fn numbers_that_a_packing_has_stay_as_they_are() {
    for packing in Packing::WRITTEN {
        let (once, _) = matrix(packing, [4, 512]);
        let wide = once.widen(FloatDType::F32);
        let again = packed(packing, wide.clone()).widen(FloatDType::F32);
        // Of scales that are themselves rounded, the search may find others that are as good.
        let error = relative_error(&values(again), &values(wide));
        let bound = if matches!(packing, Packing::Q4K | Packing::Q5K | Packing::Q6K) { 2e-3 } else { 1e-6 };
        assert!(error < bound, "{packing:?}: {error}");
    }
}

#[test]
fn numbers_far_from_zero_and_rows_of_one_number_are_packed() {
    for packing in Packing::WRITTEN {
        for value in [1e-30, 3e-7, 1.0, -250.0] {
            let packed = PackedMatrix::pack(packing, [1, 256], &[value; 256], &device());
            let ours = packed.widen(FloatDType::F32).into_data().try_to_vec::<f32>().expect("f32");
            // f16 has no scales below 6e-8.
            let bound = (value.abs() * 0.07).max(4e-6);
            assert!(ours.iter().all(|ours| (ours - value).abs() <= bound), "{packing:?} {value}: {:?}", &ours[..2]);
        }
    }
}
