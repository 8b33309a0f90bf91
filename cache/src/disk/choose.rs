//! Which blocks go when room is needed: a pure choice.
//!
//! Objects that no plan refers to go first, least recently used before others; then blocks that were read in this epoch; then
//! blocks of referenced objects of which nothing is known. Blocks that a plan will need never go, nor those that somebody holds.

use super::Advice;
use super::state::{Object, Phase, State};
use crate::object::{BLOCK_BYTES, BlockId, ObjectId};

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Remove these blocks, and these objects that have none.
    Remove {
        /// Blocks.
        blocks: Vec<BlockId>,
        /// Objects of which only aux files are left.
        empty: Vec<ObjectId>,
    },
    /// The next object in line is only in the index yet.
    Load(ObjectId),
    /// Nothing may go.
    Nothing,
}

/// Chooses blocks worth `need` bytes, at most `limit` of them.
pub(super) fn choose(state: &State, need: u64, limit: usize) -> Choice {
    let mut order: Vec<(bool, u64, u64, ObjectId)> = state
        .objects
        .iter()
        .filter(|(_, object)| !object.removing)
        .map(|(id, object)| (state.advice(id).is_some(), object.tick, object.record.last_use, *id))
        .collect();
    order.sort_unstable();
    let (mut blocks, mut empty, mut freed) = (Vec::new(), Vec::new(), 0u64);
    for pass in [None, Some(Advice::Done), Some(Advice::None)] {
        for (referenced, _, _, id) in &order {
            if freed >= need || blocks.len() >= limit {
                return Choice::Remove { blocks, empty };
            }
            if *referenced != pass.is_some() {
                continue;
            }
            let Some(object) = state.objects.get(id) else { continue };
            let Some(known) = &object.blocks else {
                if blocks.is_empty() && empty.is_empty() {
                    return Choice::Load(*id);
                }
                return Choice::Remove { blocks, empty };
            };
            if pass.is_none() && known.is_empty() {
                freed += object.aux;
                empty.push(*id);
                continue;
            }
            let advice = state.advice(id).unwrap_or_default();
            for index in free_blocks(object) {
                let wanted = advice.get(index as usize).copied().unwrap_or_default();
                if pass.is_none_or(|pass| pass == wanted) && freed < need && blocks.len() < limit {
                    blocks.push(BlockId { object: *id, index });
                    freed += BLOCK_BYTES
                        .min(object.record.size_bytes.saturating_sub(u64::from(index) * BLOCK_BYTES))
                        .max(1);
                }
            }
        }
    }
    if blocks.is_empty() && empty.is_empty() { Choice::Nothing } else { Choice::Remove { blocks, empty } }
}

/// Present blocks that nobody holds, from the front.
fn free_blocks(object: &Object) -> Vec<u32> {
    let mut free: Vec<u32> = object
        .blocks
        .iter()
        .flatten()
        .filter(|(_, block)| block.phase == Phase::Present && block.pins == 0)
        .map(|(index, _)| *index)
        .collect();
    free.sort_unstable();
    free
}

#[cfg(test)]
mod tests {
    use super::super::index::ObjectRecord;
    use super::super::state::Block;
    use super::*;
    use std::collections::HashMap;

    fn state(objects: &[(u8, u64, u32)]) -> State {
        let mut state = State::new(1 << 30, false);
        for &(name, tick, blocks) in objects {
            let block = Block { phase: Phase::Present, page_crc: 0, pins: 0 };
            let blocks: HashMap<u32, Block> = (0..blocks).map(|index| (index, block)).collect();
            let record = ObjectRecord { size_bytes: 100 * BLOCK_BYTES, ..ObjectRecord::default() };
            state
                .objects
                .insert(id(name), Object { blocks: Some(blocks), tick, record, ..Object::default() });
        }
        state
    }

    fn id(name: u8) -> ObjectId {
        ObjectId::from_bytes([name; 16])
    }

    fn chosen(state: &State, blocks: u64) -> Vec<(u8, u32)> {
        match choose(state, blocks * BLOCK_BYTES, 1000) {
            Choice::Remove { blocks, .. } => {
                blocks.iter().map(|b| (b.object.as_bytes()[0], b.index)).collect()
            }
            Choice::Nothing => Vec::new(),
            Choice::Load(id) => panic!("{id} is loaded"),
        }
    }

    #[test]
    fn unreferenced_objects_go_first_least_recently_used_before_others() {
        let mut state = state(&[(1, 30, 2), (2, 10, 1), (3, 20, 1)]);
        assert_eq!(chosen(&state, 3), [(2, 0), (3, 0), (1, 0)]);
        state.advise(&id(2), 0..1, Advice::Done);
        assert_eq!(chosen(&state, 9), [(3, 0), (1, 0), (1, 1), (2, 0)]);
    }

    #[test]
    fn what_the_plan_needs_or_somebody_holds_never_goes() {
        let mut state = state(&[(1, 1, 4)]);
        state.advise(&id(1), 0..3, Advice::WillNeed);
        state.advise(&id(1), 1..2, Advice::Done);
        assert_eq!(chosen(&state, 9), [(1, 1), (1, 3)]);
        state.block(BlockId { object: id(1), index: 1 }).unwrap().pins = 1;
        state.advise(&id(1), 3..4, Advice::WillNeed);
        assert_eq!(chosen(&state, 9), []);
    }

    #[test]
    fn an_object_that_is_only_in_the_index_is_loaded_when_its_turn_comes() {
        let mut state = state(&[(1, 1, 1), (2, 2, 1)]);
        state.objects.get_mut(&id(2)).unwrap().blocks = None;
        assert_eq!(chosen(&state, 9), [(1, 0)]);
        state.objects.remove(&id(1));
        assert_eq!(choose(&state, 1, 9), Choice::Load(id(2)));
    }
}
