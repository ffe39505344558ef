//! Between module paths and checkpoint keys: what one dialect calls a network's weights, as data.
//!
//! Module fields carry the published names wherever Rust allows them, so BFL's tables are a small residue: a field
//! cannot be called `0`, and burn writes no `.weight` behind a norm's scale. Other dialects also cut a weight into
//! several, or hold its halves the other way round; they say so here and nowhere else.

/// One network's weights in one dialect.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyMap {
    /// `(in the module path, in the checkpoint key)`, applied in order.
    pub renames: &'static [(&'static str, &'static str)],
    /// `(in the renamed key, in the keys of its parts)`: the rows of these parts, in order, are the weight's rows.
    pub joined: &'static [(&'static str, &'static [&'static str])],
    /// Keys that begin so hold the two halves of their rows the other way round.
    pub swapped: &'static [&'static str],
    /// `(before the number, how many)`: levels that are counted from the other end.
    pub reversed: Option<(&'static str, usize)>,
    /// Other keys for the same tensor: `(ours, theirs)`. A file has one of them or both, tied.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Keys that some files carry and the network does not need; one that ends with a dot stands for all that begin so,
    /// one that begins with a dot for all that end so.
    pub unused: &'static [&'static str],
    /// Keys with one of these in them are stored without the 1×1 kernel at the end of their shape.
    pub flat: &'static [&'static str],
}

/// Where the rows of one weight are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Keys whose rows follow each other; mostly one.
    pub keys: Vec<String>,
    /// Whether the second half of the rows comes first.
    pub swapped: bool,
}

impl KeyMap {
    /// A dialect that only renames.
    pub const fn renaming(renames: &'static [(&'static str, &'static str)]) -> Self {
        Self { renames, joined: &[], swapped: &[], reversed: None, aliases: &[], unused: &[], flat: &[] }
    }

    /// The checkpoint key of a module path such as `double_blocks.3.img_mlp.in_layer.weight`, for dialects that keep
    /// every weight in one piece.
    pub fn key(&self, path: &str) -> String {
        let key = self.renames.iter().fold(path.to_owned(), |key, (ours, theirs)| key.replace(ours, theirs));
        match self.reversed {
            Some((before, count)) => reverse(&key, before, count),
            None => key,
        }
    }

    /// The module path of a checkpoint key; only for dialects that do nothing but rename.
    pub fn path(&self, key: &str) -> String {
        self.renames.iter().rev().fold(key.to_owned(), |path, (ours, theirs)| path.replace(theirs, ours))
    }

    /// Where the rows of a module path's weight are.
    pub fn rows(&self, path: &str) -> Rows {
        let key = self.key(path);
        let swapped = self.swapped.iter().any(|start| key.starts_with(start));
        let keys = match self.joined.iter().find(|(whole, _)| key.contains(whole)) {
            Some((whole, parts)) => parts.iter().map(|part| key.replace(whole, part)).collect(),
            None => vec![key],
        };
        Rows { keys, swapped }
    }

    /// The key and its alias.
    pub fn names<'a>(&self, key: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let other = self.aliases.iter().find_map(|(ours, theirs)| (key == *ours).then_some(*theirs));
        [Some(key), other].into_iter().flatten()
    }

    /// Whether a file may hold `key` although no weight is read from it.
    pub fn is_unused(&self, key: &str) -> bool {
        self.unused.iter().any(|unused| {
            key == *unused
                || (unused.ends_with('.') && key.starts_with(unused))
                || (unused.starts_with('.') && key.ends_with(unused))
        })
    }

    /// The shape in which this dialect stores a weight of `shape` under `key`.
    pub fn stored_shape<'a>(&self, key: &str, shape: &'a [usize]) -> &'a [usize] {
        match shape {
            [kernel @ .., 1, 1] if self.flat.iter().any(|part| key.contains(part)) => kernel,
            _ => shape,
        }
    }
}

impl Rows {
    /// How many of a weight's `height` rows stand under each key, for a network of that width: queries, keys and values
    /// are as tall as the network is wide, what stands behind them has the rest.
    pub fn heights(&self, height: usize, width: usize) -> Vec<usize> {
        let last = self.keys.len() - 1;
        (0..=last).map(|part| if part < last { width } else { height.saturating_sub(last * width) }).collect()
    }
}

/// `before` + `i` becomes `before` + `count − 1 − i`.
fn reverse(key: &str, before: &str, count: usize) -> String {
    let Some(rest) = key.strip_prefix(before) else { return key.to_owned() };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    match rest[..digits].parse::<usize>() {
        Ok(index) if index < count => format!("{before}{}{}", count - 1 - index, &rest[digits..]),
        _ => key.to_owned(),
    }
}
