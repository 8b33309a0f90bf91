//! One process's membership of a folder: does what [`takeover`](super::takeover) decides, on a thread of its own.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::client::{Client, NotIn, silent, who};
use super::folder::Folder;
use super::leases::Leases;
use super::lock::{self, ClientLock, LockFile, Taken};
use super::owner::Owner;
use super::socket::Listener;
use super::takeover::{Action, Event, State};
use super::wishes::Wishes;
use crate::disk::FolderLock;
use crate::error::{Error, Result};
use crate::io::Held;
use crate::tiered::Sharing;

/// What this process is to its folder at the moment.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// That is being settled; requests wait.
    Seeking,
    /// It could not be settled for too long, for this reason. It goes on trying.
    Stuck(Error),
    /// It owns the folder.
    Owner(Arc<dyn Folder>),
    /// Another process does.
    Client(Arc<Client>),
    /// It has left.
    Left,
}

/// Opens the tiers under the folder's lock, evictions held back.
pub(crate) type Open = Arc<dyn Fn(FolderLock) -> Result<Arc<dyn Folder>> + Send + Sync>;

/// A process that takes part.
pub(crate) struct Member {
    pub(crate) dir: PathBuf,
    pub(crate) sharing: Sharing,
    pub(crate) lock: LockFile,
    pub(crate) client_lock: ClientLock,
    pub(crate) leases: Arc<Leases>,
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) open: Open,
    /// The kernel's hold of both locks. Released before them, when nothing is in flight any more.
    pub(crate) holds: Vec<Held>,
}

/// The states of one process, as they are acted out.
pub(crate) struct Actor {
    member: Member,
    roles: watch::Sender<Role>,
    leave: watch::Receiver<bool>,
    /// Since when this process is neither owner nor client.
    seeking: Instant,
    /// Why, if there is more to say than that nobody answers.
    trouble: Option<Error>,
    /// It was something once: others may wait for what this process can't do.
    settled: bool,
    present: Option<Present>,
}

enum Present {
    Owner { owner: Arc<Owner>, listener: Option<Listener> },
    Client(Arc<Client>),
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Actor({})", self.member.dir.display())
    }
}

impl Actor {
    pub(crate) fn new(member: Member, roles: watch::Sender<Role>, leave: watch::Receiver<bool>) -> Self {
        Self { member, roles, leave, seeking: Instant::now(), trouble: None, settled: false, present: None }
    }

    /// Takes part until it is told to leave.
    pub(crate) async fn run(mut self) {
        let mut state = State::START;
        while state != State::Left {
            let mut leave = self.leave.clone();
            let event = tokio::select! {
                biased;
                _ = leave.wait_for(|leave| *leave) => Event::Leave,
                event = self.act(state.action()) => event,
            };
            tracing::debug!(dir = %self.member.dir.display(), ?state, ?event, "cache folder");
            state = state.after(event);
        }
        self.leave_folder().await;
    }

    async fn act(&mut self, action: Action) -> Event {
        match action {
            Action::TryLock => match self.member.lock.try_take() {
                Ok(Taken::Yes) => Event::Locked,
                Ok(Taken::Held) => Event::NotLocked,
                Err(error) => {
                    self.trouble(error);
                    Event::NotLocked
                }
            },
            Action::Ask => self.ask().await,
            Action::Pause(pause) => {
                self.complain();
                tokio::time::sleep(pause).await;
                Event::Rested
            }
            Action::Open => match self.open().await {
                Ok(()) => Event::Opened,
                Err(error) => {
                    self.member.lock.give_back();
                    if !is_busy(&error) {
                        self.trouble(error);
                    }
                    Event::CannotOpen
                }
            },
            Action::Watch => self.watch().await,
            Action::Leave => Event::Leave,
        }
    }

    async fn ask(&mut self) -> Event {
        let Member { dir, sharing, client_lock, leases, wishes, .. } = &self.member;
        let entered =
            Client::enter(dir, client_lock.name(), leases.clone(), wishes.clone(), sharing.patience).await;
        match entered {
            Ok(client) => {
                self.settle(Role::Client(client.clone()));
                self.present = Some(Present::Client(client));
                Event::Welcome
            }
            Err(refusal) => {
                if let NotIn::Refused(error) = refusal {
                    self.trouble(error);
                }
                Event::NoAnswer
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        let Member { dir, sharing, lock, client_lock, leases, open, .. } = &self.member;
        lock.sign()?;
        let gate = Owner::survivors(dir, client_lock.name())?;
        let (open, folder_lock) = (open.clone(), FolderLock::from_file(lock.reference()?)?);
        let folder =
            tokio::task::spawn_blocking(move || open(folder_lock)).await.map_err(|_| Error::Closed)??;
        // What this process reads as a client of the former owner stays in place, as for any other client.
        for kept in leases.begin().1 {
            if let Ok(Some(grant)) = folder.grant(&kept.object, kept.range).await {
                leases.pin(&kept, grant);
            }
        }
        let listener = Listener::bind(dir).map_err(|error| Error::CacheDir {
            path: dir.join(super::socket::SOCKET),
            what: "the socket for other processes can't be made".into(),
            source: Arc::new(error),
        });
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                folder.close().await?;
                return Err(error);
            }
        };
        self.member.wishes.tell_here(&folder);
        let owner = Owner::new(folder.clone(), dir.clone(), *sharing, gate);
        self.present = Some(Present::Owner { owner, listener: Some(listener) });
        self.settle(Role::Owner(folder));
        Ok(())
    }

    /// Until this process is no longer what it is.
    async fn watch(&mut self) -> Event {
        match &mut self.present {
            Some(Present::Owner { owner, listener }) => match listener.take() {
                Some(listener) => {
                    owner.clone().serve(listener).await;
                    Event::Leave
                }
                None => Event::Leave,
            },
            Some(Present::Client(client)) => {
                client.clone().run().await;
                if let Some(error) = client.why() {
                    tracing::warn!(%error, "the owner of the cache folder is given up");
                    self.trouble(error);
                }
                self.present = None;
                self.seeking = Instant::now();
                self.roles.send_replace(Role::Seeking);
                Event::Lost
            }
            None => Event::Lost,
        }
    }

    fn settle(&mut self, role: Role) {
        self.trouble = None;
        self.settled = true;
        self.roles.send_replace(role);
    }

    fn trouble(&mut self, error: Error) {
        tracing::debug!(dir = %self.member.dir.display(), %error, "cache folder");
        self.trouble = Some(error);
        // At the start the caller decides; later another process may do better, and requests wait for it.
        if !self.settled {
            self.complain();
        }
    }

    /// Tells those who wait, where it has taken too long or can't get better.
    fn complain(&self) {
        let patience = self.member.sharing.patience;
        let late = self.seeking.elapsed() >= patience;
        let error = match &self.trouble {
            Some(error) if late || !self.settled => error.clone(),
            None if late => silent(&who(&self.member.dir, lock::signature(&self.member.dir)), patience),
            _ => return,
        };
        self.roles.send_replace(Role::Stuck(error));
    }

    /// Lets go of everything, the locks last: what is still in flight lands under them.
    async fn leave_folder(self) {
        self.roles.send_replace(Role::Left);
        self.member.wishes.tell_nobody();
        match self.present {
            // The listener and its sessions ended with the future that served them.
            Some(Present::Owner { owner, .. }) => {
                if let Err(error) = owner.folder.close().await {
                    tracing::error!(%error, "the cache folder was not closed in order; the next start repairs it");
                }
                // It joins a thread.
                drop(tokio::task::spawn_blocking(move || drop(owner)).await);
            }
            Some(Present::Client(client)) => client.end(),
            None => {}
        }
        wait_at_most(self.member.sharing.patience, self.member.leases.none_held()).await;
        let Member { holds, lock, client_lock, .. } = self.member;
        // Waits for the ring's thread.
        drop(tokio::task::spawn_blocking(move || drop(holds)).await);
        drop((client_lock, lock));
    }
}

/// True where a former owner, or a child of it, still has the index open: that passes.
fn is_busy(error: &Error) -> bool {
    let Error::CacheDir { source, .. } = error else { return false };
    source.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

async fn wait_at_most(limit: std::time::Duration, what: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, what).await.is_err() {
        tracing::warn!("reads of the cache folder are still in flight; their locks end with them");
    }
}
