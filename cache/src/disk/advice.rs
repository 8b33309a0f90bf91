//! What plans want with blocks. Each advisor speaks for itself and is forgotten when it ends; what one of them needs, stays.

use std::collections::HashMap;
use std::ops::Range;

use super::Advice;
use crate::object::{BLOCK_BYTES, ByteRange, ObjectId};

/// Who advises: the session of another process, or [`ITSELF`].
pub(crate) type Advisor = u64;

/// This process.
pub(crate) const ITSELF: Advisor = 0;

/// Blocks of one object that advice reaches: 16 TiB, more than an object store keeps in one, so that an absurd range costs little.
const MAX_BLOCKS: u64 = 1 << 22;

/// Everybody's advice, also on blocks that aren't here.
#[derive(Debug, Default)]
pub(crate) struct AdviceBook {
    objects: HashMap<ObjectId, Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    by: Vec<(Advisor, Vec<Advice>)>,
    /// Of each block, the most that anybody wants.
    merged: Vec<Advice>,
}

impl Wanted {
    fn merge(&mut self, blocks: Range<u32>) {
        for at in blocks.start as usize..blocks.end as usize {
            let said = self.by.iter().filter_map(|(_, list)| list.get(at));
            self.merged[at] = said.copied().max().unwrap_or_default();
        }
    }
}

/// The blocks that advice on `range` is about.
pub(crate) fn advised_blocks(range: ByteRange) -> Range<u32> {
    range.intersect(ByteRange::new(0, MAX_BLOCKS * BLOCK_BYTES)).blocks()
}

impl AdviceBook {
    /// An advisor changes its mind about some blocks.
    pub(crate) fn advise(&mut self, by: Advisor, id: &ObjectId, blocks: Range<u32>, advice: Advice) {
        if advice == Advice::None && !self.objects.contains_key(id) {
            return;
        }
        let wanted = self.objects.entry(*id).or_default();
        let end = blocks.end as usize;
        if wanted.merged.len() < end {
            wanted.merged.resize(end, Advice::None);
        }
        let at = wanted.by.iter().position(|(advisor, _)| *advisor == by).unwrap_or_else(|| {
            wanted.by.push((by, Vec::new()));
            wanted.by.len() - 1
        });
        let own = &mut wanted.by[at].1;
        if own.len() < end {
            own.resize(end, Advice::None);
        }
        own[blocks.start as usize..end].fill(advice);
        if advice == Advice::None && own.iter().all(|advice| *advice == Advice::None) {
            wanted.by.swap_remove(at);
        }
        wanted.merge(blocks);
        if wanted.by.is_empty() {
            self.objects.remove(id);
        }
    }

    /// An advisor has ended.
    pub(crate) fn withdraw(&mut self, by: Advisor) {
        self.objects.retain(|_, wanted| {
            let before = wanted.by.len();
            wanted.by.retain(|(advisor, _)| *advisor != by);
            if wanted.by.len() < before {
                wanted.merge(0..wanted.merged.len() as u32);
            }
            !wanted.by.is_empty()
        });
    }

    /// What is wanted with the blocks of an object; none where nobody wants anything.
    pub(crate) fn of(&self, id: &ObjectId) -> Option<&[Advice]> {
        self.objects.get(id).map(|wanted| wanted.merged.as_slice())
    }

    /// All of it, as runs of blocks with the same advice.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (ObjectId, ByteRange, Advice)> {
        self.objects.iter().flat_map(|(id, wanted)| {
            let mut start = 0;
            wanted.merged.chunk_by(PartialEq::eq).map(move |run| {
                let first = start;
                start += run.len() as u64;
                (*id, ByteRange::new(first * BLOCK_BYTES, start * BLOCK_BYTES), run[0])
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Advice::{Done, None as Nothing, WillNeed};
    use super::*;

    const ID: ObjectId = ObjectId::from_bytes([1; 16]);

    #[test]
    fn what_one_needs_stays_although_another_is_done_until_it_says_so_or_ends() {
        let mut book = AdviceBook::default();
        book.advise(1, &ID, 0..3, WillNeed);
        book.advise(2, &ID, 1..4, Done);
        assert_eq!(book.of(&ID).unwrap(), [WillNeed, WillNeed, WillNeed, Done]);
        book.advise(1, &ID, 1..2, Done);
        assert_eq!(book.of(&ID).unwrap(), [WillNeed, Done, WillNeed, Done]);
        book.withdraw(1);
        assert_eq!(book.of(&ID).unwrap(), [Nothing, Done, Done, Done]);
        book.advise(2, &ID, 0..4, Nothing);
        assert!(book.of(&ID).is_none(), "nobody refers to it any more");
    }

    #[test]
    fn runs_tell_all_of_it() {
        let mut book = AdviceBook::default();
        book.advise(ITSELF, &ID, 1..3, WillNeed);
        book.advise(ITSELF, &ID, 3..4, Done);
        let blocks = |start, end| ByteRange::new(start * BLOCK_BYTES, end * BLOCK_BYTES);
        let told: Vec<_> = book.runs().collect();
        assert_eq!(
            told,
            [(ID, blocks(0, 1), Nothing), (ID, blocks(1, 3), WillNeed), (ID, blocks(3, 4), Done)]
        );
        book.withdraw(7);
        book.withdraw(ITSELF);
        assert_eq!(book.runs().count(), 0);
    }

    #[test]
    fn an_absurd_range_is_cut() {
        assert_eq!(advised_blocks(ByteRange::new(0, u64::MAX)).end, 1 << 22);
        assert!(advised_blocks(ByteRange::new(u64::MAX - 1, u64::MAX)).is_empty());
    }
}
