//! `decode_on="auto"`: both are tried on the first batches, and the faster one goes on.

use std::time::Duration;

use parking_lot::Mutex;

use super::DecodeOn;
use crate::error::Error;
use crate::report::Reporter;

/// Batches that each is measured over, behind a first one that isn't counted.
const MEASURED_BATCHES: u64 = 2;
/// The device has other work: it decodes where it is faster by this.
const WORTH: f64 = 1.1;

/// Where images are decoded.
#[derive(Debug)]
pub(super) struct Choice {
    batch_size: u64,
    threads: usize,
    reporter: Reporter,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// On the device, and why; none while both are measured.
    decided: Option<(bool, String)>,
    planned: u64,
    cpu: Rate,
    device: Rate,
}

/// Images and the time that one thread took for them.
#[derive(Debug, Default)]
struct Rate {
    seen: u64,
    images: u64,
    seconds: f64,
}

impl Rate {
    /// The first batch warms up.
    fn add(&mut self, images: u64, seconds: f64, warm: u64) {
        self.seen += images;
        if self.seen > warm {
            self.images += images;
            self.seconds += seconds;
        }
    }

    fn per_second(&self, threads: usize) -> f64 {
        self.images as f64 * threads as f64 / self.seconds.max(1e-9)
    }
}

impl Choice {
    pub(super) fn new(decode_on: DecodeOn, batch_size: usize, threads: usize, reporter: Reporter) -> Self {
        let decided = match decode_on {
            DecodeOn::Cpu => Some((false, "decode_on=\"cpu\"".to_owned())),
            DecodeOn::Gpu => Some((true, "decode_on=\"gpu\"".to_owned())),
            DecodeOn::Auto => None,
        };
        let state = State { decided, planned: 0, cpu: Rate::default(), device: Rate::default() };
        Self { batch_size: batch_size as u64, threads, reporter, state: Mutex::new(state) }
    }

    /// Whether the next batch is the device's; while both are measured, they take turns.
    pub(super) fn takes_next(&self) -> bool {
        let mut state = self.state.lock();
        if let Some((on_device, _)) = &state.decided {
            return *on_device;
        }
        state.planned += 1;
        state.planned.is_multiple_of(2)
    }

    /// Whether the device's work is to be measured: its end waited for.
    pub(super) fn measures(&self) -> bool {
        self.state.lock().decided.is_none()
    }

    /// A decoding thread took so long for a sample of so many images.
    pub(super) fn on_cpu(&self, images: u64, took: Duration) {
        let mut state = self.state.lock();
        if state.decided.is_none() {
            state.cpu.add(images, took.as_secs_f64(), self.batch_size);
            self.decide(&mut state);
        }
    }

    /// A thread of the device took so many seconds for a group.
    pub(super) fn on_device(&self, images: u64, seconds: f64) {
        let mut state = self.state.lock();
        if state.decided.is_none() {
            state.device.add(images, seconds, self.batch_size);
            self.decide(&mut state);
        }
    }

    /// The device doesn't take these images. Where it takes none, that is that.
    pub(super) fn passed_by(&self, images: u64) {
        let mut state = self.state.lock();
        if state.decided.is_none() {
            state.device.seen += images;
            if state.device.images == 0 && state.device.seen > 2 * MEASURED_BATCHES * self.batch_size {
                let why = "the device takes none of the first images".to_owned();
                self.reporter.announce(format!("JPEGs are decoded on the CPU: {why}"));
                state.decided = Some((false, why));
            }
        }
    }

    /// The device's decoder is of no more use: the next batches are the CPU's.
    pub(super) fn give_up(&self, error: &Error) {
        if matches!(error, Error::Closed) {
            return;
        }
        let why = format!("the device's decoder failed: {error}");
        self.reporter.announce(format!("JPEGs are decoded on the CPU from here on: {why}"));
        self.state.lock().decided = Some((false, why));
    }

    fn decide(&self, state: &mut State) {
        let enough = MEASURED_BATCHES * self.batch_size;
        if state.cpu.images < enough || state.device.images < enough {
            return;
        }
        // Two threads hand groups to the device, mostly one after the other: what one of them gets done is the least that both do.
        let (cpu, device) = (state.cpu.per_second(self.threads), state.device.per_second(1));
        let on_device = device > WORTH * cpu;
        let why = format!(
            "of the first batches the device decoded {device:.0} images/s, and {} threads of the CPU {cpu:.0}",
            self.threads
        );
        let place = if on_device { "device" } else { "CPU" };
        self.reporter.announce(format!("JPEGs are decoded on the {place}: {why}"));
        state.decided = Some((on_device, why));
    }

    /// For reports.
    pub(super) fn told(&self) -> (&'static str, String) {
        match &self.state.lock().decided {
            Some((true, why)) => ("gpu", why.clone()),
            Some((false, why)) => ("cpu", why.clone()),
            None => ("measuring", "decode_on=\"auto\" tries both on the first batches".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(cpu: f64, device: f64) -> (&'static str, String) {
        let choice = Choice::new(DecodeOn::Auto, 2, 3, Reporter::default());
        assert!(!choice.takes_next() && choice.takes_next(), "turns");
        // The first batch is slow, and doesn't count.
        choice.on_device(2, 100.0);
        (0..2).for_each(|_| choice.on_cpu(1, Duration::from_secs(100)));
        assert_eq!(choice.told().0, "measuring");
        (0..2).for_each(|_| choice.on_cpu(2, Duration::from_secs_f64(6.0 / cpu)));
        choice.on_device(4, 4.0 / device);
        assert!(!choice.measures());
        assert_eq!(choice.takes_next(), choice.told().0 == "gpu");
        choice.told()
    }

    #[test]
    fn the_faster_one_goes_on_and_says_by_how_much() {
        let (on, why) = measured(100.0, 200.0);
        assert_eq!(
            (on, &*why),
            ("gpu", "of the first batches the device decoded 200 images/s, and 3 threads of the CPU 100")
        );
        assert_eq!(measured(200.0, 100.0).0, "cpu");
        assert_eq!(measured(100.0, 105.0).0, "cpu", "the device has other work");
    }

    #[test]
    fn a_device_that_takes_nothing_is_done_with() {
        let choice = Choice::new(DecodeOn::Auto, 2, 1, Reporter::default());
        (0..10).for_each(|_| choice.passed_by(1));
        assert_eq!(choice.told().0, "cpu");
    }

    #[test]
    fn what_was_asked_for_is_not_measured() {
        for (decode_on, on) in [(DecodeOn::Cpu, "cpu"), (DecodeOn::Gpu, "gpu")] {
            let choice = Choice::new(decode_on, 2, 1, Reporter::default());
            assert_eq!((choice.told().0, choice.takes_next(), choice.measures()), (on, on == "gpu", false));
        }
    }
}
