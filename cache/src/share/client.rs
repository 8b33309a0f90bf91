//! A connection to the owner of the folder: requests by number, answers in any order, and whether anybody is there at all.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::leases::{Leases, ToKeep, Unclaimed};
use super::lock;
use super::message::{Answer, FolderFacts, Request};
use super::protocol::{self, Ended, Packet, Unsent};
use super::socket::{Connection, MAX_PACKET_BYTES};
use super::wishes::Wishes;
use crate::error::Error;

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// The owner is gone: ask the next one.
    Lost,
    /// It failed.
    Failed(Error),
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// An answer. A lease in it ends unless it is claimed, also where the answer is dropped on its way.
#[derive(Debug)]
pub(crate) struct Reply {
    /// What it says.
    pub(crate) message: Answer,
    /// What travelled with it.
    pub(crate) fds: Vec<OwnedFd>,
    /// The lease that it gives.
    pub(crate) lease: Option<Unclaimed>,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Waiting {
    Once(oneshot::Sender<Reply>),
    Many(mpsc::Sender<Answer>),
}

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    connection: Connection,
    /// The number of this connection among those of this process.
    pub(crate) session: u64,
    /// Every lease of this process.
    pub(crate) leases: Arc<Leases>,
    owner: String,
    patience: Duration,
    next: AtomicU64,
    state: Mutex<State>,
    ping: Notify,
    lost: Notify,
    /// What this process wants with blocks.
    wishes: Arc<Wishes>,
    /// Leases that this owner is to be told of.
    keep: Mutex<Vec<ToKeep>>,
    /// Reads and other short requests, and prefetches, which may take long: neither starves the other.
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    /// None once the connection has ended: whoever comes later is told at once.
    waiting: Option<HashMap<u64, Waiting>>,
    heard: Instant,
    facts: FolderFacts,
    /// Why it ended, where it is more than a lost owner.
    why: Option<Error>,
}

/// Takes a request out of the table when nobody waits any more.
struct Number<'a> {
    client: &'a Client,
    number: u64,
    _room: OwnedSemaphorePermit,
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut self.client.state.lock().waiting {
            waiting.remove(&self.number);
        }
    }
}

/// How an attempt to be let in ended.
#[derive(Debug)]
pub(crate) enum NotIn {
    /// Nobody listens: there is no owner, or not yet.
    Nobody,
    /// Somebody has the folder and doesn't answer.
    Silent,
    /// It answered, and refuses.
    Refused(Error),
}

impl Client {
    /// Connects to the owner of the folder and says hello; [`Self::run`] does the rest.
    pub(crate) async fn enter(
        dir: &Path,
        name: &str,
        leases: Arc<Leases>,
        wishes: Arc<Wishes>,
        patience: Duration,
    ) -> Result<Arc<Self>, NotIn> {
        let connection = match Connection::open(dir) {
            Ok(connection) => connection,
            Err(error) => return Err(not_reached(&error, dir)),
        };
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let hello = Request::Hello { client: name.into(), pid: std::process::id() };
        let welcome = async {
            protocol::send(&connection, 1, &hello, &[]).await.map_err(|_| NotIn::Nobody)?;
            protocol::receive::<Answer>(&connection, &mut buffer).await.map_err(|ended| match ended {
                Ended::Gone => NotIn::Nobody,
                Ended::Unreadable(what) => NotIn::Refused(what.explain(&who(dir, lock::signature(dir)))),
            })
        };
        let welcome = tokio::time::timeout(patience, welcome).await.unwrap_or(Err(NotIn::Silent))?;
        match welcome.message {
            Answer::Welcome { pid, request_limit, folder, .. } => {
                let room = (request_limit as usize / 2).max(1);
                let (session, keep) = leases.begin();
                Ok(Arc::new(Self {
                    connection,
                    session,
                    leases,
                    owner: who(dir, Some(pid)),
                    patience,
                    next: AtomicU64::new(2),
                    state: Mutex::new(State {
                        waiting: Some(HashMap::new()),
                        heard: Instant::now(),
                        facts: folder,
                        why: None,
                    }),
                    ping: Notify::new(),
                    lost: Notify::new(),
                    wishes,
                    keep: Mutex::new(keep),
                    short: Arc::new(Semaphore::new(room)),
                    // One room is the registration's and the heartbeat's.
                    long: Arc::new(Semaphore::new(room.saturating_sub(8).max(1))),
                }))
            }
            Answer::Failed { error } => Err(NotIn::Refused(error.into())),
            other => Err(NotIn::Refused(unexpected(&other))),
        }
    }

    /// Tells a new owner what is still held from the one before, and what this process wants; then what it wants from now on.
    async fn register_and_advise(&self) {
        let keep = std::mem::take(&mut *self.keep.lock());
        for lease in keep {
            let request = Request::Keep { object: (*lease.object).clone(), range: lease.range };
            match self.call(&request).await {
                Ok(Reply { message: Answer::File { lease: number, .. }, lease: given, .. }) => {
                    self.leases.kept(self.session, &lease, number);
                    if let Some(given) = given {
                        given.keep();
                    }
                }
                Ok(_) => {}
                Err(CallError::Failed(error)) => {
                    tracing::debug!(%error, "a lease was not kept: what is read under it is checked")
                }
                Err(CallError::Lost) => return,
            }
        }
        self.wishes.tell_there();
        for advice in self.wishes.take() {
            self.tell(&advice).await;
        }
        // The owner may evict after this.
        self.tell(&Request::Settled).await;
        loop {
            for advice in self.wishes.next().await {
                self.tell(&advice).await;
            }
        }
    }

    /// Receives and watches over the connection until it ends. Everyone who waits then learns so.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.receive_all() => {}
            () = self.tell_ends() => {}
            () = self.register_and_advise() => {}
            () = self.watch() => {}
            () = self.lost.notified() => {}
        }
        self.wishes.tell_nobody();
        // Dropping the senders tells those who wait.
        drop(self.state.lock().waiting.take());
    }

    async fn receive_all(&self) {
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        loop {
            match protocol::receive::<Answer>(&self.connection, &mut buffer).await {
                Ok(packet) => self.deliver(packet).await,
                Err(Ended::Gone) => return,
                Err(Ended::Unreadable(what)) => {
                    let error = what.explain(&self.owner);
                    tracing::error!(%error, "the connection to the owner is ended");
                    self.state.lock().why = Some(error);
                    return;
                }
            }
        }
    }

    async fn deliver(&self, packet: Packet<Answer>) {
        let Packet { request, message, fds } = packet;
        let lease = match message {
            Answer::File { lease, .. } | Answer::Memory { lease, .. } => {
                Some(self.leases.unclaimed(self.session, lease))
            }
            _ => None,
        };
        let many = {
            let mut state = self.state.lock();
            state.heard = Instant::now();
            if let Answer::Done { folder } | Answer::Prefetched { folder, .. } = &message {
                state.facts = *folder;
            }
            match state.waiting.as_mut().and_then(|waiting| waiting.remove(&request)) {
                // Whoever asked has gone.
                None => return,
                Some(Waiting::Once(waiting)) => {
                    drop(waiting.send(Reply { message, fds, lease }));
                    return;
                }
                Some(Waiting::Many(many)) => many,
            }
        };
        let last = !matches!(message, Answer::Progress { .. });
        // A slow reader of a series holds this connection up: it belongs to the program that shows it.
        let wanted = many.send(message).await.is_ok() || last;
        if !wanted {
            self.tell(&Request::Stop { request }).await;
        } else if !last && let Some(waiting) = &mut self.state.lock().waiting {
            waiting.insert(request, Waiting::Many(many));
        }
    }

    /// Tells the owner which leases have ended; pings it when asked.
    async fn tell_ends(&self) {
        loop {
            let request = tokio::select! {
                leases = self.leases.ended() => Request::Release { leases },
                () = self.ping.notified() => Request::Ping,
            };
            let requests = match request {
                // Many numbers at once: in packets that are surely small enough.
                Request::Release { leases } => {
                    leases.chunks(1024).map(|part| Request::Release { leases: part.to_vec() }).collect()
                }
                other => vec![other],
            };
            for request in requests {
                if let Err(unsent) = protocol::send(&self.connection, 0, &request, &[]).await {
                    tracing::debug!(?unsent, "the owner could not be told");
                    return;
                }
            }
        }
    }

    /// Ends when somebody waits for an answer and the owner says nothing for too long, not even to a ping.
    async fn watch(&self) {
        let beat = (self.patience / 4).max(Duration::from_millis(1));
        let mut asked: Option<Instant> = None;
        loop {
            tokio::time::sleep(beat).await;
            let (heard, idle) = {
                let state = self.state.lock();
                (state.heard, state.waiting.as_ref().is_none_or(HashMap::is_empty))
            };
            match asked {
                _ if idle => asked = None,
                Some(since) if heard > since => asked = None,
                Some(since) if since.elapsed() >= self.patience => {
                    self.state.lock().why = Some(self.silent());
                    return;
                }
                Some(_) => {}
                None => {
                    asked = Some(Instant::now());
                    self.ping.notify_one();
                }
            }
        }
    }

    fn silent(&self) -> Error {
        silent(&self.owner, self.patience)
    }

    /// Asks, and waits for the answer. The request may be done although nobody waits any more.
    pub(crate) async fn call(&self, request: &Request) -> Result<Reply, CallError> {
        self.call_with(request, None).await
    }

    /// As [`Self::call`], with a descriptor.
    pub(crate) async fn call_with(&self, request: &Request, fd: Option<OwnedFd>) -> Result<Reply, CallError> {
        let room = if matches!(request, Request::Prefetch { .. }) { &self.long } else { &self.short };
        let room = room.clone().acquire_owned().await.map_err(|_| CallError::Lost)?;
        let (answer, waiting) = oneshot::channel();
        let number = self.enter_number(Waiting::Once(answer), room)?;
        let fd = fd.as_ref().map(AsFd::as_fd);
        match protocol::send(&self.connection, number.number, request, fd.as_slice()).await {
            Ok(()) => {}
            Err(Unsent::TooLarge(error)) => return Err(error.into()),
            Err(Unsent::Gone(_)) => return Err(self.ended()),
        }
        let reply = waiting.await.map_err(|_| self.ended())?;
        match reply.message {
            Answer::Failed { error } => match Error::from(error) {
                // The owner is leaving: the next one will answer.
                Error::Closed => Err(CallError::Lost),
                error => Err(error.into()),
            },
            _ => Ok(reply),
        }
    }

    /// Asks for a series of answers. They end with the owner's last one, or with the owner.
    pub(crate) async fn series(
        &self,
        request: &Request,
        into: mpsc::Sender<Answer>,
    ) -> Result<(), CallError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match &mut self.state.lock().waiting {
            Some(waiting) => waiting.insert(number, Waiting::Many(into)),
            None => return Err(self.ended()),
        };
        protocol::send(&self.connection, number, request, &[]).await.map_err(|_| self.ended())
    }

    /// Says something that is not answered. Where the owner is gone, nobody has to hear it.
    pub(crate) async fn tell(&self, request: &Request) {
        if let Err(unsent) = protocol::send(&self.connection, 0, request, &[]).await {
            tracing::debug!(?unsent, "the owner could not be told");
        }
    }

    fn enter_number(&self, waiting: Waiting, room: OwnedSemaphorePermit) -> Result<Number<'_>, CallError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entered = match &mut self.state.lock().waiting {
            Some(table) => {
                table.insert(number, waiting);
                true
            }
            None => false,
        };
        if entered { Ok(Number { client: self, number, _room: room }) } else { Err(self.ended()) }
    }

    /// What those are told who wait when the connection ends.
    fn ended(&self) -> CallError {
        self.state.lock().why.clone().map_or(CallError::Lost, CallError::Failed)
    }

    /// Why the connection ended, where it is more than a lost owner.
    pub(crate) fn why(&self) -> Option<Error> {
        self.state.lock().why.clone()
    }

    /// True where the connection has ended, and another role is to be waited for.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().waiting.is_none()
    }

    /// Ends the connection: whoever waits is told to look for another owner.
    pub(crate) fn end(&self) {
        drop(self.state.lock().waiting.take());
        self.lost.notify_one();
    }

    /// The folder as the owner last described it.
    pub(crate) fn facts(&self) -> FolderFacts {
        self.state.lock().facts
    }
}

/// An error for an answer that doesn't fit the question.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    let shown = format!("{answer:?}");
    let shown = shown.chars().take(200).collect::<String>();
    Error::Protocol { message: format!("it gave an answer that does not fit the question: {shown}") }
}

/// An error for an owner that says nothing.
pub(crate) fn silent(owner: &str, patience: Duration) -> Error {
    let message = format!(
        "{owner} has not answered for {:.1} s; it may be stopped or hang: let it go on or end it, and another process \
         takes over",
        patience.as_secs_f64()
    );
    Error::Protocol { message }
}

/// Names an owner in messages.
pub(crate) fn who(dir: &Path, pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}, which holds {}", dir.display()),
        None => format!("the process that holds {}", dir.display()),
    }
}

fn not_reached(error: &io::Error, dir: &Path) -> NotIn {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => NotIn::Nobody,
        // The line of those who wait to be accepted is full.
        io::ErrorKind::WouldBlock => NotIn::Silent,
        _ => NotIn::Refused(Error::CacheDir {
            path: dir.join(super::socket::SOCKET),
            what: "the owner's socket can't be reached; every process needs the rights to read and write the folder".into(),
            source: Arc::new(io::Error::from(error.kind())),
        }),
    }
}
