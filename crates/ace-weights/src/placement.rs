//! Where the weights of a model are while it works.

use serde::{Deserialize, Serialize};

/// Where the weights of a model are while it works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Placement {
    /// Every network stays on the device.
    #[default]
    Resident,
    /// A network is read when it is needed, and dropped: memory is that of the largest one.
    OneAtATime,
    /// As [`Placement::OneAtATime`], and of the transformer and of T5 there is one block at work and the next on its way:
    /// memory is that of two blocks, or of the largest other network.
    Streamed,
}

impl Placement {
    /// Every one with its name.
    pub const ALL: [(&str, Self); 3] =
        [("resident", Self::Resident), ("one-at-a-time", Self::OneAtATime), ("streamed", Self::Streamed)];
}
