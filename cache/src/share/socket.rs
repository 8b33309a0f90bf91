//! Packets with file descriptors between processes: a Unix socket of type SOCK_SEQPACKET in the cache folder.
//!
//! A packet arrives whole, with exactly the descriptors that were sent with it, or not at all. The socket's name may lie under a
//! path of any length: it is bound and reached through /proc/self/fd.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::fork::ParentOnly;

/// The socket's name in the cache folder.
pub(crate) const SOCKET: &str = "owner.sock";

/// The largest packet. Well under the default send buffer of 208 KiB; larger things travel as a memfd.
pub(crate) const MAX_PACKET_BYTES: usize = 64 << 10;

/// The most descriptors in one packet (the kernel's limit is 253).
pub(crate) const MAX_FDS: usize = 16;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where clients arrive.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: AsyncFd<ParentOnly>,
}

impl Listener {
    /// Binds the folder's socket, in place of a dead owner's. Only who holds the owner's lock may call it.
    pub(crate) fn bind(folder: &Path) -> io::Result<Self> {
        let at = File::open(folder)?;
        let fresh = format!("{SOCKET}.new");
        remove_if_there(&folder.join(&fresh))?;
        let fd = ParentOnly::new(new_socket()?)?;
        rustix::net::bind(&fd, &address(&at, &fresh)?)?;
        rustix::net::listen(&fd, BACKLOG)?;
        // Moved into place when it listens: a client finds the old name, which refuses, or the new one, which answers.
        std::fs::rename(folder.join(&fresh), folder.join(SOCKET))?;
        Ok(Self { fd: register(fd)? })
    }

    /// The next client.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        let accept =
            |fd: &ParentOnly| Ok(rustix::net::accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?);
        let fd = self.fd.async_io(Interest::READABLE, accept).await?;
        Connection::new(fd)
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    fd: AsyncFd<ParentOnly>,
}

impl Connection {
    /// Reaches whoever listens in the folder. ConnectionRefused and NotFound: nobody does; WouldBlock: the owner's line of
    /// waiting clients is full.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let at = File::open(folder)?;
        let fd = new_socket()?;
        rustix::net::connect(&fd, &address(&at, SOCKET)?)?;
        Self::new(fd)
    }

    /// Two ends of one connection: for tests.
    #[cfg(test)]
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, two) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(one)?, Self::new(two)?))
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: register(ParentOnly::new(fd)?)? })
    }

    /// Sends one packet; waits while the other end is behind.
    pub(crate) async fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if packet.len() > MAX_PACKET_BYTES || fds.len() > MAX_FDS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.fd.async_io(Interest::WRITABLE, |fd| send_once(fd, packet, fds)).await
    }

    /// The next packet with its descriptors; None where the other end is gone.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
        let received = self.fd.async_io(Interest::READABLE, |fd| receive_once(fd, buffer)).await;
        match received {
            Ok((0, _)) => Ok(None),
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn register(fd: ParentOnly) -> io::Result<AsyncFd<ParentOnly>> {
    // SAFETY: the descriptor belongs to `fd`, which gives the same number as long as it lives and moves in here.
    unsafe { AsyncFd::register(fd) }.map_err(|refused| refused.into_parts().1)
}

fn send_once(fd: &ParentOnly, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A packet goes whole or not at all: there is no short send on this type of socket.
    rustix::net::sendmsg(fd, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_once(fd: &ParentOnly, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        rustix::net::recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        let what = "a packet came cut: too long, or no room for its descriptors (ulimit -n)";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok((got.bytes, fds))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// `name` in the folder, as an address of bounded length: the folder's own path may be longer than the 108 bytes of one.
fn address(folder: &File, name: &str) -> io::Result<SocketAddrUnix> {
    let fd = folder.as_fd().as_raw_fd();
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{fd}/{name}"))?)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[tokio::test]
    async fn a_packet_carries_its_descriptors_under_a_path_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("a".repeat(120)).join("b".repeat(120));
        std::fs::create_dir_all(&long).unwrap();
        let listener = Listener::bind(&long).unwrap();
        let client = Connection::open(&long).unwrap();
        let server = listener.accept().await.unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"through", 0).unwrap();
        client.send(b"packet", &[file.as_fd()]).await.unwrap();
        let mut buffer = [0; 100];
        let (len, fds) = server.receive(&mut buffer).await.unwrap().unwrap();
        assert_eq!(&buffer[..len], b"packet");
        let mut through = [0; 7];
        File::from(fds.into_iter().next().unwrap()).read_exact_at(&mut through, 0).unwrap();
        assert_eq!(&through, b"through");
        drop(client);
        assert!(server.receive(&mut buffer).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_dead_owners_socket_refuses_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(Listener::bind(folder.path()).unwrap());
        let refused = Connection::open(folder.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _listener = Listener::bind(folder.path()).unwrap();
        Connection::open(folder.path()).unwrap();
    }

    #[tokio::test]
    async fn a_packet_that_is_cut_is_an_error_not_a_shorter_packet() {
        let (one, two) = Connection::pair().unwrap();
        one.send(&[7; 100], &[]).await.unwrap();
        let error = two.receive(&mut [0; 50]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
