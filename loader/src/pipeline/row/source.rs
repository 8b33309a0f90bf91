//! What rows are made of: members that are read, or what is kept of their samples.

use std::sync::Arc;

use forebay_cache::{Lease, Tier};

use super::label;
use crate::catalog::Found;
use crate::decoded::{Pinned, Record};
use crate::pipeline::sample::From;

/// What a row is made of.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The sample's members, where they were found.
    Found(Found),
    /// What is kept of it, decoded.
    Kept(Pinned<Record>),
}

impl Source {
    pub(super) fn label(&self) -> Arc<str> {
        match self {
            Self::Found(sample) => label(sample),
            Self::Kept(kept) => kept.record.label.clone(),
        }
    }
}

/// What a row is made of, in memory.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    Members(Found, Arc<[Lease]>, Tier),
    Kept(Pinned<Record>),
}

impl Bytes {
    pub(super) fn as_from(&self) -> From<'_> {
        match self {
            Self::Members(_, members, _) => From::Members(members),
            Self::Kept(kept) => From::Kept(&kept.record),
        }
    }
}
