//! Cards: the built-in ones say what is published, one card stands on another, and everything of a card is found in a
//! folder, in the cache of the Hugging Face Hub, or by `ace fetch` on a server of this test.

use crate::support::{
    self, TestDir, ace,
    hub::{Answer, Server},
};
use ace_plus::{
    Card, Edit,
    annotate::Annotator,
    card::Need,
    model::{Component, Model},
    sample::{Sampler, Schedule},
};
use ace_weights::{digest, hub::Hub};
use image::RgbImage;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicUsize, Ordering},
};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[test]
fn every_card_is_built_in_and_has_the_published_sizes() {
    let mut folders: Vec<String> = fs::read_dir(models())
        .expect("models")
        .flatten()
        .filter(|entry| entry.path().join("card.toml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let mut builtins: Vec<&str> = Card::builtins().collect();
    folders.sort();
    builtins.sort_unstable();
    assert_eq!(builtins, folders);
    for name in builtins {
        let card = Card::builtin(name).expect("a sound card");
        assert_eq!((card.name.as_str(), &card), (name, &Card::load(&models().join(name)).expect("the same card")));
        if name == "tiny" {
            continue;
        }
        let shapes = support::shapes(&card.flux.init(&support::device()));
        let parameters: u64 = shapes.values().map(|shape| shape.iter().map(|side| *side as u64).product::<u64>()).sum();
        let published = match (card.flux.in_channels, card.flux.guidance_embed) {
            (64, false) => 11_891_178_560,
            (64, true) => 11_901_408_320,
            (128, true) => 11_901_604_928,
            (384, true) => 11_902_391_360,
            (448, true) => 11_902_587_968,
            other => panic!("{name}: {other:?} is not published"),
        };
        assert_eq!(parameters, published, "{name}");
        for part in card.components() {
            assert!(!card.hub_files(part).is_empty(), "{name}: {part} is published nowhere");
        }
    }
}

#[test]
fn the_sizes_that_adapters_without_a_card_are_read_with_are_the_cards() {
    let card = Card::builtin("flux1-fill-dev").expect("a sound card");
    assert_eq!(card.flux, ace_weights::network::flux::PUBLISHED);
}

#[test]
fn tasks_have_the_official_defaults() {
    let task = |card: &str, task: &str| {
        let card = Card::builtin(card).expect("a sound card");
        let found = card.find_task(task).expect("a task").clone();
        (found.repainting_scale, found.annotator, found.needs)
    };
    let both = || vec![Need::Image, Need::Mask];
    assert_eq!(task("ace-plus-portrait", "portrait"), (1.0, Annotator::None, vec![Need::Reference]));
    assert_eq!(task("ace-plus-local-editing", "repainting"), (1.0, Annotator::None, both()));
    for (name, annotator) in [
        ("canny", Annotator::Canny),
        ("mosaic", Annotator::Mosaic),
        ("contour", Annotator::Contour),
        ("depth", Annotator::Depth),
        ("recolor", Annotator::Gray),
    ] {
        assert_eq!(task("ace-plus-local-editing", name), (0.5, annotator, both()), "{name}");
        // There is no canny in the full model's list.
        if name != "canny" {
            assert_eq!(task("ace-plus-fft", name), (0.0, annotator, vec![Need::Image]), "{name}");
        }
    }
    assert_eq!(task("ace-plus-fft", "super_resolution"), (0.0, Annotator::None, vec![Need::Image]));
    let sampling = |card: &str| {
        let sampling = Card::builtin(card).expect("a sound card").sampling;
        (sampling.num_steps, sampling.guidance)
    };
    assert_eq!((sampling("flux1-fill-dev"), sampling("ace-plus-fft")), ((50, 30.0), (28, 50.0)));
}

#[test]
fn a_task_that_wants_a_map_says_so() {
    let card = Card::builtin("ace-plus-fft").expect("a sound card");
    let edit = Edit::new("a cat").image(RgbImage::new(64, 64)).task("contour");
    assert_eq!(edit.undrawn(&card).expect("a task"), Some(Annotator::Contour));
    let error = edit.prepare(&card).expect_err("no map");
    assert!(
        error.to_string().contains("needs the contour") && error.hint().is_some_and(|hint| hint.contains("network"))
    );
    let drawn = edit.clone().map(RgbImage::from_pixel(64, 64, image::Rgb([255; 3])));
    let canvas = drawn.prepare(&card).expect("a map").canvases.remove(0);
    // Without a mask all of the image is the map, and travels as what may change.
    assert!(canvas.change.expect("a change image").data.iter().all(|value| *value == 1.0));
    let small = edit.map(RgbImage::new(32, 64));
    assert!(small.prepare(&card).expect_err("another size").to_string().contains("32x64"));
}

#[test]
fn a_card_on_another_one_says_only_what_differs() {
    let dir = TestDir::new("cards-base");
    let card = |text: &str| {
        fs::write(dir.file("card.toml"), text).expect("writable");
        Card::load(dir.path())
    };
    let mine = card("base = \"ace-plus-fft\"\nname = \"mine\"\n[sampling]\nnum_steps = 8\n").expect("a sound card");
    let theirs = Card::builtin("ace-plus-fft").expect("a sound card");
    assert_eq!((mine.name.as_str(), mine.sampling.num_steps), ("mine", 8));
    assert_eq!((mine.sampling.guidance, &mine.unit, &mine.task), (50.0, &theirs.unit, &theirs.task));
    let message = |text: &str| card(text).expect_err("refused").to_string();
    assert!(message("base = \"giant\"\n").contains("base = \"giant\": there is no such card"));
    assert!(message("base = \"tiny\"\n[canvas]\nseam = 3\n").contains("seam"));
    let bent =
        card("base = \"tiny\"\n[sampling]\nsampler = \"dpmpp-2m\"\nschedule = \"beta\"\n").expect("a sound card");
    assert_eq!((bent.sampling.sampler, bent.sampling.schedule), (Sampler::Dpmpp2m, Schedule::Beta));
    let unknown = message("base = \"tiny\"\n[sampling]\nsampler = \"dpm\"\n");
    assert!(unknown.contains("dpm") && unknown.contains("`euler`") && unknown.contains("`unipc`"), "{unknown}");
    // The condition policy of one and the transformer of another do not fit.
    assert!(message("base = \"tiny\"\n[flux]\nin_channels = 384\n").contains("in_channels"));
}

#[test]
fn an_addition_goes_on_top_of_any_card() {
    let names: Vec<_> = Card::additions().map(|(name, _)| name).collect();
    for base in ["flux1-dev", "flux1-kontext-dev", "flux1-fill-dev", "ace-plus-portrait", "ace-plus-fft"] {
        let card = Card::builtin(base).expect("a sound card");
        for addition in &names {
            let with = Card::builtin(&format!("{base}+{addition}")).expect("a sound card");
            assert_eq!(with.name, format!("{base}+{addition}"));
            assert_eq!((&with.flux, &with.unit, &with.task), (&card.flux, &card.unit, &card.task));
            // Its adapters, if it has any, come behind the card's; everything is published somewhere.
            assert_eq!(with.adapter[..card.adapter.len()], card.adapter[..]);
            assert_eq!(with.repository[..card.repository.len()], card.repository[..]);
            for part in with.components() {
                assert!(!with.hub_files(part).is_empty(), "{base}+{addition}: {part} is published nowhere");
            }
        }
    }
    let steps = |name: &str| {
        let card = Card::builtin(name).expect("a sound card");
        (card.sampling.num_steps, card.sampling.guidance, card.adapter.last().map(|adapter| adapter.weight))
    };
    assert_eq!(steps("ace-plus-portrait+turbo-alpha"), (8, 50.0, Some(1.0)));
    assert_eq!(steps("flux1-dev+hyper-sd-8"), (8, 3.5, Some(0.125)));
    assert_eq!(steps("flux1-dev+hyper-sd-16"), (16, 3.5, Some(0.125)));
    let error = Card::builtin("flux1-dev+nothing").expect_err("there is none");
    assert!(
        error.to_string().contains("no addition \"nothing\"")
            && error.hint().is_some_and(|hint| hint.contains("turbo-alpha"))
    );
    // A card of one's own may stand on both.
    let dir = TestDir::new("cards-addition");
    fs::write(dir.file("card.toml"), "base = \"ace-plus-subject+turbo-alpha\"\nname = \"mine\"\n").expect("writable");
    let mine = Card::load(dir.path()).expect("a sound card");
    assert_eq!((mine.sampling.num_steps, mine.adapter.len()), (8, 2));
    // What they bring is missed and fetched as the rest is.
    let (output, said) = run(&dir, &Server::refusing(404, &[]), &["doctor", "flux1-dev+redux+turbo-alpha", "--quick"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["BAD vision", "BAD redux", "BAD adapter", "mend: ace fetch flux1-dev+redux+turbo-alpha"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn what_is_missing_is_named_with_the_way_to_get_it() {
    let dir = TestDir::new("cards-missing");
    let card = Card::builtin("ace-plus-portrait").expect("a sound card");
    let hub = Hub::new(dir.file("hub")).offline();
    fs::write(dir.file("ae.safetensors"), "").expect("writable");
    let error = Model::of(card, dir.path()).hub(Some(hub)).files().expect_err("incomplete");
    let message = error.to_string();
    for part in ["flux (flux1-fill-dev.safetensors)", "t5 (text_encoder_2)", "adapter (portrait/comfyui_portrait"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("autoencoder"), "{message}");
    assert!(error.hint().is_some_and(|hint| hint.contains("fetch ace-plus-portrait")));
}

#[test]
fn parts_are_found_under_every_name_that_people_have_them() {
    let dir = TestDir::new("cards-names");
    let card = Card::builtin("flux1-fill-dev").expect("a sound card");
    let found = |part| {
        let model = Model::of(card.clone(), dir.path()).hub(None);
        let source = model.find_component(part).expect("readable")?;
        Some(source.path().strip_prefix(dir.path()).expect("inside").to_str().expect("plain").to_owned())
    };
    assert_eq!(found(Component::Flux), None);
    for name in ["text_encoders/t5xxl_fp8_e4m3fn.safetensors", "vae/ae.safetensors", "transformer/config.json"] {
        fs::create_dir_all(dir.file(name).parent().expect("inside")).expect("writable");
        fs::write(dir.file(name), "").expect("writable");
    }
    assert_eq!(found(Component::Flux).as_deref(), Some("transformer"));
    assert_eq!(found(Component::AutoEncoder).as_deref(), Some("vae/ae.safetensors"));
    assert_eq!(found(Component::T5).as_deref(), Some("text_encoders/t5xxl_fp8_e4m3fn.safetensors"));
    fs::write(dir.file("flux1-fill-dev.safetensors"), "").expect("writable");
    assert_eq!(found(Component::Flux).as_deref(), Some("flux1-fill-dev.safetensors"));
}

#[test]
fn what_diffusers_has_fetched_is_used() {
    let dir = TestDir::new("cards-cache");
    let card = Card::builtin("ace-plus-subject").expect("a sound card");
    let repository = dir.file("hub/models--black-forest-labs--FLUX.1-Fill-dev");
    let snapshot = repository.join("snapshots/0123");
    let put = |file: &str| {
        let path = snapshot.join(file);
        fs::create_dir_all(path.parent().expect("inside")).expect("writable");
        fs::write(path, "").expect("writable");
    };
    fs::create_dir_all(repository.join("refs")).expect("writable");
    fs::write(repository.join("refs/main"), "0123").expect("writable");
    let hub = Hub::new(dir.file("hub")).offline();
    let model = Model::of(card.clone(), "nowhere").hub(Some(hub));
    let found = |part| model.find_component(part).expect("readable").map(|source| source.path().to_owned());
    put("transformer/config.json");
    put("transformer/diffusion_pytorch_model.safetensors.index.json");
    for shard in 1..=2 {
        put(&format!("transformer/diffusion_pytorch_model-0000{shard}-of-00003.safetensors"));
    }
    // One shard is not there yet.
    assert_eq!(found(Component::Flux), None);
    put("transformer/diffusion_pytorch_model-00003-of-00003.safetensors");
    assert_eq!(found(Component::Flux), Some(snapshot.join("transformer")));
    put("ae.safetensors");
    assert_eq!(found(Component::AutoEncoder), Some(snapshot.join("ae.safetensors")));
    assert_eq!(found(Component::Adapter(0)), None);
    // What is fetched is the single file.
    let files: Vec<_> = card.hub_files(Component::Flux).into_iter().map(|source| source.file).collect();
    assert_eq!(files, ["flux1-fill-dev.safetensors"]);
}

/// Files of the miniature that the published one of these tests consists of.
const FILES: [&str; 8] = [
    "flux.safetensors",
    "autoencoder.safetensors",
    "t5.safetensors",
    "clip.safetensors",
    "tokenizers/t5/tokenizer.json",
    "tokenizers/clip/vocab.json",
    "tokenizers/clip/merges.txt",
    "lora/subject.safetensors",
];

/// A card `model` whose files are only on the Hub, and what is said of one digest.
fn published(dir: &TestDir, sha256: &str) {
    let card = format!(
        "base = \"tiny\"\nname = \"published\"\n[[adapter]]\nfile = \"lora/subject.safetensors\"\nweight = 0.5\n\
         [[repository]]\nrepo = \"owner/tiny\"\nlicence_url = \"http://licence.invalid\"\nfiles = {FILES:?}\n\
         [repository.sha256]\n\"flux.safetensors\" = \"{sha256}\"\n"
    );
    fs::create_dir_all(dir.file("model")).expect("writable");
    fs::write(dir.file("model/card.toml"), card).expect("writable");
}

fn digest_of(file: &str) -> String {
    digest::sha256(&models().join("tiny").join(file), &mut |_| ()).expect("shipped")
}

/// A Hub with the miniature; the first transfer of the transformer breaks off in the middle.
fn hub() -> Server {
    let sent = AtomicUsize::new(0);
    Server::start(move |request| {
        let Some(file) = request.path.strip_prefix("/owner/tiny/resolve/main/") else {
            return Answer::new(404, &[], b"");
        };
        let bytes = fs::read(models().join("tiny").join(file)).expect("shipped");
        let answer = Answer::file(request, &bytes, &digest_of(file));
        let is_first =
            file == "flux.safetensors" && request.method == "GET" && sent.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { answer.cut(bytes.len() / 2) } else { answer }
    })
}

/// Runs the program beside that server, with a cache of its own.
fn run(dir: &TestDir, server: &Server, words: &[&str]) -> (Output, String) {
    let mut command = ace();
    command.args(words).current_dir(dir.path());
    for name in
        ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"]
    {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("HF_HOME", dir.file("hf")).env("HF_ENDPOINT", &server.address);
    let output = command.output().expect("the program starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

#[test]
fn a_model_is_fetched_checked_damaged_and_mended() {
    let dir = TestDir::new("cards-fetch");
    published(&dir, &digest_of("flux.safetensors"));
    let server = hub();
    let ace = |words: &[&str]| run(&dir, &server, words);

    let (output, said) = ace(&["doctor", "./model"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BAD flux") && said.contains("mend: ace fetch ./model\n"), "{said}");
    let (output, said) = ace(&["sample", "--model", "./model", "-p", "a red circle"]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("published is not complete") && said.contains("ace fetch"), "{said}");

    let (output, said) = ace(&["fetch", "./model"]);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the transfer broke") && said.contains("published is complete"), "{said}");
    // The second transfer went on in the middle.
    assert!(server.asked().iter().any(|asked| asked.starts_with("GET ") && asked != "GET 0"));

    let (output, said) = ace(&["doctor", "./model"]);
    assert!(output.status.success() && said.contains("everything is there"), "{said}");
    let (output, said) = ace(&["sample", "--model", "./model", "-p", "a red circle", "--steps", "1"]);
    assert!(output.status.success() && dir.file("out/sample.png").exists(), "{said}");

    let blob = dir.file("hf/hub/models--owner--tiny/blobs").join(digest_of("flux.safetensors"));
    let mut bytes = fs::read(&blob).expect("fetched");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&blob, &bytes).expect("writable");
    let (output, said) = ace(&["doctor", "./model"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("SHA-256") && said.contains("mend: ace fetch ./model --verify"), "{said}");
    assert!(ace(&["doctor", "./model", "--quick"]).0.status.success());
    let (output, said) = ace(&["fetch", "./model", "--verify"]);
    assert!(output.status.success() && said.contains("not what was published"), "{said}");
    assert!(ace(&["doctor", "./model"]).0.status.success());

    // Half a file, as a full disk leaves it.
    fs::write(&blob, &bytes[..bytes.len() / 2]).expect("writable");
    let (output, said) = ace(&["doctor", "./model"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("mend: ace fetch ./model"), "{said}");
}

#[test]
fn a_wrong_digest_and_a_refusal_leave_nothing_and_say_why() {
    let dir = TestDir::new("cards-refused");
    published(&dir, &"0".repeat(64));
    let server = hub();
    let (output, said) = run(&dir, &server, &["sample", "--model", "./model", "-p", "a red circle", "--fetch"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("owner/tiny/flux.safetensors"), "{said}");
    assert!(!dir.file("hf/hub/models--owner--tiny/blobs").join("0".repeat(64)).exists());

    let gated = Server::refusing(403, &[("x-error-code", "GatedRepo")]);
    let (output, said) = run(&dir, &gated, &["fetch", "./model"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("http://licence.invalid"), "{said}");
}

#[test]
fn the_doctor_knows_another_network_and_another_size() {
    let dir = TestDir::new("cards-doctor");
    let server = Server::refusing(404, &[]);
    let ace = |words: &[&str]| run(&dir, &server, words);
    let tiny = models().join("tiny");
    let named = |file: &str| tiny.join(file).to_str().expect("plain").to_owned();
    let (output, said) = ace(&["doctor"]);
    assert!(output.status.success(), "{said}");
    let (output, said) = ace(&["doctor", "tiny", "--t5", &named("clip.safetensors")]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BAD t5") && said.contains("mend: put another t5 in the place of"), "{said}");
    let (output, said) = ace(&["doctor", "flux1-fill-dev", "--flux", &named("flux.safetensors"), "--quick"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("448 input features, the card's 384"), "{said}");
}
