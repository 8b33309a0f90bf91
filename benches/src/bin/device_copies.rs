//! Copies to a device: a loader's way (slots of a pinned arena, `Staging`) in turn with plain copies of one large pinned buffer, which nothing
//! can be faster than, and with copies from memory that is not pinned.
//!
//! `device_copies --device cuda:0` prints one JSON object; speeds are 10⁹ bytes a second, by the clock of the process, from the first submission to
//! the last byte's arrival.
#![allow(unsafe_code, reason = "the plain copies that the loader's are compared with")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_bench::photos::IMAGE_BYTES;
use forebay_cache::Lease;
use forebay_cache::memory::{Arena, Region};
use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::{Device, DeviceMemory, Event, Guard, Pinned, Staging, Stream, Which};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// Which device.
    #[arg(long, default_value = "cuda")]
    device: Which,
    /// Images of the batches that are copied, each with its label.
    #[arg(long, value_delimiter = ',', default_value = "32,256,1024")]
    batches: Vec<usize>,
    /// Bytes of the large buffer.
    #[arg(long, default_value_t = 256 << 20)]
    buffer_bytes: usize,
    /// Bytes of one measurement, at least.
    #[arg(long, default_value_t = 8 << 30)]
    bytes: u64,
    /// Measurements of each kind, in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// Batches of a loader that are on their way at once: its prefetch_factor of 3, and the one that is filled.
const SLOTS: usize = 4;
const LABEL_BYTES: usize = 8;

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.buffer_bytes > 0, "rounds and buffer-bytes must be 1 or more");
    ensure!(args.batches.iter().all(|&images| images > 0), "a batch has 1 image or more");
    let mut place = Place::new(&args)?;
    place.bytes_arrive()?;
    let mut speeds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=args.rounds {
        let mut note = |name: String, speed: f64| {
            // The first round warms up.
            if round > 0 {
                speeds.entry(name).or_default().push(speed);
            }
        };
        note("pinned".into(), place.plain(&place.pinned, args.bytes)?);
        note("pageable".into(), place.plain(&place.pageable, args.bytes / 4)?);
        for &images in &args.batches {
            note(images.to_string(), place.staged(images, args.bytes)?);
        }
    }
    let speed = |name: &str| speeds.get(name).map(|speeds| spread(speeds));
    let staged = args.batches.iter().map(|images| {
        let copied = json!({ "images": images, "batch_bytes": images * (IMAGE_BYTES + LABEL_BYTES) });
        (copied, speed(&images.to_string()))
    });
    let staged: Vec<Value> = staged.map(|(what, speed)| json!({ "batch": what, "gbps": speed })).collect();
    let answer = json!({
        "device": place.device.facts().name.to_string(),
        "rounds": args.rounds,
        "buffer_bytes": args.buffer_bytes,
        "pinned_gbps": speed("pinned"),
        "pageable_gbps": speed("pageable"),
        "staged": staged,
    });
    println!("{answer}");
    Ok(())
}

struct Place {
    device: Arc<dyn Device>,
    memory: DeviceMemory,
    staging: Staging,
    stream: Stream,
    /// What decoders would have written, in slots.
    slots: Vec<Lease>,
    /// One large buffer of the arena.
    pinned: Lease,
    /// The same on the heap.
    pageable: Lease,
}

impl Place {
    fn new(args: &Args) -> Result<Self> {
        let device = CudaDevice::open(&args.device)?;
        let most = args.batches.iter().max().context("no batches")? * (IMAGE_BYTES + LABEL_BYTES);
        let arena = Arena::new((args.buffer_bytes + SLOTS * (most + (1 << 20)) + (1 << 20)) as u64)?;
        arena.pin(Arc::new(Pinned(device.clone()))).context("host memory can't be pinned")?;
        let region = arena.region("slots", SLOTS * (most + (1 << 20)))?;
        let buffer = arena.region("the buffer", args.buffer_bytes)?;
        // Room for every batch on its way, the next one, and the large buffer.
        let limit = (SLOTS + 1) * (most + (1 << 20)) + args.buffer_bytes;
        Ok(Self {
            memory: DeviceMemory::new(&device, limit as u64)?,
            staging: Staging::new(&device)?,
            stream: Stream::new(&device)?,
            slots: (0..SLOTS).map(|_| filled(&region, most)).collect::<Result<_>>()?,
            pinned: filled(&buffer, args.buffer_bytes)?,
            pageable: Lease::from_vec(pattern(args.buffer_bytes)),
            device,
        })
    }

    /// Copies one buffer over and over.
    fn plain(&self, from: &Lease, bytes: u64) -> Result<f64> {
        let mut to = self.memory.take(from.len() as u64, "the buffer")?.context("no room on the device")?;
        let times = bytes.div_ceil(from.len() as u64);
        let start = Instant::now();
        // SAFETY: `self` keeps the bytes, and the guard the room, until all is done.
        let copy =
            |_| unsafe { self.device.copy_in(from.as_ptr(), to.address(), from.len(), self.stream.raw()) };
        let started = (0..times).try_for_each(copy);
        let done = Event::record(&self.device, self.stream.raw()).map(Arc::new);
        to.guard(done.as_ref().map_or(Guard::Everything, |done| Guard::Event(done.clone())));
        started?;
        done?.block()?;
        Ok(times as f64 * from.len() as f64 / 1e9 / start.elapsed().as_secs_f64())
    }

    /// Copies batches as a loader does, column by column: each with an event of its own, memory that is taken and let go, slots that come back.
    fn staged(&mut self, images: usize, bytes: u64) -> Result<f64> {
        let batch = images * (IMAGE_BYTES + LABEL_BYTES);
        let batches = bytes.div_ceil(batch as u64);
        let start = Instant::now();
        let mut last = None;
        for number in 0..batches {
            self.staging.collect()?;
            while self.staging.in_flight() > 2 * (SLOTS - 1) {
                self.staging.wait_for_one()?;
            }
            let slot = &self.slots[number as usize % SLOTS];
            let pixels = images * IMAGE_BYTES;
            for column in [0..pixels, pixels..batch] {
                let bytes = slot.slice(column);
                let to = self.memory.take(bytes.len() as u64, "a column")?;
                let mut to = to.context("the device's memory is not free, though its copies are done")?;
                last = Some(self.staging.copy(bytes, &mut to, 0)?);
            }
        }
        last.context("nothing was copied")?.block()?;
        let speed = (batches * batch as u64) as f64 / 1e9 / start.elapsed().as_secs_f64();
        while self.staging.wait_for_one()? {}
        Ok(speed)
    }

    /// What is copied to the device and back is what it was.
    fn bytes_arrive(&mut self) -> Result<()> {
        let slot = self.slots[0].clone();
        let mut to = self.memory.take(slot.len() as u64, "a slot")?.context("no room on the device")?;
        self.staging.copy(slot.clone(), &mut to, 0)?.wait_on(self.stream.raw())?;
        let mut back = vec![0; slot.len()];
        // SAFETY: the slab is kept, and the bytes below where nobody can say that all is done.
        let started =
            unsafe { self.device.copy_out(to.address(), back.as_mut_ptr(), back.len(), self.stream.raw()) };
        let done = self.device.block_on_all();
        if done.is_err() {
            std::mem::forget(std::mem::take(&mut back));
        }
        started.and(done)?;
        ensure!(slot[..] == back[..], "what arrived on the device is not what was copied");
        while self.staging.wait_for_one()? {}
        Ok(())
    }
}

fn filled(region: &Region, bytes: usize) -> Result<Lease> {
    let mut slab = region.try_allocate(bytes).context("no room in the arena")?;
    slab.copy_from_slice(&pattern(bytes));
    Ok(slab.freeze())
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn spread(speeds: &[f64]) -> Value {
    let mut sorted = speeds.to_vec();
    sorted.sort_by(f64::total_cmp);
    json!({ "min": sorted[0], "median": sorted[sorted.len() / 2], "max": sorted[sorted.len() - 1] })
}
