//! `ace session`: picture after picture, in a folder; [`ace_plus::session`] says what is in it.

use crate::{
    annotate::Way,
    args::{SampleArgs, SessionArgs, SessionLine},
    interrupted, model,
    report::{self, Failure},
    sample::{Asked, Output, Studio},
};
use ace_plus::{
    Card, Error, Model, Request,
    provenance::Provenance,
    session::{Session, Turn},
};
use clap::Parser;
use std::{
    env, fs,
    io::{IsTerminal, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The picture of a turn that is made again.
const AGAIN: &str = ".replay.png";

/// Adds turns to a session, or looks at it.
///
/// # Errors
/// If a turn cannot be made; those before it stay.
pub fn run(args: &SessionArgs) -> anyhow::Result<ExitCode> {
    check_flags(&args.turn)?;
    let has_turn = is_turn(&args.turn);
    if !Session::is_in(&args.dir) && !has_turn && (args.replay || args.undo || args.at.is_some() || args.log) {
        let what = format!("{}: there is no session", args.dir.display());
        return Err(Failure::misuse(what, "begin one with a turn: ace session DIR -p \"…\"").into());
    }
    let is_new = !args.dir.exists();
    fs::create_dir_all(&args.dir).map_err(Error::io(&args.dir))?;
    let done = work(args, has_turn);
    if is_new && !Session::is_in(&args.dir) {
        // No turn was finished: what is in the folder is of the one that failed. It can stay if it must.
        let _ = fs::remove_dir_all(&args.dir);
    }
    done
}

/// What is asked for, in the session's folder.
fn work(args: &SessionArgs, has_turn: bool) -> anyhow::Result<ExitCode> {
    let mut run = Run::open(args)?;
    crate::listen_to_interrupts("stopping; turns that are finished stay");
    if args.replay {
        return run.replay();
    }
    if args.undo {
        run.session.undo()?;
    }
    if let Some(turn) = args.at {
        run.session.go(turn)?;
    }
    if has_turn {
        run.turn(&args.turn, args.new)?;
    } else if !args.undo && args.at.is_none() && !args.log {
        run.listen()?;
    }
    if args.log || args.undo || (args.at.is_some() && !has_turn) {
        run.log();
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the words ask for a picture.
fn is_turn(args: &SampleArgs) -> bool {
    args.prompt.is_some() || args.image.is_some() || args.mask.is_some() || !args.regions.is_empty()
}

/// What the words ask for, whatever the current folder is later.
fn request(args: &SampleArgs) -> anyhow::Result<Request> {
    let home = env::current_dir().map_err(Error::io(Path::new(".")))?;
    let mut request = args.request();
    request.absolute(&home);
    if let Some(name) = &mut request.model.name
        && (name.contains(['/', '\\']) || home.join(&*name).exists())
        && Card::builtin(name).is_err()
    {
        *name = home.join(&*name).display().to_string();
    }
    Ok(request)
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
        (args.memory.is_some(), "--memory"),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, flag)) => {
            let what = format!("{flag} has no meaning in a session");
            let hint = match *flag {
                "--memory" => "turns differ in size: say --placement streamed or one-at-a-time",
                _ => "a turn makes one picture, which says how it was made",
            };
            Err(Failure::misuse(what, hint).into())
        }
        None => Ok(()),
    }
}

/// A session at work.
struct Run {
    session: Session,
    model: Model,
    studio: Option<Studio>,
    /// What was said when it began: where and in which numbers to compute, whether to fetch.
    first: Request,
    backend: Option<String>,
    fetch: bool,
    way: Way,
}

impl Run {
    fn open(args: &SessionArgs) -> anyhow::Result<Self> {
        let first = request(&args.turn)?;
        let session = Session::open(&args.dir, &first.model)?;
        let held = first.model.clone().over(session.model().clone());
        let model = model::find(&held, session.folder())?;
        let (backend, fetch) = (args.turn.backend.clone(), args.turn.fetch);
        let model = if args.turn.no_text_cache { model } else { model::keeping_text(model) };
        let way = Way::of(&args.turn);
        Ok(Self { session, model, studio: None, first, backend, fetch, way })
    }

    /// One more turn.
    fn turn(&mut self, args: &SampleArgs, is_new: bool) -> anyhow::Result<()> {
        let asked = request(args)?;
        let next = self.session.begin(asked, is_new, &self.model.card().text.placeholders)?;
        let out = self.session.folder().join(Session::picture(next.number));
        if next.nothing {
            let number = next.number;
            self.session.finish(next)?;
            let place = out.display();
            report::print(&format!("turn {number}: nothing is to be repainted; the same bytes → {place}"));
            return Ok(());
        }
        let latents = self.session.folder().join(Session::latents(next.number));
        self.make(next.request.clone(), Output::one(out, latents))?;
        Ok(self.session.finish(next)?)
    }

    fn make(&mut self, request: Request, output: Output) -> anyhow::Result<()> {
        let mut asked = Asked::understand(request, self.session.folder(), output, self.model.card())?;
        let wanted = asked.want_map(self.model.card(), &self.way)?;
        asked.check(self.model.card())?;
        asked.draw_map(wanted.as_ref())?;
        asked.note_foreign(self.model.card());
        let studio = match &mut self.studio {
            Some(studio) => studio,
            empty => {
                if self.fetch {
                    crate::fetch::fetch(&self.model)?;
                }
                empty.insert(Studio::open(&self.model, self.backend.as_deref(), self.model.fingerprints()?)?)
            }
        };
        studio.make(&asked)
    }

    /// Reads turns from the standard input.
    fn listen(&mut self) -> anyhow::Result<()> {
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
            match self.line(line) {
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

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        match (line, line.strip_prefix("at ").map(|number| number.trim().parse::<usize>())) {
            ("undo", _) => return Ok(self.session.undo()?),
            ("log", _) => {
                self.log();
                return Ok(());
            }
            (_, Some(Ok(turn))) => return Ok(self.session.go(turn)?),
            _ => {}
        }
        let words = if line.starts_with('-') {
            shlex::split(line).ok_or_else(|| Failure::misuse("a quotation mark is missing", "close it"))?
        } else {
            vec!["-p".to_owned(), line.to_owned()]
        };
        let SessionLine { new, turn } = SessionLine::try_parse_from(words)
            .map_err(|error| Failure::misuse(error.to_string(), "a line has the options of ace sample"))?;
        check_flags(&turn)?;
        self.turn(&turn, new)
    }

    /// Lists the turns; a star stands where the session stands.
    fn log(&self) {
        if self.session.head() == 0 {
            report::print("* 0 (before the first turn)");
        }
        for (at, Turn { parent, words, nothing }) in self.session.turns().iter().enumerate() {
            let number = at + 1;
            let star = if number == self.session.head() { '*' } else { ' ' };
            let after = if *parent == 0 { String::new() } else { format!(" after {parent}") };
            let nothing = if *nothing { ", nothing repainted" } else { "" };
            report::print(&format!("{star} {number}{after}: {words}{nothing}"));
        }
    }

    /// Makes every turn again from what its picture says, and compares the bytes.
    fn replay(&mut self) -> anyhow::Result<ExitCode> {
        let folder = self.session.folder().to_owned();
        let again = folder.join(AGAIN);
        let read = |path: &Path| fs::read(path).map_err(Error::io(path));
        let mut differ = Vec::new();
        for (at, turn) in self.session.turns().to_vec().into_iter().enumerate() {
            let number = at + 1;
            let picture = folder.join(Session::picture(number));
            let then = read(&picture)?;
            let now = if turn.nothing {
                read(&folder.join(Session::picture(turn.parent)))?
            } else {
                let said = Provenance::read(&picture)?;
                said.check_weights(&self.model.fingerprints()?)?;
                let mut request = said.request;
                request.check_files(&folder)?;
                request.model = self.first.model.clone().over(request.model);
                let mut output = Output::one(again.clone(), PathBuf::new());
                output.latents = None;
                self.make(request, output)?;
                let now = read(&again)?;
                fs::remove_file(&again).map_err(Error::io(&again))?;
                now
            };
            if now != then {
                differ.push(number.to_string());
            }
        }
        if differ.is_empty() {
            report::print(&format!("{} turns, the same bytes", self.session.turns().len()));
            return Ok(ExitCode::SUCCESS);
        }
        report::print(&format!("turns that came out otherwise: {}", differ.join(", ")));
        Ok(ExitCode::FAILURE)
    }
}
