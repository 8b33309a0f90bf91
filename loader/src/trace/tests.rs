use super::*;

fn trace_of(most: usize, spans: usize) -> Trace {
    let trace = Trace::new(most);
    for index in 0..spans {
        trace.add(Instant::now(), What::Assemble { index: index as u64 });
    }
    trace
}

#[test]
fn no_more_is_kept_than_there_is_room_for_and_the_rest_is_counted() {
    let trace = trace_of(10, 25);
    assert_eq!(trace.dropped(), 15);
    let kept: usize = trace.shared.lanes.lock().iter().map(|lane| lane.events.lock().len()).sum();
    assert_eq!(kept, 10);
    assert_eq!(trace_of(10, 10).dropped(), 0);
}

#[test]
fn threads_have_lanes_of_their_own_in_every_trace() {
    let traces = [Trace::new(100), Trace::new(100)];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    traces.iter().for_each(|trace| trace.add(Instant::now(), What::Consume));
                }
            });
        }
    });
    for trace in &traces {
        let lanes = trace.shared.lanes.lock();
        let kept: Vec<usize> = lanes.iter().map(|lane| lane.events.lock().len()).collect();
        assert_eq!(kept, [3, 3]);
    }
}

#[test]
fn time_spent_in_decoding_is_told_by_thread_also_where_nothing_is_kept() {
    let trace = Trace::new(0);
    let sample = || Sample { location: Location::new("s3://b/a.tar"), shard: 0, index: 0 };
    for outcome in [Outcome::Decoded, Outcome::NeedsMemory, Outcome::Failed, Outcome::Decoded] {
        let what = What::Decode { sample: sample(), outcome, tier: Tier::Disk, bytes: 1 };
        trace.decode(Instant::now(), Duration::from_millis(10), what);
    }
    let [thread] = &trace.threads()[..] else { panic!("{:?}", trace.threads()) };
    assert_eq!((thread.samples, thread.busy), (2, Duration::from_millis(40)));
}

#[test]
fn a_counter_follows_what_is_under_way_and_ends_at_zero() {
    let trace = Trace::new(100);
    let given = Some(trace.clone());
    let flights: Vec<Flight> = (0..3).map(|_| Flight::of(&given, ByteRange::new(0, 50))).collect();
    let value = || trace.gauge(Counter::Reading).value.load(Relaxed);
    assert_eq!(value(), 150);
    for flight in flights {
        flight.landed(&Location::new("s3://b/a.tar"), ByteRange::new(0, 50), Tier::Ram);
    }
    assert_eq!(value(), 0);
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    std::fs::write(&path, "before").unwrap();
    check_place(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"before", "a look changes nothing");
    let written = trace_of(10, 3).write(&path).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len() as u64, written.events);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    for bad in [dir.path().to_owned(), dir.path().join("none/t.json"), "/".into()] {
        check_place(&bad).unwrap_err();
        trace_of(10, 3).write(&bad).unwrap_err();
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
