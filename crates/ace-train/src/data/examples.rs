//! Encoded examples, whether they are encoded on the way or were all there from the start.

use super::{encode::Encoded, supply::Supply};
use crate::Error;
use std::sync::Arc;

/// Where encoded examples come from.
pub(crate) enum Examples<'a> {
    /// They are encoded, or read from the cache, when they are needed.
    Supplied(Box<Supply<'a>>),
    /// They are all here.
    Given(Vec<Arc<Encoded>>),
}

impl Examples<'_> {
    /// As [`Supply::pool`].
    pub(crate) fn pool(&self) -> Option<u64> {
        match self {
            Self::Supplied(supply) => supply.pool(),
            Self::Given(examples) => Some(examples.len() as u64),
        }
    }

    /// As [`Supply::ensure`].
    pub(crate) fn ensure(&mut self, indices: &[u64]) -> Result<Vec<u64>, Error> {
        match self {
            Self::Supplied(supply) => supply.ensure(indices),
            Self::Given(_) => Ok(indices.to_vec()),
        }
    }

    /// As [`Supply::get`].
    pub(crate) fn get(&self, index: u64) -> &Arc<Encoded> {
        match self {
            Self::Supplied(supply) => supply.get(index),
            Self::Given(examples) => &examples[index as usize],
        }
    }
}
