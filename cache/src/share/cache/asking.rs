//! Who answers a request: this process or the folder's owner, asked again where it changes meanwhile.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::super::client::{CallError, Client, Reply, unexpected};
use super::super::folder::Folder;
use super::super::member::Role;
use super::super::memfd;
use super::super::message::{Answer, Request};
use super::Cache;
use crate::disk::Progress;
use crate::error::{Error, Result};

/// Who answers a request.
pub(super) enum Asked {
    /// This process does.
    Here(Arc<dyn Folder>),
    /// The owner did.
    There(Reply),
}

impl Cache {
    /// Owner or client; waits while that is being settled.
    pub(super) async fn role(&self) -> Result<Role> {
        self.inner.birth.check()?;
        let mut roles = self.inner.roles.clone();
        loop {
            let role = roles.borrow_and_update().clone();
            match role {
                Role::Stuck(error) => return Err(error),
                Role::Left => return Err(Error::Closed),
                Role::Owner(_) => return Ok(role),
                Role::Client(ref client) if !client.has_ended() => return Ok(role),
                Role::Client(_) | Role::Seeking => roles.changed().await.map_err(|_| Error::Closed)?,
            }
        }
    }

    /// Finds who answers, and has the answer of another process, however often its owner changes meanwhile.
    pub(super) async fn ask(&self, request: &Request, bytes: Option<&[u8]>) -> Result<Asked> {
        loop {
            match self.role().await? {
                Role::Owner(folder) => return Ok(Asked::Here(folder)),
                Role::Client(client) => match self.call(&client, request, bytes).await {
                    Ok(packet) => return Ok(Asked::There(packet)),
                    Err(CallError::Failed(error)) => return Err(error),
                    Err(CallError::Lost) => client.end(),
                },
                _ => {}
            }
        }
    }

    async fn call(
        &self,
        client: &Client,
        request: &Request,
        bytes: Option<&[u8]>,
    ) -> Result<Reply, CallError> {
        // A copy into memory of the kernel: short beside what it took to make the bytes.
        let fd = bytes.map(memfd::sealed).transpose().map_err(|error| Error::Protocol {
            message: format!("memory for a request can't be had: {error}"),
        })?;
        client.call_with(request, fd).await
    }

    pub(super) async fn attached(&self, packet: Reply) -> Result<Vec<u8>> {
        self.memory(packet.fds.into_iter().next()).await
    }

    /// What a file of memory that came with an answer holds.
    pub(super) async fn memory(&self, fd: Option<OwnedFd>) -> Result<Vec<u8>> {
        let fd = fd.ok_or_else(|| Error::Protocol { message: "an answer came without its file".into() })?;
        let read = self.inner.reader.runtime.spawn_blocking(move || memfd::read(fd)).await;
        let read = read.map_err(|_| Error::Closed)?;
        read.map_err(|error| Error::Protocol { message: format!("an answer's file can't be read: {error}") })
    }

    pub(super) async fn verify_into(&self, into: mpsc::Sender<Progress>) -> Result<()> {
        while !into.is_closed() {
            match self.role().await? {
                Role::Owner(folder) => {
                    let mut progress = folder.verify()?;
                    while let Some(step) = progress.recv().await {
                        if into.send(step).await.is_err() {
                            break;
                        }
                    }
                    return Ok(());
                }
                Role::Client(client) if series(&client, &into).await? => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Passes an owner's findings on; false where it was lost before the end.
async fn series(client: &Client, into: &mpsc::Sender<Progress>) -> Result<bool> {
    let (answers, mut coming) = mpsc::channel(64);
    if client.series(&Request::Verify, answers).await.is_err() {
        client.end();
        return Ok(false);
    }
    while let Some(answer) = coming.recv().await {
        let step = match answer {
            Answer::Progress { checked_blocks, total_blocks, checked_bytes, finding } => {
                Progress { checked_blocks, total_blocks, checked_bytes, finding: finding.map(Into::into) }
            }
            Answer::Done { .. } => return Ok(true),
            Answer::Failed { error } => return Err(error.into()),
            other => return Err(unexpected(&other)),
        };
        if into.send(step).await.is_err() {
            return Ok(true);
        }
    }
    Ok(false)
}
