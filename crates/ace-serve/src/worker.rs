//! Who makes the pictures: one thread that owns the models and takes job after job.

use crate::{
    jobs::{Ask, End, Event, Problem, Shown, State, Step, Tokens, now, stage_name},
    studio::Studio,
};
use ace_plus::{
    Ace, Edit, Edited, Error, ErrorKind, Event as Progress, Result, image, message::Picture, provenance::Provenance,
    sample::Preview,
};
use std::{
    io::Cursor,
    ops::ControlFlow,
    panic::{self, AssertUnwindSafe},
    path::Path,
    slice,
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

/// Makes the pictures of jobs and ends them, unless the worker has to leave: several jobs are of one model and one shape,
/// and are made together. `limit` is how long it may take. What came of each, if it is over.
pub fn work<J: Assignment>(studio: &mut Studio, jobs: &[J], limit: Option<Duration>) -> Vec<Option<State>> {
    let mut states = vec![None; jobs.len()];
    if jobs.len() > 1 {
        make(studio, jobs, limit, &mut states);
    }
    // What cannot be made together may be made alone, and then it is known whose fault it is.
    for (job, state) in jobs.iter().zip(&mut states).filter(|(_, state)| state.is_none()) {
        if job.is_left() {
            break;
        }
        make(studio, slice::from_ref(job), limit, slice::from_mut(state));
    }
    states
}

/// Makes jobs together and ends those that are over; if something else than their clients stops several, none.
fn make<J: Assignment>(studio: &mut Studio, jobs: &[J], limit: Option<Duration>, states: &mut [Option<State>]) {
    let mut making = Making { jobs, states, begin: Instant::now(), limit, shares: vec![Share::default(); jobs.len()] };
    // A bug in one edit is no reason to send all clients away: the networks are not changed by one.
    let made = panic::catch_unwind(AssertUnwindSafe(|| making.run(studio)));
    let (state, error) = match made {
        Ok(Ok(())) => (State::Done, None),
        Ok(Err(_)) if jobs.iter().any(Assignment::is_left) => return,
        _ if jobs.len() > 1 => return,
        Ok(Err(_)) if jobs[0].is_cancelled() => (State::Cancelled, None),
        Ok(Err(error)) if error.kind() == ErrorKind::Cancelled => (State::Failed, Some(too_long(limit))),
        Ok(Err(error)) => (State::Failed, Some(Problem::from(&error))),
        Err(panicked) => (State::Failed, Some(bug(panicked.as_ref()))),
    };
    for nth in 0..jobs.len() {
        making.end(nth, state, error.clone());
    }
}

/// Jobs while they are made.
struct Making<'a, J> {
    jobs: &'a [J],
    states: &'a mut [Option<State>],
    begin: Instant,
    limit: Option<Duration>,
    shares: Vec<Share>,
}

/// What of the work belongs to one job.
#[derive(Debug, Clone, Default)]
struct Share {
    tokens: Tokens,
    /// Time that its edits took.
    computed: Duration,
    /// Its pictures that are made.
    made: usize,
    /// When a preview was shown last.
    last: Option<Instant>,
    /// Previews of the pictures at hand.
    shown: u32,
}

/// A picture that is to be made.
struct Member {
    /// Of which job.
    job: usize,
    /// Which of its pictures.
    nth: u32,
    edit: Edit,
}

impl<J: Assignment> Making<'_, J> {
    fn run(&mut self, studio: &mut Studio) -> Result<()> {
        self.stage("load");
        let first = self.jobs[0].ask();
        let ace = studio.get(&first.model, &first.loras)?;
        let members = self.members()?;
        let together = if ace.makes_batches() && first.shape.is_some() { studio.batch() } else { 1 };
        for members in members.chunks(together) {
            self.shares.iter_mut().for_each(|share| share.shown = 0);
            let begin = Instant::now();
            let edits: Vec<Edit> = members.iter().map(|member| member.edit.clone()).collect();
            let made = match &edits[..] {
                [edit] => ace.run(edit, &mut |event| self.follow(&event, members)).map(|edited| vec![edited]),
                edits => ace.run_together(edits, &mut |event| self.follow(&event, members)),
            };
            for job in distinct(members) {
                self.shares[job].computed += begin.elapsed();
            }
            for (member, edited) in members.iter().zip(made?) {
                self.keep(member, &edited, &ace, studio)?;
            }
        }
        Ok(())
    }

    /// Pictures that are to be made.
    fn members(&mut self) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for (job, (assignment, share)) in self.jobs.iter().zip(&mut self.shares).enumerate() {
            let ask = assignment.ask();
            let edit = ask.request.edit_from(&mut |name| assignment.file(name), &mut |_| ())?;
            let first = edit.seed_number();
            for nth in 0..ask.count {
                if assignment.has_picture(nth) {
                    share.made += 1;
                    continue;
                }
                members.push(Member { job, nth, edit: edit.clone().seed(first.wrapping_add(nth.into())) });
            }
        }
        Ok(members)
    }

    /// Stores a picture with what made it.
    fn keep(&mut self, member: &Member, edited: &Edited, ace: &Ace, studio: &mut Studio) -> Result<()> {
        let Member { job, nth, edit } = member;
        let (assignment, share) = (&self.jobs[*job], &mut self.shares[*job]);
        share.tokens.text = ace.tokenizers().ids(edit.words()).t5.iter().filter(|id| **id != 0).count();
        share.tokens.image += edited.len;
        share.made += 1;
        if self.states[*job].is_some() {
            return Ok(());
        }
        let ask = assignment.ask();
        let mut request = ask.request.spelled_out(edit, ace.card())?;
        studio.stamp(&mut request, &ask.model, &ask.loras)?;
        let (version, device) = (env!("CARGO_PKG_VERSION"), studio.device_name().to_owned());
        let provenance = Provenance::new(version, device, studio.fingerprints(&ask.model)?, request);
        assignment.put_picture(*nth, &provenance.png(&edited.image)?)
    }

    /// A job is over, unless it was before.
    fn end(&mut self, job: usize, state: State, error: Option<Problem>) {
        if self.states[job].is_none() {
            let Share { tokens, computed, .. } = self.shares[job];
            let seconds = Some(computed.as_secs_f64());
            self.jobs[job].end(End { state, finished: now(), seconds, error, tokens });
            self.states[job] = Some(state);
        }
    }

    fn stage(&self, stage: &str) {
        for (job, _) in self.jobs.iter().zip(self.states.iter()).filter(|(_, state)| state.is_none()) {
            job.tell(Event::Stage { stage: stage.to_owned() });
        }
    }

    /// Tells those who watch, and whether to go on.
    fn follow(&mut self, event: &Progress<'_>, members: &[Member]) -> ControlFlow<()> {
        match event {
            Progress::Stage(stage) => self.stage(stage_name(*stage)),
            Progress::Step { done, of, preview } => {
                for job in distinct(members) {
                    self.step(job, *done, *of, preview, members);
                }
            }
            _ => {}
        }
        // Of several, one whose client is gone is over at once; the others go on.
        for job in 0..self.jobs.len() {
            if self.jobs.len() > 1 && self.jobs[job].is_cancelled() {
                self.end(job, State::Cancelled, None);
            }
        }
        let nobody = self.jobs.iter().all(Assignment::is_cancelled);
        let is_late = self.limit.is_some_and(|limit| self.begin.elapsed() > limit);
        match nobody || is_late || self.jobs.iter().any(Assignment::is_left) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// A step of the pictures at hand is done.
    fn step(&mut self, job: usize, done: usize, of: usize, preview: &Preview<'_>, members: &[Member]) {
        if self.states[job].is_some() {
            return;
        }
        let (assignment, share) = (&self.jobs[job], &mut self.shares[job]);
        let ask = assignment.ask();
        let at_hand = members.iter().filter(|member| member.job == job).count();
        let step = Step { done: share.made * of + at_hand * done, of: ask.count as usize * of };
        assignment.tell(Event::Step(step));
        // The last step's is the picture itself, which follows.
        if done == of || !share.is_shown(ask.shown, done, of) {
            return;
        }
        let row = members.iter().position(|member| member.job == job).unwrap_or_default();
        if let Some(picture) = preview.of(row).picture().and_then(|picture| encode(&picture)) {
            (share.last, share.shown) = (Some(Instant::now()), share.shown + 1);
            let Step { done, of } = step;
            assignment.tell(Event::Preview { done, of, picture: Picture(picture).into() });
        }
    }
}

impl Share {
    fn is_shown(&self, shown: Shown, done: usize, of: usize) -> bool {
        match shown {
            Shown::Nothing => false,
            Shown::Often => self.last.is_none_or(|last| last.elapsed() >= BETWEEN),
            // Where the loop is cut into one part more.
            Shown::Times(times) => self.shown < times && done * (times as usize + 1) >= of * (self.shown as usize + 1),
        }
    }
}

/// The jobs whose pictures these are.
fn distinct(members: &[Member]) -> Vec<usize> {
    let mut jobs: Vec<usize> = members.iter().map(|member| member.job).collect();
    jobs.dedup();
    jobs
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
