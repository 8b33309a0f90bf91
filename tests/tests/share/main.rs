//! Several processes on one cache folder, some of them killed: nobody reads a wrong byte, nobody waits for ever, the origin
//! is asked once, and the quota holds, seen from outside.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod child;
mod origin;
mod quota;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use forebay_cache::testing::Watch;
use origin::{OBJECTS, Server, TOTAL_BYTES};

/// Longer than any step takes: a test that hangs says where.
const LIMIT: Duration = Duration::from_secs(120);

/// A process of this test binary that uses the cache.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    role: String,
}

impl Process {
    fn start(dir: &Path, limit_bytes: u64, server: &Server) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(child::DIR, dir)
            .env(child::LIMIT, limit_bytes.to_string())
            .env(child::ORIGIN, server.address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, lines) = sync_channel(100_000);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let read = move || {
            for text in stdout.lines().map_while(Result::ok) {
                // What the test harness prints comes in between.
                if let Some((_, said)) = text.split_once('@')
                    && line.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("reads-a-child".into()).spawn(read).unwrap();
        let stdin = child.stdin.take();
        let mut process = Self { child, stdin, lines, role: String::new() };
        process.role = process.hear("open ");
        process
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    /// The rest of the next line that begins so; a line that reports a failure ends the test.
    fn hear(&self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("waiting for {what:?}"));
            assert!(!line.starts_with("failed"), "{line}");
            if let Some(rest) = line.strip_prefix(what) {
                return rest.to_owned();
            }
        }
    }

    fn ask(&mut self, command: &str, what: &str) -> String {
        self.tell(command);
        self.hear(what)
    }

    /// kill -9.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed already, or by now; either is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks again until it is so.
fn until(mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LIMIT, "it never came to be");
    }
}

/// A cache folder under a path that is longer than a socket's address may be.
fn folder(home: &tempfile::TempDir) -> PathBuf {
    home.path().join("long".repeat(40)).join("cache")
}

fn start(count: usize, dir: &Path, limit_bytes: u64, server: &Server) -> Vec<Process> {
    (0..count).map(|_| Process::start(dir, limit_bytes, server)).collect()
}

#[test]
fn four_processes_ask_the_origin_once_for_every_byte() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let dir = folder(&home);
    let limit = TOTAL_BYTES * 2;
    let mut processes = start(4, &dir, limit, &server);
    let roles: Vec<_> = processes.iter().map(|process| process.role.as_str()).collect();
    assert_eq!(roles, ["owner", "client", "client", "client"]);
    let watch = Watch::over(&dir).unwrap();
    for (seed, process) in processes.iter_mut().enumerate() {
        process.tell(&format!("epoch {seed}"));
    }
    processes.iter().for_each(|process| drop(process.hear("done")));
    server.assert_each_byte_asked_once();
    assert_eq!(server.bytes(), TOTAL_BYTES);
    // Once more, from the folder.
    for (seed, process) in processes.iter_mut().enumerate() {
        process.ask(&format!("epoch {}", 10 + seed), "done");
    }
    assert_eq!(server.bytes(), TOTAL_BYTES);
    assert!(watch.end().0 <= limit);
}

#[test]
fn owners_are_killed_in_mid_epoch_and_the_others_read_on_within_the_quota() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let dir = folder(&home);
    // Two thirds of the objects fit: eviction goes on all the time.
    let limit = TOTAL_BYTES * 2 / 3;
    let mut processes = start(4, &dir, limit, &server);
    let watch = Watch::over(&dir).unwrap();
    for (seed, process) in processes.iter_mut().enumerate() {
        process.tell(&format!("epoch {seed}"));
    }
    for survivors in [3, 2] {
        for process in &processes {
            process.hear("step ");
            process.hear("step ");
        }
        let owners: Vec<_> = (0..processes.len()).filter(|&at| processes[at].role == "owner").collect();
        assert_eq!(owners.len(), 1, "one owner at a time");
        processes.remove(owners[0]).kill();
        for process in &mut processes {
            process.hear("done");
            process.role = process.ask("role", "role ");
        }
        assert_eq!(processes.len(), survivors);
        for (seed, process) in processes.iter_mut().enumerate() {
            process.tell(&format!("epoch {}", 100 * survivors + seed));
        }
    }
    processes.iter().for_each(|process| drop(process.hear("done")));
    assert_eq!(processes[0].ask("verify", "bad "), "0");
    let (peak, _) = watch.end();
    assert!(peak <= limit, "{peak} bytes were allocated under a limit of {limit}");
}

#[test]
fn what_a_killed_client_was_lent_is_evicted() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let dir = folder(&home);
    let mut owner = Process::start(&dir, TOTAL_BYTES * 2, &server);
    let mut client = Process::start(&dir, TOTAL_BYTES * 2, &server);
    assert_eq!((owner.role.as_str(), client.role.as_str()), ("owner", "client"));
    client.ask("epoch 1", "done");
    client.tell("epoch 2");
    client.hear("step ");
    client.kill();
    // Its leases end when the owner has found its lock free.
    until(|| owner.ask("evict", "objects ") == "0");
    owner.ask("epoch 3", "done");
}

#[test]
fn a_forked_child_neither_keeps_the_folder_nor_uses_it() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let dir = folder(&home);
    let mut owner = Process::start(&dir, TOTAL_BYTES * 2, &server);
    let mut client = Process::start(&dir, TOTAL_BYTES * 2, &server);
    let said = owner.ask("fork", "forked ");
    assert!(said.contains("fork"), "{said}");
    let stdin = owner.stdin.take();
    owner.kill();
    // The child of the dead owner lives: it waits for this end of its input.
    client.ask("epoch 1", "done");
    assert_eq!(client.ask("role", "role "), "owner");
    drop(stdin);
}

#[test]
fn an_owner_that_closes_leaves_the_folder_to_a_client() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let dir = folder(&home);
    let mut processes = start(3, &dir, TOTAL_BYTES * 2, &server);
    processes[1].ask("epoch 1", "done");
    let asked = server.bytes();
    processes[0].ask("close", "closed");
    for process in &mut processes[1..] {
        process.ask("epoch 2", "done");
    }
    let mut roles: Vec<_> = processes[1..].iter_mut().map(|process| process.ask("role", "role ")).collect();
    roles.sort_unstable();
    assert_eq!(roles, ["client", "owner"]);
    assert_eq!(server.bytes(), asked, "everything was written and entered before it left");
    const { assert!(OBJECTS > 1) };
}

#[test]
fn what_a_plan_needs_is_kept_by_every_owner_and_until_its_process_dies() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let dir = folder(&home);
    let mut processes = start(3, &dir, TOTAL_BYTES * 2, &server);
    processes[0].ask("epoch 1", "done");
    for (index, process) in processes.iter_mut().enumerate() {
        process.ask(&format!("need {index}"), "needed");
    }
    // The clients' advice travels by itself.
    until(|| {
        let left = processes[0].ask("shrink", "left ");
        processes[0].ask("epoch 2", "done");
        left == "0 1 2"
    });
    let mut others = processes.split_off(1);
    processes.remove(0).kill();
    others[0].ask("epoch 3", "done");
    assert_eq!(others[1].ask("shrink", "left "), "1 2", "the dead owner's plan needs nothing");
    let owner = usize::from(others[1].ask("role", "role ") == "owner");
    others.remove(1 - owner).kill();
    let left = (owner + 1).to_string();
    until(|| others[0].ask("shrink", "left ") == left);
}
