//! Several processes on one cache folder.
//!
//! Training runs one process per GPU. The first that opens a folder owns it: index, admission, eviction, fetches. The others are its
//! clients over a Unix socket in the folder ([`protocol`], [`message`]): they ask for leases and read the bytes themselves, by their
//! own ring, into their own memory, checked. When the owner ends or dies a client takes over ([`takeover`]) and what was being
//! asked is asked again: no reader loses a sample.
//!
//! ```text
//! Cache ─► role ─┬─ owner:  tiers (crate::tiered) ◄─ session per client ◄─ socket
//!                └─ client: socket ─► lease ─► own ring ─► own memory
//! ```
//!
//! Promises: one owner at a time; a lease ends with the client and with everything the kernel still does for it, also after
//! kill -9; a new owner evicts nothing before every living client has registered its leases again; forked children hold nothing.
//! Left to others: what is cached, fetched and evicted (`tiered`, `disk`).

mod client;
mod crcs;
mod folder;
pub(crate) mod fork;
mod leases;
pub(crate) mod lock;
mod member;
mod memfd;
mod message;
mod notes;
mod owner;
mod protocol;
mod read;
mod session;
mod socket;
mod takeover;
mod view;
mod whole;
mod wire_error;
mod wishes;

mod cache;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use notes::Note;
pub use view::View;
pub use whole::Whole;
