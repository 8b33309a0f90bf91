//! A stream's thread: takes its operations one after the other, waits for what each depends on, and does it.

use std::cell::Cell;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::work::Route;
use super::{Launch, Task, Work};
use crate::clocks::Point;
use crate::codes::Code;
use crate::findings::Kind;
use crate::history::Operation;
use crate::memory::Usage;
use crate::state::{CHANGED, Locked, State, lock};

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread runs a host function, which must not call the driver.
pub(crate) fn in_host_function() -> bool {
    IN_HOST_FUNCTION.try_with(Cell::get).unwrap_or(false)
}

impl State {
    /// Begins the thread of a stream, if it has none.
    pub(super) fn start(&mut self, stream: u64) {
        let target = self.stream_mut(stream);
        if !std::mem::replace(&mut target.running, true) {
            let name = format!("fake-cuda-{}", target.timeline);
            std::thread::Builder::new().name(name).spawn(move || run(stream)).expect("a thread for a stream");
        }
    }

    /// The next operation of a stream, if it may begin.
    fn next(&mut self, stream: u64) -> Option<Task> {
        if self.hold || self.exiting {
            return None;
        }
        let first = self.streams.get(&stream)?.queue.front()?;
        if !self.is_reached(&first.waits) {
            return None;
        }
        self.stream_mut(stream).queue.pop_front()
    }
}

fn run(stream: u64) {
    let mut state = lock();
    loop {
        if let Some(task) = state.next(stream) {
            perform(&mut state, stream, &task);
            let Some(done) = state.streams.get_mut(&stream) else { return };
            done.completed = task.count;
            CHANGED.notify_all();
        } else {
            match state.streams.get(&stream) {
                Some(target) if !(target.destroyed && target.queue.is_empty()) => CHANGED.wait(&mut state),
                _ => return,
            }
        }
    }
}

fn perform(state: &mut Locked, stream: u64, task: &Task) {
    let context = state.stream(stream).context;
    let point = task.operation.point;
    if state.sticky(context).is_ok() {
        let until = state.bus(context, task);
        let delay = delay(state.settings.seed, point, state.settings.delay);
        Locked::unlocked(state, || {
            std::thread::sleep(delay);
            if let Some(until) = until {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
            }
        });
        let done = match &task.work {
            Work::Kernel(launch) => kernel(state, context, launch, &task.operation),
            Work::Jpeg(jpeg) => jpeg.run(state),
            work => {
                other(state, stream, work, &task.operation);
                Ok(())
            }
        };
        if let Err(code) = done {
            state.lose(context, code);
        }
    } else if let Work::Callback { .. } = task.work {
        other(state, stream, &task.work, &task.operation);
    }
    state.unentered.remove(&point);
}

fn other(state: &mut Locked, stream: u64, work: &Work, operation: &Arc<Operation>) {
    match work {
        Work::Nothing | Work::Kernel(_) | Work::Jpeg(_) | Work::Claim { .. } => {}
        Work::Copy { from, to, bytes, route } => {
            if *route == Route::ToHost {
                state.before_write(*to..to + bytes, operation);
            } else {
                state.guards.look(operation.point);
            }
            let (from, to) = (state.bytes_at(*from), state.bytes_at(*to));
            let bytes = *bytes as usize;
            if state.settings.moves || *route == Route::ToHost {
                // SAFETY: both ranges were checked at submission. Device memory is taken away only after all work on it; host memory is the
                // program's promise. Overlapping ranges are allowed.
                Locked::unlocked(state, || unsafe { std::ptr::copy(from, to, bytes) });
            }
            if *route == Route::ToHost {
                state.guards.look(operation.point);
            }
        }
        Work::Staged { bytes, to } => {
            let to = state.bytes_at(*to);
            // SAFETY: the range was checked at submission, and device memory is taken away only after all work on it.
            Locked::unlocked(state, || unsafe { std::ptr::copy(bytes.as_ptr(), to, bytes.len()) });
        }
        Work::Fill { to, bytes, pattern, width } => {
            let to = state.bytes_at(*to);
            Locked::unlocked(state, || {
                for at in 0..*bytes as usize {
                    // SAFETY: the range was checked at submission, and device memory is taken away only after all work on it.
                    unsafe { to.add(at).write(pattern[at % width]) };
                }
            });
        }
        Work::Free { address, .. } => state.free_now(*address, &operation.origin),
        Work::Host { function, data } => {
            let (function, data) = (*function, *data as *mut c_void);
            // SAFETY: the program gave us this function for this argument, to be called once.
            on_host(state, operation, || unsafe { function(data) });
        }
        Work::Callback { function, stream: handle, data } => {
            let error = state.sticky(state.stream(stream).context).err().map_or(0, |code| code.0);
            let (function, handle, data) = (*function, *handle as *mut c_void, *data as *mut c_void);
            // SAFETY: the program gave us this function for this argument, to be called once.
            on_host(state, operation, || unsafe { function(handle, error, data) });
        }
    }
}

/// Runs a function of the program's: the host learns there that all before it is complete.
fn on_host(state: &mut Locked, operation: &Arc<Operation>, function: impl FnOnce()) {
    state.host_learns(&operation.clock);
    Locked::unlocked(state, || {
        IN_HOST_FUNCTION.set(true);
        function();
        IN_HOST_FUNCTION.set(false);
    });
}

fn kernel(state: &mut Locked, context: u64, launch: &Launch, operation: &Arc<Operation>) -> Result<(), Code> {
    state.fault("launch")?;
    let device = state.device_of(context)?;
    let shift = state.memory.shift();
    let arguments = launch.arguments.as_ptr().cast::<u8>();
    let mut accesses: Vec<(Range<u64>, bool)> = Vec::new();
    let mut bad = false;
    // SAFETY: the arguments are as long as the kernel's struct. A table that isn't allocated can be read once it was lent.
    unsafe {
        launch.kernel.effects(arguments, shift, &mut |access| {
            let bytes = access.address..access.address.saturating_add(access.bytes);
            let usage = Usage { writes: access.writes, peers: false };
            if state.check_device(&bytes, device, usage, &operation.clock, &operation.origin).is_err() {
                bad = true;
                state.memory.lend(&bytes);
            }
            match accesses.last_mut() {
                Some((last, writes)) if *writes == access.writes && last.end == bytes.start => {
                    last.end = bytes.end
                }
                _ => accesses.push((bytes, access.writes)),
            }
        });
    }
    if bad {
        return Err(Code::ILLEGAL_ADDRESS);
    }
    for (bytes, writes) in accesses {
        state.enter(bytes, operation, writes);
    }
    let (kernel, grid, block) = (launch.kernel, launch.grid, launch.block);
    // SAFETY: every range that the kernel touches has just been checked, and device memory is taken away only after all work on it.
    Locked::unlocked(state, || unsafe { kernel.run(arguments, grid, block, shift) });
    Ok(())
}

impl State {
    /// Where the bytes of an address are, of the host or a device.
    fn bytes_at(&self, address: u64) -> *mut u8 {
        if self.memory.contains(address) { self.memory.shadow(address) } else { address as *mut u8 }
    }

    /// A copy is about to write to the host: the last moment to see whether the CPU did.
    fn before_write(&mut self, bytes: Range<u64>, operation: &Arc<Operation>) {
        let mut bad = self.guards.written(&bytes, operation.point);
        let what = "the CPU wrote to memory under copy, before the next copy to it ran";
        for guard in bad.drain(..) {
            self.found(Kind::HostWrite, what, &guard.origin, Some(&operation.origin));
        }
        if self.guards.disturbed(operation.point) {
            let what =
                format!("the CPU wrote to this copy's target at {:#x} before the copy ran", bytes.start);
            self.found(Kind::HostWrite, &what, &operation.origin, None);
        }
    }

    /// Takes the bus for a copy; until when. One copy at a time and direction, as a device with two copy engines.
    ///
    /// A copy that waited for the bus alone has it from the moment that it is free: how long this process then takes to move the bytes is no
    /// part of the bus.
    fn bus(&mut self, context: u64, task: &Task) -> Option<Instant> {
        let (bytes, direction) = task.work.transfer()?;
        let latency = self.settings.latency;
        let rate = self.settings.bus;
        if rate.is_none() && latency.is_zero() {
            return None;
        }
        let device = self.device_of(context).ok()?;
        let taken = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / (rate * 1e9)));
        let bus = self.devices.get_mut(device)?.bus.get_mut(direction)?;
        let waited = task.waits.is_empty() && task.submitted <= *bus;
        let from = if waited { *bus } else { (*bus).max(Instant::now()) };
        *bus = from + latency + taken;
        Some(*bus)
    }
}

/// How long an operation waits before it runs: half of them not at all, the others up to `most`.
fn delay(seed: u64, point: Point, most: Duration) -> Duration {
    let mut random = seed ^ (point.timeline as u64).rotate_left(32) ^ point.count;
    random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    random = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    random = (random ^ (random >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    random ^= random >> 31;
    if random & 1 == 0 { Duration::ZERO } else { most.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64) }
}
