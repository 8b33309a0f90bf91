//! Owner and clients in one process: a flock belongs to an open file, so two caches on one folder meet as two processes do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::cache::Cache;
use super::fake::{Fake, SIZE};
use super::lock::{ClientLock, LockFile, OWNER_LOCK, Taken};
use super::message::{Answer, FolderFacts, Request, Urgency};
use super::protocol::{self, HEADER_BYTES, VERSION};
use super::socket::{Connection, Listener, MAX_PACKET_BYTES};
use crate::error::{Error, Result};
use crate::io::Blocking;
use crate::memory::{Arena, Region};
use crate::object::{BLOCK_BYTES, ByteRange, Location, ObjectMeta};
use crate::tiered::Sharing;

fn region() -> Region {
    Arena::new(64 << 20).unwrap().region("test", 64 << 20).unwrap()
}

fn open(dir: &Path, fake: &Arc<Fake>, sharing: Sharing) -> Result<Cache> {
    let fake = fake.clone();
    let io = Arc::new(Blocking::new(2).unwrap());
    Cache::open_with(dir, sharing, io, region(), Arc::new(move |_| Ok(fake.clone())))
}

/// Waits for a condition that another thread brings about.
async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it never came to be");
}

/// A client that speaks the protocol by hand.
struct Hand {
    lock: ClientLock,
    connection: Connection,
    buffer: Vec<u8>,
}

impl Hand {
    async fn new(dir: &Path) -> Self {
        let lock = ClientLock::create(dir).unwrap();
        let mut hand =
            Self { lock, connection: Connection::open(dir).unwrap(), buffer: vec![0; MAX_PACKET_BYTES] };
        let hello = Request::Hello { client: hand.lock.name().to_string(), pid: 1 };
        assert!(matches!(hand.ask(&hello).await, Answer::Welcome { .. }));
        hand
    }

    async fn tell(&self, number: u64, request: &Request) {
        protocol::send(&self.connection, number, request, &[]).await.unwrap();
    }

    async fn hear(&mut self) -> (u64, Answer) {
        let packet = protocol::receive::<Answer>(&self.connection, &mut self.buffer).await.unwrap();
        (packet.request, packet.message)
    }

    async fn ask(&mut self, request: &Request) -> Answer {
        self.tell(1, request).await;
        self.hear().await.1
    }
}

fn lease(object: &ObjectMeta, range: ByteRange) -> Request {
    Request::Lease { object: object.clone(), range, urgency: Urgency::Now }
}

async fn assert_reads(cache: &Cache, fake: &Fake, range: ByteRange) -> crate::tiered::Tiers {
    let read = cache.read(&fake.object, range, &region()).await.unwrap();
    assert!(*read.lease == fake.bytes[range.start as usize..range.end as usize], "{range} differs");
    read.tiers
}

#[tokio::test]
async fn a_client_reads_the_same_bytes_from_the_owners_files_and_from_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let owner = open(dir.path(), &fake, Sharing::default()).unwrap();
    let client = open(dir.path(), &fake, Sharing::default()).unwrap();
    assert_eq!((owner.stats().role, client.stats().role), ("owner", "client"));
    assert_eq!(client.stats().limit_bytes, 99);
    let ranges = [(0, 1), (5000, 5001), (4095, 4097), (0, SIZE as u64), (BLOCK_BYTES - 3, BLOCK_BYTES + 3)];
    let end = (SIZE as u64 - 7, SIZE as u64);
    for (start, end) in ranges.into_iter().chain([end]) {
        let range = ByteRange::new(start, end);
        fake.stopped.store(false, SeqCst);
        assert_eq!(assert_reads(&client, &fake, range).await.disk, range.len());
        fake.stopped.store(true, SeqCst);
        assert_eq!(assert_reads(&client, &fake, range).await.origin, range.len());
    }
    until(|| fake.pinned() == 0).await;
    let behind = client.read(&fake.object, ByteRange::new(0, SIZE as u64 + 1), &region()).await.unwrap_err();
    assert!(matches!(behind, Error::OutOfRange { .. }), "{behind}");
}

#[tokio::test]
async fn every_call_means_the_same_to_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _owner = open(dir.path(), &fake, Sharing::default()).unwrap();
    let client = open(dir.path(), &fake, Sharing::default()).unwrap();
    let id = fake.object.id;
    assert_eq!(client.object(&fake.object.location).await.unwrap(), fake.object);
    let missing = client.object(&Location::new("s3://bucket/none")).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert_eq!(client.prefetch(&fake.object, ByteRange::new(0, SIZE as u64)).await.unwrap().present, 3);
    assert_eq!(client.aux_get("index", &id).await.unwrap().unwrap(), fake.bytes);
    assert_eq!(client.aux_get("other", &id).await.unwrap(), None);
    assert!(client.aux_put("index", &id, fake.bytes.clone()).await.unwrap());
    assert_eq!(client.evict(crate::disk::Evict::All).await.unwrap(), 7);
    assert_eq!(client.status().await.unwrap().used_bytes, 2);
    let mut progress = client.verify().unwrap();
    let mut checked = Vec::new();
    while let Some(step) = progress.recv().await {
        checked.push(step.checked_blocks);
    }
    assert_eq!(checked, [1, 2, 3]);
    client.advise(&id, ByteRange::new(1, 2), crate::disk::Advice::WillNeed);
    until(|| fake.advice() == [crate::disk::Advice::WillNeed]).await;
}

#[tokio::test]
async fn when_the_owner_ends_one_client_takes_over_and_what_was_asked_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let fakes = [(); 3].map(|()| Fake::new(dir.path()));
    let owner = open(dir.path(), &fakes[0], Sharing::default()).unwrap();
    let clients = [1, 2].map(|at| open(dir.path(), &fakes[at], Sharing::default()).unwrap());
    // The first owner's origin never answers.
    fakes.iter().for_each(|fake| fake.stopped.store(true, SeqCst));
    fakes[0].origin.forget_permits(usize::MAX);
    let reads = clients.each_ref().map(|client| {
        let (client, fake) = (client.clone(), fakes[1].clone());
        tokio::spawn(async move { assert_reads(&client, &fake, ByteRange::new(100, 50_000)).await })
    });
    until(|| fakes[0].reads.load(SeqCst) == 2).await;
    owner.close().await.unwrap();
    for read in reads {
        assert_eq!(read.await.unwrap().origin, 49_900);
    }
    let mut roles = clients.each_ref().map(|client| client.stats().role);
    roles.sort_unstable();
    assert_eq!(roles, ["client", "owner"]);
    let error = owner.read(&fakes[0].object, ByteRange::new(0, 1), &region()).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
}

#[tokio::test]
async fn a_client_with_all_its_leases_out_waits_for_one_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _owner = open(dir.path(), &fake, Sharing { leases_per_client: 1, ..Sharing::default() }).unwrap();
    let mut hand = Hand::new(dir.path()).await;
    let range = ByteRange::new(0, 10);
    let Answer::File { lease: first, .. } = hand.ask(&lease(&fake.object, range)).await else { panic!() };
    hand.tell(2, &lease(&fake.object, range)).await;
    hand.tell(3, &Request::Ping).await;
    assert_eq!(hand.hear().await.0, 3, "the second lease waits");
    hand.tell(0, &Request::Release { leases: vec![first] }).await;
    let (number, answer) = hand.hear().await;
    assert!(number == 2 && matches!(answer, Answer::File { .. }), "{answer:?}");
}

#[tokio::test]
async fn leases_end_with_the_clients_lock_not_with_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let owner = open(dir.path(), &fake, Sharing::default()).unwrap();
    let mut hand = Hand::new(dir.path()).await;
    assert!(matches!(hand.ask(&lease(&fake.object, ByteRange::new(0, 10))).await, Answer::File { .. }));
    let Hand { lock, connection, .. } = hand;
    drop(connection);
    // The owner has seen the end of that connection by the time it serves another one; the lease is still there.
    let other = open(dir.path(), &fake, Sharing::default()).unwrap();
    assert_reads(&other, &fake, ByteRange::new(0, 10)).await;
    until(|| fake.pinned() == 1).await;
    drop(lock);
    until(|| fake.pinned() == 0).await;
    drop(owner);
}

#[tokio::test]
async fn a_new_owner_evicts_when_every_living_client_has_registered_again_or_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let survivor = ClientLock::create(dir.path()).unwrap();
    let dying = ClientLock::create(dir.path()).unwrap();
    let gone = ClientLock::create(dir.path()).unwrap();
    drop(gone);
    let owner = open(dir.path(), &fake, Sharing::default()).unwrap();
    assert_reads(&owner, &fake, ByteRange::new(0, 10)).await;
    let mut hand = Hand {
        lock: survivor,
        connection: Connection::open(dir.path()).unwrap(),
        buffer: vec![0; MAX_PACKET_BYTES],
    };
    let hello = Request::Hello { client: hand.lock.name().to_string(), pid: 1 };
    assert!(matches!(hand.ask(&hello).await, Answer::Welcome { .. }));
    let keep = Request::Keep { object: ObjectMeta::clone(&fake.object), range: ByteRange::new(0, 10) };
    assert!(matches!(hand.ask(&keep).await, Answer::File { .. }));
    hand.tell(0, &Request::Settled).await;
    assert!(matches!(hand.ask(&Request::Ping).await, Answer::Done { .. }));
    assert!(!fake.released.load(SeqCst), "one that lives has not registered");
    assert_eq!(fake.pinned(), 1, "what the other kept is in place");
    drop(dying);
    until(|| fake.released.load(SeqCst)).await;
    assert_eq!(fake.pinned(), 1);
}

#[tokio::test]
async fn a_wrong_byte_is_shown_to_the_owner_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _owner = open(dir.path(), &fake, Sharing::default()).unwrap();
    let client = open(dir.path(), &fake, Sharing::default()).unwrap();
    fake.spoil(BLOCK_BYTES + 77);
    assert_reads(&client, &fake, ByteRange::new(BLOCK_BYTES + 50, BLOCK_BYTES + 100)).await;
    assert_eq!(fake.rechecks.load(SeqCst), 1);
}

#[tokio::test]
async fn a_read_that_is_given_up_holds_its_lease_until_it_has_landed_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _owner = open(dir.path(), &fake, Sharing { leases_per_client: 2, ..Sharing::default() }).unwrap();
    let client = open(dir.path(), &fake, Sharing::default()).unwrap();
    let region = region();
    for step in 0..60 {
        let range = ByteRange::new(0, 100_000 + step);
        let mut read = Box::pin(client.read(&fake.object, range, &region));
        for _ in 0..step % 7 {
            assert!(!matches!(futures::poll!(&mut read), std::task::Poll::Ready(Err(_))));
            tokio::task::yield_now().await;
        }
    }
    assert_reads(&client, &fake, ByteRange::new(0, SIZE as u64)).await;
    until(|| fake.pinned() == 0 && region.used_bytes() == 0).await;
}

#[tokio::test]
async fn an_owner_of_another_release_is_named_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _owner = open(dir.path(), &fake, Sharing::default()).unwrap();
    let connection = Connection::open(dir.path()).unwrap();
    let mut packet = vec![0; HEADER_BYTES];
    packet[0] = 200;
    connection.send(&packet, &[]).await.unwrap();
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    let answer = protocol::receive::<Answer>(&connection, &mut buffer).await.unwrap();
    let Answer::Failed { error } = answer.message else { panic!("{answer:?}") };
    let told = Error::from(error).to_string();
    assert!(told.contains("version 200") && told.contains(&format!("version {VERSION}")), "{told}");

    let other = tempfile::tempdir().unwrap();
    let mut lock = LockFile::open(&other.path().join(OWNER_LOCK)).unwrap();
    assert_eq!(lock.try_take().unwrap(), Taken::Yes);
    lock.sign().unwrap();
    let listener = Listener::bind(other.path()).unwrap();
    let newer = tokio::spawn(async move {
        let connection = listener.accept().await.unwrap();
        connection.receive(&mut vec![0; MAX_PACKET_BYTES]).await.unwrap();
        connection.send(&packet, &[]).await.unwrap();
    });
    let path = other.path().to_owned();
    let refused = tokio::task::spawn_blocking(move || open(&path, &fake, Sharing::default()))
        .await
        .unwrap()
        .unwrap_err();
    newer.await.unwrap();
    let told = refused.to_string();
    assert!(told.contains("version 200") && told.contains(&std::process::id().to_string()), "{told}");
}

#[tokio::test]
async fn an_owner_that_hangs_is_named_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let mut lock = LockFile::open(&dir.path().join(OWNER_LOCK)).unwrap();
    assert_eq!(lock.try_take().unwrap(), Taken::Yes);
    lock.sign().unwrap();
    let _listener = Listener::bind(dir.path()).unwrap();
    let sharing = Sharing { patience: Duration::from_millis(50), ..Sharing::default() };
    let error = open(dir.path(), &fake, sharing).unwrap_err().to_string();
    assert!(
        error.contains(&format!("process {}", std::process::id())) && error.contains("stopped"),
        "{error}"
    );
}

#[tokio::test]
async fn an_owner_that_stops_answering_ends_the_wait_of_its_clients_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let mut lock = LockFile::open(&dir.path().join(OWNER_LOCK)).unwrap();
    assert_eq!(lock.try_take().unwrap(), Taken::Yes);
    let listener = Listener::bind(dir.path()).unwrap();
    // It welcomes one client, and says nothing more.
    let stopped = tokio::spawn(async move {
        let connection = listener.accept().await.unwrap();
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let hello = protocol::receive::<Request>(&connection, &mut buffer).await.unwrap();
        let welcome =
            Answer::Welcome { pid: 4242, lease_limit: 1, request_limit: 16, folder: Default::default() };
        protocol::send(&connection, hello.request, &welcome, &[]).await.unwrap();
        (connection, listener)
    });
    let (path, theirs) = (dir.path().to_owned(), fake.clone());
    let sharing = Sharing { patience: Duration::from_millis(60), ..Sharing::default() };
    let client = tokio::task::spawn_blocking(move || open(&path, &theirs, sharing)).await.unwrap().unwrap();
    let _open = stopped.await.unwrap();
    let error = client.read(&fake.object, ByteRange::new(0, 1), &region()).await.unwrap_err().to_string();
    assert!(error.contains("process 4242"), "{error}");
}

#[tokio::test]
async fn a_new_owner_learns_what_every_plan_needs_and_forgets_it_with_the_client() {
    use crate::disk::Advice::{Done, None as Nothing, WillNeed};
    let dir = tempfile::tempdir().unwrap();
    let fakes = [(); 3].map(|()| Fake::new(dir.path()));
    let owner = open(dir.path(), &fakes[0], Sharing::default()).unwrap();
    let clients = [1, 2].map(|at| open(dir.path(), &fakes[at], Sharing::default()).unwrap());
    let block = |index: u64| ByteRange::new(index * BLOCK_BYTES, index * BLOCK_BYTES + 1);
    let id = fakes[0].object.id;
    owner.advise(&id, block(2), WillNeed);
    for (at, client) in clients.iter().enumerate() {
        client.advise(&id, block(at as u64), WillNeed);
        client.advise(&id, block(2), Done);
    }
    until(|| fakes[0].advice() == [WillNeed; 3]).await;
    owner.close().await.unwrap();
    until(|| clients.iter().any(|client| client.stats().role == "owner")).await;
    let new = usize::from(clients[1].stats().role == "owner");
    until(|| fakes[new + 1].advice() == [WillNeed, WillNeed, Done]).await;
    clients[1 - new].close().await.unwrap();
    let mut left = [Nothing, Nothing, Done];
    left[new] = WillNeed;
    until(|| fakes[new + 1].advice() == left).await;
}

#[tokio::test]
async fn a_client_without_an_owner_knows_the_folder_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let mut lock = LockFile::open(&dir.path().join(OWNER_LOCK)).unwrap();
    assert_eq!(lock.try_take().unwrap(), Taken::Yes);
    let listener = Listener::bind(dir.path()).unwrap();
    // It welcomes one client, and is gone, while its lock is still held.
    let leaving = tokio::spawn(async move {
        let connection = listener.accept().await.unwrap();
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let hello = protocol::receive::<Request>(&connection, &mut buffer).await.unwrap();
        let folder = FolderFacts { limit_bytes: 77, ..FolderFacts::default() };
        let welcome = Answer::Welcome { pid: 4242, lease_limit: 1, request_limit: 16, folder };
        protocol::send(&connection, hello.request, &welcome, &[]).await.unwrap();
        (connection, listener)
    });
    let path = dir.path().to_owned();
    let opened = tokio::task::spawn_blocking(move || open(&path, &fake, Sharing::default()));
    let there = leaving.await.unwrap();
    let client = opened.await.unwrap().unwrap();
    drop(there);
    until(|| client.stats().role == "seeking").await;
    assert_eq!(client.stats().limit_bytes, 77);
}
