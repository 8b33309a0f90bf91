//! The language between the owner of a cache folder and its clients.
//!
//! A packet is a header of 16 bytes and a JSON body. The header's layout is the same in every version, so that two releases that
//! don't understand each other can say so. Requests are numbered by the client and may be answered in any order; number 0 is
//! never answered.
//!
//! ```text
//! 0   u16  version of the protocol, little-endian like all that follow
//! 2   u16  number of file descriptors that travel with the packet
//! 4   u32  length of the body in bytes
//! 8   u64  number of the request
//! 16       body: {"Kind": {...}}
//! ```

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::socket::{Connection, MAX_FDS, MAX_PACKET_BYTES};
use crate::error::{Error, Result};

/// The version that this release speaks.
pub(crate) const VERSION: u16 = 2;

/// Bytes before the body.
pub(crate) const HEADER_BYTES: usize = 16;

/// A packet as it came.
#[derive(Debug)]
pub(crate) struct Packet<M> {
    /// Number of the request that this is, or answers.
    pub(crate) request: u64,
    /// What it says.
    pub(crate) message: M,
    /// What travelled with it.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Why a packet can't be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It speaks another version.
    Version(u16),
    /// It is not a packet of this protocol.
    Garbage(String),
}

impl Unreadable {
    /// As an error that says who (`peer`) and what to do.
    pub(crate) fn explain(&self, peer: &str) -> Error {
        let message = match self {
            Self::Version(theirs) => format!(
                "{peer} speaks version {theirs} of the cache's protocol, this process version {VERSION}; run the same release of \
                 forebay in every process that shares a cache_dir, or give them different ones"
            ),
            Self::Garbage(what) => format!("{peer} sent something that is not the cache's protocol: {what}"),
        };
        Error::Protocol { message }
    }
}

/// The bytes of a packet. An error where the message is longer than a packet may be.
pub(crate) fn encode<M: Serialize>(request: u64, message: &M, fds: usize) -> Result<Vec<u8>> {
    let mut packet = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut packet, message)
        .map_err(|error| Error::Protocol { message: format!("a message can't be encoded: {error}") })?;
    if packet.len() > MAX_PACKET_BYTES || fds > MAX_FDS {
        let len = packet.len();
        let message = format!(
            "a message of {len} bytes and {fds} descriptors is more than {MAX_PACKET_BYTES} and {MAX_FDS}"
        );
        return Err(Error::Protocol { message });
    }
    let body = u32::try_from(packet.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    packet[0..2].copy_from_slice(&VERSION.to_le_bytes());
    packet[2..4].copy_from_slice(&u16::try_from(fds).unwrap_or(u16::MAX).to_le_bytes());
    packet[4..8].copy_from_slice(&body.to_le_bytes());
    packet[8..16].copy_from_slice(&request.to_le_bytes());
    Ok(packet)
}

/// Reads a packet that came with `fds` descriptors: the request's number and the message.
pub(crate) fn decode<M: DeserializeOwned>(packet: &[u8], fds: usize) -> Result<(u64, M), Unreadable> {
    let Some((header, body)) = packet.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Unreadable::Garbage(format!("{} bytes are less than a header", packet.len())));
    };
    let [v0, v1, f0, f1, l0, l1, l2, l3, request @ ..] = *header;
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    if usize::from(u16::from_le_bytes([f0, f1])) != fds {
        return Err(Unreadable::Garbage(format!(
            "{} descriptors were announced, {fds} came",
            u16::from_le_bytes([f0, f1])
        )));
    }
    let announced = u32::from_le_bytes([l0, l1, l2, l3]);
    if announced as usize != body.len() {
        return Err(Unreadable::Garbage(format!("{announced} bytes were announced, {} came", body.len())));
    }
    let message = serde_json::from_slice(body).map_err(|error| Unreadable::Garbage(error.to_string()))?;
    Ok((u64::from_le_bytes(request), message))
}

/// Sends one message.
pub(crate) async fn send<M: Serialize>(
    connection: &Connection,
    request: u64,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Unsent> {
    let packet = encode(request, message, fds.len()).map_err(Unsent::TooLarge)?;
    connection.send(&packet, fds).await.map_err(Unsent::Gone)
}

/// Why a message did not go.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// It is longer than a packet may be; the connection goes on.
    TooLarge(Error),
    /// The other end is gone.
    Gone(std::io::Error),
}

/// Why no further packet comes.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The other end closed, or died.
    Gone,
    /// The other end speaks something else.
    Unreadable(Unreadable),
}

/// The next message.
pub(crate) async fn receive<M: DeserializeOwned>(
    connection: &Connection,
    buffer: &mut [u8],
) -> Result<Packet<M>, Ended> {
    match connection.receive(buffer).await {
        Ok(Some((len, fds))) => {
            let (request, message) = decode(&buffer[..len], fds.len()).map_err(Ended::Unreadable)?;
            Ok(Packet { request, message, fds })
        }
        Ok(None) => Err(Ended::Gone),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Ended::Unreadable(Unreadable::Garbage(error.to_string())))
        }
        Err(error) => {
            tracing::debug!(%error, "a connection of the cache folder broke");
            Err(Ended::Gone)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ByteRange, Location, ObjectMeta, Version};
    use crate::share::message::{Answer, Request, Urgency};
    use proptest::prelude::*;

    fn golden() -> Request {
        let location = Location::new("s3://photos/a.tar");
        let object = ObjectMeta::new(location, 10_000, Version::Etag("\"1\"".into()));
        Request::Lease { object, range: ByteRange::new(5, 9), urgency: Urgency::Now }
    }

    #[test]
    fn the_bytes_of_version_2_stay_what_they_are() {
        let packet = encode(7, &golden(), 0).unwrap();
        let (header, body) = packet.split_at(HEADER_BYTES);
        assert_eq!(header, [2, 0, 0, 0, u8::try_from(body.len()).unwrap(), 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            std::str::from_utf8(body).unwrap(),
            r#"{"Lease":{"object":{"location":"s3://photos/a.tar","size_bytes":10000,"version":{"etag":"\"1\""},"id":"8088cee7d6f7fc8a0fd915193faef935"},"range":{"start":5,"end":9},"urgency":"Now"}}"#
        );
        assert_eq!(decode::<Request>(&packet, 0).unwrap(), (7, golden()));
    }

    #[test]
    fn another_version_is_named_whatever_its_body() {
        let mut packet = encode(7, &golden(), 0).unwrap();
        packet[0] = 9;
        packet.truncate(20);
        let unreadable = decode::<Request>(&packet, 0).unwrap_err();
        assert_eq!(unreadable, Unreadable::Version(9));
        let shown = unreadable.explain("the owner (process 12)").to_string();
        assert!(
            shown.contains("version 9") && shown.contains("version 2") && shown.contains("process 12"),
            "{shown}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), fds in 0usize..3) {
            drop(decode::<Request>(&bytes, fds));
            drop(decode::<Answer>(&bytes, fds));
        }

        #[test]
        fn a_packet_with_one_byte_changed_is_refused_or_still_a_packet(at in 0usize..150, with in any::<u8>()) {
            let mut packet = encode(7, &golden(), 0).unwrap();
            let at = at % packet.len();
            packet[at] = with;
            drop(decode::<Request>(&packet, 0));
        }
    }
}
