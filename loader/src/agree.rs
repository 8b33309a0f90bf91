//! Ranks that share an epoch must agree on its order and on where they start: otherwise samples are lost or seen twice in silence.
//!
//! Expected flow: every start of a rank (the first one, and the first after each loaded state) leaves its [`Terms`] as a note in the
//! cache folder and compares them with the notes of the other ranks. Whoever comes second finds the difference. Notes end with their
//! processes, so a job that was killed says nothing to its successor.
//!
//! Caveats: only ranks with the same cache folder see each other, which is those of one node. What belongs together is told by the
//! job ([`Job`]), the world size, and the loader's number among those of its rank: ranks make their loaders in the same order.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use forebay_cache::Cache;
use forebay_cache::share::Note;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::plan::World;
use crate::report::Reporter;
use crate::{Error, Result};

/// What every rank must start with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The order's hash.
    pub order: String,
    /// The epoch.
    pub epoch: u64,
    /// Samples of it that all ranks together have had.
    pub consumed: u64,
    /// Samples per batch and rank.
    pub batch_size: u64,
    /// Whether the last batch is left out.
    pub drop_last: bool,
}

impl Terms {
    /// An error that names what differs and what to check, where `rank` and `other` don't start with the same.
    fn check(&self, rank: u32, theirs: &Self, other: u32) -> Result<()> {
        let message = if self.order != theirs.order {
            format!(
                "rank {rank} has another order than rank {other} (hash {} against {}): give every rank the same shards, seed, shuffle, \
                 canonical_ranks, shuffle_window and state, and see that the shards have not changed",
                self.order, theirs.order
            )
        } else if (self.epoch, self.consumed) != (theirs.epoch, theirs.consumed) {
            format!(
                "rank {rank} starts at sample {} of epoch {}, rank {other} at sample {} of epoch {}: load the same state on every rank, \
                 and call set_epoch with the same epoch",
                self.consumed, self.epoch, theirs.consumed, theirs.epoch
            )
        } else if self != theirs {
            format!(
                "rank {rank} has batch_size={}, drop_last={}, rank {other} batch_size={}, drop_last={}: give every rank the same",
                self.batch_size, self.drop_last, theirs.batch_size, theirs.drop_last
            )
        } else {
            return Ok(());
        };
        Err(Error::State { message })
    }
}

/// Checks that ranks agree; `terms` holds those of every rank, by rank.
///
/// # Errors
/// [`Error::State`] that names the first rank which differs from rank 0.
pub fn check_ranks_agree(terms: &[Terms]) -> Result<()> {
    let Some((first, others)) = terms.split_first() else { return Ok(()) };
    (1..).zip(others).try_for_each(|(rank, theirs)| theirs.check(rank, first, 0))
}

/// Which processes are ranks of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job(String);

/// What launchers leave in the environment, equal on every rank of a job and only there. All that are set count: torchrun's run id is
/// "none" unless somebody names it, and the port tells two such jobs of one node apart.
const SIGNS: [&str; 6] =
    ["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE"];

impl Job {
    /// FOREBAY_JOB where it is set; else what the launcher says; else the process that started the ranks. None where none of these tells.
    fn new(environment: impl Fn(&str) -> Option<String>, parent: Option<String>) -> Option<Self> {
        let named =
            |name: &&str| Some(format!("{name}={}", environment(name).filter(|text| !text.is_empty())?));
        if let Some(name) = named(&"FOREBAY_JOB") {
            return Some(Self(name));
        }
        let signs: Vec<_> = SIGNS.iter().filter_map(named).collect();
        if signs.is_empty() { parent.map(Self) } else { Some(Self(signs.join("\n"))) }
    }

    /// This process's.
    fn here() -> Option<Self> {
        Self::new(|name| std::env::var(name).ok(), parent())
    }

    /// The name under which the ranks' loaders that belong together leave their notes.
    fn board(&self, world_size: u32, number: u64) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"forebay-ranks").update(self.0.as_bytes()).update(&[0]);
        hasher.update(&world_size.to_le_bytes()).update(&number.to_le_bytes());
        format!("ranks-{}", &hasher.finalize().to_hex()[..32])
    }
}

/// The process that started this one. None where that is init, to which orphans of any job fall.
fn parent() -> Option<String> {
    let pid = std::os::unix::process::parent_id();
    (pid > 1).then(|| process(pid)).flatten()
}

/// A process, told apart from a later one with its number.
fn process(pid: u32) -> Option<String> {
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22 of proc(5), counted from behind the name, which may hold anything.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("parent {} {pid} {started}", namespace.display()))
}

/// A rank of this process: job, world size, rank.
type Rank = (String, u32, u32);

/// How many loaders this process has made for each of its ranks.
static MADE: LazyLock<Mutex<HashMap<Rank, u64>>> = LazyLock::new(Mutex::default);

/// One loader's part in the comparison.
pub(crate) struct Agreement {
    world: World,
    board: String,
    /// The terms of every start that was compared: what a rank finds that starts later, or is one start behind.
    starts: Vec<Terms>,
    /// The start since the loader was opened, or since a state was loaded, was compared.
    done: bool,
    note: Option<Note>,
}

/// A note: one rank's starts.
#[derive(Serialize, Deserialize)]
struct Said {
    rank: u32,
    starts: Vec<Terms>,
}

impl fmt::Debug for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agreement({} of {}, {})", self.world.rank(), self.world.size(), self.board)
    }
}

impl Agreement {
    /// Of the next loader of this rank. None with one rank, and, announced, where nothing tells which ranks belong to its job.
    pub(crate) fn new(world: World, reporter: &Reporter) -> Option<Self> {
        if world.size() == 1 {
            return None;
        }
        let Some(job) = Job::here() else {
            reporter.announce(
                "the ranks' orders are not compared, as nothing tells which processes belong to one job: set FOREBAY_JOB to the same \
                 name on all of them, or compare loader.order_hash()",
            );
            return None;
        };
        let mut made = MADE.lock();
        let number = made.entry((job.0.clone(), world.size(), world.rank())).or_default();
        let board = job.board(world.size(), *number);
        *number += 1;
        Some(Self { world, board, starts: Vec::new(), done: false, note: None })
    }

    /// A state was loaded: the next start is compared again.
    pub(crate) fn renew(&mut self) {
        self.done = false;
    }

    /// Compares the first start, and the first after [`Self::renew`]. Where the folder takes no notes (a full disk), that is announced.
    ///
    /// # Errors
    /// [`Error::State`] where another rank's start of the same number had other terms.
    pub(crate) fn check(&mut self, cache: &Cache, reporter: &Reporter, terms: Terms) -> Result<()> {
        if self.done {
            return Ok(());
        }
        self.starts.push(terms.clone());
        match self.compare(cache, &terms) {
            Ok(()) => {}
            Err(Error::Cache(error)) => reporter.announce(format!(
                "the ranks' orders are not compared, as the cache folder takes no note ({error}); loader.order_hash() is the same on \
                 ranks that agree"
            )),
            Err(error) => {
                // Not a start: the next attempt takes its place, and who starts later is not held against it.
                self.starts.pop();
                // Where that fails, what others compare with is lost; the error that is returned says more.
                self.note = match self.starts.is_empty() {
                    true => None,
                    false => self.leave(cache).ok(),
                };
                return Err(error);
            }
        }
        self.done = true;
        Ok(())
    }

    fn leave(&self, cache: &Cache) -> Result<Note> {
        let said = Said { rank: self.world.rank(), starts: self.starts.clone() };
        let text =
            serde_json::to_string(&said).map_err(|error| Error::State { message: error.to_string() })?;
        Ok(cache.leave_note(&self.board, &text)?)
    }

    fn compare(&mut self, cache: &Cache, terms: &Terms) -> Result<()> {
        // The former note stays until this one can be read: nobody finds none.
        self.note = Some(self.leave(cache)?);
        for text in cache.notes(&self.board)? {
            // What another release wrote is not understood, and its protocol's version refuses it already.
            let Ok(theirs) = serde_json::from_str::<Said>(&text) else { continue };
            if theirs.rank != self.world.rank()
                && let Some(start) = theirs.starts.get(self.starts.len() - 1)
            {
                terms.check(self.world.rank(), start, theirs.rank).map_err(other_job)?;
            }
        }
        Ok(())
    }
}

/// What the processes of one parent share a folder for, nobody knows better than who started them.
fn other_job(error: Error) -> Error {
    let Error::State { message } = error else { return error };
    Error::State {
        message: format!("{message}; where they are ranks of different jobs, name each job in FOREBAY_JOB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(order: &str) -> Terms {
        Terms { order: order.into(), epoch: 0, consumed: 0, batch_size: 8, drop_last: true }
    }

    fn says(changed: Terms) -> String {
        check_ranks_agree(&[terms("a"), terms("a"), changed]).unwrap_err().to_string()
    }

    #[test]
    fn ranks_that_differ_are_named_with_what_differs() {
        assert!(check_ranks_agree(&[]).is_ok());
        assert!(check_ranks_agree(&[terms("a"), terms("a")]).is_ok());
        assert!(says(terms("b")).starts_with("rank 2 has another order than rank 0 (hash b against a)"));
        let later = says(Terms { epoch: 3, consumed: 16, ..terms("a") });
        assert!(
            later.starts_with("rank 2 starts at sample 16 of epoch 3, rank 0 at sample 0 of epoch 0"),
            "{later}"
        );
        assert!(says(Terms { batch_size: 4, ..terms("a") }).contains("batch_size=4"));
        assert!(says(Terms { drop_last: false, ..terms("a") }).contains("drop_last=false"));
    }

    fn job(environment: &[(&str, &str)], parent: Option<&str>) -> Option<Job> {
        let get = |name: &str| {
            environment.iter().find(|(each, _)| *each == name).map(|(_, text)| (*text).to_owned())
        };
        Job::new(get, parent.map(str::to_owned))
    }

    #[test]
    fn a_job_is_its_launchers_word_else_its_parent() {
        let torchrun = [("TORCHELASTIC_RUN_ID", "none"), ("MASTER_PORT", "29500")];
        let other = [("TORCHELASTIC_RUN_ID", "none"), ("MASTER_PORT", "29501")];
        assert_eq!(job(&torchrun, Some("p")), job(&torchrun, Some("q")));
        assert_ne!(job(&torchrun, None), job(&other, None));
        assert_eq!(job(&[("FOREBAY_JOB", "j"), other[1]], None), job(&[("FOREBAY_JOB", "j")], Some("p")));
        assert_ne!(job(&[], Some("p")), job(&[], Some("q")));
        assert_eq!(job(&[("MASTER_PORT", "")], None), None);
    }

    #[test]
    fn loaders_that_do_not_belong_together_have_boards_of_their_own() {
        let job = job(&[], Some("p")).unwrap();
        let boards = [job.board(2, 0), job.board(2, 1), job.board(3, 0)];
        assert_eq!(boards.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    }

    #[test]
    fn a_process_is_known_by_more_than_its_number() {
        let this = process(std::process::id()).unwrap();
        assert_eq!(this.split(' ').count(), 4);
        assert_eq!(Some(this), process(std::process::id()));
        assert_eq!(process(u32::MAX), None);
    }
}
