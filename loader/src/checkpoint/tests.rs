use super::*;

const COUNTS: [u64; 3] = [5, 0, 7];

fn spec() -> OrderSpec {
    let counts = COUNTS.into();
    OrderSpec { counts, seed: 3, epoch: 2, canonical_ranks: 4, shuffle_window: 64, mode: OrderMode::Shuffle }
}

fn dataset(tag: u8) -> Fingerprint {
    Fingerprint::new(&COUNTS, &[ObjectId::from_bytes([tag; 16])])
}

fn state() -> State {
    State::new(&spec(), dataset(0)).at(Progress { epoch: 2, consumed: 6 })
}

fn resume(given: Given) -> Result<Resumed> {
    state().resume(COUNTS.into(), &dataset(0), &given)
}

#[test]
fn a_state_survives_json_and_resumes_where_it_was() {
    let read = State::from_json(&state().to_json()).unwrap();
    assert_eq!(read, state());
    assert!(state().to_json().len() < 400);
    let resumed = resume(Given::default()).unwrap();
    assert_eq!((resumed.spec, resumed.progress), (spec(), Progress { epoch: 2, consumed: 6 }));
    assert!(resumed.same_objects);
}

#[test]
fn the_largest_seed_survives_json() {
    let state = State { seed: u64::MAX, ..state() };
    assert_eq!(State::from_json(&state.to_json()).unwrap(), state);
}

#[test]
fn an_epoch_consumed_to_its_end_resumes_into_the_next() {
    let ended = state().at(Progress { epoch: 2, consumed: 12 });
    let resumed = ended.resume(COUNTS.into(), &dataset(0), &Given::default()).unwrap();
    assert_eq!((resumed.spec.epoch, resumed.progress), (3, Progress { epoch: 3, consumed: 0 }));
}

#[test]
fn settings_that_are_part_of_the_order_must_agree() {
    let given = Given {
        seed: Some(3),
        mode: Some(OrderMode::Shuffle),
        canonical_ranks: Some(4),
        shuffle_window: Some(64),
    };
    assert!(resume(given).is_ok());
    for (other, says) in [
        (Given { seed: Some(4), ..given }, "seed is 4 here and 3 in the state"),
        (Given { mode: Some(OrderMode::Sticky), ..given }, "shuffle is sticky here and shuffle in the state"),
        (Given { canonical_ranks: Some(8), ..given }, "canonical_ranks is 8 here and 4 in the state"),
        (Given { shuffle_window: Some(65), ..given }, "shuffle_window is 65 here and 64 in the state"),
    ] {
        let message = resume(other).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn a_state_of_another_dataset_says_what_differs() {
    let fails = |counts: &[u64]| {
        let here = Fingerprint::new(counts, &[]);
        state().resume(counts.into(), &here, &Given::default()).unwrap_err().to_string()
    };
    assert!(fails(&[5, 0, 8]).contains("it had 12 samples in 3 shards, here are 13 in 3"));
    assert!(fails(&[12]).contains("here are 12 in 1"));
    assert!(fails(&[7, 0, 5]).contains("listed in another order"));
}

#[test]
fn a_copy_elsewhere_resumes_and_is_told() {
    assert!(!state().resume(COUNTS.into(), &dataset(1), &Given::default()).unwrap().same_objects);
}

#[test]
fn a_changed_number_is_noticed() {
    let changed = State { seed: 4, ..state() };
    let message = changed.resume(COUNTS.into(), &dataset(0), &Given::default()).unwrap_err().to_string();
    assert!(message.contains("contradict"), "{message}");
}

#[test]
fn what_is_no_state_is_a_clear_error() {
    let good = state().to_json();
    let swap = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        good.replace(from, to)
    };
    for (text, says) in [
        ("{".to_owned(), "not JSON"),
        ("[]".to_owned(), "not a JSON object"),
        ("{}".to_owned(), "no field version"),
        (swap("\"version\":1", "\"version\":2"), "newer Forebay"),
        (swap("\"consumed\":6", "\"consumed\":13"), "consumed is 13; a whole number from 0 to 12"),
        (swap("\"consumed\":6", "\"consumed\":-1"), "consumed is -1"),
        (swap("\"epoch\":2", "\"epoch\":1.5"), "epoch is 1.5"),
        (swap("\"seed\":3", "\"seed\":18446744073709551616"), "the state's seed is"),
        (swap("\"shuffle_window\":64", "\"shuffle_window\":0"), "shuffle_window is 0"),
        (swap("\"canonical_ranks\":4", "\"canonical_ranks\":null"), "canonical_ranks is null"),
        (swap("\"shuffle\"", "\"sorted\""), "mode is \"sorted\""),
        (swap("\"samples\":12", "\"samples\":\"12\""), "dataset.samples is"),
        (swap("\"dataset\":{", "\"dataset\":7,\"x\":{"), "'s dataset is not a JSON object"),
    ] {
        let message = State::from_json(&text).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}
