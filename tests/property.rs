//! Laws that hold whatever the weights and the pictures are, and a few numbers that follow from the formulas alone.

use crate::support::{autoencoder, device, distance, flux, ramp, random, values, words};
use ace_nn::{
    flux::{FluxInput, Streams, sinusoid},
    lora::{Linear, LoraBranch},
    rope::Rope,
};
use ace_plus::{
    Card, Edit,
    canvas::{self, Canvas, CanvasPolicy, Inputs, Layout, Plane, ReferenceFit},
    flow, latents, sample,
    unit::{Condition, Join, Positions, UnitPolicy, Units},
};
use burn::{module::Param, prelude::*, tensor::FloatDType};
use image::{GrayImage, Luma, Rgb, RgbImage};

// Tokens and masks -----------------------------------------------------------------------------------------------

#[test]
fn unpack_undoes_pack() {
    let latents = ramp([2, 16, 4, 6]);
    let tokens = latents::pack(latents.clone());
    assert_eq!(tokens.dims(), [2, 6, 64]);
    assert_eq!(latents::unpack(tokens, [4, 6]).into_data(), latents.into_data());
}

#[test]
fn a_feature_comes_from_the_published_cell() {
    let tokens = values(latents::pack(ramp([1, 16, 4, 4])));
    // Feature 5 of token 0 is channel 1, row 0, column 1.
    assert_eq!(tokens[5], 16.0 + 1.0);
    // Feature 62 of token 3 is channel 15, row 2 + 1, column 2.
    assert_eq!(tokens[3 * 64 + 62], 15.0 * 16.0 + 3.0 * 4.0 + 2.0);
}

#[test]
fn fold_is_a_permutation() {
    let folded = latents::fold_mask(ramp([1, 1, 32, 48]), latents::DOWNSCALE);
    assert_eq!(folded.dims(), [1, 64, 4, 6]);
    let mut seen = values(folded);
    seen.sort_by(f32::total_cmp);
    assert_eq!(seen, values(ramp([32 * 48])));
}

#[test]
fn a_mask_feature_comes_from_the_published_pixel() {
    let (height, width) = (32, 48);
    let tokens = values(latents::pack(latents::fold_mask(ramp([1, 1, height, width]), latents::DOWNSCALE)));
    for (row, column) in [(0, 0), (0, 2), (1, 1)] {
        let token = row * (width / 16) + column;
        assert_eq!(tokens[token * 256 + 130], ((16 * row + 12) * width + 16 * column) as f32);
    }
}

// Time -------------------------------------------------------------------------------------------------------------

#[test]
fn euler_is_exact_on_constant_velocity() {
    let (latents, noise) = (random([1, 6, 64], 1), random([1, 6, 64], 2));
    let velocity = flow::velocity(latents.clone(), noise.clone());
    for steps in [1, 4, 28] {
        let times = sample::schedule(steps, 1024, &sample::Shift::default());
        let walked = times.windows(2).fold(noise.clone(), |x, pair| flow::euler(x, velocity.clone(), pair[0], pair[1]));
        assert!(distance(walked, latents.clone()) < 2e-6, "{steps} steps");
    }
}

#[test]
fn the_walk_starts_at_noise_and_ends_at_the_picture() {
    let (latents, noise) = (random([2, 6, 64], 1), random([2, 6, 64], 2));
    let ends = flow::interpolate(latents.clone(), noise.clone(), Tensor::from_data([0.0, 1.0], &device()));
    assert_eq!(distance(ends.clone().narrow(0, 0, 1), latents.narrow(0, 0, 1)), 0.0);
    assert_eq!(distance(ends.narrow(0, 1, 1), noise.narrow(0, 1, 1)), 0.0);
}

#[test]
fn the_sinusoid_has_the_published_values() {
    let embedded = values(sinusoid(Tensor::from_data([0.5], &device())));
    let golden = [(0, [-0.883849, 0.945943, 0.848515, 0.698688]), (128, [-0.467772, 0.324334, -0.529172, 0.715426])];
    for (start, expected) in golden {
        for (ours, expected) in embedded[start..].iter().zip(expected) {
            assert!((ours - expected).abs() < 2e-5, "{ours} is not {expected}");
        }
    }
}

// Positions --------------------------------------------------------------------------------------------------------

const AXES: [usize; 3] = [4, 6, 6];

fn turned(x: Tensor<4>, ids: &[[f32; 3]]) -> Tensor<4> {
    Rope::new(ids, &AXES, 10_000.0, &device()).apply(x)
}

#[test]
fn rope_preserves_norms_and_moves_what_is_not_at_the_origin() {
    let ids: Vec<_> = (0..7).map(|i| [i as f32, (3 * i) as f32, (100 - i) as f32]).collect();
    let x = random([2, 3, 7, 16], 1);
    let y = turned(x.clone(), &ids);
    let norms = |x: Tensor<4>| x.square().sum_dim(3).sqrt();
    assert!(distance(norms(y.clone()), norms(x.clone())) < 1e-5);
    assert!(distance(y, x) > 0.1);
}

#[test]
fn rope_is_the_identity_at_the_origin() {
    let x = random([1, 2, 4, 16], 1);
    assert_eq!(distance(turned(x.clone(), &[[0.0; 3]; 4]), x), 0.0);
}

#[test]
fn what_rope_lets_attention_see_is_the_difference_of_positions() {
    let (q, k) = (random([1, 2, 3, 16], 1), random([1, 2, 3, 16], 2));
    let scores = |shift: f32| {
        let at = |place: [f32; 3]| [place.map(|p| p + shift); 3];
        (turned(q.clone(), &at([1.0, 2.0, 3.0])) * turned(k.clone(), &at([5.0, 4.0, 9.0]))).sum_dim(3)
    };
    assert!(distance(scores(0.0), scores(60.0)) < 1e-4);
}

// Low-rank branches --------------------------------------------------------------------------------------------------

fn plain() -> Linear {
    Linear { weight: random([10, 8], 1).into(), bias: Some(Param::from_tensor(random([10], 2))), lora: Vec::new() }
}

fn branch(rank: usize, scale: f64, seed: u64) -> LoraBranch {
    LoraBranch::from_factors(random([rank, 8], seed), random([10, rank], seed + 1), scale)
}

fn with(lora: Vec<LoraBranch>) -> Linear {
    Linear { lora, ..plain() }
}

#[test]
fn a_branch_with_b_zero_changes_nothing() {
    let x = random([2, 5, 8], 9);
    let zero = LoraBranch::from_factors(random([3, 8], 3), Tensor::zeros([10, 3], &device()), 2.0);
    assert_eq!(with(vec![zero]).forward(x.clone()).into_data(), plain().forward(x).into_data());
}

#[test]
fn branches_add_up_by_their_weights() {
    let x = random([2, 5, 8], 9);
    let added = |lora: Vec<LoraBranch>| with(lora).forward(x.clone()) - plain().forward(x.clone());
    let (one, two) = (branch(3, 1.0, 10), branch(2, -0.25, 20));
    let apart = added(vec![one.clone()]) + added(vec![two.clone()]);
    assert!(distance(added(vec![one.clone(), two]), apart) < 2e-5);
    let half = LoraBranch { scale: 0.5, ..one.clone() };
    assert!(distance(added(vec![half]), added(vec![one]) * 0.5) < 2e-5);
}

#[test]
fn fusing_keeps_the_output_and_unfusing_restores_the_layer() {
    let x = random([2, 5, 8], 9);
    let layer = with(vec![branch(3, 1.0, 10), branch(2, -0.25, 20)]);
    let expected = layer.forward(x.clone());
    let (fused, branches) = layer.clone().fuse();
    assert!(fused.lora.is_empty());
    assert!(distance(fused.forward(x.clone()), expected.clone()) < 2e-5);
    let restored = fused.unfuse(branches);
    assert_eq!(restored.lora.len(), 2);
    assert!(distance(restored.weight.val(), layer.weight.val()) < 1e-5);
    assert!(distance(restored.forward(x), expected) < 2e-5);
}

// The transformer and its conditions -----------------------------------------------------------------------------------

fn input(in_channels: usize, [rows, columns]: [usize; 2]) -> FluxInput {
    let text = words();
    FluxInput {
        tokens: random([1, rows * columns, in_channels], 5),
        rope: flux(in_channels).rope(5, &latents::ids([rows, columns], 0), &device()),
        prompt_embeds: text.prompt_embeds,
        pooled_prompt_embeds: text.pooled_prompt_embeds,
        timesteps: Tensor::from_data([0.7], &device()),
        guidance: Tensor::from_data([50.0], &device()),
    }
}

#[test]
fn blocks_one_at_a_time_give_what_forward_gives() {
    let (flux, input) = (flux(64), input(64, [2, 3]));
    let whole = flux.forward(input.clone());
    let rope = input.rope.clone();
    let Streams { mut img, mut txt, vec } = flux.embed(input);
    for block in flux.double_blocks.clone() {
        (img, txt) = block.forward(img, txt, vec.clone(), &rope);
    }
    let mut x = Tensor::cat(vec![txt, img], 1);
    for block in flux.single_blocks.clone() {
        x = block.forward(x, vec.clone(), &rope);
    }
    let pieces = flux.project(x.narrow(1, 5, 6), vec);
    assert_eq!(pieces.into_data(), whole.into_data());
}

/// The velocity of `noisy` among `units`, at one time and guidance.
fn velocity(in_channels: usize, noisy: Tensor<3>, units: &Units) -> Tensor<3> {
    let scalar = |value: f32| Tensor::from_data([value], &device());
    sample::velocity(&flux(in_channels), noisy, units, &words(), scalar(0.7), scalar(50.0), FloatDType::F32)
}

#[test]
fn a_canvas_of_two_pictures_is_the_same_as_two_units_with_its_positions() {
    let ([height, left, right], width) = ([4, 6, 8], 14);
    let (noise, condition, mask) =
        (random([1, 16, height, width], 1), random([1, 16, height, width], 2), random([1, 64, height, width], 3));
    let unit = |start: usize, width: usize| {
        let cut = |all: &Tensor<4>| latents::pack(all.clone().narrow(3, start, width));
        let ids = latents::ids([height / 2, width / 2], 0);
        let ids = ids.into_iter().map(|[unit, row, column]| [unit, row, column + (start / 2) as f32]);
        (Tensor::cat(vec![cut(&condition), cut(&mask)], 2), ids.collect::<Vec<_>>())
    };
    let (beside, ids) = unit(0, width);
    let is_reference = vec![false; ids.len()];
    let one = Units { beside: Some(beside), behind: None, ids, grids: vec![[height, width]], is_reference };
    let ((beside_left, ids_left), (beside_right, ids_right)) = (unit(0, left), unit(left, right));
    let two = Units {
        beside: Some(Tensor::cat(vec![beside_left, beside_right], 1)),
        ids: [ids_left, ids_right].concat(),
        grids: vec![[height, left], [height, right]],
        ..one.clone()
    };
    assert_ne!(one.ids, two.ids);

    let halves = vec![noise.clone().narrow(3, 0, left), noise.clone().narrow(3, left, right)];
    let from_two = two.unpack(velocity(384, two.pack(halves), &two));
    let from_one = one.unpack(velocity(384, one.pack(vec![noise]), &one));
    let error = distance(Tensor::cat(from_two, 3), from_one[0].clone());
    assert!(error <= 1e-5, "{error}");

    // The positions are what makes it so: numbered as pictures of their own, the units give something else.
    let restarted = Units { ids: [latents::ids([2, 3], 0), latents::ids([2, 4], 0)].concat(), ..two.clone() };
    let noisy = random([1, 14, 64], 4);
    assert!(distance(velocity(384, noisy.clone(), &restarted), velocity(384, noisy, &two)) > 1e-3);
}

/// A picture whose every pixel differs from its neighbours and from those of other seeds.
fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let hash = (x * 31 + y * 17 + seed * 101).wrapping_mul(2_654_435_761);
        Rgb([hash as u8, (hash >> 8) as u8, (hash >> 16) as u8])
    })
}

fn policy(layout: Layout, change_image: bool) -> CanvasPolicy {
    let reference_fit = ReferenceFit::Height;
    CanvasPolicy {
        max_seq_len: 40,
        max_aspect_ratio: 4.0,
        reference_fit,
        change_image,
        seam_crop: 0,
        match_colours: false,
        official_bytes: Default::default(),
        layout,
        token: 16,
        sizes: Vec::new(),
    }
}

/// The canvases of an edit with so many references.
fn compose(references: usize, policy: &CanvasPolicy) -> Vec<Canvas> {
    let references: Vec<_> = (0..references).map(|i| picture(32, 48, 10 + i as u32)).collect();
    let (image, mask) = (picture(48, 32, 1), GrayImage::from_fn(48, 32, |x, _| Luma([if x < 20 { 255 } else { 0 }])));
    let inputs = Inputs {
        image: Some(&image),
        mask: Some(&mask),
        references: &references,
        size: (48, 32),
        repainting_scale: 1.0,
    };
    canvas::compose(&inputs, policy).expect("the pictures fit each other")
}

fn conditions(join: Join, change_image: bool) -> UnitPolicy {
    let conditions = match change_image {
        true => vec![Condition::MaskedImage, Condition::ChangeImage, Condition::Mask],
        false => vec![Condition::MaskedImage, Condition::Mask],
    };
    UnitPolicy { conditions, join, positions: Positions::default() }
}

#[test]
fn any_number_of_references_becomes_matching_tokens_in_every_layout() {
    let autoencoder = autoencoder();
    for layout in [Layout::Canvas, Layout::Sequence] {
        for (join, change_image) in
            [(Join::Channels, false), (Join::Channels, true), (Join::Sequence, false), (Join::Sequence, true)]
        {
            for references in 0..=3 {
                let case = format!("{layout:?} {join:?} change {change_image} references {references}");
                let policy = policy(layout, change_image);
                let canvases = compose(references, &policy);
                assert_eq!(canvases.len(), if layout == Layout::Canvas { 1 } else { references + 1 }, "{case}");

                let unit = conditions(join, change_image);
                let units = Units::encode(&autoencoder, &canvases, &unit, None, &device());
                let len: usize = canvases.iter().map(|c| c.image.height / 16 * (c.image.width / 16)).sum();
                assert!(units.len() == len && len <= policy.max_seq_len, "{case}: {len} tokens");
                let behind = match join {
                    Join::Channels => 0,
                    Join::Sequence => len * if change_image { 2 } else { 1 },
                    Join::Context => unreachable!("not among the cases"),
                };
                let features = unit.in_channels(64, latents::DOWNSCALE);
                let noisy = units.pack(units.grids.iter().map(|[h, w]| random([1, 16, *h, *w], 1)).collect());
                assert_eq!(units.accompany(noisy.clone()).dims(), [1, len + behind, features], "{case}");
                assert_eq!(units.ids.len(), len + behind, "{case}");
                assert_eq!(units.is_reference.contains(&true), references > 0, "{case}");
                assert!(units.is_reference.contains(&false), "{case}");

                // No two tokens of an edit stand in the same place.
                let mut places: Vec<_> = units.ids.iter().map(|id| id.map(|axis| axis as u32)).collect();
                places.sort_unstable();
                places.dedup();
                assert_eq!(places.len(), len + behind, "{case}");
                let velocity = velocity(features, noisy, &units);
                assert_eq!(velocity.dims(), [1, len, 64], "{case}");
                assert!(values(velocity).into_iter().all(f32::is_finite), "{case}");
            }
        }
    }
}

#[test]
fn conditions_on_the_sequence_are_seen_but_get_no_velocity() {
    let policy = policy(Layout::Canvas, false);
    let unit = conditions(Join::Sequence, false);
    let units = Units::encode(&autoencoder(), &compose(1, &policy), &unit, None, &device());
    let noisy = random([1, units.len(), 64], 7);
    let seen = velocity(320, noisy.clone(), &units);
    assert_eq!(seen.dims(), [1, units.len(), 64]);
    // The last condition token changes; every noisy token attends to it.
    let behind = units.behind.clone().expect("conditions stand behind the noisy tokens");
    let [_, len, width] = behind.dims();
    let last = behind.clone().narrow(1, len - 1, 1) + Tensor::ones([1, 1, width], &device());
    let changed = Units { behind: Some(Tensor::cat(vec![behind.narrow(1, 0, len - 1), last], 1)), ..units };
    assert!(distance(velocity(320, noisy, &changed), seen) > 1e-4);
}

// Native resolution ------------------------------------------------------------------------------------------------

/// Numbers that look random, below `below`.
fn draws(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(below)) as u32
    }
}

/// A mask of a few random rectangles and specks; white above 128, with greys on both sides.
fn random_mask(width: u32, height: u32, draw: &mut impl FnMut(u32) -> u32) -> GrayImage {
    let mut mask = GrayImage::from_fn(width, height, |_, _| Luma([draw(129) as u8]));
    for _ in 0..=draw(3) {
        let (left, top) = (draw(width), draw(height));
        let (right, bottom) =
            ((left + 1 + draw(width / 2 + 1)).min(width), (top + 1 + draw(height / 2 + 1)).min(height));
        for y in top..bottom {
            for x in left..right {
                mask.put_pixel(x, y, Luma([129 + draw(127) as u8]));
            }
        }
    }
    mask
}

#[test]
fn outside_the_mask_every_byte_is_the_inputs_own_whatever_the_network_makes() {
    let mut draw = draws(7);
    let (mut cropped, mut whole) = (0, 0);
    for trial in 0..150 {
        let (width, height) = (16 + draw(300), 16 + draw(300));
        // One in five is longer than the aspect ratio allows.
        let (width, height) = if draw(5) == 0 { (width * 3, 16 + draw(40)) } else { (width, height) };
        let input = RgbImage::from_fn(width, height, |_, _| Rgb([draw(256) as u8, draw(256) as u8, draw(256) as u8]));
        let mask = random_mask(width, height, &mut draw);
        let mut card = Card::builtin("ace-plus-portrait").expect("a sound card");
        card.canvas.max_seq_len = 60 + draw(200) as usize;
        let feather = draw(3) * draw(6);
        let mut edit = Edit::new("words").image(input.clone()).mask(mask.clone()).feather(feather);
        for _ in 0..draw(3) {
            edit = edit.reference(RgbImage::new(30 + draw(60), 30 + draw(60)));
        }
        // Some shapes leave the image no room beside the references: an error, never a picture.
        let Ok(prepared) = edit.prepare(&card) else { continue };
        let last = prepared.canvases.last().expect("a canvas");
        let data = last.image.data.iter().map(|_| draw(201) as f32 / 100.0 - 1.0).collect();
        let output = prepared.finish(&Plane { data, ..last.image.clone() });
        let case = format!("trial {trial}: {width}x{height}, {prepared:?}");
        assert_eq!(output.dimensions(), (width, height), "{case}");
        let near = |x: u32, y: u32| {
            let (columns, rows) = (x.saturating_sub(feather)..=x + feather, y.saturating_sub(feather)..=y + feather);
            rows.into_iter().any(|y| {
                columns
                    .clone()
                    .any(|x| mask.get_pixel_checked(x, y).is_some_and(|grey| grey.0[0] > canvas::MASK_THRESHOLD))
            })
        };
        let changed = output.enumerate_pixels().filter(|(x, y, pixel)| *pixel != input.get_pixel(*x, *y));
        let (inside, outside): (Vec<_>, Vec<_>) = changed.partition(|(x, y, _)| near(*x, *y));
        assert!(outside.is_empty(), "{case}: {} bytes outside changed", outside.len());
        assert!(!inside.is_empty(), "{case}: nothing changed");
        let region = prepared.region().expect("a part that is put back");
        if (region.width, region.height) == (width, height) { whole += 1 } else { cropped += 1 }
    }
    assert!(cropped > 40 && whole > 20, "{cropped} were cropped, {whole} were not");
}

#[test]
fn a_large_picture_is_edited_at_its_own_resolution() {
    // 3000×2000 is six times the budget; the mask and what is around it are not.
    let input = RgbImage::from_fn(3000, 2000, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let mask = GrayImage::from_fn(3000, 2000, |x, y| {
        Luma([if (2500..2800).contains(&x) && (1700..1990).contains(&y) { 255 } else { 0 }])
    });
    let card = Card::builtin("flux1-fill-dev").expect("a sound card");
    let edit = Edit::new("words").image(input.clone()).mask(mask);
    let prepared = edit.prepare(&card).expect("a canvas");
    let (region, canvas) = (prepared.region().expect("a part"), &prepared.canvases[0]);
    // As much around it as the budget takes, in whole tokens, and not a pixel is resampled.
    let tokens = region.width / 16 * (region.height / 16);
    assert!(tokens <= 4096 && tokens > 3800, "{region:?}");
    assert_eq!(canvas.image.shape(), [3, region.height as usize, region.width as usize]);
    // A network that returns what it sees changes nothing.
    let target = Plane::from_rgb(&region.of_rgb(&input));
    assert_eq!(prepared.finish(&target), input);
}
