//! Which blocks go when room is needed: a pure choice.
//!
//! Objects that no plan refers to go first, least recently used before others; then blocks that were read in this epoch; then
//! blocks of referenced objects of which nothing is known. Blocks that a plan will need never go, nor those that somebody holds.
//!
//! Aux files stay when blocks go: an index is small, and costs a pass over its shard. Only where all of them together take more than their
//! share they go first, those of the least recently used objects that no plan refers to.

use super::Advice;
use super::state::{Object, Phase, State};
use crate::object::{BLOCK_BYTES, BlockId, ObjectId};

/// Aux files may take a sixteenth of the limit before they make room too: the indexes of 8 bytes a sample stand for a thousand times as
/// much data.
pub(super) const AUX_SHARE: u64 = 16;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Remove these.
    Remove {
        /// Blocks.
        blocks: Vec<BlockId>,
        /// Objects that lose their aux files, and go where they have no block either.
        aux: Vec<ObjectId>,
    },
    /// The next object in line is only in the index yet.
    Load(ObjectId),
    /// Nothing may go.
    Nothing,
}

/// Chooses what is worth `need` bytes, at most `limit` blocks; aux files as far as they take more than `aux_limit` bytes together.
pub(super) fn choose(state: &State, need: u64, aux_limit: u64, limit: usize) -> Choice {
    let mut order: Vec<(bool, u64, u64, ObjectId)> = state
        .objects
        .iter()
        .filter(|(_, object)| !object.removing)
        .map(|(id, object)| (state.advice(id).is_some(), object.tick, object.record.last_use, *id))
        .collect();
    order.sort_unstable();
    let (mut aux, mut freed) = surplus_aux(state, &order, aux_limit);
    let mut blocks = Vec::new();
    for pass in [None, Some(Advice::Done), Some(Advice::None)] {
        for (referenced, _, _, id) in &order {
            if freed >= need || blocks.len() >= limit {
                return Choice::Remove { blocks, aux };
            }
            if *referenced != pass.is_some() {
                continue;
            }
            let Some(object) = state.objects.get(id) else { continue };
            let Some(known) = &object.blocks else {
                if blocks.is_empty() && aux.is_empty() {
                    return Choice::Load(*id);
                }
                return Choice::Remove { blocks, aux };
            };
            if pass.is_none() && known.is_empty() && object.aux == 0 {
                // Nothing is left of it but its record.
                aux.push(*id);
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
    if blocks.is_empty() && aux.is_empty() { Choice::Nothing } else { Choice::Remove { blocks, aux } }
}

/// Objects whose aux files go since all of them take more than `limit` bytes, and the bytes that this frees.
fn surplus_aux(state: &State, order: &[(bool, u64, u64, ObjectId)], limit: u64) -> (Vec<ObjectId>, u64) {
    let all: u64 = state.objects.values().map(|object| object.aux).sum();
    let (mut chosen, mut freed) = (Vec::new(), 0);
    for (referenced, _, _, id) in order {
        let aux = state.objects.get(id).map_or(0, |object| object.aux);
        if all - freed <= limit || *referenced {
            break;
        }
        if aux > 0 {
            chosen.push(*id);
            freed += aux;
        }
    }
    (chosen, freed)
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
    use super::super::ITSELF;
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
        match choose(state, blocks * BLOCK_BYTES, u64::MAX, 1000) {
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
        state.advise(ITSELF, &id(2), 0..1, Advice::Done);
        assert_eq!(chosen(&state, 9), [(3, 0), (1, 0), (1, 1), (2, 0)]);
    }

    #[test]
    fn what_the_plan_needs_or_somebody_holds_never_goes() {
        let mut state = state(&[(1, 1, 4)]);
        state.advise(ITSELF, &id(1), 0..3, Advice::WillNeed);
        state.advise(ITSELF, &id(1), 1..2, Advice::Done);
        assert_eq!(chosen(&state, 9), [(1, 1), (1, 3)]);
        state.block(BlockId { object: id(1), index: 1 }).unwrap().pins = 1;
        state.advise(ITSELF, &id(1), 3..4, Advice::WillNeed);
        assert_eq!(chosen(&state, 9), []);
    }

    #[test]
    fn an_object_that_is_only_in_the_index_is_loaded_when_its_turn_comes() {
        let mut state = state(&[(1, 1, 1), (2, 2, 1)]);
        state.objects.get_mut(&id(2)).unwrap().blocks = None;
        assert_eq!(chosen(&state, 9), [(1, 0)]);
        state.objects.remove(&id(1));
        assert_eq!(choose(&state, 1, 0, 9), Choice::Load(id(2)));
    }

    #[test]
    fn aux_files_stay_when_blocks_go_until_they_take_more_than_their_share() {
        let mut state = state(&[(1, 10, 1), (2, 20, 0), (3, 30, 1), (4, 40, 0)]);
        for name in 1..=4 {
            state.objects.get_mut(&id(name)).unwrap().aux = 100;
        }
        state.advise(ITSELF, &id(1), 0..1, Advice::WillNeed);
        let remove = |blocks: &[u8], aux: &[u8]| Choice::Remove {
            blocks: blocks.iter().map(|&name| BlockId { object: id(name), index: 0 }).collect(),
            aux: aux.iter().map(|&name| id(name)).collect(),
        };
        assert_eq!(choose(&state, u64::MAX, 400, 9), remove(&[3], &[]));
        assert_eq!(choose(&state, u64::MAX, 399, 9), remove(&[3], &[2]));
        assert_eq!(choose(&state, 200, 200, 9), remove(&[], &[2, 3]), "that was enough");
        assert_eq!(choose(&state, u64::MAX, 0, 9), remove(&[3], &[2, 3, 4]), "but not the plan's");
        state.objects.get_mut(&id(3)).unwrap().blocks = Some(HashMap::new());
        assert_eq!(choose(&state, u64::MAX, 400, 9), Choice::Nothing);
        state.objects.get_mut(&id(3)).unwrap().aux = 0;
        assert_eq!(choose(&state, u64::MAX, 400, 9), remove(&[], &[3]), "nothing is left of that one");
    }
}
