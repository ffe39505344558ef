//! BFL's names for the weights of [`AutoEncoder`](super::AutoEncoder) (`ae.safetensors`, spec §7.3): the module's own.

use crate::keys::KeyMap;

/// Module path to BFL key.
pub const BFL: KeyMap = KeyMap { renames: &[] };
