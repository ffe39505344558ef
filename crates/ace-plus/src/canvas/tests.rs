use super::*;
use image::{Luma, Rgb};

fn policy() -> CanvasPolicy {
    CanvasPolicy {
        max_seq_len: 4096,
        max_aspect_ratio: 4.0,
        reference_fit: ReferenceFit::Height,
        change_image: false,
        seam_crop: 30,
        match_colours: true,
        official_bytes: OfficialBytes::Rounded,
        layout: Layout::Canvas,
        token: 16,
        sizes: Vec::new(),
    }
}

fn keep_pixels() -> CanvasPolicy {
    CanvasPolicy { reference_fit: ReferenceFit::KeepPixels { rate: 0.8 }, change_image: true, ..policy() }
}

fn inputs<'a>(image: Option<&'a RgbImage>, references: &'a [RgbImage]) -> Inputs<'a> {
    Inputs { image, mask: None, references, size: (64, 64), repainting_scale: 1.0 }
}

fn grey(width: u32, height: u32, value: u8) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb([value; 3]))
}

/// A picture whose brightness falls from left to right and whose red rises downwards.
fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = ((x * 255 / width) as u8, (y * 255 / height) as u8);
        Rgb([down, 255 - across, across / 2])
    })
}

/// Height, width and split of the only canvas of references (each width by height) and an image.
fn sizes(references: &[(u32, u32)], image: (u32, u32), policy: &CanvasPolicy) -> [usize; 3] {
    let references: Vec<_> = references.iter().map(|&(width, height)| grey(width, height, 255)).collect();
    let canvases = compose(&inputs(Some(&grey(image.0, image.1, 0)), &references), policy).unwrap();
    assert_eq!(canvases.len(), 1);
    [canvases[0].image.height, canvases[0].image.width, canvases[0].split]
}

fn message(inputs: &Inputs, policy: &CanvasPolicy) -> String {
    let error = compose(inputs, policy).unwrap_err();
    assert!(error.hint().is_some());
    error.to_string()
}

#[test]
fn canvases_have_the_official_sizes() {
    assert_eq!(sizes(&[(1024, 1024)], (1024, 1024), &policy()), [720, 1440, 720]);
    assert_eq!(sizes(&[(1024, 1024)], (1024, 1024), &keep_pixels()), [752, 1360, 608]);
    assert_eq!(sizes(&[(1200, 1600)], (1024, 1024), &policy()), [768, 1344, 576]);
    assert_eq!(sizes(&[], (1920, 1080), &policy()), [768, 1360, 0]);
    assert_eq!(sizes(&[], (1024, 1024), &policy()), [1024, 1024, 0]);
}

#[test]
fn a_diptych_of_twice_the_budget_stays_whole() {
    let wide = CanvasPolicy { max_seq_len: 8192, ..policy() };
    assert_eq!(sizes(&[(1024, 1024)], (1024, 1024), &wide), [1024, 2048, 1024]);
}

#[test]
fn references_stand_in_order_left_of_the_image() {
    let references = [grey(64, 64, 10), grey(32, 64, 20), grey(64, 128, 30)];
    let image = grey(64, 64, 40);
    let canvas =
        &compose(&Inputs { repainting_scale: 0.0, ..inputs(Some(&image), &references) }, &policy()).unwrap()[0];
    assert_eq!((canvas.image.width, canvas.split), (64 + 32 + 32 + 64, 128));
    let row = canvas.image.to_rgb();
    let seen: Vec<u8> = [0, 63, 64, 95, 96, 127, 128, 191].map(|x| row.get_pixel(x, 30).0[0]).into();
    assert_eq!(seen, [10, 10, 20, 20, 30, 30, 40, 40]);
    assert_eq!(canvas.mask.data[127..129], [0.0, 1.0]);
}

#[test]
fn a_small_reference_keeps_its_pixels_between_grey() {
    let references = [grey(32, 32, 255)];
    let canvas = &compose(&inputs(Some(&grey(64, 64, 0)), &references), &keep_pixels()).unwrap()[0];
    assert_eq!((canvas.image.shape(), canvas.split), ([3, 64, 96], 32));
    let column: Vec<f32> = [15, 16, 47, 48].map(|y| canvas.image.data[y * 96]).into();
    assert_eq!(column, [0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn the_rate_counts_the_pixel_at_its_edge_as_tall() {
    // 0.8 of 1000 is 800 exactly in the official arithmetic, so the reference is scaled to 800 and not padded further.
    assert_eq!(fitted((800, 400), 1000, &keep_pixels()), (800, 400));
    assert_eq!(fitted((801, 801), 1000, &keep_pixels()), (800, 800));
}

#[test]
fn the_mask_is_cropped_with_the_image() {
    let image = grey(64, 640, 255);
    let mask = GrayImage::from_fn(64, 640, |_, y| Luma([if y >= 320 { 255 } else { 0 }]));
    let canvas = &compose(&Inputs { mask: Some(&mask), ..inputs(Some(&image), &[]) }, &policy()).unwrap()[0];
    assert_eq!(canvas.output_size, (64, 256));
    assert_eq!(canvas.mask.shape(), [1, 256, 64]);
    assert_eq!((canvas.mask.data[127 * 64], canvas.mask.data[128 * 64]), (0.0, 1.0));
    assert_eq!((canvas.image.data[127 * 64], canvas.image.data[128 * 64]), (1.0, 0.0));
}

#[test]
fn repainting_scale_fades_only_under_the_mask() {
    let image = grey(16, 16, 255);
    let mask = GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 255 } else { 0 }]));
    let half = Inputs { mask: Some(&mask), repainting_scale: 0.5, ..inputs(Some(&image), &[]) };
    let canvas = &compose(&half, &policy()).unwrap()[0];
    assert_eq!(canvas.image.data[7..9], [0.5, 1.0]);
    assert!(canvas.change.is_none());
    let canvas = &compose(&half, &keep_pixels()).unwrap()[0];
    assert_eq!(canvas.image.data[7..9], [0.0, 1.0]);
    assert_eq!(canvas.change.as_ref().unwrap().data[7..9], [0.5, 0.0]);
}

#[test]
fn without_an_image_everything_is_painted_on_grey() {
    let canvas = &compose(&Inputs { size: (96, 48), ..inputs(None, &[]) }, &policy()).unwrap()[0];
    assert_eq!((canvas.image.clone(), canvas.output_size), (Plane::zeros([3, 48, 96]), (96, 48)));
    assert_eq!(canvas.mask, Plane::filled([1, 48, 96], 1.0));
}

#[test]
fn a_sequence_shares_the_budget_by_pixels() {
    let policy = CanvasPolicy { layout: Layout::Sequence, change_image: true, ..policy() };
    let references = [grey(1024, 1024, 10), grey(512, 1024, 20)];
    let canvases = compose(&inputs(Some(&grey(1024, 1024, 30)), &references), &policy).unwrap();
    let seen: Vec<_> = canvases.iter().map(|c| (c.image.height, c.image.width, c.split, c.output_size)).collect();
    // 4096 of 10240 tokens: every side shrinks by √0.4 = 0.632.
    assert_eq!(seen, [(640, 640, 640, (1024, 1024)), (640, 320, 320, (512, 1024)), (640, 640, 0, (1024, 1024))]);
    assert!(
        canvases[..2]
            .iter()
            .all(|c| c.mask.data.iter().all(|&m| m == 0.0) && c.image.to_rgb().get_pixel(0, 0).0[0] > 0)
    );
    assert!(canvases[2].mask.data.iter().all(|&m| m == 1.0));
}

#[test]
fn a_target_has_the_geometry_of_its_canvas() {
    let (image, target) = (gradient(200, 900), gradient(100, 450));
    let references = [gradient(120, 80), gradient(300, 300)];
    for layout in [Layout::Canvas, Layout::Sequence] {
        for policy in [policy(), keep_pixels()] {
            let policy = CanvasPolicy { max_seq_len: 500, layout, ..policy };
            let inputs = inputs(Some(&image), &references);
            let canvases = compose(&inputs, &policy).unwrap();
            let targets = compose_target(&target, &inputs, &policy).unwrap();
            let shapes = |planes: &[Plane]| planes.iter().map(Plane::shape).collect::<Vec<_>>();
            assert_eq!(shapes(&targets), canvases.iter().map(|c| c.image.shape()).collect::<Vec<_>>());
            let (canvas, target) = (&canvases[0], &targets[0]);
            let reference = |plane: &Plane| plane.crop(0, 0, plane.height, canvas.split);
            assert_eq!(reference(&canvas.image), reference(target));
        }
    }
}

#[test]
fn a_target_equal_to_the_image_is_the_canvas_that_hides_nothing() {
    let image = gradient(333, 222);
    let references = [gradient(120, 80)];
    let shown = Inputs { repainting_scale: 0.0, ..inputs(Some(&image), &references) };
    let canvas = compose(&shown, &policy()).unwrap().remove(0);
    assert_eq!(compose_target(&image, &shown, &policy()).unwrap(), [canvas.image]);
}

#[test]
fn crop_back_undoes_the_geometry() {
    let image = gradient(320, 240);
    // Whole tokens come back exactly; what was shrunk comes back in its place.
    for (max_seq_len, seam_crop, mean, references) in [
        (4096, 0, 0.0, vec![grey(300, 300, 255)]),
        (4096, 0, 0.0, vec![]),
        (75, 30, 1.5, vec![]),
        (256, 0, 1.5, vec![grey(200, 300, 255)]),
        (256, 30, 1.5, vec![grey(200, 300, 255)]),
    ] {
        let policy = CanvasPolicy { max_seq_len, seam_crop, ..policy() };
        let inputs = inputs(Some(&image), &references);
        let canvas = compose(&inputs, &policy).unwrap().remove(0);
        let target = compose_target(&image, &inputs, &policy).unwrap().remove(0);
        let output = crop_back(&target, &canvas);
        assert_eq!(output.dimensions(), image.dimensions());
        let off: f64 = output.as_raw().iter().zip(image.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let off = off / image.as_raw().len() as f64;
        assert!(off <= mean, "{max_seq_len} tokens: off by {off} of 255 on average");
    }
}

#[test]
fn a_canvas_of_the_right_size_comes_back_untouched() {
    let image = gradient(64, 48);
    let inputs = inputs(Some(&image), &[]);
    let canvas = compose(&inputs, &policy()).unwrap().remove(0);
    assert_eq!(crop_back(&compose_target(&image, &inputs, &policy()).unwrap()[0], &canvas), image);
}

#[test]
fn every_canvas_is_whole_tokens_within_budget_with_room_for_the_image() {
    let sides = [16, 33, 100, 257, 400];
    for width in sides {
        for height in sides {
            for reference in [None, Some((48, 64)), Some((300, 90))] {
                for (max_seq_len, base) in [(64, policy()), (256, keep_pixels())] {
                    let policy = CanvasPolicy { max_seq_len, seam_crop: 0, ..base };
                    let references: Vec<_> = reference.iter().map(|&(w, h)| grey(w, h, 9)).collect();
                    let image = grey(width, height, 99);
                    // Some shapes leave no room: then it is an error, never a canvas without an image.
                    let Ok(canvases) = compose(&inputs(Some(&image), &references), &policy) else { continue };
                    let [_, h, w] = canvases[0].image.shape();
                    assert!(h % 16 == 0 && w % 16 == 0 && canvases[0].split % 16 == 0);
                    assert!((h / 16) * (w / 16) <= max_seq_len);
                    assert!(canvases[0].split < w && (canvases[0].split > 0) == reference.is_some());
                    assert_eq!(canvases[0].mask.shape(), [1, h, w]);
                }
            }
        }
    }
}

#[test]
fn keep_outside_returns_the_inputs_own_pixels() {
    let (output, input) = (grey(2, 1, 7), gradient(2, 1));
    let mask = GrayImage::from_fn(2, 1, |x, _| Luma([128 + x as u8]));
    let kept = keep_outside(&output, &input, &mask);
    assert_eq!((kept.get_pixel(0, 0), kept.get_pixel(1, 0)), (input.get_pixel(0, 0), output.get_pixel(1, 0)));
}

#[test]
fn keep_outside_finds_the_middle_that_was_cropped() {
    let (input, mask) = (gradient(16, 100), GrayImage::new(16, 100));
    let kept = keep_outside(&grey(16, 64, 7), &input, &mask);
    assert_eq!((kept.dimensions(), kept.get_pixel(3, 0)), ((16, 64), input.get_pixel(3, 18)));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let (image, mask) = (grey(1024, 768, 0), GrayImage::new(512, 512));
    let edit = inputs(Some(&image), &[]);
    let with_mask = Inputs { mask: Some(&mask), ..edit };
    assert_eq!(message(&with_mask, &policy()), "mask is 512x512 but image is 1024x768");
    assert_eq!(message(&Inputs { image: None, ..with_mask }, &policy()), "there is a mask but no image");
    let black = GrayImage::new(1024, 768);
    let nothing = Inputs { mask: Some(&black), ..edit };
    assert_eq!(message(&nothing, &policy()), "the mask is all black: nothing to repaint");
    assert_eq!(message(&inputs(Some(&grey(1, 1, 0)), &[]), &policy()), "image is 1x1; the least is 16x16");
    let far = Inputs { size: (20_000, 64), ..inputs(None, &[]) };
    assert_eq!(message(&far, &policy()), "size is 20000x64; the most is 16384 on a side");
    let tiny = [grey(64, 64, 0), grey(64, 8, 0)];
    assert_eq!(message(&inputs(None, &tiny), &policy()), "reference 2 is 64x8; the least is 16x16");
    assert_eq!(message(&Inputs { repainting_scale: 1.5, ..edit }, &policy()), "repainting_scale is 1.5");
    assert_eq!(message(&Inputs { repainting_scale: f32::NAN, ..edit }, &policy()), "repainting_scale is NaN");
}

#[test]
fn a_budget_without_room_is_named() {
    let image = grey(1024, 256, 0);
    let poor = CanvasPolicy { max_seq_len: 3, ..policy() };
    assert_eq!(
        message(&inputs(Some(&image), &[]), &poor),
        "max_seq_len 3 leaves less than 16 px of a side of 1024x256"
    );
    let wide = [grey(256, 64, 0)];
    assert_eq!(
        message(&Inputs { size: (16, 64), ..inputs(None, &wide) }, &policy()),
        "references take 256 and the image 16 of 272 canvas columns, 30 cut off"
    );
}

#[test]
fn a_policy_reads_as_a_section_of_a_card() {
    let text = |fit: &str| {
        format!(
            "max_seq_len = 4096\nmax_aspect_ratio = 4\nreference_fit = {fit}\nchange_image = true\nseam_crop = 30\n\
             layout = \"canvas\""
        )
    };
    let fft: CanvasPolicy = toml::from_str(&text("{ keep-pixels = { rate = 0.8 } }")).unwrap();
    assert_eq!(fft, keep_pixels());
    let lora: CanvasPolicy = toml::from_str(&text("\"height\"")).unwrap();
    assert_eq!(lora.reference_fit, ReferenceFit::Height);
    assert!(toml::from_str::<CanvasPolicy>(&format!("{}\nseam = 3", text("\"height\""))).is_err());
}
