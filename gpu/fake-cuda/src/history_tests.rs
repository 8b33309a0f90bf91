use std::sync::Arc;

use proptest::prelude::*;

use super::{History, Operation};
use crate::clocks::Clock;
use crate::places::Origin;

const STREAMS: usize = 3;

/// An operation on a stream, after all that another one did or not, with an access.
#[derive(Clone, Debug)]
struct Step {
    stream: usize,
    after: Option<usize>,
    start: u64,
    length: u64,
    writes: bool,
    /// Its access is entered only after all others, as a kernel's.
    late: bool,
    /// The host then waits for the stream.
    synchronises: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0..STREAMS,
        proptest::option::weighted(0.3, 0..STREAMS),
        0u64..20,
        1u64..10,
        any::<bool>(),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(stream, after, start, length, writes, late, synchronises)| Step {
            stream,
            after,
            start,
            length,
            writes,
            late,
            synchronises,
        });
    proptest::collection::vec(step, 1..40)
}

proptest! {
    /// An operation takes part in a conflict exactly if one of all pairs says so: nothing is lost by forgetting what is past, nor by the
    /// order of entry. Of a pair itself a later one may stand for it.
    #[test]
    fn operations_in_conflict_are_those_of_all_pairs(steps in steps()) {
        let origin = Origin::here("test");
        let mut clocks = vec![Clock::default(); STREAMS];
        let (mut host, mut history) = (Clock::default(), History::default());
        let mut operations: Vec<(Step, Arc<Operation>)> = Vec::new();
        let mut waiting: Vec<usize> = Vec::new();
        let mut found = vec![false; steps.len()];
        let enter = |history: &mut History, operations: &[(Step, Arc<Operation>)], at: usize, host: &Clock, waiting: &[usize]| {
            let mut settled = host.clone();
            waiting.iter().for_each(|at| settled.meet(&operations[*at].1.clock));
            let (step, operation) = &operations[at];
            let bytes = step.start..step.start + step.length;
            !history.enter(bytes, operation, step.writes, &settled, waiting.is_empty()).is_empty()
        };
        for step in steps {
            if let Some(other) = step.after {
                let clock = clocks[other].clone();
                clocks[step.stream].join(&clock);
            }
            clocks[step.stream].join(&host);
            let point = clocks[step.stream].tick(step.stream + 1);
            let clock = clocks[step.stream].clone();
            let operation = Arc::new(Operation { point, clock, origin: origin.clone(), ends: false });
            let (at, synchronises, stream) = (operations.len(), step.synchronises, step.stream);
            let late = step.late;
            operations.push((step, operation));
            if late {
                waiting.push(at);
            } else {
                found[at] = enter(&mut history, &operations, at, &host, &waiting);
            }
            if synchronises {
                let clock = clocks[stream].clone();
                host.join(&clock);
            }
        }
        while let Some(at) = waiting.pop() {
            waiting.push(at);
            found[at] = enter(&mut history, &operations, at, &host, &waiting);
            waiting.pop();
        }
        let any_found = found.iter().any(|found| *found);
        let overlap = |a: &Step, b: &Step| a.start < b.start + b.length && b.start < a.start + a.length;
        let conflict = |a: &(Step, Arc<Operation>), b: &(Step, Arc<Operation>)| {
            overlap(&a.0, &b.0) && (a.0.writes || b.0.writes) && !a.1.ordered(&b.1) && !Arc::ptr_eq(&a.1, &b.1)
        };
        let any_pair = operations.iter().any(|a| operations.iter().any(|b| conflict(a, b)));
        prop_assert_eq!(any_found, any_pair);
        for (at, found) in found.iter().enumerate() {
            if *found {
                prop_assert!(operations.iter().any(|other| conflict(&operations[at], other)), "{} is in no pair", at);
            }
        }
    }
}
