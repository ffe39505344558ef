//! What goes on top of models: `ace-plus-portrait+turbo-alpha` is that card with what the addition says. Adapters and
//! repositories of an addition come behind the card's, what else it says replaces the card's.

use super::lay_over;
use crate::{Error, Result};
use std::path::Path;

/// Additions that are part of the library, the files `models/additions/<name>.toml`.
const BUILTIN: &[(&str, &str)] = &[
    ("redux", include_str!("../../cards/additions/redux.toml")),
    ("turbo-alpha", include_str!("../../cards/additions/turbo-alpha.toml")),
    ("hyper-sd-8", include_str!("../../cards/additions/hyper-sd-8.toml")),
    ("hyper-sd-16", include_str!("../../cards/additions/hyper-sd-16.toml")),
];

/// What stands between the name of a card and those of its additions.
pub(super) const PLUS: char = '+';
/// Lists of an addition that come behind the card's.
const LISTS: [&str; 2] = ["adapter", "repository"];

/// Names of the additions, with what each does in a few words.
pub(super) fn names() -> impl Iterator<Item = (&'static str, String)> {
    let about = |text: &str| text.lines().find_map(|line| line.strip_prefix("about = ")).unwrap_or_default().to_owned();
    BUILTIN.iter().map(move |(name, text)| (*name, about(text).trim_matches('"').to_owned()))
}

/// Puts an addition on top of a card's table.
///
/// # Errors
/// If there is none of that name; the message lists them.
pub(super) fn put_on(card: &mut toml::Table, name: &str, path: &Path) -> Result<()> {
    let Some((_, text)) = BUILTIN.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = BUILTIN.iter().map(|(name, _)| *name).collect();
        return Err(Error::not_found(
            format!("there is no addition {name:?} to models"),
            format!("there are: {}; each once", known.join(", ")),
        ));
    };
    let unread =
        |source: toml::de::Error| Error::format(path, source.message().to_owned(), "an addition is a TOML file");
    let mut own: toml::Table = toml::from_str(text).map_err(unread)?;
    let said = |table: &toml::Table, field: &str| {
        table.get(field).and_then(toml::Value::as_str).unwrap_or_default().to_owned()
    };
    let (about, licence) = (said(&own, "about"), said(&own, "licence"));
    own.remove("about");
    own.insert("name".into(), format!("{}{PLUS}{name}", said(card, "name")).into());
    own.insert("description".into(), format!("{}; {about}", said(card, "description")).into());
    let both = said(card, "licence");
    own.insert("licence".into(), if both == licence { both } else { format!("{both}; {name}: {licence}") }.into());
    for field in LISTS {
        let Some(toml::Value::Array(more)) = own.remove(field) else { continue };
        match card.entry(field).or_insert_with(|| toml::Value::Array(Vec::new())) {
            toml::Value::Array(list) => list.extend(more),
            other => *other = toml::Value::Array(more),
        }
    }
    lay_over(card, own);
    Ok(())
}
