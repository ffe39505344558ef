//! Examples on disk, in the form that people have them. What a path is decides how it is read:
//!
//! | path | form |
//! |---|---|
//! | a file whose lines begin with `{` | `json_lines`: JSON lines |
//! | a file with `#;#` in its first line | `ace_list`: the list of ACE++'s own trainer |
//! | a folder with `before/` and `after/`, or `NAME_start.png` and `NAME_end.png` | `pairs`: pictures before and after |
//! | any other folder | `captions`: pictures with `.txt` captions beside them |
//!
//! Pictures and masks are read by [`ace_plus::picture`], as for an edit: turned upright, transparent parts on white, 16
//! bits rounded to 8, a mask's white repainted.

mod ace_list;
mod captions;
mod entry;
mod json_lines;
mod pairs;
#[cfg(test)]
mod tests;

pub(super) use entry::Entry;

use super::example::{Dataset, Example, ExampleError, Place};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// What separates the fields of ACE++'s own lists.
const ACE_SEPARATOR: &str = "#;#";
/// Endings of the pictures that are read, in lower case.
const PICTURES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
/// Endings of files with words, the first that is there wins.
const WORDS: [&str; 2] = ["txt", "caption"];

/// Examples on disk.
#[derive(Debug)]
pub struct Manifest {
    rows: Vec<Row>,
}

/// One example: what it consists of, or why it is none.
#[derive(Debug)]
pub(super) struct Row {
    pub place: Place,
    pub content: Result<Entry, String>,
}

/// Everything that is said on disk, before a picture is looked at.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub rows: Vec<Row>,
    /// What was left out, one line each.
    pub notes: Vec<String>,
}

impl Manifest {
    /// Reads what `path` lists and checks the size of every picture; pictures are decoded when asked for.
    ///
    /// # Errors
    /// At the first example that cannot be used, with its line or file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ExampleError> {
        let manifest = Self::open_with_bad(path)?;
        match manifest.rows.iter().find_map(Row::fault) {
            Some(fault) => Err(fault),
            None => Ok(manifest),
        }
    }

    /// As [`Manifest::open`], but an example that cannot be used is an error only when it is asked for. Its index stays
    /// its own, so that a run draws the same ones whether or not it is mended.
    ///
    /// # Errors
    /// If the path cannot be read, or lists nothing.
    pub fn open_with_bad(path: impl AsRef<Path>) -> Result<Self, ExampleError> {
        let mut rows = list(path.as_ref())?.rows;
        for row in &mut rows {
            if let Ok(entry) = &row.content
                && let Some(fault) = entry.faults().into_iter().next()
            {
                row.content = Err(fault);
            }
        }
        Ok(Self { rows })
    }

    fn row(&self, index: u64) -> &Row {
        &self.rows[(index % self.rows.len() as u64) as usize]
    }
}

impl Dataset for Manifest {
    fn len(&self) -> Option<usize> {
        Some(self.rows.len())
    }

    fn example(&self, index: u64) -> Result<Example, ExampleError> {
        let row = self.row(index);
        match &row.content {
            Ok(entry) => entry.read().map_err(|error| row.place.bad(error.to_string())),
            Err(fault) => Err(row.place.bad(fault)),
        }
    }

    fn place(&self, index: u64) -> Place {
        self.row(index).place.clone()
    }

    fn tasks(&self) -> Vec<String> {
        let entries = self.rows.iter().filter_map(|row| row.content.as_ref().ok());
        let mut tasks: Vec<String> = entries.map(|entry| entry.task().to_owned()).collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }
}

impl Row {
    fn fault(&self) -> Option<ExampleError> {
        self.content.as_ref().err().map(|fault| self.place.bad(fault))
    }
}

/// Reads what `path` says, in whichever form.
///
/// # Errors
/// If it cannot be read, or lists nothing.
pub(super) fn list(path: &Path) -> Result<Listing, ExampleError> {
    let listing = if path.is_dir() {
        match pairs::Layout::of(path)? {
            Some(layout) => layout.list()?,
            None => captions::list(path)?,
        }
    } else {
        let lines = lines(path)?;
        let is_ace = lines.first().is_some_and(|(_, text)| !text.starts_with('{') && text.contains(ACE_SEPARATOR));
        let folder = path.parent().unwrap_or(Path::new(""));
        let parse = if is_ace { ace_list::parse } else { json_lines::parse };
        let row = |(line, text): (usize, String)| Row { place: Place::line(path, line), content: parse(&text, folder) };
        Listing { rows: lines.into_iter().map(row).collect(), notes: Vec::new() }
    };
    if listing.rows.is_empty() {
        return Err(ExampleError::Empty { path: path.to_owned() });
    }
    Ok(listing)
}

/// Lines that say something, with their numbers counted from 1.
fn lines(path: &Path) -> Result<Vec<(usize, String)>, ExampleError> {
    let file = BufReader::new(fs::File::open(path).map_err(ExampleError::io(path))?);
    let mut lines = Vec::new();
    for (index, text) in file.lines().enumerate() {
        let text = text.map_err(ExampleError::io(path))?;
        // Some editors begin a file with a mark of its encoding.
        let text = text.trim_start_matches('\u{feff}').trim();
        if !text.is_empty() {
            lines.push((index + 1, text.to_owned()));
        }
    }
    Ok(lines)
}

/// Files and folders in a folder, each sorted by name; hidden ones are left out.
fn contents(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ExampleError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(ExampleError::io(folder))? {
        let path = entry.map_err(ExampleError::io(folder))?.path();
        if !name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().partition(|path| !path.is_dir()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A file's ending in lower case.
fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn is_picture(path: &Path) -> bool {
    PICTURES.contains(&ending(path).as_str())
}

/// A picture whose kind is not read: it is named rather than passed over in silence.
fn is_foreign_picture(path: &Path) -> bool {
    ["avif", "gif", "heic", "heif", "jxl", "tif", "tiff", "psd"].contains(&ending(path).as_str())
}

/// The words in `folder` for the picture of that name, as one line; `None` if there is no such file.
fn words(folder: &Path, stem: &str) -> Option<Result<String, String>> {
    let path = WORDS.iter().map(|ending| folder.join(format!("{stem}.{ending}"))).find(|path| path.is_file())?;
    Some(read_words(&path))
}

/// A file of words, as one line.
fn read_words(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = text.trim_start_matches('\u{feff}').split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text) }
}
