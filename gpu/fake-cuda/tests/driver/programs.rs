//! Random programs: the simulator finds a race exactly where a search of everything that orders two operations finds none.

use forebay_fake_cuda::abi::*;
use forebay_kernels::GatherArgs;

use crate::support::{Driver, gather, of};

/// Slots of device memory that operations use, and bytes of each.
const SLOTS: usize = 4;
const BYTES: usize = 64;
/// The legacy stream, a blocking one, and two that aren't.
const LEGACY: usize = 0;
const BLOCKING: usize = 1;
const STREAMS: usize = 4;
const EVENTS: usize = 2;
/// Steps of a program at most.
const STEPS: usize = 24;

/// A set of operations, by number.
type Set = u128;

/// What is ordered, kept as sets: no clocks.
#[derive(Default)]
struct Model {
    /// Of every operation: slot, whether it writes, and what comes before it.
    operations: Vec<(usize, bool, Set)>,
    streams: [Set; STREAMS],
    events: [Option<Set>; EVENTS],
    host: Set,
}

impl Model {
    /// Something is submitted to a stream.
    fn submit(&mut self, stream: usize) {
        let others = match stream {
            LEGACY => self.streams[BLOCKING],
            BLOCKING => self.streams[LEGACY],
            _ => 0,
        };
        self.streams[stream] |= self.host | others;
    }

    fn operate(&mut self, stream: usize, slot: usize, writes: bool) {
        self.submit(stream);
        self.operations.push((slot, writes, self.streams[stream]));
        self.streams[stream] |= 1 << (self.operations.len() - 1);
    }

    fn has_a_race(&self) -> bool {
        (0..self.operations.len()).any(|later| {
            let (slot, writes, before) = self.operations[later];
            let at_odds = |earlier: usize| {
                let (other, wrote, _) = self.operations[earlier];
                other == slot && (wrote || writes) && before & (1 << earlier) == 0
            };
            (0..later).any(at_odds)
        })
    }
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// Runs the program of a seed; whether the model and whether the simulator found a race.
fn run(seed: u64) -> (bool, bool) {
    let driver = Driver::seed(seed);
    let (mut random, mut model) = (Random(seed), Model::default());
    let mut blocking = 0;
    ok!(cuStreamCreate(&mut blocking, 0));
    let streams = [0, blocking, driver.stream(), driver.stream()];
    let events = [driver.event(), driver.event()];
    let function = driver.gather_of(driver.module());
    let (memory, scratch) = (driver.device(SLOTS * BYTES), driver.device(STEPS * BYTES));
    // A table of one row for each slot: what the kernel reads is known to it alone.
    let tables = driver.device(SLOTS * 8);
    let rows = driver.pinned(SLOTS * 8);
    for (slot, row) in rows.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *row = (memory + (slot * BYTES) as u64).to_le_bytes();
    }
    ok!(cuMemcpyHtoDAsync_v2(tables, of(rows), rows.len(), streams[2]));
    ok!(cuCtxSynchronize());
    // Short programs, so that many have no race.
    for step in 0..1 + random.below(STEPS) {
        let (stream, slot, event) = (random.below(STREAMS), random.below(SLOTS), random.below(EVENTS));
        let own = scratch + (step * BYTES) as u64;
        let address = memory + (slot * BYTES) as u64;
        match random.below(10) {
            0 | 1 => {
                ok!(cuMemsetD8Async(address, step as u8, BYTES, streams[stream]));
                model.operate(stream, slot, true);
            }
            2 => {
                ok!(cuMemcpyDtoDAsync_v2(own, address, BYTES, streams[stream]));
                model.operate(stream, slot, false);
            }
            3 | 4 => {
                let samples = tables + (slot * 8) as u64;
                let arguments = GatherArgs { samples, out: own, rows: 1, row_bytes: BYTES as u64 };
                assert_eq!(gather(function, arguments, streams[stream]), 0);
                model.operate(stream, slot, false);
            }
            5 | 6 => {
                ok!(cuEventRecord(events[event], streams[stream]));
                model.submit(stream);
                model.events[event] = Some(model.streams[stream]);
            }
            7 | 8 => {
                if let Some(known) = model.events[event] {
                    ok!(cuStreamWaitEvent(streams[stream], events[event], 0));
                    model.streams[stream] |= known;
                    model.submit(stream);
                }
            }
            _ if event == 0 => {
                ok!(cuStreamSynchronize(streams[stream]));
                let also = if stream == LEGACY { model.streams[BLOCKING] } else { 0 };
                model.host |= model.streams[stream] | also;
            }
            _ => {
                if let Some(known) = model.events[event] {
                    ok!(cuEventSynchronize(events[event]));
                    model.host |= known;
                }
            }
        }
    }
    let findings = driver.findings();
    assert!(findings.is_empty() || findings.contains("race: "), "{findings}");
    (model.has_a_race(), !findings.is_empty())
}

#[test]
fn a_race_is_found_exactly_where_nothing_orders_two_operations() {
    let (mut with, mut without) = (0, 0);
    for seed in 0..300 {
        let (there, found) = run(seed);
        assert_eq!(there, found, "seed {seed}");
        if there { with += 1 } else { without += 1 }
    }
    assert!(with > 50 && without > 50, "{with} programs with a race, {without} without");
}
