//! Who makes the pictures: one thread that owns the models and takes job after job.

use crate::{
    jobs::{Ask, End, Event, Problem, Shown, State, Step, Tokens, now, stage_name},
    studio::Studio,
};
use ace_plus::{
    Ace, Edit, Error, ErrorKind, Event as Progress, Result, image, message::Picture, provenance::Provenance,
    sample::Preview,
};
use std::{
    io::Cursor,
    ops::ControlFlow,
    panic::{self, AssertUnwindSafe},
    path::Path,
    time::{Duration, Instant},
};

/// A job in the hands of a worker, wherever its queue is.
pub trait Assignment {
    /// What was asked.
    fn ask(&self) -> &Ask;
    /// A picture that came with it.
    ///
    /// # Errors
    /// If there is none.
    fn file(&self, name: &Path) -> Result<Vec<u8>>;
    /// Whether its client wants no more.
    fn is_cancelled(&self) -> bool;
    /// Whether the worker has to leave it for another.
    fn is_left(&self) -> bool;
    /// Tells those who watch.
    fn tell(&self, event: Event);
    /// Whether a picture was made before, by a worker that is gone.
    fn has_picture(&self, nth: u32) -> bool;
    /// Stores a picture.
    ///
    /// # Errors
    /// If it cannot be stored.
    fn put_picture(&self, nth: u32, bytes: &[u8]) -> Result<()>;
    /// It is over.
    fn end(&self, end: End);
}

/// Least time from one preview to the next that are shown as often as it costs little.
const BETWEEN: Duration = Duration::from_millis(100);
/// Longest side of a preview that is sent without loss, in pixels: of a larger one the bytes matter more.
const LOSSLESS: u32 = 128;

/// Makes a job's pictures and ends it, unless the worker has to leave it. `limit` is how long it may take.
pub fn work(studio: &mut Studio, job: &impl Assignment, limit: Option<Duration>) -> Option<State> {
    let begin = Instant::now();
    let (tokens, computed) = (Tokens::default(), Duration::ZERO);
    let mut making = Making { job, begin, limit, tokens, computed, last: None, shown: 0 };
    // A bug in one edit is no reason to send all clients away: the networks are not changed by one.
    let made = panic::catch_unwind(AssertUnwindSafe(|| making.run(studio)));
    let (state, error) = match made {
        Ok(Ok(())) => (State::Done, None),
        Ok(Err(_)) if job.is_cancelled() => (State::Cancelled, None),
        Ok(Err(_)) if job.is_left() => return None,
        Ok(Err(error)) if error.kind() == ErrorKind::Cancelled => (State::Failed, Some(too_long(limit))),
        Ok(Err(error)) => (State::Failed, Some(Problem::from(&error))),
        Err(panicked) => (State::Failed, Some(bug(panicked.as_ref()))),
    };
    let seconds = Some(making.computed.as_secs_f64());
    job.end(End { state, finished: now(), seconds, error, tokens: making.tokens });
    Some(state)
}

/// A job while it is made.
struct Making<'a, J> {
    job: &'a J,
    begin: Instant,
    limit: Option<Duration>,
    tokens: Tokens,
    /// Time that the edits alone took.
    computed: Duration,
    /// When a preview was shown last.
    last: Option<Instant>,
    /// Previews of this picture.
    shown: u32,
}

impl<J: Assignment> Making<'_, J> {
    fn run(&mut self, studio: &mut Studio) -> Result<()> {
        let ask = self.job.ask();
        self.stage("load");
        let ace = studio.get(&ask.model, &ask.loras)?;
        let edit = ask.request.edit_from(&mut |name| self.job.file(name), &mut |_| ())?;
        let first = edit.seed_number();
        for nth in 0..ask.count {
            if self.job.has_picture(nth) {
                continue;
            }
            let edit = edit.clone().seed(first.wrapping_add(nth.into()));
            let bytes = self.make(&ace, &edit, nth, studio)?;
            self.job.put_picture(nth, &bytes)?;
        }
        Ok(())
    }

    /// One picture, as the bytes of its file.
    fn make(&mut self, ace: &Ace, edit: &Edit, nth: u32, studio: &mut Studio) -> Result<Vec<u8>> {
        self.shown = 0;
        let begin = Instant::now();
        let edited = ace.run(edit, &mut |event| self.follow(event, nth));
        self.computed += begin.elapsed();
        let edited = edited?;
        self.tokens.text = ace.tokenizers().ids(edit.words()).t5.iter().filter(|id| **id != 0).count();
        self.tokens.image += edited.len;
        let ask = self.job.ask();
        let mut request = ask.request.spelled_out(edit, ace.card())?;
        studio.stamp(&mut request, &ask.model, &ask.loras)?;
        let (version, device) = (env!("CARGO_PKG_VERSION"), studio.device_name().to_owned());
        Provenance::new(version, device, studio.fingerprints(&ask.model)?, request).png(&edited.image)
    }

    fn stage(&self, stage: &str) {
        self.job.tell(Event::Stage { stage: stage.to_owned() });
    }

    /// Tells those who watch, and whether to go on.
    fn follow(&mut self, event: Progress<'_>, nth: u32) -> ControlFlow<()> {
        match event {
            Progress::Stage(stage) => self.stage(stage_name(stage)),
            Progress::Step { done, of, preview } => {
                let step = Step { done: nth as usize * of + done, of: self.job.ask().count as usize * of };
                self.job.tell(Event::Step(step));
                // The last step's is the picture itself, which follows.
                if done < of && self.is_shown(done, of) {
                    self.preview(&preview, step);
                }
            }
            _ => {}
        }
        let is_late = self.limit.is_some_and(|limit| self.begin.elapsed() > limit);
        match is_late || self.job.is_cancelled() || self.job.is_left() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn is_shown(&self, done: usize, of: usize) -> bool {
        match self.job.ask().shown {
            Shown::Nothing => false,
            Shown::Often => self.last.is_none_or(|last| last.elapsed() >= BETWEEN),
            // Where the loop is cut into one part more.
            Shown::Times(times) => self.shown < times && done * (times as usize + 1) >= of * (self.shown as usize + 1),
        }
    }

    fn preview(&mut self, preview: &Preview<'_>, Step { done, of }: Step) {
        if let Some(picture) = preview.picture().and_then(|picture| encode(&picture)) {
            (self.last, self.shown) = (Some(Instant::now()), self.shown + 1);
            self.job.tell(Event::Preview { done, of, picture: Picture(picture).into() });
        }
    }
}

/// The bytes of a preview.
fn encode(picture: &image::RgbImage) -> Option<Vec<u8>> {
    let format = match picture.width().max(picture.height()) <= LOSSLESS {
        true => image::ImageFormat::Png,
        false => image::ImageFormat::Jpeg,
    };
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).ok()?;
    Some(bytes.into_inner())
}

fn too_long(limit: Option<Duration>) -> Problem {
    let seconds = limit.unwrap_or_default().as_secs();
    Problem {
        message: format!("the job took longer than {seconds} s and was stopped"),
        hint: Some("ask for fewer steps or a smaller picture".to_owned()),
        status: 408,
    }
}

fn bug(panicked: &(dyn std::any::Any + Send)) -> Problem {
    let said = panicked.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panicked.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Problem {
        message: format!("the server has a bug: {said}"),
        hint: Some("report this line and what was asked for".to_owned()),
        status: 500,
    }
}

/// The error of a job that nobody serves any more.
pub(crate) fn unknown_model(name: &str) -> Error {
    Error::not_found(format!("there is no model {name:?}"), "GET /v1/models lists those that are served")
}
