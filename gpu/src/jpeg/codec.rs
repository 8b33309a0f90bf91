//! What a device's JPEG library does, as a trait: the narrow waist below [`Decoder`](super::Decoder).
#![allow(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

use super::Refusal;
use crate::device::{Address, RawStream};
use crate::error::Result;

/// How a decoder is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folders that are looked through for the device's JPEG library before the system's own library path. A wheel of NVIDIA's puts it in
    /// `nvidia/nvjpeg/lib` or `nvidia/cu13/lib` of the installed packages.
    pub folders: Vec<PathBuf>,
    /// Engines for JPEG are used where the device has them. Without, its general processors decode.
    pub engines: bool,
    /// Most bytes of pinned host memory that the library gets. Where a group needs more, it is decoded in parts, down to single images.
    pub pinned_limit_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { folders: Vec::new(), engines: true, pinned_limit_bytes: usize::MAX }
    }
}

/// What decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Engines made for JPEG: baseline images with one scan.
    Engines,
    /// The device's general processors, coded data included where groups are large (of more than 50 images).
    Device,
    /// What the library thinks best.
    Library,
}

impl Backend {
    /// A word for reports: "engines", "device", "library".
    pub fn name(self) -> &'static str {
        match self {
            Self::Engines => "engines",
            Self::Device => "device",
            Self::Library => "library",
        }
    }

    /// Engines write to a target when the call is made, whatever the stream still has to do before (others report it of H100 with nvJPEG 12.3 to 13.2: an
    /// event that the stream waits for doesn't hold them back either). Only the CPU can wait for them.
    pub(crate) fn overtakes_streams(self) -> bool {
        self == Self::Engines
    }
}

/// What a decoder runs on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The library with its version and its file: "nvJPEG 12.4.0 (/…/libnvjpeg.so.12)".
    pub library: String,
    /// What decodes.
    pub backend: Backend,
    /// Why what would have been better was not to be had.
    pub passed_over: Option<String>,
}

/// The size of an image as its decoder writes it: three bytes for each pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Frame {
    /// Bytes of a row, without what may follow it.
    pub fn row_bytes(self) -> u64 {
        u64::from(self.width) * 3
    }

    /// From the first byte of the image to behind its last one.
    pub fn bytes(self, pitch: u64) -> u64 {
        u64::from(self.height.saturating_sub(1)).saturating_mul(pitch).saturating_add(self.row_bytes())
    }
}

/// An image and where its pixels go.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The compressed image.
    pub bytes: &'a [u8],
    /// Where its first row begins.
    pub to: Address,
    /// Bytes from row to row.
    pub pitch: u64,
}

/// A device's JPEG library, opened for one thread at a time. Dropped, it has given back all it took; where the device can't be called any more, it
/// does nothing.
pub trait Codec: fmt::Debug + Send {
    /// What it runs on.
    fn facts(&self) -> &Facts;

    /// The size of an image, where it is one that this takes.
    fn look(&mut self, bytes: &[u8]) -> Result<Result<Frame, Refusal>>;

    /// Starts to decode. With a refusal, none of the images counts as decoded, though some may be written to.
    ///
    /// # Safety
    /// [`Self::look`] took each of the images, and the targets have room for what it said. The bytes stay in place and unwritten, and the
    /// targets are the caller's to write, until the stream has done all that was started, also by a call that failed. No group that was
    /// started before is under way.
    unsafe fn start(&mut self, pictures: &[Picture<'_>], stream: RawStream) -> Result<Result<(), Refusal>>;

    /// Bytes taken beside targets: of the device's memory, and of pinned host memory.
    fn scratch_bytes(&self) -> (u64, u64);
}
