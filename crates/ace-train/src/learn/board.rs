//! A run as TensorBoard reads it: scalars and previews in an event file beside `log.jsonl`.
//!
//! An event file is a row of records, each `length (u64) · crc · event · crc (u32 each, little-endian)`, an event being a
//! protobuf message. Both are public: `tensorflow/core/lib/io/record_writer.h` and `tensorboard/compat/proto/event.proto`.
//! The crates that write such files need `protoc` to build (`tboard`), or bring picture readers and protobuf libraries of
//! years ago along (`tensorboard-rs`, `tfrecord`). So the fields that are used here are declared for `prost`, which encodes
//! them, and `crc32c` computes the sums.
//!
//! TensorBoard shows every record of a folder. A resumed run therefore begins a new file with what was before its
//! checkpoint, and removes the old one: no step is there twice.

use crate::Error;
use prost::Message;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

const PREFIX: &str = "events.out.tfevents.";
/// What the first record of every file says.
const VERSION: &str = "brain.Event:2";

/// `tensorboard.Event`
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorboard.Summary`
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorboard.Summary.Value`
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

/// `tensorboard.Summary.Image`
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3 is RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    /// A whole PNG file.
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// One number of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Steps done.
    pub step: u64,
    /// When it was written, in seconds since 1970.
    pub wall_time: f64,
    /// What it is.
    pub tag: String,
    /// The number.
    pub value: f32,
}

/// The event file of a run.
#[derive(Debug)]
pub struct Board {
    path: PathBuf,
    file: fs::File,
}

impl Board {
    /// Begins a new event file in `folder`, for a run that has done `step` steps; `now` is in seconds since 1970. What an
    /// earlier part of the run wrote on those steps is kept, and nothing else.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn open(folder: &Path, step: u64, now: f64) -> Result<Self, Error> {
        let old = files(folder)?;
        // Every file has all of the one before, so the last is whole even if a run was killed between two.
        let mut events = match old.last() {
            Some(path) => parse(&fs::read(path).map_err(ace_plus::Error::io(path))?),
            None => Vec::new(),
        };
        events.retain(|event| event.summary.is_some() && event.step <= step as i64);
        events.insert(0, Event { wall_time: now, file_version: Some(VERSION.to_owned()), ..Event::default() });

        // TensorBoard and `files` take the names in alphabetic order.
        let number = old.last().and_then(|path| number_of(path)).map_or(0, |number| number + 1);
        let path = folder.join(format!("{PREFIX}{:010}.{number:06}.ace", now as u64));
        let bytes: Vec<u8> = events.iter().flat_map(record).collect();
        ace_weights::replace::write(&path, &bytes)?;
        for old in old.iter().filter(|old| **old != path) {
            fs::remove_file(old).map_err(ace_plus::Error::io(old))?;
        }
        let file = fs::OpenOptions::new().append(true).open(&path).map_err(ace_plus::Error::io(&path))?;
        Ok(Self { path, file })
    }

    /// Adds numbers of a step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalars(&mut self, step: u64, now: f64, values: &[(&str, f32)]) -> Result<(), Error> {
        let value =
            |(tag, value): &(&str, f32)| Value { tag: (*tag).to_owned(), simple_value: Some(*value), image: None };
        self.write(step, now, values.iter().map(value).collect())
    }

    /// Adds a PNG file of so many pixels.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn picture(
        &mut self,
        step: u64,
        now: f64,
        tag: &str,
        png: Vec<u8>,
        (width, height): (u32, u32),
    ) -> Result<(), Error> {
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded_image_string: png };
        self.write(step, now, vec![Value { tag: tag.to_owned(), simple_value: None, image: Some(image) }])
    }

    fn write(&mut self, step: u64, now: f64, value: Vec<Value>) -> Result<(), Error> {
        let summary = Some(Summary { value });
        let event = Event { wall_time: now, step: step as i64, file_version: None, summary };
        Ok(self.file.write_all(&record(&event)).map_err(ace_plus::Error::io(&self.path))?)
    }
}

/// Every number in the event file of a run, in the order of writing.
///
/// # Errors
/// If the folder or the file cannot be read.
pub fn scalars(folder: &Path) -> Result<Vec<Scalar>, Error> {
    let Some(path) = files(folder)?.pop() else { return Ok(Vec::new()) };
    let events = parse(&fs::read(&path).map_err(ace_plus::Error::io(&path))?);
    let of = |event: Event| {
        let (step, wall_time) = (event.step.max(0) as u64, event.wall_time);
        let values = event.summary.unwrap_or_default().value.into_iter();
        values.filter_map(move |Value { tag, simple_value, .. }| {
            Some(Scalar { step, wall_time, tag, value: simple_value? })
        })
    };
    Ok(events.into_iter().flat_map(of).collect())
}

/// The event files of this program in a folder, oldest first.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(ace_plus::Error::io(folder))?;
    let mut files: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| number_of(path).is_some()).collect();
    files.sort_by_key(|path| number_of(path));
    Ok(files)
}

/// Which file of the run it is, if this program wrote it.
fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(".ace")?;
    name.split_once('.')?.1.parse().ok()
}

fn record(event: &Event) -> Vec<u8> {
    let event = event.encode_to_vec();
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &event, &checksum(&event)].concat()
}

/// CRC-32C, turned and moved so that the sum of bytes which hold sums is no sum of those.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Every whole record. A run that was killed may have left a part of one at the end.
fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((event, rest)) = next(bytes) {
        events.push(event);
        bytes = rest;
    }
    events
}

fn next(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk::<8>()?;
    let (sum, bytes) = bytes.split_first_chunk::<4>()?;
    let (event, bytes) = bytes.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (event_sum, rest) = bytes.split_first_chunk::<4>()?;
    let is_sound = *sum == checksum(length) && *event_sum == checksum(event);
    Some((Event::decode(event).ok().filter(|_| is_sound)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps and values of the run's numbers.
    fn numbers(folder: &Path) -> Vec<(u64, f32)> {
        scalars(folder).unwrap().into_iter().map(|scalar| (scalar.step, scalar.value)).collect()
    }

    #[test]
    fn records_are_those_that_tensorboard_writes() {
        // `tensorboard.summary.writer.record_writer.RecordWriter` 2.21 wrote this for
        // `Event(wall_time=1.5, file_version="brain.Event:2")`.
        let event = Event { wall_time: 1.5, file_version: Some(VERSION.to_owned()), ..Event::default() };
        let (length, time) = ([24, 0, 0, 0, 0, 0, 0, 0, 163, 127, 75, 34], [9, 0, 0, 0, 0, 0, 0, 248, 63]);
        let recorded = [&length[..], &time, &[26, 13], VERSION.as_bytes(), &[42, 40, 100, 108]].concat();
        assert_eq!(record(&event), recorded);
        assert_eq!(parse(&record(&event)), [event]);
    }

    #[test]
    fn a_resumed_run_has_no_step_twice_and_loses_none() {
        let folder = std::env::temp_dir().join(format!("ace-board-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut board = Board::open(&folder, 0, 100.0).unwrap();
        for step in 1..=4 {
            board.scalars(step, 100.0 + step as f64, &[("loss", step as f32)]).unwrap();
        }
        board.picture(2, 103.0, "preview", vec![1, 2, 3], (6, 5)).unwrap();
        assert_eq!(numbers(&folder), [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]);
        // Killed while step 4 was written, and resumed from a checkpoint of step 3.
        let path = board.path.clone();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(numbers(&folder).len(), 4, "the picture was the last record");

        let mut board = Board::open(&folder, 3, 200.0).unwrap();
        board.scalars(4, 201.0, &[("loss", 40.0)]).unwrap();
        assert_eq!(numbers(&folder), [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]);
        assert_eq!(files(&folder).unwrap().len(), 1);
        let first = scalars(&folder).unwrap().remove(0);
        assert_eq!(first, Scalar { step: 1, wall_time: 101.0, tag: "loss".to_owned(), value: 1.0 });

        // Another program's file is left alone.
        let other = folder.join("events.out.tfevents.1.host.5.0");
        fs::write(&other, b"").unwrap();
        Board::open(&folder, 0, 300.0).unwrap();
        assert!(other.is_file() && numbers(&folder).is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn damage_ends_the_reading() {
        let event = |step| Event { step, summary: Some(Summary::default()), ..Event::default() };
        let mut bytes: Vec<u8> = [event(1), event(2), event(3)].iter().flat_map(record).collect();
        assert_eq!(parse(&bytes).len(), 3);
        let length = bytes.len() / 3;
        bytes[length + 13] ^= 1;
        assert_eq!(parse(&bytes), [event(1)]);
    }
}
