//! `decode_on`: JPEG images decoded by the device, where it has a decoder for them.
//!
//! A row's task reads the image's header and hands its compressed bytes to [`Queue`]; threads of their own take what has come together, have the
//! device decode it, and cut each image's part out of it into the batch's column, which lies in the device's memory from the start. A row waits
//! for the answer: what the device refuses is decoded by the CPU into the batch's slot as ever, and crosses the bus behind.
//!
//! Compressed bytes stay in the memory for reads until the device has read them. A column's memory is taken in the order of batches, and only where a
//! batch's worth is left for what the mover needs: no later batch keeps an earlier one from being finished.

mod choice;
mod column;
mod draw;
mod queue;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_cache::Lease;
use forebay_cache::memory::Held;
use forebay_gpu::jpeg::{self, Frame, Refusal};
use forebay_gpu::kernels::Filter;
use forebay_gpu::{DeviceMemory, Error as DeviceError, Waited};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

use super::Ground;
use super::cut::filter;
use crate::decode;
use crate::decode::geometry;
use crate::decode::orientation::Orientation;
use crate::error::{Error, Result};
use crate::field::{Field, FieldKind, Shapes};
use crate::pipeline::queue::{Gauges, Stage};
use crate::report::Reporter;
use crate::session::Session;

use choice::Choice;
pub(super) use column::Finished;
pub(crate) use column::{Columns, PixelColumn};
use draw::{Places, Worker};
use queue::{Order, Outcome, Queue};

/// Where JPEG images are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecodeOn {
    /// On decoding threads.
    #[default]
    Cpu,
    /// On the device; what it refuses on decoding threads.
    Gpu,
    /// Where the first batches are decoded faster.
    Auto,
}

/// Threads that hand groups to the device, with a decoder each: one prepares its group while the other's is decoded.
const THREADS: usize = 2;
/// Decoded images of a group, of each thread.
const FRAMES_BYTES: u64 = 64 << 20;
const LEAST_FRAMES_BYTES: u64 = 1 << 20;
/// Tables and weights of a group, of each thread.
const TABLES_BYTES: u64 = 8 << 20;
/// What a decoder takes for itself, of each thread: a guess, since its library doesn't say. Where it isn't enough, images go to the CPU.
const SCRATCH_BYTES: u64 = 128 << 20;
/// Pinned host memory that a decoder takes for itself at most, of each thread: the files of a group, twice.
const PINNED_BYTES: usize = 16 << 20;
/// How long the planner waits for a column's memory before it looks again.
const SLICE: Duration = Duration::from_millis(100);

/// A field whose images the device decodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    filter: Option<Filter>,
    height: u32,
    width: u32,
}

impl Drawn {
    fn row_bytes(self) -> u64 {
        u64::from(self.height) * u64::from(self.width) * 3
    }
}

/// A JPEG image that may be decoded by the device, by its header.
#[derive(Debug)]
pub(crate) struct Draft {
    /// As it is stored.
    pub(crate) frame: Frame,
    pub(crate) orientation: Orientation,
    pub(crate) stage: geometry::Stage,
}

/// A loader's decoding of JPEG images on its device.
#[derive(Debug)]
pub(crate) struct Jpegs {
    memory: DeviceMemory,
    /// For what decoders need beside batches.
    own: DeviceMemory,
    fields: Vec<Option<Drawn>>,
    queue: Arc<Queue>,
    choice: Arc<Choice>,
    /// What a batch may take of the device's memory behind its columns.
    batch_bytes: u64,
    facts: jpeg::Facts,
    drawn: AtomicU64,
    drawn_bytes: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The decoders' pinned memory, as a part of the host's limit.
    _pinned: Held,
    reporter: Reporter,
}

/// What a loader's device decoded.
#[derive(Clone, Debug, Serialize)]
pub struct JpegStats {
    /// Where images are decoded: "cpu", "gpu", or "measuring" while `decode_on="auto"` tries both.
    pub on: &'static str,
    /// Why.
    pub why: String,
    /// The device's library with its version and file; none where none is used.
    pub library: Option<String>,
    /// What decodes there: "engines", "device", "library".
    pub backend: Option<&'static str>,
    /// Why what would have been better was not to be had.
    pub passed_over: Option<String>,
    /// Images decoded on the device, and their compressed bytes, which crossed the bus.
    pub images: u64,
    /// Of their files.
    pub compressed_bytes: u64,
    /// Images that went to the CPU instead, by why: "corrupt", "unsupported", "size", "memory", "failed".
    pub refused: BTreeMap<&'static str, u64>,
}

impl JpegStats {
    /// Where the device decodes nothing.
    pub(super) fn on_cpu(why: &str) -> Self {
        Self {
            on: "cpu",
            why: why.into(),
            library: None,
            backend: None,
            passed_over: None,
            images: 0,
            compressed_bytes: 0,
            refused: BTreeMap::new(),
        }
    }
}

/// How decoding on a device is set up.
pub(super) struct Setup<'a> {
    pub(super) decode_on: DecodeOn,
    /// Folders with the device's JPEG library.
    pub(super) folders: &'a [PathBuf],
    /// What the device draws of each field.
    pub(super) drawn: Vec<Option<Drawn>>,
    /// `gpu_memory_limit`, and its part for decoders.
    pub(super) limit_bytes: u64,
    pub(super) own_bytes: u64,
    /// What is left for the mover wherever a column is taken.
    pub(super) batch_bytes: u64,
    pub(super) batch_size: usize,
    pub(super) threads: usize,
    pub(super) reporter: &'a Reporter,
}

/// Memory that decoding on a device takes by itself.
pub(super) fn usual_bytes() -> u64 {
    THREADS as u64 * (FRAMES_BYTES + TABLES_BYTES + SCRATCH_BYTES)
}

impl Jpegs {
    /// The part of host memory that decoders pin.
    pub(super) fn pinned(session: &Session) -> Result<Held> {
        Ok(session.arena().hold("the device's JPEG decoders", THREADS * PINNED_BYTES)?)
    }

    /// Opens decoders in memory of their own. Where that can't be and wasn't asked for in so many words: why the CPU decodes.
    ///
    /// # Errors
    /// With [`DecodeOn::Gpu`], too little memory, and what the device's library says.
    pub(super) fn open(
        setup: Setup<'_>,
        pinned: Held,
        ground: &Arc<Ground>,
        session: &Arc<Session>,
    ) -> Result<std::result::Result<Self, String>> {
        let (decode_on, reporter) = (setup.decode_on, setup.reporter);
        let why = match Self::try_open(setup, pinned, ground, session) {
            Err(Error::Device(why @ (DeviceError::NoJpeg { .. } | DeviceError::OverBudget { .. })))
                if decode_on == DecodeOn::Auto =>
            {
                why.to_string()
            }
            other => return other.map(Ok),
        };
        reporter.announce(format!("JPEGs are decoded on the CPU: {why}"));
        Ok(Err(why))
    }

    fn try_open(
        setup: Setup<'_>,
        pinned: Held,
        ground: &Arc<Ground>,
        session: &Arc<Session>,
    ) -> Result<Self> {
        let device = ground.memory.device();
        let each = setup.own_bytes / THREADS as u64;
        let frames = (each.saturating_sub(TABLES_BYTES) / 3).min(FRAMES_BYTES);
        let least = THREADS as u64 * (3 * LEAST_FRAMES_BYTES + TABLES_BYTES);
        if setup.own_bytes < least {
            return Err(DeviceError::OverBudget {
                device: device.facts().name.clone(),
                what: "images while they are decoded, beside batches,".into(),
                wanted_bytes: setup.limit_bytes + 2 * (least - setup.own_bytes),
                limit_bytes: setup.limit_bytes,
                used_bytes: 0,
                advice: "raise gpu_memory_limit, lower batch_size, or use decode_on=\"cpu\"",
            }
            .into());
        }
        let own = DeviceMemory::new(device, setup.own_bytes)?;
        let settings = jpeg::Settings {
            folders: setup.folders.to_vec(),
            pinned_limit_bytes: PINNED_BYTES,
            ..jpeg::Settings::default()
        };
        let queue = Arc::new(Queue::new(device.facts().name.clone(), frames));
        let threads = setup.threads;
        let choice =
            Arc::new(Choice::new(setup.decode_on, setup.batch_size, threads, setup.reporter.clone()));
        let mut facts = None;
        let mut workers = Vec::with_capacity(THREADS);
        for _ in 0..THREADS {
            // Taken first: what the decoder takes comes and goes.
            let places = Places::new(&own, frames)?;
            let decoder = jpeg::Decoder::open(&own, &settings)?;
            facts = Some(decoder.facts().clone());
            workers.push(Worker::new(decoder, places, ground, session, &choice)?);
        }
        let facts = facts.ok_or_else(|| Error::Panic { message: "no decoder".into() })?;
        let jpegs = Self {
            memory: ground.memory.clone(),
            own,
            fields: setup.drawn,
            queue,
            choice,
            batch_bytes: setup.batch_bytes,
            facts,
            drawn: AtomicU64::new(0),
            drawn_bytes: AtomicU64::new(0),
            refused: Mutex::default(),
            threads: Mutex::default(),
            _pinned: pinned,
            reporter: setup.reporter.clone(),
        };
        for worker in workers {
            // Where one doesn't start, dropping this ends those that did.
            jpegs.threads.lock().push(worker.start(jpegs.queue.clone())?);
        }
        Ok(jpegs)
    }

    /// Memory of the device that decoders have for themselves: the limit, what is used, and the most that was.
    pub(super) fn own_bytes(&self) -> (u64, u64, u64) {
        let (used, peak) = self.own.used_bytes();
        (self.own.limit_bytes(), used, peak)
    }

    /// Whether the next batch's images are decoded here.
    pub(crate) fn takes_next(&self) -> bool {
        self.choice.takes_next()
    }

    /// Memory for a batch's images.
    pub(crate) async fn columns(&self, rows: usize, gauges: &Gauges) -> Result<Columns> {
        let bytes: u64 = self.fields.iter().flatten().map(|drawn| drawn.row_bytes() * rows as u64).sum();
        // Kept over several looks: leaving the stage counts as progress, and there is none while the consumer holds everything.
        let mut held = None;
        loop {
            let since = self.memory.freed();
            let (used, _) = self.memory.used_bytes();
            if used + bytes + self.batch_bytes <= self.memory.limit_bytes()
                && let Some(columns) = self.try_columns(rows)?
            {
                return Ok(columns);
            }
            let memory = self.memory.clone();
            let waited = tokio::task::spawn_blocking(move || memory.wait(since, SLICE)).await;
            match waited.map_err(|_| Error::Closed)?? {
                Waited::Freed => {}
                Waited::Busy => held = None,
                Waited::Held => held = held.or_else(|| Some(gauges.enter(Stage::Device))),
            }
        }
    }

    fn try_columns(&self, rows: usize) -> Result<Option<Columns>> {
        let mut columns: Vec<Option<Arc<PixelColumn>>> = Vec::with_capacity(self.fields.len());
        for drawn in &self.fields {
            let Some(drawn) = drawn else {
                columns.push(None);
                continue;
            };
            let slab = self.memory.take(drawn.row_bytes() * rows as u64, "images that it decodes")?;
            let Some(slab) = slab else { return Ok(None) };
            columns.push(Some(Arc::new(PixelColumn::new(slab, rows))));
        }
        Ok(Some(columns.into()))
    }

    /// Has an image decoded into a row of a column; or says why not.
    pub(crate) async fn draw(
        &self,
        field: usize,
        bytes: Lease,
        draft: Draft,
        column: &Arc<PixelColumn>,
        row: usize,
    ) -> Result<Outcome> {
        let Some(drawn) = self.fields[field] else {
            return Err(Error::Panic { message: "a field that the device doesn't decode".into() });
        };
        let length = bytes.len() as u64;
        let (reply, answer) = oneshot::channel();
        let Draft { frame, orientation, stage } = draft;
        self.queue.put(Order {
            bytes,
            frame,
            cut: super::cut(&stage, orientation),
            filter: drawn.filter,
            height: drawn.height,
            width: drawn.width,
            column: column.clone(),
            row,
            reply,
        });
        let answer = answer.await.map_err(|_| Error::Closed)?;
        let answer = answer.inspect_err(|error| self.choice.give_up(error))?;
        match &answer {
            Ok(()) => {
                self.drawn.fetch_add(1, Relaxed);
                self.drawn_bytes.fetch_add(length, Relaxed);
            }
            Err(refusal) => self.refuse(refusal),
        }
        Ok(answer)
    }

    /// Counts an image that goes to the CPU.
    pub(crate) fn refuse(&self, refusal: &Refusal) {
        tracing::debug!(%refusal, "decoded by the CPU");
        if matches!(refusal, Refusal::Memory(_) | Refusal::Failed(_)) {
            self.reporter.announce(format!(
                "some JPEGs go from the device to the CPU ({refusal}): stats() counts them"
            ));
        }
        *self.refused.lock().entry(refusal.kind()).or_default() += 1;
        self.choice.passed_by(1);
    }

    /// Counts images of a format that the device doesn't take.
    pub(crate) fn pass_by(&self, images: u64) {
        self.choice.passed_by(images);
    }

    /// Counts a sample that the CPU decoded.
    pub(crate) fn on_cpu(&self, took: Duration) {
        self.choice.on_cpu(self.fields.iter().flatten().count() as u64, took);
    }

    /// Ends the threads once what they have is done, and waits for them.
    pub(crate) fn close(&self) {
        self.queue.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic there was told to those who waited.
            let _ = thread.join();
        }
    }

    pub(super) fn stats(&self) -> JpegStats {
        let (on, why) = self.choice.told();
        JpegStats {
            on,
            why,
            library: Some(self.facts.library.clone()),
            backend: Some(self.facts.backend.name()),
            passed_over: self.facts.passed_over.clone(),
            images: self.drawn.load(Relaxed),
            compressed_bytes: self.drawn_bytes.load(Relaxed),
            refused: self.refused.lock().clone(),
        }
    }
}

impl Drop for Jpegs {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The fields that the device can decode, by field; or why the CPU decodes all. `keeps`: whether decoded samples are kept.
///
/// # Errors
/// With [`DecodeOn::Gpu`], the same.
pub(super) fn drawn_fields(
    decode_on: DecodeOn,
    fields: &[Field],
    keeps: bool,
    reporter: &Reporter,
) -> Result<std::result::Result<Vec<Option<Drawn>>, String>> {
    match (decode_on, try_fields(fields, keeps)) {
        (DecodeOn::Cpu, _) => Ok(Err("decode_on=\"cpu\"".into())),
        (DecodeOn::Gpu, Err(why)) => Err(Error::config(format!("decode_on=\"gpu\": {why}"))),
        (DecodeOn::Auto, Err(why)) => {
            reporter.announce(format!("JPEGs are decoded on the CPU: {why}"));
            Ok(Err(why))
        }
        (_, fields) => Ok(fields),
    }
}

fn try_fields(fields: &[Field], keeps: bool) -> std::result::Result<Vec<Option<Drawn>>, String> {
    if keeps {
        return Err(
            "decoded samples are kept (decoded_limit, gpu_decoded_limit), which the CPU decodes once".into(),
        );
    }
    let drawn = |field: &Field| {
        let FieldKind::Image { transforms, .. } = &field.kind else { return Ok(None) };
        let refused = |why: &str| Err(format!("field {:?} {why}", field.name));
        let fixed = decode::fixed_output(transforms).filter(|_| field.shapes != Shapes::Ragged);
        let Some((height, width)) = fixed else {
            return refused("has images of differing sizes, and the device decodes into one size alone");
        };
        match filter(transforms) {
            Ok(filter) => Ok(Some(Drawn { filter, height, width })),
            Err(why) => refused(why),
        }
    };
    let fields = fields.iter().map(drawn).collect::<std::result::Result<Vec<_>, _>>()?;
    if fields.iter().all(Option::is_none) {
        return Err("no field is an Image".into());
    }
    Ok(fields)
}
