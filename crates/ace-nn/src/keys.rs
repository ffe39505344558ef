//! Between module paths and checkpoint keys: an ordered list of `(path part, key part)` for one dialect.
//!
//! Module fields carry the published names wherever Rust allows them, so these tables are the small residue: a field
//! cannot be called `0`, and burn writes no `.weight` behind a norm's scale.

/// Renames one network's module paths to the keys of one dialect, by replacing parts of the path.
#[derive(Debug, Clone, Copy)]
pub struct KeyMap {
    /// `(in the module path, in the checkpoint key)`, applied in order.
    pub renames: &'static [(&'static str, &'static str)],
}

impl KeyMap {
    /// The checkpoint key of a module path such as `double_blocks.3.img_mlp.in_layer.weight`.
    pub fn key(&self, path: &str) -> String {
        self.renames.iter().fold(path.to_owned(), |key, (ours, theirs)| key.replace(ours, theirs))
    }
}
