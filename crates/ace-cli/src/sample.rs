//! `ace sample`: one picture, made or edited. What is asked is checked whole before any weight is read.

use crate::{
    args::SampleArgs,
    device, files, interrupted,
    model::{self, Model},
    progress::{Progress, duration},
    report::{self, Failure},
    sheet,
};
use ace_plus::{
    Card, Edit, Error, canvas,
    checkpoint::{self, WeightFile},
    denoise::{Event, Stage},
    picture,
};
use ace_train::shapes;
use anyhow::Context;
use burn::tensor::{DType, Device};
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

/// Makes or edits one picture.
///
/// # Errors
/// If what is asked cannot be done, or Ctrl-C stops it; then nothing was written.
pub fn run(args: &SampleArgs) -> anyhow::Result<ExitCode> {
    let model = Model::find(&args.model)?;
    let asked = Asked::understand(args, &model.card)?;
    asked.check(&model.card)?;
    let device = device::open(args.backend.as_deref())?;
    crate::listen_to_interrupts("stopping; nothing will be written");

    let begin = Instant::now();
    let ace = model.load(&args.lora, &device)?;
    let mut clock = Clock::new(begin.elapsed());
    let steps = asked.edit.num_steps.unwrap_or(ace.card.sampling.num_steps);
    let mut progress = Progress::new("text", 0, steps as u64);
    let mut broken = None;
    let result = ace.run(&asked.edit, &mut |event| {
        // Devices work ahead of the program; waiting for them here is what makes times and bar true.
        if let Err(error) = device.sync() {
            broken = Some(anyhow::anyhow!("{error:?}"));
            return false;
        }
        match event {
            Event::Stage(stage) => {
                clock.begin(stage);
                progress.name(word(stage));
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
    if interrupted() {
        return Err(Error::Cancelled.into());
    }

    files::write_png(&asked.out, &edited.image)?;
    let mut written = vec![asked.out.display().to_string()];
    if let Some(path) = &asked.sheet {
        files::write_png(path, &sheet::draw(&asked.edit, &edited.image))?;
        written.push(path.display().to_string());
    }
    if let Some(path) = &args.save_latents {
        files::make_folder_of(path)?;
        // The picture's own unit is the last; those of references are conditions.
        let latents = edited.latents.last().context("the edit has no latents")?.clone();
        let tensors = BTreeMap::from([
            ("latents".to_owned(), latents.cast(DType::F32).into_data()),
            ("tokens".to_owned(), edited.tokens.cast(DType::F32).into_data()),
        ]);
        checkpoint::write(path, &tensors, &[])?;
        written.push(path.display().to_string());
    }
    report::print(&asked.summary(edited.image.dimensions(), steps, &device, &clock, &written));
    Ok(ExitCode::SUCCESS)
}

/// What the command line asks for, with its pictures.
struct Asked {
    edit: Edit,
    task: Option<String>,
    out: PathBuf,
    sheet: Option<PathBuf>,
}

impl Asked {
    fn understand(args: &SampleArgs, card: &Card) -> anyhow::Result<Self> {
        let mut asked = if is_bare(args) { Self::example()? } else { Self::words_and_pictures(args)? };
        if let Some(task) = &asked.task {
            let about = card.find_task(task)?.about.clone();
            asked.edit = asked.edit.task(card, task)?;
            Needs::of(task, asked.edit.repainting_scale).check(&asked.edit, task, &about)?;
        }
        let edit = &mut asked.edit;
        edit.seed = args.seed;
        edit.num_steps = args.steps;
        edit.guidance = args.guidance;
        edit.repainting_scale = args.repainting_scale.unwrap_or(edit.repainting_scale);
        edit.keep_outside = !args.no_keep_outside;
        if let Some(path) = &args.noise {
            edit.noise = Some(WeightFile::open(path)?.data("noise")?);
        }
        asked.sheet = match &args.sheet {
            Some(Some(path)) => Some(path.clone()),
            Some(None) => Some(files::beside(&args.out, "sheet")),
            None => asked.sheet.map(|_| files::beside(&args.out, "sheet")),
        };
        asked.out = args.out.clone();
        for path in [Some(&asked.out), asked.sheet.as_ref()].into_iter().flatten() {
            files::check_is_png(path)?;
            files::check_writable(path)?;
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
            edit = edit.image(picture::read_rgb(path)?);
        }
        if let Some(path) = &args.mask {
            edit = edit.mask(picture::read_mask(path)?);
        }
        for path in &args.references {
            edit = edit.reference(picture::read_rgb(path)?);
        }
        if let (Some(width), Some(height)) = (args.width, args.height) {
            edit = edit.size(width, height);
        }
        Ok(Self { edit, task: args.task.clone(), out: PathBuf::new(), sheet: None })
    }

    /// The picture that is shipped with the miniature; it comes with a sheet, to show what was done.
    fn example() -> anyhow::Result<Self> {
        let [image, mask, instruction] = EXAMPLE.map(|path| model::shipped(Path::new(path)));
        let words = fs::read_to_string(&instruction).map_err(Error::io(&instruction))?;
        let edit = Edit::new(words.trim()).image(picture::read_rgb(&image)?).mask(picture::read_mask(&mask)?);
        report::print(&format!("editing the shipped {} as models/tiny/examples/instruction.txt says", EXAMPLE[0]));
        Ok(Self { edit, task: Some(EXAMPLE_TASK.to_owned()), out: PathBuf::new(), sheet: Some(PathBuf::new()) })
    }

    /// Refuses what the edit would refuse, before the weights are read: that may take minutes.
    fn check(&self, card: &Card) -> anyhow::Result<()> {
        if self.edit.instruction.trim().is_empty() {
            return Err(
                Failure::misuse("the instruction is empty", "say what should be seen or changed: -p \"…\"").into()
            );
        }
        if self.edit.num_steps == Some(0) {
            return Err(Failure::misuse("--steps is 0", "choose 1 or more").into());
        }
        canvas::compose(&self.edit.inputs(card), &card.canvas)?;
        Ok(())
    }

    /// One line on what was done, where, how fast and where it went.
    fn summary(
        &self,
        (width, height): (u32, u32),
        steps: usize,
        device: &Device,
        clock: &Clock,
        written: &[String],
    ) -> String {
        let kind = match (&self.task, &self.edit.image) {
            (Some(task), _) => task,
            (None, Some(_)) => "edit",
            (None, None) => "picture",
        };
        let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        let noise = match self.edit.noise {
            Some(_) => "given noise".to_owned(),
            None => format!("seed {}", self.edit.seed),
        };
        format!(
            "{kind} \"{}\": {width}×{height}, {steps}, {noise} on {}: {} → {}",
            self.edit.instruction.trim(),
            device::name(device),
            clock.times(),
            written.join(", ")
        )
    }
}

/// Whether neither words nor pictures nor another model are given.
fn is_bare(args: &SampleArgs) -> bool {
    let has_inputs =
        args.prompt.is_some() || args.task.is_some() || args.image.is_some() || !args.references.is_empty();
    let is_default = args.model.model.as_deref().is_none_or(|name| name == model::DEFAULT);
    !has_inputs && args.width.is_none() && args.noise.is_none() && is_default
}

/// What a task cannot do without.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Needs {
    image: bool,
    mask: bool,
    references: usize,
}

impl Needs {
    /// Tasks that the procedural world has too need what they were learned with. Of others it is only known that to
    /// show the network what is under the mask takes an image.
    fn of(task: &str, repainting_scale: f32) -> Self {
        use shapes::Task;
        let edits = |task| !matches!(task, Task::TextToImage | Task::Subject | Task::Compose);
        match Task::from_name(task) {
            Some(task) => {
                let references = if task == Task::Compose { 2 } else { usize::from(task.has_reference()) };
                Self { image: edits(task), mask: edits(task), references }
            }
            None => Self { image: repainting_scale < 1.0, mask: false, references: 0 },
        }
    }

    fn check(self, edit: &Edit, task: &str, about: &str) -> anyhow::Result<()> {
        let missing = [
            (self.image && edit.image.is_none()).then_some("--image FILE"),
            (self.mask && edit.mask.is_none()).then_some("--mask FILE"),
            (self.references == 1 && edit.references.is_empty()).then_some("--reference FILE"),
            (self.references == 2 && edit.references.len() < 2).then_some("--reference FILE --reference FILE"),
        ];
        let missing: Vec<_> = missing.into_iter().flatten().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::misuse(format!("task {task} needs {}", missing.join(" ")), format!("{task}: {about}")).into())
    }
}

/// How long each stage takes.
struct Clock {
    done: Vec<(&'static str, Duration)>,
    running: Option<(&'static str, Instant)>,
}

impl Clock {
    fn new(load: Duration) -> Self {
        Self { done: vec![("load", load)], running: None }
    }

    fn begin(&mut self, stage: Stage) {
        self.end();
        self.running = Some((word(stage), Instant::now()));
    }

    fn end(&mut self) {
        if let Some((name, begin)) = self.running.take() {
            self.done.push((name, begin.elapsed()));
        }
    }

    fn times(&self) -> String {
        let times = self.done.iter().map(|(name, time)| format!("{name} {}", duration(*time)));
        times.collect::<Vec<_>>().join(", ")
    }
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Text => "text",
        Stage::Encode => "encode",
        Stage::Denoise => "denoise",
        Stage::Decode => "decode",
    }
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
        let lacks = |task, edit: &Edit| Needs::of(task, 1.0).check(edit, task, "…").map_err(|error| error.to_string());
        let (words, picture) = (Edit::new("words"), RgbImage::new(64, 64));
        assert_eq!(lacks("recolor", &words), Err("task recolor needs --image FILE --mask FILE".into()));
        assert_eq!(lacks("subject", &words), Err("task subject needs --reference FILE".into()));
        let one = words.clone().reference(picture.clone());
        assert_eq!(lacks("compose", &one), Err("task compose needs --reference FILE --reference FILE".into()));
        assert_eq!(lacks("subject", &one), Ok(()));
        assert_eq!(lacks("compose", &one.reference(picture)), Ok(()));
        assert_eq!(lacks("text_to_image", &words), Ok(()));
        assert_eq!(Needs::of("portrait", 1.0), Needs { image: false, mask: false, references: 0 });
        assert!(Needs::of("restyle", 0.0).image);
    }
}
