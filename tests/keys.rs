//! The published checkpoints by name and shape against our modules at full size: BFL's files written down from their key
//! tables, diffusers' and transformers' recorded from their own modules on torch's `meta` device
//! (`tests/reference/record_keys.py`). Modules are lazy and files are hollow: nothing here is allocated.

use crate::support::{self, TestDir, device, shapes};
use ace_nn::{contour::ContourConfig, depth::DepthConfig, flux::FluxConfig, vit::VitConfig};
use ace_plus::{
    Card,
    model::{Model, Problem, checkup},
};
use ace_weights::{
    names::KeyMap,
    network::{annotators, vit},
};
use burn::module::Module;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
};

type Shapes = BTreeMap<String, Vec<usize>>;

/// A published list in the making.
#[derive(Default)]
struct Published(Shapes);

impl Published {
    fn tensor(&mut self, key: &str, shape: &[usize]) {
        assert!(self.0.insert(key.to_owned(), shape.to_vec()).is_none(), "{key} twice");
    }

    /// `key.weight` of the shape and `key.bias` of its first side.
    fn layer(&mut self, key: &str, shape: &[usize]) {
        self.tensor(&format!("{key}.weight"), shape);
        self.tensor(&format!("{key}.bias"), &shape[..1]);
    }
}

fn parameters(shapes: &Shapes) -> u64 {
    shapes.values().map(|shape| shape.iter().map(|side| *side as u64).product::<u64>()).sum()
}

/// Asserts that a module has exactly the published tensors.
fn assert_published<M: Module>(module: &M, keys: &KeyMap, published: &Published, tensors: usize, total: u64) {
    assert_eq!(published.0.len(), tensors, "the list itself");
    assert_eq!(parameters(&published.0), total, "the list itself");
    let paths = shapes(module);
    let ours: Shapes = paths.iter().map(|(path, shape)| (keys.key(path), shape.clone())).collect();
    assert_eq!(ours.len(), paths.len(), "two parameters share a key");
    let names = |shapes: &Shapes| shapes.keys().cloned().collect::<BTreeSet<_>>();
    let (theirs, own) = (names(&published.0), names(&ours));
    assert!(theirs.is_subset(&own), "missing: {:?}", theirs.difference(&own));
    assert!(own.is_subset(&theirs), "left over: {:?}", own.difference(&theirs));
    for (key, shape) in &published.0 {
        assert_eq!(&ours[key], shape, "{key}");
    }
}

/// FLUX.1 with a given number of input features: 64 text-to-image, 384 Fill and the ACE++ LoRAs, 448 ACE++ FFT.
fn flux_config(in_channels: usize) -> FluxConfig {
    FluxConfig { in_channels, ..published().flux }
}

/// The card with the published sizes.
fn published() -> Card {
    Card::builtin("flux1-fill-dev").expect("a sound card")
}

fn published_flux(in_channels: usize) -> Published {
    let mut list = Published::default();
    list.layer("img_in", &[3072, in_channels]);
    list.layer("txt_in", &[3072, 4096]);
    for (embedder, input) in [("time_in", 256), ("guidance_in", 256), ("vector_in", 768)] {
        list.layer(&format!("{embedder}.in_layer"), &[3072, input]);
        list.layer(&format!("{embedder}.out_layer"), &[3072, 3072]);
    }
    for block in 0..19 {
        for stream in ["img", "txt"] {
            let key = |part: &str| format!("double_blocks.{block}.{stream}_{part}");
            list.layer(&key("mod.lin"), &[18432, 3072]);
            list.layer(&key("attn.qkv"), &[9216, 3072]);
            list.tensor(&key("attn.norm.query_norm.scale"), &[128]);
            list.tensor(&key("attn.norm.key_norm.scale"), &[128]);
            list.layer(&key("attn.proj"), &[3072, 3072]);
            list.layer(&key("mlp.0"), &[12288, 3072]);
            list.layer(&key("mlp.2"), &[3072, 12288]);
        }
    }
    for block in 0..38 {
        let key = |part: &str| format!("single_blocks.{block}.{part}");
        list.layer(&key("modulation.lin"), &[9216, 3072]);
        list.layer(&key("linear1"), &[21504, 3072]);
        list.layer(&key("linear2"), &[3072, 15360]);
        list.tensor(&key("norm.query_norm.scale"), &[128]);
        list.tensor(&key("norm.key_norm.scale"), &[128]);
    }
    list.layer("final_layer.adaLN_modulation.1", &[6144, 3072]);
    list.layer("final_layer.linear", &[64, 3072]);
    list
}

#[test]
fn flux_has_the_keys_of_the_published_files() {
    for (in_channels, total) in [(64, 11_901_408_320), (384, 11_902_391_360), (448, 11_902_587_968)] {
        let flux = flux_config(in_channels).init(&device());
        assert_published(&flux, &ace_weights::network::flux::BFL, &published_flux(in_channels), 780, total);
    }
}

#[test]
fn schnell_lacks_the_guidance_embedding_only() {
    let flux = FluxConfig { guidance_embed: false, ..flux_config(64) }.init(&device());
    let mut published = published_flux(64);
    published.0.retain(|key, _| !key.starts_with("guidance_in."));
    assert_published(&flux, &ace_weights::network::flux::BFL, &published, 776, 11_901_408_320 - 10_229_760);
}

#[test]
fn an_adapter_of_rank_one_has_the_published_size() {
    let published = published_flux(384);
    let (mut modules, mut size) = (0, 0);
    flux_config(384).init(&device()).for_each_linear(&mut |path, linear| {
        let [input, output] = linear.features();
        assert_eq!(published.0.get(&format!("{path}.weight")), Some(&vec![output, input]), "{path}");
        if path.starts_with("double_blocks.") || path.starts_with("single_blocks.") {
            modules += 1;
            size += input + output;
        }
    });
    assert_eq!((modules, size), (304, 4_786_176));
}

fn published_resnet(list: &mut Published, key: &str, input: usize, output: usize) {
    list.layer(&format!("{key}.norm1"), &[input]);
    list.layer(&format!("{key}.conv1"), &[output, input, 3, 3]);
    list.layer(&format!("{key}.norm2"), &[output]);
    list.layer(&format!("{key}.conv2"), &[output, output, 3, 3]);
    if input != output {
        list.layer(&format!("{key}.nin_shortcut"), &[output, input, 1, 1]);
    }
}

fn published_autoencoder() -> Published {
    let mut list = Published::default();
    list.layer("encoder.conv_in", &[128, 3, 3, 3]);
    for (level, (input, output)) in [(128, 128), (128, 256), (256, 512), (512, 512)].into_iter().enumerate() {
        published_resnet(&mut list, &format!("encoder.down.{level}.block.0"), input, output);
        published_resnet(&mut list, &format!("encoder.down.{level}.block.1"), output, output);
        if level < 3 {
            list.layer(&format!("encoder.down.{level}.downsample.conv"), &[output, output, 3, 3]);
        }
    }
    for side in ["encoder", "decoder"] {
        published_resnet(&mut list, &format!("{side}.mid.block_1"), 512, 512);
        published_resnet(&mut list, &format!("{side}.mid.block_2"), 512, 512);
        list.layer(&format!("{side}.mid.attn_1.norm"), &[512]);
        for part in ["q", "k", "v", "proj_out"] {
            list.layer(&format!("{side}.mid.attn_1.{part}"), &[512, 512, 1, 1]);
        }
    }
    list.layer("encoder.norm_out", &[512]);
    list.layer("encoder.conv_out", &[32, 512, 3, 3]);
    list.layer("decoder.conv_in", &[512, 16, 3, 3]);
    for (level, (input, output)) in [(256, 128), (512, 256), (512, 512), (512, 512)].into_iter().enumerate() {
        published_resnet(&mut list, &format!("decoder.up.{level}.block.0"), input, output);
        published_resnet(&mut list, &format!("decoder.up.{level}.block.1"), output, output);
        published_resnet(&mut list, &format!("decoder.up.{level}.block.2"), output, output);
        if level > 0 {
            list.layer(&format!("decoder.up.{level}.upsample.conv"), &[output, output, 3, 3]);
        }
    }
    list.layer("decoder.norm_out", &[128]);
    list.layer("decoder.conv_out", &[3, 128, 3, 3]);
    list
}

#[test]
fn the_autoencoder_has_the_keys_of_the_published_file() {
    let autoencoder = published().autoencoder.init(&device());
    assert_published(&autoencoder, &ace_weights::network::autoencoder::BFL, &published_autoencoder(), 244, 83_819_683);
    assert_eq!(parameters(&shapes(&autoencoder.encoder)), 34_274_208);
    assert_eq!(parameters(&shapes(&autoencoder.decoder)), 49_545_475);
}

#[test]
fn t5_has_the_keys_of_the_published_file() {
    let mut list = Published::default();
    list.tensor("shared.weight", &[32128, 4096]);
    list.tensor("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[32, 64]);
    for block in 0..24 {
        let key = |part: &str| format!("encoder.block.{block}.layer.{part}.weight");
        for part in ["q", "k", "v", "o"] {
            list.tensor(&key(&format!("0.SelfAttention.{part}")), &[4096, 4096]);
        }
        list.tensor(&key("0.layer_norm"), &[4096]);
        list.tensor(&key("1.DenseReluDense.wi_0"), &[10240, 4096]);
        list.tensor(&key("1.DenseReluDense.wi_1"), &[10240, 4096]);
        list.tensor(&key("1.DenseReluDense.wo"), &[4096, 10240]);
        list.tensor(&key("1.layer_norm"), &[4096]);
    }
    list.tensor("encoder.final_layer_norm.weight", &[4096]);

    assert_published(
        &published().t5.init(&device()),
        &ace_weights::network::t5::TRANSFORMERS,
        &list,
        219,
        4_762_310_656,
    );
}

#[test]
fn clip_has_the_keys_of_the_published_file() {
    let mut list = Published::default();
    list.tensor("text_model.embeddings.token_embedding.weight", &[49408, 768]);
    list.tensor("text_model.embeddings.position_embedding.weight", &[77, 768]);
    for layer in 0..12 {
        let key = |part: &str| format!("text_model.encoder.layers.{layer}.{part}");
        list.layer(&key("layer_norm1"), &[768]);
        list.layer(&key("layer_norm2"), &[768]);
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.layer(&key(&format!("self_attn.{part}")), &[768, 768]);
        }
        list.layer(&key("mlp.fc1"), &[3072, 768]);
        list.layer(&key("mlp.fc2"), &[768, 3072]);
    }
    list.layer("text_model.final_layer_norm", &[768]);

    assert_published(
        &published().clip.init(&device()),
        &ace_weights::network::clip::TRANSFORMERS,
        &list,
        196,
        123_060_480,
    );
}

/// The list that diffusers or transformers gave for a network on torch's `meta` device, at full size.
fn recorded(name: &str) -> Shapes {
    let text = fs::read_to_string(support::data("keys").join(format!("{name}.txt"))).expect("a recording");
    let mut shapes = Shapes::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let key = words.next().expect("a key");
        let shape: Vec<usize> = words.map(|side| side.parse().expect("a side")).collect();
        for key in numbered(key) {
            assert!(shapes.insert(key.clone(), shape.clone()).is_none(), "{key} twice");
        }
    }
    shapes
}

/// `a.{0..2}.b` as `a.0.b`, `a.1.b`, `a.2.b`, for each such place.
fn numbered(key: &str) -> Vec<String> {
    let Some((head, rest)) = key.split_once('{') else { return vec![key.to_owned()] };
    let (range, tail) = rest.split_once('}').expect("a range");
    let (first, last) = range.split_once("..").expect("a range");
    let [first, last] = [first, last].map(|number| number.parse::<usize>().expect("a number"));
    (first..=last).flat_map(|number| numbered(&format!("{head}{number}{tail}"))).collect()
}

/// Asserts that a module has the recorded tensors, but for sides of one in front and those that are not used.
fn assert_recorded<M: Module>(name: &str, module: &M, keys: &KeyMap, total: u64) {
    let theirs = recorded(name);
    assert_eq!(parameters(&theirs), total, "{name}: the list itself");
    let mut ours: Shapes = shapes(module).iter().map(|(path, shape)| (keys.key(path), shape.clone())).collect();
    for (key, shape) in &theirs {
        match ours.remove(key) {
            Some(own) => {
                assert!(
                    shape.ends_with(&own) && shape.iter().product::<usize>() == own.iter().product::<usize>(),
                    "{name}: {key}"
                );
            }
            None => assert!(keys.is_unused(key), "{name}: {key} has no place"),
        }
    }
    assert!(ours.is_empty(), "{name}: left over {:?}", ours.keys());
}

#[test]
fn networks_that_look_at_pictures_have_the_recorded_keys_at_full_size() {
    let init = |config: VitConfig| config.init(&device());
    assert_recorded("siglip", &init(VitConfig::SIGLIP_SO400M), &vit::TRANSFORMERS, 428_225_600);
    assert_recorded("dinov2", &init(VitConfig::DINOV2_SMALL), &vit::DINOV2, 22_056_576);
    let contour = ContourConfig::PUBLISHED.init(&device());
    assert_recorded("contour", &contour, &annotators::CONTOUR, 4_290_945);
    assert_recorded("depth", &DepthConfig::SMALL.init(&device()), &annotators::DEPTH, 24_785_089);
    assert_recorded("clip_vision", &init(VitConfig::CLIP_LARGE), &vit::TRANSFORMERS, 303_179_776);
}

/// A weight file with a true header and nothing but holes behind it: 24 GB that take no room.
fn hollow(path: &Path, shapes: &Shapes) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (key, shape) in shapes {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] });
        header.insert(key.clone(), entry);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    fs::create_dir_all(path.parent().expect("inside")).expect("writable");
    let mut file = fs::File::create(path).expect("writable");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("writable");
    file.write_all(&header).expect("writable");
    file.set_len((8 + header.len() + end) as u64).expect("a file with holes");
}

/// What is wrong with the networks of a folder, as far as they are there.
fn problems(card: &str, folder: &Path) -> Vec<(String, String)> {
    let card = Card::builtin(card).expect("a sound card");
    let findings = checkup(&Model::of(card, folder).hub(None), &device(), None).expect("readable");
    let networks = findings.into_iter().filter(|finding| finding.path.is_some());
    let message = |problem: Option<Problem>| problem.map_or("ok".to_owned(), |problem| problem.message());
    networks.map(|finding| (finding.component.to_string(), message(finding.problem))).collect()
}

#[test]
fn files_with_the_recorded_keys_are_taken_at_full_size_and_others_are_not() {
    let dir = TestDir::new("keys-full");
    let mut lists = ["transformer", "vae", "text_encoder_2", "text_encoder"].map(|name| (name, recorded(name)));
    // One tensor under two names; files have either, or both.
    let tied = lists[2].1.remove("encoder.embed_tokens.weight").expect("a tied weight");
    assert_eq!(lists.each_ref().map(|(_, list)| list.len()), [1160, 244, 219, 196]);
    assert_eq!(
        lists.each_ref().map(|(_, list)| parameters(list)),
        [11_902_391_360, 83_819_683, 4_762_310_656, 123_060_480]
    );
    for (name, list) in &lists {
        let file = if name.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
        hollow(&dir.file(&format!("{name}/{file}.safetensors")), list);
    }
    let all_ok = ["flux", "autoencoder", "t5", "clip"].map(|part| (part.to_owned(), "ok".to_owned()));
    assert_eq!(problems("flux1-fill-dev", dir.path()), all_ok);

    let t5 = dir.file("text_encoder_2/model.safetensors");
    let mut both = lists[2].1.clone();
    both.insert("encoder.embed_tokens.weight".into(), tied);
    hollow(&t5, &both);
    assert_eq!(problems("flux1-fill-dev", dir.path()), all_ok);
    both.remove("shared.weight");
    hollow(&t5, &both);
    assert_eq!(problems("flux1-fill-dev", dir.path()), all_ok);

    // The single files' keys, and those of the full fine-tune, in a folder of their own.
    let single = TestDir::new("keys-single");
    hollow(&single.file("flux1-fill-dev.safetensors"), &published_flux(384).0);
    hollow(&single.file("ace_plus_fft.safetensors"), &published_flux(448).0);
    hollow(&single.file("ae.safetensors"), &published_autoencoder().0);
    assert_eq!(problems("flux1-fill-dev", single.path()), all_ok[..2]);
    assert_eq!(problems("ace-plus-fft", single.path()), all_ok[..2]);

    let mut lacking = published_flux(384).0;
    lacking.remove("double_blocks.7.txt_attn.proj.bias");
    hollow(&single.file("flux1-fill-dev.safetensors"), &lacking);
    assert!(problems("flux1-fill-dev", single.path())[0].1.contains("double_blocks.7.txt_attn.proj.bias"));
    let mut more = published_flux(384).0;
    more.insert("double_blocks.19.img_mod.lin.bias".into(), vec![18432]);
    hollow(&single.file("flux1-fill-dev.safetensors"), &more);
    assert_ne!(problems("flux1-fill-dev", single.path())[0].1, "ok");
    hollow(&single.file("flux1-fill-dev.safetensors"), &published_flux(64).0);
    assert!(problems("flux1-fill-dev", single.path())[0].1.contains("64 input features, the card's 384"));
}

#[test]
fn mobile_sam_has_the_published_names_and_shapes() {
    let published = Published(recorded("mobile_sam"));
    let sam = ace_nn::sam::SamConfig::mobile().init(&device());
    // 9,808,708 parameters, and two statistics for every channel of a batch norm.
    assert_published(&sam, &ace_weights::network::sam::SAM, &published, 408, 9_818_564);
}

#[test]
fn mobile_sam_is_read_with_what_its_file_has_besides_and_with_nothing_missing() {
    let folder = TestDir::new("mobile-sam");
    let path = folder.file("mobile_sam.safetensors");
    let config = ace_nn::sam::SamConfig::mobile();
    let mut shapes = recorded("mobile_sam");
    shapes.insert("image_encoder.head.weight".into(), vec![1000, 320]);
    shapes.insert("image_encoder.layers.0.blocks.0.conv1.bn.num_batches_tracked".into(), vec![]);
    let load = |shapes: &Shapes| {
        hollow(&path, shapes);
        ace_weights::WeightFile::open(&path).and_then(|file| file.sam(&config, &device()).map(drop))
    };
    load(&shapes).expect("the published file");
    shapes.insert("mask_decoder.more.weight".into(), vec![4]);
    assert!(load(&shapes).expect_err("a key too many").to_string().contains("mask_decoder.more.weight"));
    shapes.remove("mask_decoder.more.weight");
    shapes.remove("prompt_encoder.no_mask_embed.weight");
    assert!(load(&shapes).expect_err("a key too few").to_string().contains("no_mask_embed"));
}
