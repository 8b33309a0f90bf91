//! Streams and events: what comes before what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_gpu::device::Capture;
use forebay_gpu::{Device, Event, RawStream, Stream};

use crate::place::{Place, noise};

/// Long enough for a copy to be under way while the next calls are made.
const LARGE: usize = 2 << 20;

pub(crate) fn a_stream_works_in_the_order_of_its_calls(device: &Arc<dyn Device>) {
    let place = Place::new(device, 3 * LARGE as u64);
    let (first, second) = (noise(LARGE, 1), noise(LARGE, 2));
    let (one, two) = (place.host(&first), place.host(&second));
    let mut back = place.host(&vec![0; LARGE]);
    let (a, b, stream) = (place.at, place.at.offset(LARGE as u64), place.stream());
    // SAFETY: all ends are the place's, and kept until the copies are done.
    unsafe {
        device.copy_in(one.as_ptr(), a, LARGE, stream).unwrap();
        device.copy_within(a, b, LARGE, stream).unwrap();
        device.copy_in(two.as_ptr(), a, LARGE, stream).unwrap();
        device.copy_out(b, back.as_mut_ptr(), LARGE, stream).unwrap();
    }
    place.wait(stream);
    assert!(back[..LARGE] == first, "the second copy went before what reads the first");
    assert!(place.get(a, LARGE) == second);
}

pub(crate) fn a_stream_waits_for_what_an_event_stands_for(device: &Arc<dyn Device>) {
    let place = Place::new(device, 2 * LARGE as u64);
    let other = Stream::new(device).unwrap();
    for seed in 0..8 {
        let wanted = noise(LARGE, seed);
        let (slab, mut back) = (place.host(&wanted), place.host(&vec![0; LARGE]));
        // SAFETY: all ends are the place's, and kept until the copies are done.
        unsafe {
            device.copy_in(slab.as_ptr(), place.at, LARGE, place.stream()).unwrap();
            Event::record(device, place.stream()).unwrap().wait_on(other.raw()).unwrap();
            device.copy_out(place.at, back.as_mut_ptr(), LARGE, other.raw()).unwrap();
        }
        let read = Event::record(device, other.raw()).unwrap();
        // What writes there next waits too.
        read.wait_on(place.stream()).unwrap();
        read.block().unwrap();
        assert!(back[..LARGE] == wanted, "seed {seed}: read before it was written");
    }
}

pub(crate) fn an_event_is_done_when_its_work_is(device: &Arc<dyn Device>) {
    let place = Place::new(device, 2 * LARGE as u64);
    let (slab, bytes) = (place.host(&noise(LARGE, 3)), LARGE);
    // SAFETY: both ends are the place's, and kept until the copy is done.
    unsafe { device.copy_in(slab.as_ptr(), place.at, bytes, place.stream()).unwrap() };
    let event = Event::record(device, place.stream()).unwrap();
    event.block().unwrap();
    assert!(event.is_done().unwrap());
    // Nothing is under way: whoever looks sees that soon, and who blocks returns.
    let idle = Event::record(device, place.stream()).unwrap();
    let late = Instant::now() + Duration::from_secs(60);
    while !idle.is_done().unwrap() {
        assert!(Instant::now() < late, "an event behind nothing is never done");
        std::thread::yield_now();
    }
    idle.block().unwrap();
    place.wait(place.stream());
}

pub(crate) fn everything_is_done_behind_a_wait_for_everything(device: &Arc<dyn Device>) {
    let place = Place::new(device, 4 * LARGE as u64);
    let streams: Vec<Stream> = (0..3).map(|_| Stream::new(device).unwrap()).collect();
    let wanted = noise(LARGE, 4);
    for by_event in [false, true] {
        let slab = place.host(&wanted);
        for (at, stream) in streams.iter().enumerate() {
            // SAFETY: both ends are the place's, and kept until the copies are done.
            unsafe {
                let to = place.at.offset((at * LARGE) as u64);
                device.copy_in(slab.as_ptr(), to, LARGE, stream.raw()).unwrap();
            }
        }
        let events: Vec<Event> =
            streams.iter().map(|stream| Event::record(device, stream.raw()).unwrap()).collect();
        // A driver before CUDA 12.5 has no event of everything.
        match by_event.then(|| Event::record_all(device).unwrap()).flatten() {
            Some(all) => all.block().unwrap(),
            None => device.block_on_all().unwrap(),
        }
        assert!(events.iter().all(|event| event.is_done().unwrap()));
        drop(slab);
        (0..streams.len())
            .for_each(|at| assert!(place.get(place.at.offset((at * LARGE) as u64), LARGE) == wanted));
    }
}

pub(crate) fn any_thread_may_call_at_any_time(device: &Arc<dyn Device>) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..5 {
                    let (place, wanted) = (Place::new(device, 1 << 20), noise(100_003, thread * 5 + round));
                    place.put(place.at.offset(thread), &wanted);
                    assert!(place.get(place.at.offset(thread), wanted.len()) == wanted, "thread {thread}");
                }
            });
        }
    });
}

pub(crate) fn a_stream_of_ours_is_not_being_captured(device: &Arc<dyn Device>) {
    let stream = Stream::new(device).unwrap();
    for raw in [stream.raw(), RawStream::LEGACY, RawStream::PER_THREAD] {
        assert_eq!(device.capture_of(raw).unwrap(), Capture::None);
    }
}
