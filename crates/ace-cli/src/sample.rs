//! `ace sample`: pictures, made or edited. What is asked is checked whole before any weight is read.

use crate::{
    args::{self, RegionWords, SampleArgs},
    clock::{self, Clock},
    device, files, interrupted,
    jobs::{self, Job},
    model::{self, Lora, Model},
    progress::Progress,
    provenance::{self, Adapter, Input, Provenance},
    report::{self, Failure},
    sheet,
};
use ace_plus::{
    Card, Edit, Error, SeedNoise,
    card::{Need, Task},
    checkpoint::{self, WeightFile},
    denoise::Event,
    pipeline::{Edited, Editor, Numbers},
};
use anyhow::Context;
use burn::tensor::{DType, Device, FloatDType};
use image::GrayImage;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// The shipped example: a picture, what to repaint of it, and the words.
const EXAMPLE: [&str; 3] =
    ["models/tiny/examples/image.png", "models/tiny/examples/mask.png", "models/tiny/examples/instruction.txt"];
/// What the shipped example is.
const EXAMPLE_TASK: &str = "recolor";

/// Makes or edits pictures.
///
/// # Errors
/// If what is asked cannot be done, or Ctrl-C stops it: pictures that are finished stay, of others nothing is written.
pub fn run(asked_now: &SampleArgs) -> anyhow::Result<ExitCode> {
    let then = asked_now.from.as_deref().map(Provenance::read).transpose()?;
    let args = &match &then {
        Some(then) => then.clone().under(asked_now)?,
        None => asked_now.clone(),
    };
    let model = Model::find(&args.model)?;
    let asked = Asked::understand(args, &model.card)?;
    asked.check(args, &model.card)?;
    asked.note_foreign(&model.card);
    if args.fetch {
        crate::fetch::fetch(&model)?;
    }
    let files = if args.plain && then.is_none() { Vec::new() } else { model.files()? };
    if let Some(then) = then.filter(|_| asked_now.model.model.is_none()) {
        then.check_files(&files)?;
    }
    crate::listen_to_interrupts("stopping; finished pictures stay, of this one nothing will be written");
    Studio::open(args, &model, files)?.make(args, &asked)?;
    Ok(ExitCode::SUCCESS)
}

/// A model in memory, and what its pictures say of it.
pub struct Studio {
    editor: Box<dyn Editor>,
    device: Device,
    /// Name and fingerprint of the model's files.
    files: Vec<(String, String)>,
    /// Time that loading took, until a picture has told it.
    load: Duration,
}

impl Studio {
    /// Loads the model.
    ///
    /// # Errors
    /// If a file is missing or broken, or there is no such backend.
    pub fn open(args: &SampleArgs, model: &Model, files: Vec<(String, String)>) -> anyhow::Result<Self> {
        let device = device::open(args.backend.as_deref())?;
        let begin = Instant::now();
        let editor: Box<dyn Editor> = match args.low_memory {
            true => Box::new(model.lean(&args.lora, numbers(args), &device)?),
            false => Box::new(model.load(&args.lora, numbers(args), &device)?),
        };
        Ok(Self { editor, device, files, load: begin.elapsed() })
    }

    /// Makes every picture that is asked for, and says what was done.
    ///
    /// # Errors
    /// If one cannot be made or written, or Ctrl-C stops it.
    pub fn make(&mut self, args: &SampleArgs, asked: &Asked) -> anyhow::Result<()> {
        let Self { editor, device, files, load } = self;
        for job in &asked.jobs {
            let edit = asked.edit_of(job);
            let mut clock = Clock::new(std::mem::take(load));
            let edited = make(editor.as_ref(), &edit, &asked.regions, device, &mut clock)?;
            let steps = edit.num_steps.unwrap_or(editor.card().sampling.num_steps);
            let provenance = match args.plain {
                true => None,
                false => Some(asked.provenance(args, &edit, editor.card(), device, files.clone())?),
            };
            let written = asked.write(args, job, &edit, edited, provenance.as_ref())?;
            report::print(&asked.summary(&edit, written.size, steps, device, &clock, &written.places));
        }
        Ok(())
    }
}

/// In which numbers the model is to be held.
fn numbers(args: &SampleArgs) -> Numbers {
    Numbers { dtype: args.dtype.unwrap_or(FloatDType::F32), widen: args.widen }
}

/// Runs one edit with a progress bar.
fn make(
    editor: &dyn Editor,
    edit: &Edit,
    regions: &[(GrayImage, String)],
    device: &Device,
    clock: &mut Clock,
) -> anyhow::Result<Edited> {
    let steps = edit.num_steps.unwrap_or(editor.card().sampling.num_steps);
    let mut progress = Progress::new("text", 0, steps as u64);
    let mut broken = None;
    let result = editor.run_regions(edit, regions, &mut |event| {
        // Devices work ahead of the program; waiting for them here is what makes times and bar true.
        if let Err(error) = device.sync() {
            broken = Some(anyhow::anyhow!("{error:?}"));
            return false;
        }
        match event {
            Event::Stage(stage) => {
                clock.begin(stage);
                progress.name(clock::word(stage));
            }
            Event::Step { done, .. } => progress.at(done as u64, ""),
        }
        !interrupted()
    });
    if let Some(error) = broken {
        return Err(error.context("the device failed"));
    }
    let edited = result?;
    clock.end();
    drop(progress);
    if interrupted() { Err(Error::Cancelled.into()) } else { Ok(edited) }
}

/// Where the files of one picture went.
struct Written {
    size: (u32, u32),
    places: Vec<String>,
}

/// What the command line asks for, with its pictures.
pub struct Asked {
    /// The edit that all pictures have in common.
    pub edit: Edit,
    /// Places with words of their own.
    regions: Vec<(GrayImage, String)>,
    task: Option<String>,
    /// Whether to draw a sheet of each picture, and where if a place is named.
    sheet: Option<Option<PathBuf>>,
    jobs: Vec<Job>,
    /// Where the pictures of the edit were read from.
    inputs: Inputs,
}

/// Files that an edit was read from.
#[derive(Default)]
struct Inputs {
    image: Option<PathBuf>,
    mask: Option<PathBuf>,
    references: Vec<PathBuf>,
    map: Option<PathBuf>,
}

impl Asked {
    /// Reads the pictures and puts the edit together.
    ///
    /// # Errors
    /// If something is missing, cannot be read or does not go together.
    pub fn understand(args: &SampleArgs, card: &Card) -> anyhow::Result<Self> {
        let mut asked = if is_bare(args) { Self::example()? } else { Self::words_and_pictures(args)? };
        if let Some(task) = &asked.task {
            asked.edit = asked.edit.task(card, task)?;
            check_needs(&asked.edit, card.find_task(task)?, !asked.regions.is_empty())?;
        }
        let edit = &mut asked.edit;
        edit.seed_noise = args.seed_compat.unwrap_or_default();
        edit.num_steps = args.steps;
        edit.guidance = args.guidance;
        edit.repainting_scale = args.repainting_scale.unwrap_or(edit.repainting_scale);
        edit.keep_outside = !args.no_keep_outside;
        edit.compat = args.compat;
        edit.tile = args.tile;
        edit.feather = args.feather.unwrap_or_default();
        if let Some(path) = &args.noise {
            edit.noise = Some(WeightFile::open(path)?.data("noise")?);
        }
        asked.sheet = args.sheet.clone().or(asked.sheet);
        asked.jobs = jobs::jobs(args)?;
        for job in &asked.jobs {
            for path in [Some(job.out.clone()), asked.sheet_of(job)].into_iter().flatten() {
                files::check_is_png(&path)?;
                files::check_writable(&path)?;
            }
        }
        if let Some(path) = &args.save_latents {
            files::check_writable(path)?;
        }
        for lora in &args.lora {
            WeightFile::open(&lora.path)?;
        }
        Ok(asked)
    }

    fn words_and_pictures(args: &SampleArgs) -> anyhow::Result<Self> {
        let mut edit = Edit::new(args.prompt.clone().unwrap_or_default());
        if let Some(path) = &args.image {
            edit = edit.image(files::read_rgb(path)?);
        }
        if let Some(path) = &args.mask {
            edit = edit.mask(files::read_mask(path)?);
        }
        for path in &args.references {
            edit = edit.reference(files::read_rgb(path)?);
        }
        if let Some(path) = &args.map {
            edit = edit.map(files::read_rgb(path)?);
        }
        if let (Some(width), Some(height)) = (args.width, args.height) {
            edit = edit.size(width, height);
        }
        let region = |region: &RegionWords| anyhow::Ok((files::read_mask(&region.mask)?, region.words.clone()));
        let regions = args.regions.iter().map(region).collect::<Result<Vec<_>, _>>()?;
        if let [(_, words), ..] = &regions[..] {
            // The name of the whole; each place has its own.
            edit.instruction.clone_from(words);
        }
        let inputs = Inputs {
            image: args.image.clone(),
            mask: args.mask.clone(),
            references: args.references.clone(),
            map: args.map.clone(),
        };
        Ok(Self { edit, regions, task: args.task.clone(), sheet: None, jobs: Vec::new(), inputs })
    }

    /// The picture that is shipped with the miniature; it comes with a sheet, to show what was done.
    fn example() -> anyhow::Result<Self> {
        let [image, mask, instruction] = EXAMPLE.map(|path| model::shipped(Path::new(path)));
        let words = fs::read_to_string(&instruction).map_err(Error::io(&instruction))?;
        let edit = Edit::new(words.trim()).image(files::read_rgb(&image)?).mask(files::read_mask(&mask)?);
        report::print(&format!("editing the shipped {} as models/tiny/examples/instruction.txt says", EXAMPLE[0]));
        let inputs = Inputs { image: Some(image), mask: Some(mask), ..Inputs::default() };
        let task = Some(EXAMPLE_TASK.to_owned());
        Ok(Self { edit, regions: Vec::new(), task, sheet: Some(None), jobs: Vec::new(), inputs })
    }

    /// Where the sheet of a picture goes, if there is one.
    fn sheet_of(&self, job: &Job) -> Option<PathBuf> {
        Some(match self.sheet.as_ref()? {
            Some(path) => files::behind(path, &job.suffix),
            None => files::beside(&job.out, "sheet"),
        })
    }

    /// The edit of one picture.
    fn edit_of(&self, job: &Job) -> Edit {
        let mut edit = self.edit.clone();
        edit.seed = job.seed;
        if let Some(words) = &job.words {
            edit.instruction.clone_from(words);
        }
        edit
    }

    /// Writes the picture and what else is asked for.
    fn write(
        &self,
        args: &SampleArgs,
        job: &Job,
        edit: &Edit,
        edited: Edited,
        provenance: Option<&Provenance>,
    ) -> anyhow::Result<Written> {
        provenance::write(&job.out, &edited.image, provenance)?;
        let mut places = vec![job.out.display().to_string()];
        if let Some(path) = self.sheet_of(job) {
            files::write_png(&path, &sheet::draw(edit, &edited.image))?;
            places.push(path.display().to_string());
        }
        if let Some(path) = &args.save_latents {
            let path = files::behind(path, &job.suffix);
            files::make_folder_of(&path)?;
            // The picture's own unit is the last; those of references are conditions.
            let latents = edited.latents.last().context("the edit has no latents")?.clone();
            let tensors = BTreeMap::from([
                ("latents".to_owned(), latents.cast(DType::F32).into_data()),
                ("tokens".to_owned(), edited.tokens.cast(DType::F32).into_data()),
            ]);
            checkpoint::write(&path, &tensors, &[])?;
            places.push(path.display().to_string());
        }
        Ok(Written { size: edited.image.dimensions(), places })
    }

    /// What a picture follows from.
    fn provenance(
        &self,
        args: &SampleArgs,
        edit: &Edit,
        card: &Card,
        device: &Device,
        files: Vec<(String, String)>,
    ) -> anyhow::Result<Provenance> {
        let input = |path: &Option<PathBuf>| path.as_deref().map(Input::of).transpose();
        let lora = |lora: &Lora| anyhow::Ok(Adapter { file: Input::of(&lora.path)?, weight: lora.weight });
        Ok(Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: device::name(device),
            model: args.model.model.clone(),
            weights: args.model.weights.clone(),
            overrides: args.model.overrides.clone(),
            dtype: args::dtype_name(numbers(args).dtype).to_owned(),
            widen: args.widen,
            files,
            loras: args.lora.iter().map(lora).collect::<Result<_, _>>()?,
            prompt: edit.instruction.clone(),
            task: self.task.clone(),
            image: input(&self.inputs.image)?,
            mask: input(&self.inputs.mask)?,
            references: self.inputs.references.iter().map(|path| Input::of(path)).collect::<Result<_, _>>()?,
            map: input(&self.inputs.map)?,
            regions: (args.regions.iter())
                .map(|region| Ok((Input::of(&region.mask)?, region.words.clone())))
                .collect::<anyhow::Result<_>>()?,
            size: edit.size,
            seed: edit.seed,
            seed_torch: edit.seed_noise == SeedNoise::Torch,
            noise: input(&args.noise)?,
            steps: edit.num_steps.unwrap_or(card.sampling.num_steps),
            guidance: edit.guidance.unwrap_or(card.sampling.guidance),
            repainting_scale: edit.repainting_scale,
            keep_outside: edit.keep_outside,
            feather: edit.feather,
            tile: edit.tile,
            compat: edit.compat.map(|compat| compat.name().to_owned()),
        })
    }

    /// Refuses what the edit would refuse, before the weights are read: that may take minutes.
    ///
    /// # Errors
    /// The edit's own.
    pub fn check(&self, args: &SampleArgs, card: &Card) -> anyhow::Result<()> {
        if args.prompts.is_none() && self.edit.instruction.trim().is_empty() {
            return Err(
                Failure::misuse("the instruction is empty", "say what should be seen or changed: -p \"…\"").into()
            );
        }
        if self.edit.num_steps == Some(0) {
            return Err(Failure::misuse("--steps is 0", "choose 1 or more").into());
        }
        if self.regions.is_empty() {
            self.edit.prepare(card)?;
        }
        for (mask, words) in &self.regions {
            Edit { mask: Some(mask.clone()), instruction: words.clone(), ..self.edit.clone() }.prepare(card)?;
        }
        Ok(())
    }

    /// Says which pictures are plainly none of those that the model knows.
    pub fn note_foreign(&self, card: &Card) {
        let Some(domain) = &card.domain else { return };
        let references = self.edit.references.iter().zip(&self.inputs.references);
        let pictures = self.edit.image.iter().zip(&self.inputs.image).chain(references);
        let foreign = pictures.filter_map(|(picture, path)| Some((path, domain.outside(picture)?)));
        let foreign: Vec<_> = foreign.map(|(path, outside)| format!("{} {outside}", path.display())).collect();
        if !foreign.is_empty() {
            let (name, about) = (&card.name, &domain.about);
            report::note(&format!("{name} knows {about}, so expect little: {}", foreign.join("; ")));
        }
    }

    /// One line on what was done, where, how fast and where it went.
    fn summary(
        &self,
        edit: &Edit,
        (width, height): (u32, u32),
        steps: usize,
        device: &Device,
        clock: &Clock,
        written: &[String],
    ) -> String {
        let kind = match (&self.task, &edit.image) {
            (Some(task), _) => task,
            (None, Some(_)) => "edit",
            (None, None) => "picture",
        };
        let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        let noise = match edit.noise {
            Some(_) => "given noise".to_owned(),
            None => format!("seed {}", edit.seed),
        };
        format!(
            "{kind} \"{}\": {width}×{height}, {steps}, {noise} on {}: {} → {}",
            edit.instruction.trim(),
            device::name(device),
            clock.times(),
            written.join(", ")
        )
    }
}

/// Whether neither words nor pictures nor another model are given.
fn is_bare(args: &SampleArgs) -> bool {
    let has_inputs = args.prompt.is_some()
        || args.prompts.is_some()
        || args.mask.is_some()
        || args.task.is_some()
        || args.image.is_some()
        || !args.references.is_empty()
        || !args.regions.is_empty();
    let is_default = args.model.model.as_deref().is_none_or(|name| name == model::DEFAULT);
    !has_inputs && args.width.is_none() && args.noise.is_none() && is_default
}

/// Refuses an edit without what its task cannot do without.
fn check_needs(edit: &Edit, task: &Task, has_regions: bool) -> anyhow::Result<()> {
    let needs = |need| task.needs.iter().filter(|needed| **needed == need).count();
    // To show the network what is under the mask takes an image, whether the card says so or not.
    let needs_image = needs(Need::Image) > 0 || task.repainting_scale < 1.0;
    let mut missing = Vec::new();
    if needs_image && edit.image.is_none() {
        missing.push("--image FILE");
    }
    if needs(Need::Mask) > 0 && edit.mask.is_none() && !has_regions {
        missing.push("--mask FILE");
    }
    missing.extend(vec!["--reference FILE"; needs(Need::Reference).saturating_sub(edit.references.len())]);
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("task {} needs {}", task.name, missing.join(" "));
    Err(Failure::misuse(what, format!("{}: {}", task.name, task.about)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;
    use image::RgbImage;

    fn args(words: &[&str]) -> SampleArgs {
        match Cli::try_parse_from([&["ace", "sample"], words].concat()).unwrap().verb {
            Verb::Sample(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_is_edited_only_when_nothing_is_asked() {
        assert!(is_bare(&args(&[])));
        assert!(is_bare(&args(&["--backend", "flex", "--seed", "3", "--out", "o.png"])));
        for asked in [["-p", ""], ["--image", "i.png"], ["--reference", "r.png"], ["--task", "fill"], ["--model", "x"]]
        {
            assert!(!is_bare(&args(&asked)), "{asked:?}");
        }
    }

    #[test]
    fn a_task_names_what_it_lacks() {
        let card = Card::builtin("tiny").unwrap();
        let lacks = |task: &str, edit: &Edit| {
            check_needs(edit, card.find_task(task).unwrap(), false).map_err(|error| error.to_string())
        };
        let (words, picture) = (Edit::new("words"), RgbImage::new(64, 64));
        assert_eq!(lacks("recolor", &words), Err("task recolor needs --image FILE --mask FILE".into()));
        assert_eq!(lacks("subject", &words), Err("task subject needs --reference FILE".into()));
        let two = "task compose needs --reference FILE --reference FILE";
        assert_eq!(lacks("compose", &words), Err(two.into()));
        let one = words.clone().reference(picture.clone());
        assert_eq!(lacks("compose", &one), Err("task compose needs --reference FILE".into()));
        assert_eq!(lacks("subject", &one), Ok(()));
        assert_eq!(lacks("compose", &one.reference(picture)), Ok(()));
        assert_eq!(lacks("text_to_image", &words), Ok(()));
        let shown =
            Task { repainting_scale: 0.0, needs: Vec::new(), ..card.find_task("text_to_image").unwrap().clone() };
        assert!(check_needs(&words, &shown, false).is_err());
    }
}
