//! A device's memory, a budget of it, and host bytes on their way.

use std::sync::Arc;
use std::time::Duration;

use forebay_cache::memory::Arena;
use forebay_gpu::{Device, DeviceMemory, Error, Event, Guard, Pinned, Staging, Stream, Waited};

use crate::place::{Place, noise};

pub(crate) fn what_is_taken_is_apart_and_aligned(device: &Arc<dyn Device>) {
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for bytes in [1, 512, 4097, (2 << 20) + 1] {
        let (at, whole) = device.take(bytes, "a test").unwrap();
        assert!(whole >= bytes && at.0 % 8 == 0, "{bytes}: {whole} at {at:?}");
        taken.push((at.0, whole));
    }
    let mut sorted = taken.clone();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{sorted:x?}");
    // SAFETY: taken above, and nothing was done with it.
    taken.into_iter().for_each(|(at, whole)| unsafe { device.give_back(forebay_gpu::Address(at), whole) });
}

pub(crate) fn more_than_there_is_is_an_error_that_takes_nothing(device: &Arc<dyn Device>) {
    let total = device.facts().total_bytes;
    for _ in 0..2 {
        let error = device.take(total + 1, "everything").unwrap_err();
        let Error::DeviceFull { what, wanted_bytes, free_bytes, total_bytes, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*what, *wanted_bytes > total), ("everything", true));
        assert!(free_bytes <= total_bytes && *total_bytes > 0, "{error}");
        assert!(error.to_string().contains("gpu_memory_limit"), "{error}");
    }
    Place::new(device, 1 << 20);
}

pub(crate) fn host_memory_is_pinned_again_once_it_was_let_go(device: &Arc<dyn Device>) {
    for round in 0..3 {
        let arena = Arena::new(1 << 20).unwrap();
        arena.pin(Arc::new(Pinned(device.clone()))).unwrap();
        assert!(arena.is_pinned(), "round {round}");
    }
}

pub(crate) fn a_budget_is_used_over_and_over_with_the_right_bytes(device: &Arc<dyn Device>) {
    let place = Place::new(device, 1 << 16);
    let memory = DeviceMemory::new(device, 1 << 20).unwrap();
    let (mut staging, consumer) = (Staging::new(device).unwrap(), Stream::new(device).unwrap());
    let mut read = Vec::new();
    for round in 0..40 {
        let bytes = 1 + (round * 7919) % 300_000;
        let wanted = noise(bytes, round as u64);
        staging.collect().unwrap();
        while staging.in_flight() > 4 {
            staging.wait_for_one().unwrap();
        }
        let mut to = loop {
            let since = memory.freed();
            if let Some(piece) = memory.take(bytes as u64, "a batch").unwrap() {
                break piece;
            }
            // All was let go, so that some comes free when the device has done its work, which a held one does when it is blocked on.
            if memory.wait(since, Duration::from_millis(20)).unwrap() != Waited::Freed {
                device.block_on_all().unwrap();
            }
        };
        assert_eq!(to.address().0 % 8, 0);
        let copied = staging.copy(place.host(&wanted).freeze(), &mut to, 0).unwrap();
        copied.wait_on(consumer.raw()).unwrap();
        let mut back = place.host(&vec![0; bytes]);
        // SAFETY: the piece is guarded by an event behind this, and what is read is kept until all is done.
        unsafe { device.copy_out(to.address(), back.as_mut_ptr(), bytes, consumer.raw()).unwrap() };
        to.guard(Guard::Event(Arc::new(Event::record(device, consumer.raw()).unwrap())));
        read.push((wanted, back));
        if read.len() == 8 {
            place.wait(consumer.raw());
            read.drain(..)
                .for_each(|(wanted, back)| assert!(back[..wanted.len()] == wanted, "round {round}"));
        }
    }
    while staging.wait_for_one().unwrap() {}
    let (_, peak) = memory.used_bytes();
    assert!(peak > 0 && peak <= memory.limit_bytes());
}

pub(crate) fn more_than_the_budget_is_an_error_with_its_numbers(device: &Arc<dyn Device>) {
    let memory = DeviceMemory::new(device, 1 << 20).unwrap();
    let held = memory.take(1000, "a").unwrap().unwrap();
    let error = memory.take(memory.limit_bytes() + 1, "a batch").unwrap_err();
    let Error::OverBudget { wanted_bytes, limit_bytes, used_bytes, .. } = error else { panic!("{error}") };
    assert_eq!((wanted_bytes, limit_bytes), (memory.limit_bytes() + 1, memory.limit_bytes()));
    assert!(used_bytes >= 1000);
    assert!(memory.take(memory.limit_bytes(), "all").unwrap().is_none(), "{held:?} is a part of it");
}
