//! Blocks that a plan keeps in host memory for a while: one read of a block instead of one for each of its samples.

use super::Ram;
use crate::memory::{Lease, Slab};
use crate::object::BlockId;

/// What asking for a block to be held gave.
#[derive(Debug)]
pub(crate) enum Holding {
    /// It is here, or on its way.
    Held,
    /// It is held as soon as it comes; whoever asked may read it into this.
    Missing(Slab),
    /// Plans hold as much as they may, or every slab is in use.
    Full,
}

impl Ram {
    /// Blocks that plans may hold. Readers hold up to a half besides; the rest is for blocks on their way.
    fn most_held(&self) -> usize {
        self.slabs * 3 / 8
    }

    /// Holds a block until [`Self::release`], wherever it comes from.
    pub(crate) fn hold(&self, id: BlockId) -> Holding {
        {
            let mut tier = self.tier.lock();
            if let Some(holders) = tier.held.get_mut(&id) {
                *holders += 1;
                return Holding::Held;
            }
            if tier.held.len() >= self.most_held() {
                return Holding::Full;
            }
            tier.held.insert(id, 1);
            if tier.blocks.contains_key(&id) {
                return Holding::Held;
            }
        }
        match self.try_slab() {
            Some(slab) => Holding::Missing(slab),
            None => {
                self.release(id);
                Holding::Full
            }
        }
    }

    /// Keeps a held block that was read from disk; not, where nobody holds it any more, or it came from the origin meanwhile.
    pub(crate) fn insert_held(&self, id: BlockId, lease: Lease) {
        let mut tier = self.tier.lock();
        if tier.held.contains_key(&id) && !tier.blocks.contains_key(&id) {
            tier.insert(id, lease, true);
        }
    }

    /// Ends one hold. With the last one a block goes that was read from disk for it, as it can be read again.
    pub(crate) fn release(&self, id: BlockId) {
        let gone = {
            let mut guard = self.tier.lock();
            let tier = &mut *guard;
            let Some(holders) = tier.held.get_mut(&id) else { return };
            *holders -= 1;
            if *holders > 0 {
                return;
            }
            tier.held.remove(&id);
            if tier.blocks.get(&id).is_some_and(|entry| entry.from_disk) {
                tier.policy.remove(id);
                tier.blocks.remove(&id)
            } else {
                None
            }
        };
        drop(gone);
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fill, id, ram};
    use super::*;

    fn read(ram: &Ram, index: u32) {
        match ram.hold(id(index)) {
            Holding::Missing(mut slab) => {
                slab[0] = index as u8;
                ram.insert_held(id(index), slab.freeze());
            }
            other => panic!("block {index}: {other:?}"),
        }
    }

    #[test]
    fn a_held_block_outlives_any_number_of_newcomers_and_goes_with_its_last_holder() {
        let ram = ram(8);
        read(&ram, 0);
        assert!(matches!(ram.hold(id(0)), Holding::Held));
        (10..50).for_each(|index| fill(&ram, index));
        let hit = ram.get(id(0)).unwrap();
        assert_eq!((hit.lease[0], hit.from_disk), (0, true));
        drop(hit);
        ram.release(id(0));
        assert!(ram.has(id(0)));
        ram.release(id(0));
        assert!(!ram.has(id(0)));
        ram.release(id(0));
    }

    #[test]
    fn plans_hold_three_eighths_and_the_rest_is_for_blocks_on_their_way() {
        let ram = ram(8);
        (0..3).for_each(|index| read(&ram, index));
        assert!(matches!(ram.hold(id(3)), Holding::Full));
        let on_their_way: Vec<_> = std::iter::from_fn(|| ram.try_slab()).collect();
        assert_eq!(on_their_way.len(), 5);
        ram.release(id(1));
        assert!(ram.try_slab().is_some());
        assert!(matches!(ram.hold(id(3)), Holding::Missing(_)));
    }

    #[test]
    fn a_block_from_the_origin_is_held_from_its_arrival_and_stays_when_it_is_released() {
        let ram = ram(8);
        let Holding::Missing(slab) = ram.hold(id(0)) else { panic!("nothing is here yet") };
        fill(&ram, 0);
        ram.insert_held(id(0), slab.freeze());
        assert!(!ram.get(id(0)).unwrap().from_disk);
        (10..50).for_each(|index| fill(&ram, index));
        assert!(ram.has(id(0)));
        ram.release(id(0));
        assert!(ram.has(id(0)));
    }

    #[test]
    fn what_nobody_holds_any_more_is_not_kept_when_it_comes() {
        let ram = ram(8);
        let Holding::Missing(slab) = ram.hold(id(0)) else { panic!("nothing is here yet") };
        ram.release(id(0));
        ram.insert_held(id(0), slab.freeze());
        assert!(!ram.has(id(0)));
    }
}
