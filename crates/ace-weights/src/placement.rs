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
}
