//! `ace session`: picture after picture. A session is a folder that says everything about itself and can be moved:
//!
//! ```text
//! session.json     the model, the turns with the turn before each, and where it stands
//! 1.png 2.png …    pictures of the turns, each with what made it
//! 1.safetensors …  their latents
//! inputs/          pictures that came from outside, named by their digest
//! ```
//!
//! While it runs, the folder is the current one: paths that are written down are relative to it.

use crate::{
    args::{SampleArgs, SessionArgs, SessionLine},
    files, interrupted,
    model::{Lora, Model, ModelArgs},
    provenance::Provenance,
    report::{self, Failure},
    sample::{Asked, Studio},
};
use ace_plus::{Error, canvas::MASK_THRESHOLD, digest};
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    io::{IsTerminal, stdin},
    path::{Path, PathBuf, absolute},
    process::ExitCode,
};

const FILE: &str = "session.json";
/// Pictures from outside.
const INPUTS: &str = "inputs";
/// Letters of a digest that tell files of one session apart.
const SHORT: usize = 16;

/// Adds turns to a session, or looks at it.
///
/// # Errors
/// If a turn cannot be made; those before it stay.
pub fn run(args: &SessionArgs) -> anyhow::Result<ExitCode> {
    let home = env::current_dir().map_err(Error::io(Path::new(".")))?;
    check_flags(&args.turn)?;
    let mut first = args.turn.clone();
    at_home(&mut first, &home)?;
    let has_turn = is_turn(&args.turn);
    if !args.dir.join(FILE).exists() && !has_turn && (args.replay || args.undo || args.at.is_some() || args.log) {
        let what = format!("{}: there is no session", args.dir.display());
        return Err(Failure::misuse(what, "begin one with a turn: ace session DIR -p \"…\"").into());
    }
    let is_new = !args.dir.exists();
    fs::create_dir_all(&args.dir).map_err(Error::io(&args.dir))?;
    env::set_current_dir(&args.dir).map_err(Error::io(&args.dir))?;
    let done = work(args, &first, &home, has_turn);
    if is_new && !Path::new(FILE).exists() && env::set_current_dir(&home).is_ok() {
        // No turn was finished: what is in the folder is of the one that failed. It can stay if it must.
        let _ = fs::remove_dir_all(&args.dir);
    }
    done
}

/// What is asked for, in the session's folder.
fn work(args: &SessionArgs, first: &SampleArgs, home: &Path, has_turn: bool) -> anyhow::Result<ExitCode> {
    let mut session = Session::open(first)?;
    crate::listen_to_interrupts("stopping; turns that are finished stay");
    if args.replay {
        return session.replay(first);
    }
    if args.undo {
        session.undo()?;
    }
    if let Some(turn) = args.at {
        session.go(turn)?;
    }
    if has_turn {
        session.turn(first, args.new)?;
    } else if !args.undo && args.at.is_none() && !args.log {
        session.listen(first, home)?;
    }
    if args.log || args.undo || (args.at.is_some() && !has_turn) {
        session.log();
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the words ask for a picture.
fn is_turn(args: &SampleArgs) -> bool {
    args.prompt.is_some() || args.image.is_some() || args.mask.is_some() || !args.regions.is_empty()
}

/// Makes paths independent of the current folder.
fn at_home(args: &mut SampleArgs, home: &Path) -> anyhow::Result<()> {
    let fix = |path: &mut PathBuf| *path = home.join(&*path);
    let overrides = &mut args.model.overrides;
    let optional = [
        &mut args.image,
        &mut args.mask,
        &mut args.map,
        &mut args.noise,
        &mut args.model.weights,
        &mut overrides.flux,
        &mut overrides.autoencoder,
        &mut overrides.t5,
        &mut overrides.clip,
    ];
    for path in optional.into_iter().flatten() {
        fix(path);
    }
    for path in args.references.iter_mut().chain(args.lora.iter_mut().map(|lora| &mut lora.path)) {
        fix(path);
    }
    for region in &mut args.regions {
        fix(&mut region.mask);
    }
    if let Some(name) = &mut args.model.model
        && (name.contains(['/', '\\']) || home.join(&*name).exists())
        && ace_plus::Card::builtin(name).is_err()
    {
        let path = absolute(home.join(&*name)).map_err(Error::io(Path::new(name)))?;
        *name = path.display().to_string();
    }
    Ok(())
}

/// Refuses what makes several pictures, or other files than a turn's.
fn check_flags(args: &SampleArgs) -> anyhow::Result<()> {
    let refused = [
        (args.count > 1 || args.seed.len() > 1, "--count"),
        (args.prompts.is_some(), "--prompts"),
        (args.from.is_some(), "--from"),
        (args.save_latents.is_some(), "--save-latents"),
        (args.plain, "--plain"),
        (args.sheet.is_some(), "--sheet"),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, flag)) => {
            let what = format!("{flag} has no meaning in a session");
            Err(Failure::misuse(what, "a turn makes one picture, which says how it was made").into())
        }
        None => Ok(()),
    }
}

/// What `session.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Which model all turns are made with.
    model: ModelArgs,
    loras: Vec<Lora>,
    /// The turn that comes next goes on from this one; 0 is before the first.
    head: usize,
    turns: Vec<Turn>,
}

/// One turn; its number is its place, from 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    /// The turn before.
    parent: usize,
    words: String,
    /// Whether it left the picture as it was.
    #[serde(default)]
    nothing: bool,
}

/// A session in its folder.
struct Session {
    state: State,
    model: Model,
    studio: Option<Studio>,
}

impl Session {
    /// The session in the current folder, a new one if there is none.
    fn open(args: &SampleArgs) -> anyhow::Result<Self> {
        let file = Path::new(FILE);
        let state = if file.exists() {
            let text = fs::read(file).map_err(Error::io(file))?;
            let state: State = serde_json::from_slice(&text)
                .map_err(|source| Error::format(file, source.to_string(), "it is of another version of ace"))?;
            let is_other = (args.model != ModelArgs::default() && args.model != state.model)
                || (!args.lora.is_empty() && args.lora != state.loras);
            if is_other {
                let what = "this session was begun with another model or other LoRAs";
                return Err(Failure::misuse(what, "leave them out, or begin another session").into());
            }
            if state.head > state.turns.len() || state.turns.iter().enumerate().any(|(at, turn)| turn.parent > at) {
                return Err(Error::format(file, "its turns are not in order", "the file was changed by hand").into());
            }
            state
        } else {
            State { model: args.model.clone(), loras: args.lora.clone(), head: 0, turns: Vec::new() }
        };
        let model = Model::find(&state.model)?;
        Ok(Self { state, model, studio: None })
    }

    fn save(&self) -> anyhow::Result<()> {
        files::write(Path::new(FILE), serde_json::to_string_pretty(&self.state)?.as_bytes())
    }

    fn undo(&mut self) -> anyhow::Result<()> {
        match self.state.head.checked_sub(1) {
            Some(at) => self.go(self.state.turns[at].parent),
            None => Err(Failure::misuse("there is no turn to undo", "the session stands before its first turn").into()),
        }
    }

    fn go(&mut self, turn: usize) -> anyhow::Result<()> {
        if turn > self.state.turns.len() {
            let what = format!("there is no turn {turn}");
            let hint = format!("turns are 1 to {}, 0 is before the first", self.state.turns.len());
            return Err(Failure::misuse(what, hint).into());
        }
        self.state.head = turn;
        self.save()
    }

    /// One more turn.
    fn turn(&mut self, asked: &SampleArgs, new: bool) -> anyhow::Result<()> {
        let mut args = asked.clone();
        let (head, next) = (self.state.head, self.state.turns.len() + 1);
        if head > 0 && args.image.is_none() && args.width.is_none() && !new {
            args.image = Some(picture(head));
        }
        self.name_pictures(&mut args)?;
        adopt(&mut args)?;
        args.out = picture(next);
        args.save_latents = Some(latents(next));
        args.model = self.state.model.clone();
        args.lora.clone_from(&self.state.loras);
        let words = args.prompt.clone().unwrap_or_default();
        let nothing = self.leaves_all(&args, head)?;
        if nothing {
            for (from, to) in [(picture(head), picture(next)), (latents(head), latents(next))] {
                let bytes = fs::read(&from).map_err(Error::io(&from))?;
                files::write(&to, &bytes)?;
            }
            report::print(&format!("turn {next}: nothing is to be repainted; the same bytes → {}", args.out.display()));
        } else {
            self.make(&args)?;
        }
        self.state.turns.push(Turn { parent: head, words, nothing });
        self.state.head = next;
        self.save()
    }

    fn make(&mut self, args: &SampleArgs) -> anyhow::Result<()> {
        let asked = Asked::understand(args, &self.model.card)?;
        asked.check(args, &self.model.card)?;
        asked.note_foreign(&self.model.card);
        let studio = match &mut self.studio {
            Some(studio) => studio,
            empty => {
                if args.fetch {
                    crate::fetch::fetch(&self.model)?;
                }
                empty.insert(Studio::open(args, &self.model, self.model.files()?)?)
            }
        };
        studio.make(args, &asked)
    }

    /// Whether a turn on the last picture has a mask without any white.
    fn leaves_all(&self, args: &SampleArgs, head: usize) -> anyhow::Result<bool> {
        let Some(mask) = &args.mask else { return Ok(false) };
        if head == 0 || args.image != Some(picture(head)) {
            return Ok(false);
        }
        let mask = ace_plus::picture::read_mask(mask)?;
        Ok(mask.as_raw().iter().all(|grey| *grey <= MASK_THRESHOLD))
    }

    /// Adds the pictures that the words name as references.
    fn name_pictures(&self, args: &mut SampleArgs) -> anyhow::Result<()> {
        let Some(words) = &mut args.prompt else { return Ok(()) };
        for turn in (1..=self.state.turns.len() + 1).rev() {
            let name = format!("{{image{turn}}}");
            if !words.contains(&name) {
                continue;
            }
            if turn > self.state.turns.len() {
                let what = format!("{name}: there is no turn {turn}");
                return Err(Failure::misuse(what, format!("there are {} turns", self.state.turns.len())).into());
            }
            args.references.insert(0, picture(turn));
            // A model that has no such word would read braces and digits.
            if !self.model.card.text.placeholders.contains(&name) {
                *words = words.replace(&name, " ").split_whitespace().collect::<Vec<_>>().join(" ");
            }
        }
        Ok(())
    }

    /// Reads turns from the standard input.
    fn listen(&mut self, first: &SampleArgs, home: &Path) -> anyhow::Result<()> {
        let is_terminal = stdin().is_terminal();
        if is_terminal {
            report::note("one turn a line: words, or options of ace sample; undo, at N, log; an empty line ends");
        }
        for line in stdin().lines() {
            let line = line.map_err(Error::io(Path::new("standard input")))?;
            let line = line.trim();
            if line.is_empty() && is_terminal {
                break;
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match self.line(line, first, home) {
                // A slip of the hand is no reason to lose the model.
                Err(error) if is_terminal && !interrupted() => {
                    report::note(&report::message(&error));
                    if let Some(hint) = report::hint(&error) {
                        report::note(&hint);
                    }
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str, first: &SampleArgs, home: &Path) -> anyhow::Result<()> {
        match (line, line.strip_prefix("at ").map(|number| number.trim().parse::<usize>())) {
            ("undo", _) => return self.undo(),
            ("log", _) => {
                self.log();
                return Ok(());
            }
            (_, Some(Ok(turn))) => return self.go(turn),
            _ => {}
        }
        let words = if line.starts_with('-') {
            shlex::split(line).ok_or_else(|| Failure::misuse("a quotation mark is missing", "close it"))?
        } else {
            vec!["-p".to_owned(), line.to_owned()]
        };
        let SessionLine { new, mut turn } = SessionLine::try_parse_from(words)
            .map_err(|error| Failure::misuse(error.to_string(), "a line has the options of ace sample"))?;
        check_flags(&turn)?;
        at_home(&mut turn, home)?;
        turn.backend = turn.backend.or_else(|| first.backend.clone());
        turn.dtype = turn.dtype.or(first.dtype);
        self.turn(&turn, new)
    }

    /// Lists the turns; a star stands where the session stands.
    fn log(&self) {
        if self.state.head == 0 {
            report::print("* 0 (before the first turn)");
        }
        for (at, Turn { parent, words, nothing }) in self.state.turns.iter().enumerate() {
            let number = at + 1;
            let star = if number == self.state.head { '*' } else { ' ' };
            let after = if *parent == 0 { String::new() } else { format!(" after {parent}") };
            let nothing = if *nothing { ", nothing repainted" } else { "" };
            report::print(&format!("{star} {number}{after}: {words}{nothing}"));
        }
    }

    /// Makes every turn again from what its picture says, and compares the bytes.
    fn replay(&mut self, first: &SampleArgs) -> anyhow::Result<ExitCode> {
        let again = PathBuf::from(".replay.png");
        let mut differ = Vec::new();
        for turn in 1..=self.state.turns.len() {
            let Turn { parent, nothing, .. } = self.state.turns[turn - 1];
            let read = |path: &Path| fs::read(path).map_err(Error::io(path));
            let then = read(&picture(turn))?;
            let now = if nothing {
                read(&picture(parent))?
            } else {
                let said = Provenance::read(&picture(turn))?;
                let mut args = said.clone().under(first)?;
                args.model = self.state.model.clone();
                args.lora.clone_from(&self.state.loras);
                args.out.clone_from(&again);
                said.check_files(&self.model.files()?)?;
                self.make(&args)?;
                let now = read(&again)?;
                fs::remove_file(&again).map_err(Error::io(&again))?;
                now
            };
            if now != then {
                differ.push(turn.to_string());
            }
        }
        if differ.is_empty() {
            report::print(&format!("{} turns, the same bytes", self.state.turns.len()));
            return Ok(ExitCode::SUCCESS);
        }
        report::print(&format!("turns that came out otherwise: {}", differ.join(", ")));
        Ok(ExitCode::FAILURE)
    }
}

/// The picture of a turn.
fn picture(turn: usize) -> PathBuf {
    format!("{turn}.png").into()
}

/// The latents of a turn.
fn latents(turn: usize) -> PathBuf {
    format!("{turn}.safetensors").into()
}

/// Copies what comes from outside into the session.
fn adopt(args: &mut SampleArgs) -> anyhow::Result<()> {
    let single = [&mut args.image, &mut args.mask, &mut args.map, &mut args.noise];
    let masks = args.regions.iter_mut().map(|region| &mut region.mask);
    for path in single.into_iter().flatten().chain(&mut args.references).chain(masks) {
        if path.is_relative() {
            continue;
        }
        let mut name = digest::sha256(path, &mut |_| ())?;
        name.truncate(SHORT);
        if let Some(extension) = path.extension() {
            name = format!("{name}.{}", extension.to_string_lossy());
        }
        let inside = Path::new(INPUTS).join(name);
        if !inside.exists() {
            let bytes = fs::read(&*path).map_err(Error::io(path))?;
            files::write(&inside, &bytes)?;
        }
        *path = inside;
    }
    Ok(())
}
