//! A folder of pictures with their captions beside them, as most trainers take it: `NAME.png` and `NAME.txt` (or
//! `NAME.caption`). Each is made from its words alone. Folders inside are read too, in the order of their names.

use super::{Entry, Listing, Row, contents, ending, is_foreign_picture, is_picture, name, stem, words};
use crate::data::example::{ExampleError, Place};
use std::{collections::BTreeSet, path::Path};

/// Task of these examples.
const TASK: &str = "text-to-image";

pub(super) fn list(folder: &Path) -> Result<Listing, ExampleError> {
    let mut listing = Listing::default();
    add(folder, &mut listing)?;
    Ok(listing)
}

fn add(folder: &Path, listing: &mut Listing) -> Result<(), ExampleError> {
    let (files, folders) = contents(folder)?;
    let named: BTreeSet<String> = files.iter().filter(|path| is_picture(path)).map(|path| stem(path)).collect();
    for file in files {
        if is_picture(&file) {
            let caption = words(folder, &stem(&file));
            let caption = caption.unwrap_or_else(|| Err(format!("it has no caption, {}.txt", stem(&file))));
            let entry = |instruction| Entry {
                target: file.clone(),
                instruction,
                task: Some(TASK.to_owned()),
                ..Entry::default()
            };
            listing.rows.push(Row { place: Place::file(&file), content: caption.map(entry) });
        } else if is_foreign_picture(&file) {
            listing.notes.push(format!("{}: pictures of this kind are not read", file.display()));
        } else if ending(&file) == "txt" && !named.contains(&stem(&file)) {
            listing.notes.push(format!("{}: there is no picture of that name", file.display()));
        }
    }
    for folder in folders {
        // Where trainers keep what they have encoded.
        if !name(&folder).starts_with('_') && name(&folder) != "cache" {
            add(&folder, listing)?;
        }
    }
    Ok(())
}
