use proptest::prelude::*;

use super::{Clock, Point};

/// Something that a stream does, or two of them.
#[derive(Clone, Debug)]
enum Step {
    /// An operation.
    Work(usize),
    /// The first waits for all that the second did.
    Wait(usize, usize),
    /// An event stands for all that a stream did.
    Record(usize, usize),
    /// A stream waits for an event.
    WaitEvent(usize, usize),
}

const STREAMS: usize = 4;
const EVENTS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..STREAMS).prop_map(Step::Work),
        1 => (0..STREAMS, 0..STREAMS).prop_map(|(to, from)| Step::Wait(to, from)),
        1 => (0..STREAMS, 0..EVENTS).prop_map(|(stream, event)| Step::Record(stream, event)),
        1 => (0..STREAMS, 0..EVENTS).prop_map(|(stream, event)| Step::WaitEvent(stream, event)),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// A clock covers exactly those operations from which its own can be reached, as a search of the graph finds them.
    #[test]
    fn clocks_know_what_can_be_reached(steps in steps()) {
        let mut clocks = vec![Clock::default(); STREAMS];
        let mut events = vec![Clock::default(); EVENTS];
        let mut operations: Vec<(Point, Clock)> = Vec::new();
        // The model: of every operation those that it directly comes after; of streams and events, the latest operations before now.
        let mut edges: Vec<Vec<usize>> = Vec::new();
        let mut latest = vec![Vec::<usize>::new(); STREAMS];
        let mut marked = vec![Vec::<usize>::new(); EVENTS];
        for step in steps {
            match step {
                Step::Work(stream) => {
                    let point = clocks[stream].tick(stream + 1);
                    operations.push((point, clocks[stream].clone()));
                    edges.push(std::mem::replace(&mut latest[stream], vec![operations.len() - 1]));
                }
                Step::Wait(to, from) => {
                    let clock = clocks[from].clone();
                    clocks[to].join(&clock);
                    let before = latest[from].clone();
                    latest[to].extend(before);
                }
                Step::Record(stream, event) => {
                    events[event] = clocks[stream].clone();
                    marked[event] = latest[stream].clone();
                }
                Step::WaitEvent(stream, event) => {
                    clocks[stream].join(&events[event]);
                    let before = marked[event].clone();
                    latest[stream].extend(before);
                }
            }
        }
        for (later, (_, clock)) in operations.iter().enumerate() {
            let mut reached = vec![false; operations.len()];
            let mut open = vec![later];
            while let Some(at) = open.pop() {
                if !std::mem::replace(&mut reached[at], true) {
                    open.extend(&edges[at]);
                }
            }
            for (earlier, (point, _)) in operations.iter().enumerate() {
                prop_assert_eq!(clock.covers(*point), reached[earlier], "{} before {}", earlier, later);
            }
        }
    }

    /// What two clocks both know is what their meet knows.
    #[test]
    fn a_meet_knows_what_both_know(left in proptest::collection::vec(0u64..5, 0..6), right in proptest::collection::vec(0u64..5, 0..6)) {
        let (left, right) = (Clock(left), Clock(right));
        let mut both = left.clone();
        both.meet(&right);
        for timeline in 0..7 {
            for count in 1..6 {
                let point = Point { timeline, count };
                prop_assert_eq!(both.covers(point), left.covers(point) && right.covers(point));
            }
        }
    }
}
