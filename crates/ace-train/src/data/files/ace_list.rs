//! The list of ACE++'s own trainer (<https://github.com/ali-vilab/ACE_plus>): one example per line, six fields between
//! `#;#`, an empty one for what there is not.
//!
//! ```text
//! edit_image#;#edit_mask#;#ref_image#;#target_image#;#prompt#;#data_type
//! #;##;#face.jpg#;#portrait.jpg#;#a girl in a police uniform#;#portrait
//! ```
//!
//! As that trainer does, paths are relative to the list's folder, image and mask are brought to the target's size, and
//! what a mask covers is blanked wholly beside a reference and by half without one.

use super::{ACE_SEPARATOR, Entry};
use std::path::{Path, PathBuf};

/// Fields of a line, in their order.
const FIELDS: [&str; 6] = ["edit_image", "edit_mask", "ref_image", "target_image", "prompt", "data_type"];
/// What is blanked under the mask of an image without a reference, where that trainer's configuration says nothing.
const REPAINTING_SCALE: f32 = 0.5;

/// What a line says, with its paths joined to `folder`.
pub(super) fn parse(text: &str, folder: &Path) -> Result<Entry, String> {
    let fields: Vec<&str> = text.split(ACE_SEPARATOR).map(str::trim).collect();
    let Ok([image, mask, reference, target, prompt, task]) = <[&str; FIELDS.len()]>::try_from(fields) else {
        let found = text.split(ACE_SEPARATOR).count();
        return Err(format!("{found} fields between {ACE_SEPARATOR}, expected {}", FIELDS.join(", ")));
    };
    let place = |field: &str| -> Option<PathBuf> { (!field.is_empty()).then(|| folder.join(field)) };
    let (image, reference) = (place(image), place(reference));
    Ok(Entry {
        target: place(target).ok_or("target_image is empty")?,
        repainting_scale: (image.is_some() && reference.is_none()).then_some(REPAINTING_SCALE),
        image,
        mask: place(mask),
        references: reference.into_iter().collect(),
        instruction: prompt.to_owned(),
        task: (!task.is_empty()).then(|| task.to_owned()),
        fits: true,
    })
}
