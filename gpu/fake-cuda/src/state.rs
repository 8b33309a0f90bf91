//! All that the simulated driver knows, behind one lock.
//!
//! One lock, since the checks look across everything; it isn't held while an operation runs, a host function runs, or a thread waits.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::capture::{Capture, Graph};
use crate::clocks::{Clock, HOST, Point};
use crate::codes::Code;
use crate::counters::Counters;
use crate::engine::{Event, Stream};
use crate::faults::Counts;
use crate::findings::{Findings, Kind};
use crate::history::{History, Operation};
use crate::host::{Guard, Guards, PinnedMemory};
use crate::memory::{AddressSpace, Bad, Usage};
use crate::modules::{Function, Module};
use crate::nvjpeg::Jpeg;
use crate::physical::Physical;
use crate::places::Origin;
use crate::settings::Settings;

/// The driver's state.
pub(crate) type Locked = MutexGuard<'static, State>;

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::new()));

/// Something changed that a stream or a thread may wait for.
pub(crate) static CHANGED: Condvar = Condvar::new();

/// Takes the lock.
pub(crate) fn lock() -> Locked {
    STATE.lock()
}

/// A device of the machine.
pub(crate) struct Device {
    /// Which of the machine's devices.
    pub(crate) number: usize,
    pub(crate) used: u64,
    pub(crate) primary: Option<u64>,
    pub(crate) retained: Vec<Origin>,
    pub(crate) flags: u32,
    /// Until when the bus is taken, to the device and from it.
    pub(crate) bus: [Instant; 2],
}

/// A context: the primary one of its device.
pub(crate) struct Context {
    pub(crate) device: usize,
    /// An error that nothing but the end of the context clears.
    pub(crate) sticky: Option<Code>,
    pub(crate) legacy: u64,
    pub(crate) per_thread: HashMap<std::thread::ThreadId, u64>,
}

/// What a destroyed handle was, and where it was destroyed.
pub(crate) struct Dead {
    pub(crate) what: &'static str,
    pub(crate) origin: Origin,
}

/// See the module.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) initialised: bool,
    pub(crate) exiting: bool,
    /// No operation begins, so that a test decides what is in flight. Any call that waits ends it.
    pub(crate) hold: bool,
    pub(crate) devices: Vec<Device>,
    pub(crate) contexts: HashMap<u64, Context>,
    pub(crate) streams: HashMap<u64, Stream>,
    pub(crate) events: HashMap<u64, Event>,
    pub(crate) modules: HashMap<u64, Module>,
    pub(crate) functions: HashMap<u64, Function>,
    pub(crate) graphs: HashMap<u64, Graph>,
    pub(crate) captures: HashMap<u64, Capture>,
    pub(crate) physical: HashMap<u64, Physical>,
    pub(crate) jpeg: Jpeg,
    pub(crate) dead: HashMap<u64, Dead>,
    pub(crate) memory: AddressSpace,
    pub(crate) pinned: PinnedMemory,
    pub(crate) guards: Guards,
    pub(crate) history: History,
    /// What the host knows: all its threads together.
    pub(crate) host: Clock,
    /// Kernels whose accesses aren't in the history yet.
    pub(crate) unentered: BTreeMap<Point, Arc<Operation>>,
    pub(crate) timelines: usize,
    pub(crate) findings: Findings,
    pub(crate) counters: Counters,
    pub(crate) faults: Counts,
    next_handle: u64,
}

/// Where handles begin: below every mapping of a 64-bit program, so that a host that follows one dies at once.
const HANDLES: u64 = 0xFA_0000;

impl State {
    fn new() -> State {
        let settings = Settings::from_environment().unwrap_or_else(|error| {
            eprintln!("forebay-fake-cuda: {error}");
            std::process::abort();
        });
        State {
            initialised: false,
            exiting: false,
            hold: false,
            devices: Vec::new(),
            settings,
            contexts: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            captures: HashMap::new(),
            physical: HashMap::new(),
            jpeg: Jpeg::default(),
            dead: HashMap::new(),
            memory: AddressSpace::new()
                .expect("2 TiB of addresses, without memory, for the simulated devices"),
            pinned: PinnedMemory::default(),
            guards: Guards::default(),
            history: History::default(),
            host: Clock::default(),
            unentered: BTreeMap::new(),
            timelines: 1,
            findings: Findings::default(),
            counters: Counters::default(),
            faults: Counts::default(),
            next_handle: HANDLES,
        }
    }

    /// Begins anew with other settings. Nothing may be in flight.
    pub(crate) fn reset(&mut self, settings: Settings) {
        let next_handle = self.next_handle;
        let old = std::mem::replace(self, State { settings, next_handle, ..State::new() });
        old.memory.give_back();
    }

    /// A handle that no other thing ever has.
    pub(crate) fn handle(&mut self) -> u64 {
        self.next_handle += 16;
        self.next_handle
    }

    /// Reports a finding.
    pub(crate) fn found(&mut self, kind: Kind, what: &str, by: &Origin, other: Option<&Origin>) {
        self.findings.add(&self.settings, kind, what, by, other);
    }

    /// The error that the plan has for one more of `what`.
    pub(crate) fn fault(&mut self, what: &str) -> Result<(), Code> {
        self.faults.next(&self.settings.faults, what)
    }

    /// Notes that a handle is no longer one.
    pub(crate) fn bury(&mut self, handle: u64, what: &'static str, origin: &Origin) {
        self.dead.insert(handle, Dead { what, origin: origin.clone() });
    }

    /// The error for a handle that is none, with a finding: a real driver may crash.
    pub(crate) fn no_such(&mut self, what: &str, handle: u64, call: &'static str) -> Code {
        let origin = Origin::here(call);
        match self.dead.get(&handle).map(|dead| (dead.what, dead.origin.clone())) {
            Some((was, by)) => {
                self.found(Kind::Destroyed, &format!("this {was} was destroyed"), &origin, Some(&by))
            }
            None => self.found(Kind::Misuse, &format!("{handle:#x} is no {what}"), &origin, None),
        }
        Code::INVALID_HANDLE
    }

    /// As [`State::no_such`], for a handle that is to be destroyed.
    pub(crate) fn destroyed_twice(&mut self, what: &str, handle: u64, call: &'static str) -> Code {
        let origin = Origin::here(call);
        match self.dead.get(&handle).map(|dead| dead.origin.clone()) {
            Some(by) => {
                self.found(Kind::DoubleFree, &format!("this {what} is already destroyed"), &origin, Some(&by))
            }
            None => self.found(Kind::Misuse, &format!("{handle:#x} is no {what}"), &origin, None),
        }
        Code::INVALID_HANDLE
    }

    /// What everything yet to be entered in the history knows at least.
    pub(crate) fn settled(&self) -> Clock {
        let mut settled = self.host.clone();
        for operation in self.unentered.values() {
            settled.meet(&operation.clock);
        }
        settled
    }

    /// The host knows from now on that all of `clock` is complete.
    pub(crate) fn host_learns(&mut self, clock: &Clock) {
        self.host.join(clock);
        let changed = self.guards.release(&self.host);
        self.written_to(changed);
    }

    /// Looks at host memory under copy, all or what touches `bytes`: the CPU may have written to it already.
    pub(crate) fn look_at_host_memory(&mut self, bytes: Option<&Range<u64>>) {
        let changed = self.guards.changed(bytes);
        self.written_to(changed);
    }

    fn written_to(&mut self, guards: Vec<Guard>) {
        for guard in guards {
            let (part, bytes) =
                (if guard.target { "target" } else { "source" }, guard.bytes.end - guard.bytes.start);
            let what = format!(
                "the CPU wrote to this copy's {part}, or unmapped it, before it knew that the copy is complete, somewhere in {bytes} bytes at {:#x}",
                guard.bytes.start
            );
            self.found(Kind::HostWrite, &what, &guard.origin, None);
        }
    }

    /// Enters an access in the history, and reports what it is at odds with.
    pub(crate) fn enter(&mut self, bytes: Range<u64>, operation: &Arc<Operation>, writes: bool) {
        let settled = self.settled();
        let all_entered = self.unentered.is_empty();
        for conflict in self.history.enter(bytes, operation, writes, &settled, all_entered) {
            let by = operation.origin.clone();
            let other = conflict.with.origin.clone();
            let range = format!("{:#x}..{:#x}", conflict.bytes.start, conflict.bytes.end);
            if conflict.with.ends {
                let what = format!("was still to run when {range} was given up");
                self.found(Kind::InFlight, &what, &by, Some(&other));
            } else {
                let what = match (conflict.wrote, writes) {
                    (true, true) => "writes what another operation writes",
                    (true, false) => "reads what another operation writes",
                    _ => "writes what another operation reads",
                };
                self.found(
                    Kind::Race,
                    &format!("{what}, {range}, and nothing orders the two"),
                    &by,
                    Some(&other),
                );
            }
        }
    }

    /// The host gives up a range of memory: reports what may still use it.
    pub(crate) fn give_up(&mut self, bytes: Range<u64>, origin: &Origin) {
        for operation in self.history.unknown_to(bytes.clone(), &self.host, false) {
            if !operation.ends {
                let other = operation.origin.clone();
                self.found(
                    Kind::InFlight,
                    "the host doesn't know that work on this memory is complete",
                    origin,
                    Some(&other),
                );
            }
        }
        let point = self.host.tick(HOST);
        let operation =
            Arc::new(Operation { point, clock: self.host.clone(), origin: origin.clone(), ends: true });
        if !self.unentered.is_empty() {
            let settled = self.settled();
            self.history.enter(bytes, &operation, true, &settled, false);
        }
    }

    /// Whether `device` may use a range of device memory; a finding if not.
    pub(crate) fn check_device(
        &mut self,
        bytes: &Range<u64>,
        device: usize,
        usage: Usage,
        knows: &Clock,
        origin: &Origin,
    ) -> Result<(), Code> {
        let range = format!("{:#x}..{:#x}", bytes.start, bytes.end);
        match self.memory.check(bytes, device, usage, knows) {
            Ok(()) => Ok(()),
            Err(Bad::Freed(by)) => {
                self.found(Kind::UseAfterFree, &format!("uses {range}, which was freed"), origin, Some(&by));
                Err(Code::INVALID_VALUE)
            }
            Err(Bad::Outside) => {
                self.found(
                    Kind::OutOfBounds,
                    &format!("uses {range}, which isn't all allocated"),
                    origin,
                    None,
                );
                Err(Code::INVALID_VALUE)
            }
            Err(Bad::NoAccess) => {
                let what = format!("uses {range}, to which device {device} has no access");
                self.found(Kind::OutOfBounds, &what, origin, None);
                Err(Code::INVALID_VALUE)
            }
        }
    }

    /// The context of `handle`, or the error for what is none.
    pub(crate) fn context(&mut self, handle: u64) -> Result<&mut Context, Code> {
        match self.contexts.get_mut(&handle) {
            Some(context) => Ok(context),
            None if self.dead.contains_key(&handle) => Err(Code::CONTEXT_IS_DESTROYED),
            None => Err(Code::INVALID_CONTEXT),
        }
    }

    /// The device that a context is on.
    pub(crate) fn device_of(&mut self, context: u64) -> Result<usize, Code> {
        Ok(self.context(context)?.device)
    }

    /// The next number for a new stream's timeline.
    pub(crate) fn timeline(&mut self) -> usize {
        self.timelines += 1;
        self.timelines - 1
    }
}

impl Device {
    /// A device with nothing on it.
    pub(crate) fn new(number: usize) -> Device {
        Device { number, used: 0, primary: None, retained: Vec::new(), flags: 0, bus: [Instant::now(); 2] }
    }
}
