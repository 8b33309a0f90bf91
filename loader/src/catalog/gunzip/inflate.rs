//! One compressed object on its way: its chunks as they arrive, decompressed on threads that may be kept busy.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Error, Location, ObjectMeta, Result};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::dataset::{GzipDecoder, Malformed};

/// Decompresses one object from its beginning. Holds one chunk of compressed bytes and a decompressor's window.
pub(crate) struct Inflating {
    location: Location,
    chunks: BoxStream<'static, Result<Bytes>>,
    chunk: Bytes,
    ended: bool,
    decoder: GzipDecoder,
}

impl Inflating {
    /// At the start of `packed`.
    pub(crate) fn start(origin: &dyn Origin, packed: &ObjectMeta) -> Self {
        Self {
            location: packed.location.clone(),
            chunks: origin.get(packed, ByteRange::new(0, packed.size_bytes)),
            chunk: Bytes::new(),
            ended: false,
            decoder: GzipDecoder::new(),
        }
    }

    /// Decompressed bytes given so far.
    pub(crate) fn position(&self) -> u64 {
        self.decoder.written()
    }

    /// Compressed bytes taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.decoder.position()
    }

    /// The next bytes, at most `most`; none at the end of a whole stream. A stream that is cut or corrupt is an error whose source is
    /// a [`Malformed`]. Where the future is dropped, the decompressor must not be used again.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Bytes> {
        loop {
            if self.chunk.is_empty() && !self.ended {
                match self.chunks.next().await {
                    Some(chunk) => self.chunk = chunk?,
                    None => self.ended = true,
                }
            }
            let (mut decoder, chunk) = (std::mem::take(&mut self.decoder), self.chunk.clone());
            let inflate = move || {
                let (mut input, mut output) = (&chunk[..], vec![0; most]);
                let written = decoder.decode(&mut input, &mut output);
                let taken = chunk.len() - input.len();
                (decoder, taken, written, output)
            };
            let done = tokio::task::spawn_blocking(inflate).await.map_err(|_| Error::Closed)?;
            let (decoder, taken, written, mut output) = done;
            self.decoder = decoder;
            self.chunk.advance(taken);
            output.truncate(written.map_err(|error| self.broken(error))?);
            if !output.is_empty() {
                return Ok(output.into());
            }
            if self.ended {
                return self.decoder.finish().map(|()| Bytes::new()).map_err(|error| self.broken(error));
            }
        }
    }

    fn broken(&self, error: Malformed) -> Error {
        Error::Origin {
            location: self.location.clone(),
            range: ByteRange::new(error.offset, error.offset),
            attempts: 1,
            source: Arc::new(error),
        }
    }
}
