//! A folder of pictures before and after an edit, in either of the two ways that trainers have for them.
//!
//! ```text
//! DIR/before/NAME.png                      DIR/NAME_start.png
//!     after/NAME.png                           NAME_end.png
//!     after/NAME.txt                           NAME.txt
//!     mask/NAME.png         optional           NAME_mask.png         optional
//!     reference/NAME.png    optional           NAME_reference.png    optional
//! ```
//!
//! Endings may differ, names may not. `before` may be called `source`, `input`, `control` or `conditioning` too, and `after`
//! `target` or `edited`; without a folder of that name the answers are the pictures in `DIR` itself, as beside a folder of
//! control pictures. Without `before`, a picture is made from its reference. The words are in `NAME.txt` beside the
//! answer, in `instructions/` (or `captions/`, `prompts/`), beside the picture before, or in `DIR`; else in
//! `DIR/instruction.txt` for all. `reference/NAME/` may hold several pictures.

use super::{Entry, Listing, Row, contents, is_foreign_picture, is_picture, name, read_words, stem, words};
use crate::data::example::{ExampleError, Place};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a picture is to its example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Image,
    Target,
    Mask,
    Reference,
    Words,
}

/// What folders, and endings of names behind `_`, are called.
const NAMES: [(Role, &[&str]); 5] = [
    (Role::Image, &["before", "source", "sources", "input", "inputs", "control", "conditioning", "start"]),
    (Role::Target, &["after", "target", "targets", "edited", "output", "end"]),
    (Role::Mask, &["mask", "masks"]),
    (Role::Reference, &["reference", "references", "ref"]),
    (Role::Words, &["instruction", "instructions", "caption", "captions", "prompt", "prompts"]),
];

/// The words for every pair that has none of its own.
const SHARED_WORDS: &str = "instruction.txt";

/// How the pictures lie in a folder.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
    /// A folder for each role, or none where names say it.
    folders: BTreeMap<Role, PathBuf>,
}

/// The pictures of one name.
#[derive(Debug, Default)]
struct Pair(BTreeMap<Role, Vec<PathBuf>>);

impl Layout {
    /// How pairs lie in `folder`; `None` if there are none.
    ///
    /// # Errors
    /// If it cannot be read, or two folders claim the same role.
    pub fn of(folder: &Path) -> Result<Option<Self>, ExampleError> {
        let (files, inside) = contents(folder)?;
        let mut folders: BTreeMap<Role, PathBuf> = BTreeMap::new();
        for path in inside {
            let Some(role) = role_of(&name(&path)) else { continue };
            if let Some(other) = folders.insert(role, path.clone()) {
                let reason = format!("{} and {} say the same", name(&other), name(&path));
                return Err(Place::file(folder).bad(reason));
            }
        }
        let has_given = folders.contains_key(&Role::Image) || folders.contains_key(&Role::Reference);
        if has_given {
            return Ok(Some(Self { folder: folder.to_owned(), folders }));
        }
        let has = |wanted: &[Role]| {
            let mut roles = files.iter().filter(|path| is_picture(path)).filter_map(|path| split(&stem(path)));
            roles.any(|(_, role)| wanted.contains(&role))
        };
        let is_flat = has(&[Role::Target]) && has(&[Role::Image, Role::Reference]);
        Ok(is_flat.then(|| Self { folder: folder.to_owned(), folders: BTreeMap::new() }))
    }

    /// Every pair, in the order of the names.
    pub fn list(&self) -> Result<Listing, ExampleError> {
        let mut listing = Listing::default();
        let pairs = if self.folders.is_empty() { self.by_name(&mut listing)? } else { self.by_folder(&mut listing)? };
        let takes_images = pairs.values().any(|pair| pair.0.contains_key(&Role::Image));
        let shared = self.folder.join(SHARED_WORDS);
        let shared = shared.is_file().then(|| read_words(&shared));
        for (name, pair) in pairs {
            let known = pair.0.values().flatten().next();
            let place = pair.0.get(&Role::Target).and_then(|targets| targets.first()).or(known);
            let place = Place::file(place.unwrap_or(&self.folder));
            let content = self.entry(&name, pair, takes_images, shared.as_ref());
            listing.rows.push(Row { place, content });
        }
        Ok(listing)
    }

    /// Pictures in folders of their roles.
    fn by_folder(&self, listing: &mut Listing) -> Result<BTreeMap<String, Pair>, ExampleError> {
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for role in [Role::Image, Role::Target, Role::Mask, Role::Reference] {
            let folder = match (self.folders.get(&role), role) {
                (Some(folder), _) => folder,
                (None, Role::Target) => &self.folder,
                (None, _) => continue,
            };
            let (files, folders) = contents(folder)?;
            for file in pictures(files, listing) {
                pairs.entry(stem(&file)).or_default().0.entry(role).or_default().push(file);
            }
            for several in folders.into_iter().filter(|_| role == Role::Reference) {
                let pictures = pictures(contents(&several)?.0, listing);
                pairs.entry(name(&several)).or_default().0.entry(role).or_default().extend(pictures);
            }
        }
        Ok(pairs)
    }

    /// Pictures whose names end with their roles.
    fn by_name(&self, listing: &mut Listing) -> Result<BTreeMap<String, Pair>, ExampleError> {
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for file in pictures(contents(&self.folder)?.0, listing) {
            match split(&stem(&file)) {
                Some((name, role)) => pairs.entry(name).or_default().0.entry(role).or_default().push(file),
                None => listing.notes.push(format!("{}: its name does not say what it is", file.display())),
            }
        }
        Ok(pairs)
    }

    /// One example, or what is missing of it.
    fn entry(
        &self,
        name: &str,
        mut pair: Pair,
        takes_images: bool,
        shared: Option<&Result<String, String>>,
    ) -> Result<Entry, String> {
        let references = pair.0.remove(&Role::Reference).unwrap_or_default();
        let mut one = |role: Role, what: &str| match pair.0.remove(&role).unwrap_or_default().as_slice() {
            [] => Ok(None),
            [path] => Ok(Some(path.clone())),
            [path, other, ..] => Err(format!("{what} is both {} and {}", path.display(), other.display())),
        };
        let (image, mask) = (one(Role::Image, "the picture before")?, one(Role::Mask, "the mask")?);
        let target = one(Role::Target, "the picture after")?.ok_or("there is no picture after it, of the same name")?;
        if image.is_none() && (takes_images || references.is_empty()) {
            return Err("there is no picture before it, of the same name".to_owned());
        }
        let beside = |path: &Path| path.parent().map(Path::to_owned);
        let places = [beside(&target), self.folders.get(&Role::Words).cloned(), image.as_deref().and_then(beside)];
        let places = places.into_iter().flatten().chain([self.folder.clone()]);
        let own = { places }.find_map(|folder| words(&folder, name));
        let instruction = match (own, shared) {
            (Some(own), _) => own?,
            (None, Some(shared)) => shared.clone()?,
            (None, None) => return Err(format!("it has no instruction, {name}.txt")),
        };
        Ok(Entry { target, image, mask, references, instruction, ..Entry::default() })
    }
}

/// The pictures among files; those that are not read are noted.
fn pictures(files: Vec<PathBuf>, listing: &mut Listing) -> Vec<PathBuf> {
    let foreign = files.iter().filter(|path| is_foreign_picture(path));
    listing.notes.extend(foreign.map(|path| format!("{}: pictures of this kind are not read", path.display())));
    files.into_iter().filter(|path| is_picture(path)).collect()
}

fn role_of(name: &str) -> Option<Role> {
    let name = name.to_lowercase();
    NAMES.iter().find_map(|(role, names)| names.contains(&name.as_str()).then_some(*role))
}

/// `NAME_start` as `NAME` and what it is.
fn split(stem: &str) -> Option<(String, Role)> {
    let (name, role) = stem.rsplit_once('_')?;
    Some((name.to_owned(), role_of(role).filter(|role| *role != Role::Words)?))
}
