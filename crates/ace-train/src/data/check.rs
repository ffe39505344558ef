//! Looks at every example on disk before a run does: all pictures are decoded, and all that is wrong is found.

use super::{
    example::{ExampleError, Place},
    files::{self, Entry},
    supply::on_all_cores,
};
use ace_plus::{canvas::MASK_THRESHOLD, picture};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Examples that are looked at between two words to the observer.
const AT_ONCE: usize = 64;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Examples that cannot be used, with everything that is wrong with each.
    pub bad: Vec<(Place, Vec<String>)>,
    /// What was left out or could be understood in another way, one line each.
    pub notes: Vec<String>,
    /// Examples that can be used.
    pub good: usize,
    /// How many of them have an image to edit, a mask, references.
    pub with_image: usize,
    /// See [`Checked::with_image`].
    pub with_mask: usize,
    /// See [`Checked::with_image`].
    pub with_references: usize,
    /// How many of them are of which task.
    pub tasks: BTreeMap<String, usize>,
    /// How many answers have which width and height.
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// Distinct instructions.
    pub instructions: usize,
}

/// What one example is.
struct Seen {
    faults: Vec<String>,
    notes: Vec<String>,
    size: Option<(u32, u32)>,
}

/// Checks everything that `path` names, in whichever form it is. `progress` hears how many examples are done and how many
/// there are, and answers whether to go on.
///
/// # Errors
/// If the path cannot be read, or names no examples.
pub fn check(path: &Path, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Checked, ExampleError> {
    let listing = files::list(path)?;
    let mut checked = Checked { notes: listing.notes, ..Checked::default() };
    let mut instructions = BTreeSet::new();
    let (mut done, of) = (0, listing.rows.len() as u64);
    for rows in listing.rows.chunks(AT_ONCE) {
        let seen = on_all_cores(rows, |row| row.content.as_ref().map(look).map_err(Clone::clone));
        for (row, seen) in rows.iter().zip(seen) {
            match (seen, &row.content) {
                (Ok(Seen { faults, notes, size }), Ok(entry)) if faults.is_empty() => {
                    checked.notes.extend(notes);
                    checked.add(entry, size);
                    instructions.insert(entry.instruction.trim());
                }
                (Ok(Seen { faults, .. }), _) => checked.bad.push((row.place.clone(), faults)),
                (Err(fault), _) => checked.bad.push((row.place.clone(), vec![fault])),
            }
        }
        done += rows.len() as u64;
        if !progress(done, of) {
            break;
        }
    }
    checked.instructions = instructions.len();
    Ok(checked)
}

impl Checked {
    fn add(&mut self, entry: &Entry, size: Option<(u32, u32)>) {
        self.good += 1;
        self.with_image += usize::from(entry.image.is_some());
        self.with_mask += usize::from(entry.mask.is_some());
        self.with_references += usize::from(!entry.references.is_empty());
        *self.tasks.entry(entry.task().to_owned()).or_default() += 1;
        if let Some(size) = size {
            *self.sizes.entry(size).or_default() += 1;
        }
    }
}

/// Decodes everything of an example.
fn look(entry: &Entry) -> Seen {
    let mut seen = Seen { faults: entry.faults(), notes: Vec::new(), size: None };
    let mut fault = |fault: String| {
        // A file that is no picture was found out by its size already.
        if !seen.faults.contains(&fault) {
            seen.faults.push(fault);
        }
    };
    let pictures = [Some(("target", entry.target.as_path())), entry.image.as_deref().map(|path| ("image", path))];
    let references = entry.references.iter().map(|path| ("references", path.as_path()));
    for (field, path) in pictures.into_iter().flatten().chain(references) {
        match picture::read_rgb_noted(path) {
            Ok(read) => {
                seen.notes.extend(read.notes);
                seen.size = seen.size.or((field == "target").then(|| read.picture.dimensions()));
            }
            Err(error) => fault(format!("{field} {error}")),
        }
    }
    match entry.mask.as_deref().map(picture::read_mask_noted) {
        Some(Ok(mask)) => {
            seen.notes.extend(mask.notes);
            if mask.picture.as_raw().iter().all(|grey| *grey <= MASK_THRESHOLD) {
                fault("the mask is all black: nothing would be repainted".to_owned());
            }
        }
        Some(Err(error)) => fault(format!("mask {error}")),
        None => {}
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, RgbImage};
    use std::fs;

    #[test]
    fn everything_bad_is_found_and_the_rest_is_counted() {
        let folder = std::env::temp_dir().join(format!("ace-check-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let save = |name: &str, width: u32| {
            RgbImage::from_pixel(width, 4, image::Rgb([9; 3])).save(folder.join(name)).unwrap();
        };
        save("a.png", 4);
        save("b.png", 8);
        GrayImage::from_pixel(4, 4, Luma([0])).save(folder.join("black.png")).unwrap();
        GrayImage::from_pixel(4, 4, Luma([255])).save(folder.join("white.png")).unwrap();
        // Its size can be read, its pixels cannot.
        save("cut.png", 64);
        let bytes = fs::read(folder.join("cut.png")).unwrap();
        fs::write(folder.join("cut.png"), &bytes[..bytes.len() - 20]).unwrap();
        let lines = r#"{"target": "a.png", "image": "a.png", "mask": "white.png", "instruction": "x", "task": "fill"}
{"target": "b.png", "references": ["a.png"], "instruction": "x"}
{"target": "cut.png", "instruction": ""}
{"target": "a.png", "image": "b.png", "mask": "black.png", "instruction": "x"}
{"target": "a.png", "instruction": "x", "prompt": "y"}
no JSON
{"target": "a.png", "instruction": "y"}"#;
        let path = folder.join("list.jsonl");
        fs::write(&path, lines).unwrap();
        let mut heard = Vec::new();
        let checked = check(&path, &mut |done, of| {
            heard.push((done, of));
            true
        })
        .unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(heard, [(7, 7)]);
        let bad: Vec<(String, usize)> = checked
            .bad
            .iter()
            .map(|(place, faults)| (place.to_string().rsplit_once(':').unwrap().1.to_owned(), faults.len()))
            .collect();
        let expected = [("3", 2), ("4", 3), ("5", 1), ("6", 1)].map(|(line, faults)| (line.to_owned(), faults));
        assert_eq!(bad, expected, "{checked:?}");
        assert_eq!((checked.good, checked.with_image, checked.with_mask, checked.with_references), (3, 1, 1, 1));
        assert_eq!(checked.tasks, BTreeMap::from([("edit".to_owned(), 2), ("fill".to_owned(), 1)]));
        assert_eq!(checked.sizes, BTreeMap::from([((4, 4), 2), ((8, 4), 1)]));
        assert_eq!(checked.instructions, 2);
    }
}
