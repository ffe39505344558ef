//! `ace sample`: pictures, made or edited. What is asked is checked whole before any weight is read.

use crate::{
    annotate::{Wanted, Way},
    args::SampleArgs,
    clock::{self, Clock},
    device, files,
    hold::{self, Compared},
    interrupted, miniature, model,
    progress::Progress,
    report::{self, Failure},
    shard::{self, Found, Shard},
    sheet,
};
use ace_plus::{
    Ace, Card, Edit, Edited, Error, Event, Model, Request,
    card::{Need, Task},
    jobs::{self, Job},
    model::DEFAULT,
    plan::Plan,
    provenance::{self, Provenance},
    request::InputFile,
    sample::Work,
};
use ace_weights::WeightFile;
use anyhow::Context;
use burn::tensor::{DType, Device};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// The shipped example, where a clone has it.
const EXAMPLE: &str = "models/tiny/examples";

/// Makes or edits pictures.
///
/// # Errors
/// If what is asked cannot be done, or Ctrl-C stops it: pictures that are finished stay, of others nothing is written.
pub fn run(args: &SampleArgs) -> anyhow::Result<ExitCode> {
    let base = Path::new("");
    let then = args.from.as_deref().map(Provenance::read).transpose()?;
    let said = args.request();
    let names_model = said.model.name.is_some();
    let mut request = match &then {
        Some(then) => said.over(then.request.clone()),
        None => said,
    };
    request.check_files(base)?;
    let output = Output::of(args);
    let is_example = then.is_none() && is_bare(args, &request);
    if is_example {
        example(&mut request, &output)?;
    }
    let model = model::find(&request.model, base)?;
    let mut asked = Asked::understand(request, base, output, model.card())?;
    if is_example {
        // It comes with a sheet, to show what was done.
        asked.output.sheet = asked.output.sheet.or(Some(None));
    }
    let wanted = asked.want_map(model.card(), &Way::of(args))?;
    asked.check(model.card())?;
    asked.note_foreign(model.card());
    if args.fetch {
        crate::fetch::fetch(&model)?;
    }
    let files = if args.plain && then.is_none() { Vec::new() } else { model.fingerprints()? };
    if let Some(then) = then.filter(|_| !names_model)
        && let Err(changed) = then.check_weights(&files)
    {
        match args.anyway {
            true => report::note(&format!("{changed}; going on anyway")),
            false => return Err(Failure::new(changed.to_string(), ANYWAY).into()),
        }
    }
    let plan = hold::plan(&model, &asked.edit, args.memory)?;
    let model = match &plan {
        Some(plan) => {
            asked.hold_as(plan);
            plan.follow(model)
        }
        None => model,
    };
    if let Some(sharding) = args.shard {
        asked.keep(sharding.shard()?, model.card(), &files)?;
        if asked.jobs.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let model = if args.no_text_cache { model } else { model::keeping_text(model) };
    crate::listen_to_interrupts("stopping; finished pictures stay, of this one nothing will be written");
    asked.draw_map(wanted.as_ref())?;
    let mut studio = Studio::open(&model, args.backend.as_deref(), files)?;
    studio.compared = plan.map(Compared::with);
    studio.make(&asked)?;
    Ok(ExitCode::SUCCESS)
}

/// The edits that are asked for, the shipped example if nothing is, and the model that is to make them.
///
/// # Errors
/// If something is missing, cannot be read or does not go together.
pub fn edits(args: &SampleArgs) -> anyhow::Result<(Model, Vec<Edit>)> {
    let (mut request, output, base) = (args.request(), Output::of(args), Path::new(""));
    if is_bare(args, &request) {
        example(&mut request, &output)?;
    }
    let model = model::find(&request.model, base)?;
    let mut asked = Asked::understand(request, base, output, model.card())?;
    let wanted = asked.want_map(model.card(), &Way::of(args))?;
    asked.check(model.card())?;
    asked.draw_map(wanted.as_ref())?;
    let edits = asked.jobs.iter().map(|job| asked.edit_of(job)).collect();
    Ok((model, edits))
}

/// What to do where weights have changed since a picture was made.
const ANYWAY: &str = "name the model of then with --model, or go on with this one with --anyway";

/// A model in memory, and what its pictures say of it.
pub struct Studio {
    ace: Ace,
    device: Device,
    /// Name and fingerprint of the model's files.
    files: Vec<(String, String)>,
    /// Time that loading took, until a picture has told it.
    load: Duration,
    /// What was planned, to be held beside what is measured.
    compared: Option<Compared>,
}

impl Studio {
    /// Loads the model.
    ///
    /// # Errors
    /// If a file is missing or broken, or there is no such backend.
    pub fn open(model: &Model, backend: Option<&str>, files: Vec<(String, String)>) -> anyhow::Result<Self> {
        let device = device::open(backend)?;
        let begin = Instant::now();
        let ace = model.load(&device)?;
        for (path, adapter) in ace.adapters() {
            if let [first, ..] = &adapter.skipped[..] {
                let count = adapter.skipped.len();
                let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
                report::note(&format!("{}: skipped what is for the text encoders: {first}{more}", path.display()));
            }
        }
        Ok(Self { ace, device, files, load: begin.elapsed(), compared: None })
    }

    /// Makes every picture that is asked for, and says what was done.
    ///
    /// # Errors
    /// If one cannot be made or written, or Ctrl-C stops it.
    pub fn make(&mut self, asked: &Asked) -> anyhow::Result<()> {
        let Self { ace, device, files, load, compared } = self;
        for job in &asked.jobs {
            let edit = asked.edit_of(job);
            let steps = edit.settings(ace.card())?.course.num_steps;
            let mut clock = Clock::new(std::mem::take(load));
            let edited = make(ace, &edit, steps, device, &mut clock, compared.as_mut())?;
            let provenance = match asked.output.is_plain {
                true => None,
                false => Some(asked.provenance(job, &edit, ace.card(), device, files.clone())?),
            };
            let work = edited.work;
            let written = asked.write(job, &edit, edited, provenance.as_ref())?;
            report::print(&asked.summary(&edit, written.size, work, device, &clock, &written.places));
            if let Some(compared) = compared {
                report::print(&compared.line());
            }
        }
        Ok(())
    }
}

/// Runs one edit with a progress bar.
fn make(
    ace: &Ace,
    edit: &Edit,
    steps: usize,
    device: &Device,
    clock: &mut Clock,
    mut compared: Option<&mut Compared>,
) -> anyhow::Result<Edited> {
    let mut progress = Progress::new("text", 0, steps as u64);
    let mut broken = None;
    let result = ace.run(edit, &mut |event| {
        if !matches!(event, Event::Tick) {
            // Devices work ahead of the program; waiting for them here is what makes times and bar true.
            if let Err(error) = device.sync() {
                broken = Some(anyhow::anyhow!("{error:?}"));
                return ControlFlow::Break(());
            }
        }
        match event {
            Event::Stage(stage) => {
                clock.begin(stage);
                if let Some(compared) = &mut compared {
                    compared.begin(stage);
                }
                progress.name(clock::word(stage));
            }
            Event::Step { done, .. } => progress.at(done as u64, ""),
            _ => {}
        }
        if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(error) = broken {
        return Err(error.context("the device failed"));
    }
    let edited = result?;
    clock.end();
    if let Some(compared) = compared {
        compared.end();
    }
    drop(progress);
    if interrupted() { Err(Error::Cancelled.into()) } else { Ok(edited) }
}

/// Where the files of one picture went.
struct Written {
    size: (u32, u32),
    places: Vec<String>,
}

/// How many pictures are made, and where they go.
#[derive(Debug, Clone)]
pub struct Output {
    /// Where a single picture goes.
    pub out: PathBuf,
    /// Whether to draw a sheet of each picture, and where if a place is named.
    pub sheet: Option<Option<PathBuf>>,
    /// Where the latents go.
    pub latents: Option<PathBuf>,
    /// Whether nothing is written into the pictures.
    pub is_plain: bool,
    /// What their noises follow from.
    pub seeds: Vec<u64>,
    /// How many follow each seed.
    pub count: u64,
    /// A file with the words of each picture.
    pub prompts: Option<PathBuf>,
}

impl Output {
    /// One picture of one seed.
    pub fn one(out: PathBuf, latents: PathBuf) -> Self {
        let (sheet, seeds, prompts) = (None, Vec::new(), None);
        Self { out, sheet, latents: Some(latents), is_plain: false, seeds, count: 1, prompts }
    }

    fn of(args: &SampleArgs) -> Self {
        Self {
            out: args.out.clone(),
            sheet: args.sheet.clone(),
            latents: args.save_latents.clone(),
            is_plain: args.plain,
            seeds: args.seed.clone(),
            count: args.count,
            prompts: args.prompts.clone(),
        }
    }
}

/// What is asked for, with its pictures.
pub struct Asked {
    request: Request,
    /// Where the request's relative paths begin.
    base: PathBuf,
    /// The edit that all pictures have in common.
    edit: Edit,
    output: Output,
    jobs: Vec<Job>,
}

impl Asked {
    /// Reads the pictures and puts the edit together.
    ///
    /// # Errors
    /// If something is missing, cannot be read or does not go together.
    pub fn understand(request: Request, base: &Path, output: Output, card: &Card) -> anyhow::Result<Self> {
        let edit = request.edit(base, &mut |note| report::note(note))?;
        if let Some(task) = edit.settings(card)?.task {
            check_needs(&edit.missing(card)?, task)?;
        }
        if request.image.is_some() && request.size.is_some() && card.unit.shown().is_none() {
            let what = "--width and --height are for a picture made from nothing";
            return Err(Failure::misuse(what, "the result has the image's size; leave them out").into());
        }
        let lines = output.prompts.as_deref().map(lines).transpose()?;
        let seeds = match &output.seeds[..] {
            [] => request.seed.into_iter().collect(),
            seeds => seeds.to_vec(),
        };
        let jobs = jobs::jobs(lines.as_deref(), &seeds, output.count)?;
        let asked = Self { request, base: base.to_owned(), edit, output, jobs };
        for job in &asked.jobs {
            for path in [Some(asked.out_of(job)), asked.sheet_of(job)].into_iter().flatten() {
                files::check_is_png(&path)?;
                files::check_writable(&path)?;
            }
        }
        if let Some(path) = &asked.output.latents {
            files::check_writable(path)?;
        }
        for lora in &asked.request.model.loras {
            WeightFile::open(&base.join(&lora.file.path))?;
        }
        Ok(asked)
    }

    /// Finds the network that is to draw the map of the edit, if its task wants one and there is none. Until it is drawn the
    /// image stands in its place, so that all else can be checked.
    ///
    /// # Errors
    /// If the network's weights are missing.
    pub fn want_map(&mut self, card: &Card, way: &Way) -> anyhow::Result<Option<Wanted>> {
        let (Some(annotator), Some(image)) = (self.edit.undrawn(card)?, self.edit.input().cloned()) else {
            return Ok(None);
        };
        let wanted = Wanted::find(annotator, way)?;
        self.edit = self.edit.clone().map(image);
        Ok(Some(wanted))
    }

    /// Draws the map that is wanted.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn draw_map(&mut self, wanted: Option<&Wanted>) -> anyhow::Result<()> {
        if let Some(wanted) = wanted {
            self.edit = wanted.draw(self.edit.clone())?;
        }
        Ok(())
    }

    /// Makes the pictures in tiles, if a plan says so; it is remembered, because it changes them.
    fn hold_as(&mut self, plan: &Plan) {
        if let Some(tile) = plan.tile.and_then(|tile| u32::try_from(tile).ok()) {
            self.edit = self.edit.clone().tile(tile);
            self.request.tile = Some(tile);
        }
    }

    /// Leaves the pictures of one share that are not there yet, and says of each other why it is or is not made.
    ///
    /// # Errors
    /// If a file of the request cannot be read.
    fn keep(&mut self, shard: Shard, card: &Card, files: &[(String, String)]) -> anyhow::Result<()> {
        let all = self.jobs.len();
        let own = shard.of_all(std::mem::take(&mut self.jobs));
        let count = own.len();
        for job in own {
            let out = self.out_of(&job);
            let found = shard::look(&out, &self.spelled_out(&job, &self.edit_of(&job), card)?, files);
            let beside = [self.sheet_of(&job), self.latents_of(&job)];
            let lacks = beside.into_iter().flatten().find(|path| !path.exists());
            match (found, lacks) {
                (Found::Made, None) => report::note(&format!("{} is there already, not made again", out.display())),
                (Found::Made, Some(lacks)) => {
                    report::note(&format!("{} is there, {} is not: made again", out.display(), lacks.display()));
                    self.jobs.push(job);
                }
                (Found::Other(what), _) => {
                    report::note(&format!("{} {what}: made again", out.display()));
                    self.jobs.push(job);
                }
                (Found::Nothing, _) => self.jobs.push(job),
            }
        }
        let (Shard { nth, of }, left) = (shard, self.jobs.len());
        report::print(&format!("share {nth}/{of}: {count} of {all} pictures, {} there, {left} to make", count - left));
        Ok(())
    }

    /// Where a picture goes.
    fn out_of(&self, job: &Job) -> PathBuf {
        files::behind(&self.output.out, &job.suffix)
    }

    /// Where the sheet of a picture goes, if there is one.
    fn sheet_of(&self, job: &Job) -> Option<PathBuf> {
        Some(match self.output.sheet.as_ref()? {
            Some(path) => files::behind(path, &job.suffix),
            None => files::beside(&self.out_of(job), "sheet"),
        })
    }

    /// Where the latents of a picture go, if anywhere.
    fn latents_of(&self, job: &Job) -> Option<PathBuf> {
        Some(files::behind(self.output.latents.as_ref()?, &job.suffix))
    }

    /// The edit of one picture.
    fn edit_of(&self, job: &Job) -> Edit {
        let edit = self.edit.clone().seed(job.seed);
        match &job.instruction {
            Some(words) => edit.instruction(words),
            None => edit,
        }
    }

    /// Writes the picture and what else is asked for.
    fn write(
        &self,
        job: &Job,
        edit: &Edit,
        edited: Edited,
        provenance: Option<&Provenance>,
    ) -> anyhow::Result<Written> {
        let out = self.out_of(job);
        files::make_folder_of(&out)?;
        provenance::write(&out, &edited.image, provenance)?;
        let mut places = vec![out.display().to_string()];
        if let Some(path) = self.sheet_of(job) {
            files::write_png(&path, &sheet::draw(edit, &edited.image))?;
            places.push(path.display().to_string());
        }
        if let Some(path) = self.latents_of(job) {
            files::make_folder_of(&path)?;
            // The picture's own unit is the last; those of references are conditions.
            let latents = edited.latents.last().context("the edit has no latents")?.clone();
            let tensors = BTreeMap::from([
                ("latents".to_owned(), latents.cast(DType::F32).into_data()),
                ("tokens".to_owned(), edited.tokens.cast(DType::F32).into_data()),
            ]);
            ace_weights::write(&path, &tensors, &[])?;
            places.push(path.display().to_string());
        }
        Ok(Written { size: edited.image.dimensions(), places })
    }

    /// What a picture follows from, every default spelled out: later versions may have others.
    fn provenance(
        &self,
        job: &Job,
        edit: &Edit,
        card: &Card,
        device: &Device,
        files: Vec<(String, String)>,
    ) -> anyhow::Result<Provenance> {
        let request = self.spelled_out(job, edit, card)?;
        Ok(Provenance::new(env!("CARGO_PKG_VERSION"), device::name(device), files, request))
    }

    /// What is asked for of one picture, every default and every file's digest with it.
    fn spelled_out(&self, job: &Job, edit: &Edit, card: &Card) -> anyhow::Result<Request> {
        let mut request = self.request.spelled_out(edit, card)?;
        request.stamp(&self.base)?;
        request.instruction = job.instruction.clone().or(request.instruction);
        Ok(request)
    }

    /// Refuses what the edit would refuse, before the weights are read: that may take minutes.
    ///
    /// # Errors
    /// The edit's own.
    pub fn check(&self, card: &Card) -> anyhow::Result<()> {
        let is_worded = self.output.prompts.is_some() || !self.request.regions.is_empty();
        if !is_worded && self.edit.words().trim().is_empty() {
            return Err(
                Failure::misuse("the instruction is empty", "say what should be seen or changed: -p \"…\"").into()
            );
        }
        if self.request.num_steps == Some(0) {
            return Err(Failure::misuse("--steps is 0", "choose 1 or more").into());
        }
        for job in &self.jobs {
            self.edit_of(job).check(card)?;
        }
        Ok(())
    }

    /// Says which pictures are plainly none of those that the model knows.
    pub fn note_foreign(&self, card: &Card) {
        let Some(domain) = &card.domain else { return };
        let references = self.edit.references().iter().zip(&self.request.references);
        let pictures = self.edit.input().into_iter().zip(&self.request.image).chain(references);
        let foreign = pictures.filter_map(|(picture, file)| Some((file, domain.outside(picture)?)));
        let foreign: Vec<_> = foreign.map(|(file, outside)| format!("{} {outside}", file.path.display())).collect();
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
        work: Work,
        device: &Device,
        clock: &Clock,
        written: &[String],
    ) -> String {
        let kind = match (edit.task_name(), edit.input()) {
            (Some(task), _) => task,
            (None, Some(_)) => "edit",
            (None, None) => "picture",
        };
        let noise = match edit.given_noise() {
            Some(_) => "given noise".to_owned(),
            None => format!("seed {}", edit.seed_number()),
        };
        format!(
            "{kind} \"{}\": {width}×{height}, {}, {noise} on {}: {} → {}",
            edit.words().trim(),
            took(work),
            device::name(device),
            clock.times(),
            written.join(", ")
        )
    }
}

/// Steps, and how often the network was asked where that does not follow from them.
fn took(work: Work) -> String {
    let steps = if work.steps == 1 { "1 step".to_owned() } else { format!("{} steps", work.steps) };
    let Work { evaluations, computed, .. } = work;
    match (evaluations == work.steps, computed == evaluations) {
        (true, true) => steps,
        (true, false) => format!("{steps}, {computed} of them computed"),
        (false, true) => format!("{steps} in {evaluations} evaluations"),
        (false, false) => format!("{steps} in {evaluations} evaluations, {computed} of them computed"),
    }
}

/// The instructions of a file.
fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let lines = jobs::instructions(&fs::read_to_string(path).map_err(Error::io(path))?);
    if lines.is_empty() {
        return Err(Error::format(path, "no instruction is in it", "write one on each line").into());
    }
    Ok(lines)
}

/// Asks for the example that is shipped with the miniature. Where there is no clone, its pictures are written beside the
/// output.
fn example(request: &mut Request, output: &Output) -> anyhow::Result<()> {
    let clone = Path::new(EXAMPLE);
    let mut places = Vec::new();
    for (name, bytes) in miniature::EXAMPLE {
        let shipped = clone.join(name);
        let place = match shipped.is_file() {
            true => shipped,
            false => {
                let place = files::beside(&output.out, name.trim_end_matches(".png"));
                files::write(&place, bytes)?;
                place
            }
        };
        places.push(InputFile::from(place));
    }
    report::print(&format!("editing the shipped {}: {}", places[0].path.display(), miniature::INSTRUCTION.trim()));
    request.mask = places.pop();
    request.image = places.pop();
    request.instruction = Some(miniature::INSTRUCTION.trim().to_owned());
    request.task = Some(miniature::TASK.to_owned());
    Ok(())
}

/// Whether neither words nor pictures nor another model are given.
fn is_bare(args: &SampleArgs, request: &Request) -> bool {
    let Request { model, instruction, task, image, mask, references, regions, size, noise, picture_prompts, .. } =
        request;
    let is_silent = instruction.is_none() && task.is_none() && image.is_none() && mask.is_none();
    let is_plain =
        references.is_empty() && picture_prompts.is_empty() && regions.is_empty() && size.is_none() && noise.is_none();
    let is_default = model.name.as_deref().is_none_or(|name| name == DEFAULT);
    is_silent && is_plain && is_default && args.prompts.is_none()
}

/// Refuses an edit without what its task cannot do without.
fn check_needs(missing: &[Need], task: &Task) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let flag = |need: &Need| match need {
        Need::Image => "--image FILE",
        Need::Mask => "--mask FILE",
        Need::Reference => "--reference FILE",
    };
    let flags: Vec<_> = missing.iter().map(flag).collect();
    let what = format!("task {} needs {}", task.name, flags.join(" "));
    Err(Failure::misuse(what, format!("{}: {}", task.name, task.about)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;

    fn args(words: &[&str]) -> SampleArgs {
        match Cli::try_parse_from([&["ace", "sample"], words].concat()).unwrap().verb {
            Verb::Sample(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_is_edited_only_when_nothing_is_asked() {
        let is_bare = |words: &[&str]| {
            let args = args(words);
            is_bare(&args, &args.request())
        };
        assert!(is_bare(&[]));
        assert!(is_bare(&["--backend", "flex", "--seed", "3", "--out", "o.png"]));
        for asked in [["-p", ""], ["--image", "i.png"], ["--reference", "r.png"], ["--task", "fill"], ["--model", "x"]]
        {
            assert!(!is_bare(&asked), "{asked:?}");
        }
    }

    #[test]
    fn a_task_names_the_options_that_it_lacks() {
        let card = Card::builtin("tiny").unwrap();
        let task = card.find_task("compose").unwrap();
        let error = check_needs(&[Need::Image, Need::Reference, Need::Reference], task).unwrap_err();
        assert_eq!(error.to_string(), "task compose needs --image FILE --reference FILE --reference FILE");
        assert!(check_needs(&[], task).is_ok());
    }

    #[test]
    fn every_option_of_an_edit_is_in_the_request() {
        let request = args(&[
            "-p",
            "words",
            "--task",
            "fill",
            "--image",
            "i",
            "--mask",
            "m",
            "--reference",
            "r",
            "--picture-prompt",
            "p:0.5",
            "--map",
            "d",
            "--seed",
            "3",
            "--seed-compat",
            "torch",
            "--steps",
            "4",
            "--guidance",
            "2",
            "--repainting-scale",
            "0.5",
            "--feather",
            "6",
            "--no-keep-outside",
            "--compat",
            "official",
            "--sampler",
            "unipc",
            "--schedule",
            "karras",
            "--shift",
            "3",
            "--cache",
            "0.1",
            "--noise",
            "n",
            "--dtype",
            "bf16",
            "--widen",
            "--quantize",
            "nf4",
            "--low-memory",
            "--tile",
            "64",
            "--lora",
            "l:0.5",
            "--flux",
            "f",
            "--weights",
            "w",
            "--model",
            "tiny",
        ])
        .request();
        let text = serde_json::to_value(&request).unwrap();
        let empty: Vec<&String> = (text.as_object().unwrap().iter())
            .filter_map(|(name, value)| (value.is_null() || value == &serde_json::json!([])).then_some(name))
            .collect();
        // A region stands in the place of a mask, a size in the place of an image, masked steps in that of a cache.
        assert_eq!(empty, ["masked_steps", "regions", "size"]);
        let empty = text["model"].as_object().unwrap().values().filter(|value| value.is_null()).count();
        assert_eq!(empty, 0, "{text}");
    }
}
