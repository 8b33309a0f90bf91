//! Submission: where the order of an operation is decided, and what can be said of it before it runs.

use std::sync::Arc;
use std::time::Instant;

use super::{Reached, Task, Work, work::Route};
use crate::clocks::Clock;
use crate::codes::Code;
use crate::findings::Kind;
use crate::history::Operation;
use crate::host::{Cover, Guard, PENDING, hash_of};
use crate::memory::{Block, Usage};
use crate::places::Origin;
use crate::state::{CHANGED, State};

impl State {
    /// Submits work to a stream, or adds it to the capture that the stream is in.
    pub(crate) fn submit(&mut self, stream: u64, origin: Origin, work: Work) -> Result<(), Code> {
        let context = self.stream(stream).context;
        self.sticky(context)?;
        if !matches!(work, Work::Nothing) {
            self.fault("lost").inspect_err(|code| self.lose(context, *code))?;
        }
        self.check(stream, &origin, &work)?;
        if self.captured(stream, &origin, &work)? {
            return Ok(());
        }
        let waits = self.order(stream);
        let host = self.host.clone();
        let target = self.stream_mut(stream);
        target.clock.join(&host);
        let point = target.clock.tick(target.timeline);
        target.submitted += 1;
        let (count, clock) = (target.submitted, target.clock.clone());
        let ends = matches!(work, Work::Free { .. });
        if let Work::Free { address, .. } = work
            && let Some(Block::Allocation(allocation)) = self.memory.at(address)
        {
            allocation.ending = Some((point, origin.clone()));
        }
        let operation = Arc::new(Operation { point, clock, origin, ends });
        if let Work::Kernel(launch) = &work {
            self.unentered.insert(point, operation.clone());
            if let Some(module) = self.modules.get_mut(&launch.module) {
                module.launches.retain(|launched| launched.timeline != point.timeline);
                module.launches.push(point);
            }
        }
        self.guard(&operation, &work);
        for (bytes, writes) in work.accesses() {
            self.enter(bytes, &operation, writes);
        }
        self.count(&work);
        self.stream_mut(stream).queue.push_back(Task {
            count,
            waits,
            operation,
            work,
            submitted: Instant::now(),
        });
        self.start(stream);
        CHANGED.notify_all();
        Ok(())
    }

    /// What an event records on a stream now.
    pub(crate) fn mark(&mut self, stream: u64, origin: Origin) -> Result<super::Recorded, Code> {
        self.submit(stream, origin, Work::Nothing)?;
        let Some(capture) = self.stream(stream).capture else {
            let count = self.stream(stream).submitted;
            let clock = self.stream(stream).clock.clone();
            return Ok(super::Recorded::Work { reached: vec![Reached { stream, count }], clock });
        };
        Ok(super::Recorded::Captured { capture, stream })
    }

    /// Everything that a stream does from now on comes after this.
    pub(crate) fn hold_back(&mut self, stream: u64, reached: &[Reached], clock: &Clock) {
        let stream = self.stream_mut(stream);
        stream.clock.join(clock);
        stream.waits.extend_from_slice(reached);
    }

    /// The waits of the next operation of a stream, with those that the legacy stream brings: it waits for all blocking streams of its
    /// context, and they for it.
    fn order(&mut self, stream: u64) -> Vec<Reached> {
        let mut waits = std::mem::take(&mut self.stream_mut(stream).waits);
        let (context, non_blocking) = (self.stream(stream).context, self.stream(stream).non_blocking);
        let Some(legacy) = self.contexts.get(&context).map(|context| context.legacy) else { return waits };
        let mut clock = Clock::default();
        if stream == legacy {
            let (reached, all) = self.all_of(legacy);
            waits.extend(reached.into_iter().filter(|one| one.stream != legacy));
            clock = all;
        } else if !non_blocking {
            let first = self.stream(legacy);
            waits.push(Reached { stream: legacy, count: first.submitted });
            clock = first.clock.clone();
        }
        self.stream_mut(stream).clock.join(&clock);
        waits
    }

    /// Looks at the addresses of an operation, as far as they are known before it runs.
    fn check(&mut self, stream: u64, origin: &Origin, work: &Work) -> Result<(), Code> {
        let device = self.device_of(self.stream(stream).context)?;
        let knows = self.stream(stream).clock.clone();
        for (bytes, writes) in work.accesses() {
            if self.memory.contains(bytes.start) {
                self.check_device(&bytes, device, Usage { writes, peers: true }, &knows, origin)?;
            } else if let Cover::Part = self.pinned.cover(&bytes) {
                let what = "copies across the edge of a pinned range, which the driver refuses";
                self.found(Kind::Misuse, what, origin, None);
                return Err(Code::INVALID_VALUE);
            }
        }
        Ok(())
    }

    /// Guards the host memory of a copy until the host knows that it is complete.
    fn guard(&mut self, operation: &Arc<Operation>, work: &Work) {
        if !self.settings.guard {
            return;
        }
        if let Work::Jpeg(jpeg) = work {
            for bytes in jpeg.guarded() {
                let (point, origin, hash) =
                    (operation.point, operation.origin.clone(), Some(hash_of(&bytes)));
                self.guards.add(Guard { bytes, point, origin, hash, target: false, poisoned: false });
            }
        }
        let Work::Copy { from, to, bytes, route } = work else { return };
        if *bytes == 0 {
            return;
        }
        let (start, target) = match route {
            Route::ToDevice => (*from, false),
            Route::ToHost => (*to, true),
            Route::Device | Route::Host => return,
        };
        let range = start..start + bytes;
        // A buffer used again too soon is found here at the latest.
        self.look_at_host_memory(Some(&range));
        // What other work still does to these bytes is no doing of the CPU's: they are looked at when the copy runs, then.
        let busy = !self.history.unknown_to(range.clone(), &self.host, !target).is_empty();
        let poisoned = target && !busy;
        if poisoned {
            // SAFETY: the target of a copy, which the program gives to the driver until the copy is complete; nothing else is under way on it.
            unsafe { std::ptr::write_bytes(start as *mut u8, PENDING, *bytes as usize) };
        }
        let hash = (!target && !busy).then(|| hash_of(&range));
        let (point, origin) = (operation.point, operation.origin.clone());
        self.guards.add(Guard { bytes: range, point, origin, hash, target, poisoned });
    }

    fn count(&mut self, work: &Work) {
        let counters = &mut self.counters;
        match work {
            Work::Copy { bytes, route: Route::ToDevice, .. } => {
                counters.h2d_bytes += bytes;
                counters.h2d_copies += 1;
            }
            Work::Staged { bytes, .. } => {
                counters.h2d_bytes += bytes.len() as u64;
                counters.h2d_copies += 1;
            }
            Work::Copy { bytes, route: Route::ToHost, .. } => {
                counters.d2h_bytes += bytes;
                counters.d2h_copies += 1;
            }
            Work::Copy { bytes, route: Route::Device, .. } => {
                counters.d2d_bytes += bytes;
                counters.d2d_copies += 1;
            }
            Work::Kernel(_) => counters.launches += 1,
            _ => {}
        }
    }
}
