//! Decoded samples in host memory, in a region of their own.

use std::ops::Range;
use std::sync::Arc;

use forebay_cache::Lease;
use forebay_cache::memory::Region;

use super::{BESIDE, Shelf, in_one_piece};
use crate::pipeline::sample::Kept;
use crate::pipeline::slot::Form;
use crate::session::PAGE;

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

/// A loader's decoded samples in host memory.
#[derive(Debug)]
pub(crate) struct Decoded {
    region: Region,
    shelf: Arc<Shelf<Record>>,
}

impl Decoded {
    pub(crate) fn new(region: Region) -> Self {
        let parts: Vec<_> = region.parts().iter().map(|&(offset, len)| (offset as u64, len as u64)).collect();
        Self { region, shelf: Shelf::new(parts, PAGE as u64) }
    }

    pub(crate) fn shelf(&self) -> &Arc<Shelf<Record>> {
        &self.shelf
    }

    /// Keeps a decoded sample, where there is a place for it.
    pub(crate) fn offer(&self, number: u64, kept: Kept, label: impl FnOnce() -> Arc<str>) {
        let (places, end) = in_one_piece(kept.values.iter().map(|(_, value)| value.len()));
        let Some(place) = self.shelf.reserve(number, (end + BESIDE) as u64) else { return };
        let Some(mut slab) = self.region.try_allocate_at(place.offset as usize, place.len as usize) else {
            self.shelf.abandon(number);
            return;
        };
        for (range, (_, value)) in places.iter().zip(&kept.values) {
            slab[range.clone()].copy_from_slice(value);
        }
        let values = kept.values.into_iter().map(|(form, _)| form).zip(places).collect();
        self.shelf.fill(number, Record { bytes: slab.freeze(), values, label: label() });
    }

    /// Gives the memory back; what is in use follows when it is let go.
    pub(crate) fn close(&self) {
        self.shelf.close();
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
        self.shelf.held().0
    }
}

#[cfg(test)]
mod tests {
    use forebay_cache::memory::Arena;

    use super::*;
    use crate::dtype::DType;
    use crate::plan::{Order, OrderMode, OrderSpec, World};

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
        tier.shelf().begin(Some(order(OrderMode::Storage, 0)), World::new(0, 1).unwrap(), 0);
        (5..9).for_each(|number| offer(&tier, number));
        let kept = tier.shelf().pin(&[4, 5, 6, 7], Some(9));
        assert_eq!(kept.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true, false]);
        let record = &kept[2].as_ref().unwrap().record;
        assert_eq!((record.value(0).1, record.value(1).1), (&[6u8; 3][..], &[7u8; 8][..]));
        assert_eq!((record.len(), &*record.label, tier.used_bytes()), (11, "sample 6", 2 * PAGE));
        assert!(tier.shelf().holds(6) && !tier.shelf().holds(7));
    }

    #[test]
    fn with_one_rank_what_fits_first_stays_in_every_order() {
        for mode in [OrderMode::Storage, OrderMode::Shuffle, OrderMode::Global] {
            let tier = tier(&arena(), 10);
            let mut first = Vec::new();
            for epoch in 0..3 {
                let order = order(mode, epoch);
                tier.shelf().begin(Some(order.clone()), World::new(0, 1).unwrap(), 0);
                for position in 0..order.total() {
                    let number = order.sample_number(order.sample(position));
                    if tier.shelf().pin(&[number], Some(position + 1))[0].is_none() {
                        offer(&tier, number);
                    }
                }
                let kept: Vec<u64> = (0..100).filter(|&number| tier.shelf().holds(number)).collect();
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
        tier.shelf().begin(Some(now.clone()), World::new(1, 2).unwrap(), 0);
        let ours: Vec<u64> = (0..50).map(|row| now.sample_number(now.sample(2 * row + 1))).collect();
        for (row, number) in ours.iter().enumerate() {
            tier.shelf().pin(&[*number], Some(2 * row as u64 + 2));
            offer(&tier, *number);
        }
        let again = |number: &u64| next.position_of(next.sample_numbered(*number)) % 2 == 1;
        assert!(ours.iter().filter(|number| again(number)).count() >= 10, "a choice worth the name");
        let kept = ours.iter().filter(|&&number| tier.shelf().holds(number));
        assert_eq!(kept.map(again).collect::<Vec<_>>(), [true; 10]);
    }

    #[test]
    fn a_closed_tier_gives_its_memory_back_but_what_is_in_use() {
        let arena = arena();
        let tier = tier(&arena, 4);
        tier.shelf().begin(Some(order(OrderMode::Storage, 0)), World::new(0, 1).unwrap(), 0);
        (0..4).for_each(|number| offer(&tier, number));
        let kept = tier.shelf().pin(&[2], Some(3));
        tier.close();
        offer(&tier, 9);
        assert_eq!((tier.used_bytes(), tier.samples()), (PAGE, 0));
        assert_eq!(arena.free_bytes(), (1 << 20) - PAGE);
        assert_eq!(kept[0].as_ref().unwrap().record.value(0).1, [2; 3]);
        drop(kept);
        assert_eq!(arena.free_bytes(), 1 << 20);
    }
}
