//! Bounded stages between the plan and the consumer: batches that are being filled, batches that are ready.

pub(crate) mod account;
pub(crate) mod queue;
pub(crate) mod row;
pub(crate) mod sample;
pub(crate) mod slot;
pub(crate) mod sorted;
pub(crate) mod values;
