//! The nearest tier: decoded samples in host memory, so that an epoch over them touches neither the disk nor a decoder.
//!
//! A sample is kept as it is before its first random step, every field of it, in one piece of a region of its own. The plan knows who is
//! needed when. With one rank every sample is used once in each epoch, so what is kept over an epoch's end is what the next one hits: no
//! choice hits more than the budget's share, and any choice that stays does. So samples that the next epoch needs don't take each other's
//! places: what fits first stays. Those go that this rank doesn't take in the next epoch, since another one does.
//!
//! A row is made from what was kept by the same steps, whether it was kept or has just been decoded: pixels don't depend on it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use forebay_cache::Lease;
use forebay_cache::memory::Region;
use forebay_gpu::tier::{NEVER, Need, Tier};
use parking_lot::Mutex;

use crate::pipeline::sample::Kept;
use crate::pipeline::slot::Form;
use crate::plan::{Order, World};
use crate::session::PAGE;

/// What is kept of images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// Most pixels of the longer side.
    pub(crate) max_side: Option<u32>,
}

/// Needed in the next epoch; when doesn't matter.
const NEXT_EPOCH: Need = NEVER - 1;

/// Where a value begins: on a cache line.
const ALIGN: usize = 64;

/// What is set aside for a sample beside its values: what is noted of it lies on the heap.
const BESIDE: usize = 512;

/// One sample that is kept.
#[derive(Debug)]
pub(crate) struct Record {
    bytes: Lease,
    values: Box<[(Form, Range<usize>)]>,
    /// As errors name it.
    pub(crate) label: Arc<str>,
}

impl Record {
    /// A field's value.
    pub(crate) fn value(&self, field: usize) -> (&Form, &[u8]) {
        let (form, range) = &self.values[field];
        (form, &self.bytes[range.clone()])
    }

    /// Bytes of all values.
    pub(crate) fn len(&self) -> usize {
        self.values.iter().map(|(_, range)| range.len()).sum()
    }
}

/// A loader's decoded samples.
#[derive(Debug)]
pub(crate) struct Decoded {
    region: Region,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tier: Tier<Arc<Record>>,
    future: Option<Arc<Future>>,
    /// The first position of this epoch that is not planned yet.
    reached: u64,
    closed: bool,
}

/// Which samples are needed when.
#[derive(Debug)]
struct Future {
    /// None while samples are found in storage order: their numbers are their positions.
    order: Option<Arc<Order>>,
    world: World,
    next: OnceLock<Option<Order>>,
}

impl Future {
    /// When a sample is needed next, for one that stands behind `reached` or not.
    fn need(&self, number: u64, reached: u64) -> Need {
        let Some(order) = &self.order else {
            return if number >= reached { number } else { NEXT_EPOCH };
        };
        let sample = order.sample_numbered(number);
        let ours = |position: &u64| position % u64::from(self.world.size()) == u64::from(self.world.rank());
        let now = order.position_of(sample);
        if now >= reached && ours(&now) {
            return now;
        }
        if self.world.size() == 1 {
            return NEXT_EPOCH;
        }
        let next = self.next.get_or_init(|| {
            let spec = order.spec();
            Order::new(&spec.in_epoch(spec.epoch.saturating_add(1))).ok()
        });
        let taken = next.as_ref().is_some_and(|next| ours(&next.position_of(sample)));
        if taken { NEXT_EPOCH } else { NEVER }
    }
}

/// Samples that stay where they are for as long as this is held.
#[derive(Debug)]
struct Pins {
    home: Arc<Decoded>,
    numbers: Vec<u64>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.home.state.lock();
        self.numbers.iter().for_each(|&number| state.tier.unpin(number));
    }
}

/// A kept sample in use.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    // Let go before the pin is.
    pub(crate) record: Arc<Record>,
    _pins: Arc<Pins>,
}

impl Decoded {
    pub(crate) fn new(region: Region) -> Self {
        let parts = region.parts().iter().map(|&(offset, len)| (offset as u64, len as u64));
        let tier = Tier::new(parts, PAGE as u64);
        let state = State { tier, future: None, reached: 0, closed: false };
        Self { region, state: Mutex::new(state) }
    }

    /// Begins an epoch at this position; in storage order without an order.
    pub(crate) fn begin(&self, order: Option<Arc<Order>>, world: World, position: u64) {
        let mut state = self.state.lock();
        state.tier.begin();
        state.future = Some(Arc::new(Future { order, world, next: OnceLock::new() }));
        state.reached = position;
    }

    /// The samples of a batch that are kept, in their places; `end` is the first position behind the batch.
    pub(crate) fn pin(self: &Arc<Self>, numbers: &[u64], end: Option<u64>) -> Vec<Option<Pinned>> {
        let mut state = self.state.lock();
        state.reached = state.reached.max(end.unwrap_or(0));
        let State { tier, future, reached, .. } = &mut *state;
        let need = |number| future.as_ref().map_or(NEVER, |future| future.need(number, *reached));
        let mut pin = |number: &u64| tier.pin(*number, need).cloned();
        let records: Vec<Option<Arc<Record>>> = numbers.iter().map(&mut pin).collect();
        drop(state);
        let kept = numbers.iter().zip(&records).filter(|(_, record)| record.is_some());
        let pins = Arc::new(Pins { home: self.clone(), numbers: kept.map(|(number, _)| *number).collect() });
        let pinned = |record: Option<_>| record.map(|record| Pinned { record, _pins: pins.clone() });
        records.into_iter().map(pinned).collect()
    }

    /// Whether all samples of these numbers are kept.
    pub(crate) fn holds(&self, mut numbers: impl Iterator<Item = u64>) -> bool {
        let state = self.state.lock();
        numbers.all(|number| state.tier.holds(number))
    }

    /// Keeps a decoded sample, where there is a place for it.
    pub(crate) fn offer(&self, number: u64, kept: Kept, label: impl FnOnce() -> Arc<str>) {
        let mut end = 0;
        let values: Box<[(Form, Range<usize>)]> = kept
            .values
            .iter()
            .map(|(form, value)| {
                let start = end;
                end = (start + value.len()).next_multiple_of(ALIGN);
                (form.clone(), start..start + value.len())
            })
            .collect();
        let slab = {
            let mut state = self.state.lock();
            let State { tier, future, reached, closed } = &mut *state;
            let Some(future) = future.as_ref().filter(|_| !*closed) else { return };
            let need = |number| future.need(number, *reached);
            let Some(place) = tier.reserve(number, (end + BESIDE) as u64, need) else { return };
            let slab = self.region.try_allocate_at(place.offset as usize, place.len as usize);
            if slab.is_none() {
                tier.abandon(number);
            }
            slab
        };
        let Some(mut slab) = slab else { return };
        for ((_, range), (_, value)) in values.iter().zip(&kept.values) {
            slab[range.clone()].copy_from_slice(value);
        }
        drop(kept);
        let record = Arc::new(Record { bytes: slab.freeze(), values, label: label() });
        self.state.lock().tier.fill(number, record);
    }

    /// Gives the memory back; what is in use follows when it is let go.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.tier.clear();
        self.region.close();
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.region.used_bytes()
    }

    pub(crate) fn peak_bytes(&self) -> usize {
        self.region.peak_bytes()
    }

    /// Samples that are kept.
    pub(crate) fn samples(&self) -> usize {
        self.state.lock().tier.len()
    }
}

#[cfg(test)]
mod tests {
    use forebay_cache::memory::Arena;

    use super::*;
    use crate::dtype::DType;
    use crate::plan::{OrderMode, OrderSpec};

    fn order(mode: OrderMode, epoch: u64) -> Arc<Order> {
        let counts: Arc<[u64]> = [40, 0, 60].into();
        let spec = OrderSpec { counts, seed: 1, epoch, canonical_ranks: 2, shuffle_window: 48, mode };
        Arc::new(Order::new(&spec).unwrap())
    }

    fn tier(arena: &Arena, samples: usize) -> Arc<Decoded> {
        Arc::new(Decoded::new(arena.region("decoded", samples * PAGE).unwrap()))
    }

    fn offer(tier: &Decoded, number: u64) {
        let values =
            vec![(Form::new(DType::U8, [3]), vec![number as u8; 3]), (Form::new(DType::I64, []), vec![7; 8])];
        tier.offer(number, Kept { values }, || format!("sample {number}").into());
    }

    fn arena() -> Arena {
        Arena::new(1 << 20).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_with_every_value_and_stays_while_it_is_used() {
        let tier = tier(&arena(), 2);
        offer(&tier, 1);
        assert_eq!(tier.samples(), 0, "no epoch has begun");
        tier.begin(Some(order(OrderMode::Storage, 0)), World::new(0, 1).unwrap(), 0);
        (5..9).for_each(|number| offer(&tier, number));
        let kept = tier.pin(&[4, 5, 6, 7], Some(9));
        assert_eq!(kept.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true, false]);
        let record = &kept[2].as_ref().unwrap().record;
        assert_eq!((record.value(0).1, record.value(1).1), (&[6u8; 3][..], &[7u8; 8][..]));
        assert_eq!((record.len(), &*record.label, tier.used_bytes()), (11, "sample 6", 2 * PAGE));
        assert!(tier.holds(5..7) && !tier.holds(5..8));
    }

    #[test]
    fn with_one_rank_what_fits_first_stays_in_every_order() {
        for mode in [OrderMode::Storage, OrderMode::Shuffle, OrderMode::Global] {
            let tier = tier(&arena(), 10);
            let mut first = Vec::new();
            for epoch in 0..3 {
                let order = order(mode, epoch);
                tier.begin(Some(order.clone()), World::new(0, 1).unwrap(), 0);
                for position in 0..order.total() {
                    let number = order.sample_number(order.sample(position));
                    if tier.pin(&[number], Some(position + 1))[0].is_none() {
                        offer(&tier, number);
                    }
                }
                let kept: Vec<u64> = (0..100).filter(|&number| tier.holds(number..number + 1)).collect();
                assert_eq!(kept.len(), 10);
                first = if epoch == 0 {
                    kept
                } else {
                    assert_eq!(kept, first, "{mode:?}");
                    kept
                };
            }
        }
    }

    #[test]
    fn what_another_rank_takes_next_makes_room_for_what_this_one_does() {
        let (now, next) = (order(OrderMode::Shuffle, 0), order(OrderMode::Shuffle, 1));
        let tier = tier(&arena(), 10);
        tier.begin(Some(now.clone()), World::new(1, 2).unwrap(), 0);
        let ours: Vec<u64> = (0..50).map(|row| now.sample_number(now.sample(2 * row + 1))).collect();
        for (row, number) in ours.iter().enumerate() {
            tier.pin(&[*number], Some(2 * row as u64 + 2));
            offer(&tier, *number);
        }
        let again = |number: &u64| next.position_of(next.sample_numbered(*number)) % 2 == 1;
        assert!(ours.iter().filter(|number| again(number)).count() >= 10, "a choice worth the name");
        let kept = ours.iter().filter(|&&number| tier.holds(number..number + 1));
        assert_eq!(kept.map(again).collect::<Vec<_>>(), [true; 10]);
    }

    #[test]
    fn a_closed_tier_gives_its_memory_back_but_what_is_in_use() {
        let arena = arena();
        let tier = tier(&arena, 4);
        tier.begin(Some(order(OrderMode::Storage, 0)), World::new(0, 1).unwrap(), 0);
        (0..4).for_each(|number| offer(&tier, number));
        let kept = tier.pin(&[2], Some(3));
        tier.close();
        offer(&tier, 9);
        assert_eq!((tier.used_bytes(), tier.samples()), (PAGE, 0));
        assert_eq!(arena.free_bytes(), (1 << 20) - PAGE);
        assert_eq!(kept[0].as_ref().unwrap().record.value(0).1, [2; 3]);
        drop(kept);
        assert_eq!(arena.free_bytes(), 1 << 20);
    }
}
