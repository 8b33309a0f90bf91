//! Which block leaves host memory when a slab is needed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use crate::object::BlockId;

/// Keeps an order of blocks; holds no bytes.
pub trait Policy: Send + fmt::Debug {
    /// A block came.
    fn insert(&mut self, id: BlockId);
    /// A block was used.
    fn touch(&mut self, id: BlockId);
    /// A block went for another reason than [`Policy::victim`].
    fn remove(&mut self, id: BlockId);
    /// Takes the next block to go out of the order; `may_go` says no for blocks that somebody holds. None where nothing may go.
    fn victim(&mut self, may_go: &dyn Fn(BlockId) -> bool) -> Option<BlockId>;
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue for newcomers, a main queue for what was used again, and a memory of what left the
/// small one. One pass over a dataset leaves the main queue alone.
#[derive(Debug)]
pub struct S3Fifo {
    small: VecDeque<BlockId>,
    main: VecDeque<BlockId>,
    uses: HashMap<BlockId, u8>,
    ghosts: VecDeque<BlockId>,
    remembered: HashSet<BlockId>,
    capacity: usize,
}

/// Uses are counted up to here; each lap of the main queue takes one back.
const MOST_USES: u8 = 3;

impl S3Fifo {
    /// For about `capacity` blocks.
    pub fn new(capacity: usize) -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::new(),
            uses: HashMap::new(),
            ghosts: VecDeque::new(),
            remembered: HashSet::new(),
            capacity: capacity.max(1),
        }
    }

    fn remember(&mut self, id: BlockId) {
        if self.remembered.insert(id) {
            self.ghosts.push_back(id);
        }
        if self.ghosts.len() > self.capacity
            && let Some(old) = self.ghosts.pop_front()
        {
            self.remembered.remove(&old);
        }
    }

    /// One lap over the newcomers: what was used again moves on, the first other one goes.
    fn leave_small(&mut self, may_go: &dyn Fn(BlockId) -> bool) -> Option<BlockId> {
        for _ in 0..self.small.len() {
            let id = self.small.pop_front()?;
            if self.uses.get(&id).is_some_and(|uses| *uses > 0) {
                self.main.push_back(id);
            } else if may_go(id) {
                self.uses.remove(&id);
                self.remember(id);
                return Some(id);
            } else {
                self.small.push_back(id);
            }
        }
        None
    }

    /// Laps over the main queue until something unused turns up.
    fn leave_main(&mut self, may_go: &dyn Fn(BlockId) -> bool) -> Option<BlockId> {
        for _ in 0..self.main.len() * (usize::from(MOST_USES) + 1) {
            let id = self.main.pop_front()?;
            match self.uses.get_mut(&id) {
                Some(uses) if *uses > 0 => *uses -= 1,
                _ if may_go(id) => {
                    self.uses.remove(&id);
                    return Some(id);
                }
                _ => {}
            }
            self.main.push_back(id);
        }
        None
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, id: BlockId) {
        self.uses.insert(id, 0);
        if self.remembered.contains(&id) { self.main.push_back(id) } else { self.small.push_back(id) }
    }

    fn touch(&mut self, id: BlockId) {
        if let Some(uses) = self.uses.get_mut(&id) {
            *uses = (*uses + 1).min(MOST_USES);
        }
    }

    fn remove(&mut self, id: BlockId) {
        if self.uses.remove(&id).is_some() {
            self.small.retain(|other| *other != id);
            self.main.retain(|other| *other != id);
        }
    }

    fn victim(&mut self, may_go: &dyn Fn(BlockId) -> bool) -> Option<BlockId> {
        // A tenth is the newcomers' share, the paper's figure.
        if self.small.len() * 10 >= self.capacity {
            self.leave_small(may_go).or_else(|| self.leave_main(may_go))
        } else {
            self.leave_main(may_go).or_else(|| self.leave_small(may_go))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectId;
    use proptest::prelude::*;

    fn id(index: u32) -> BlockId {
        BlockId { object: ObjectId::from_bytes([2; 16]), index }
    }

    #[test]
    fn one_pass_over_much_data_does_not_push_out_what_is_used_again() {
        let mut policy = S3Fifo::new(10);
        let mut here: HashSet<BlockId> = HashSet::new();
        let mut visit = |policy: &mut S3Fifo, index: u32| {
            if here.contains(&id(index)) {
                policy.touch(id(index));
                return;
            }
            if here.len() == 10 {
                here.remove(&policy.victim(&|_| true).unwrap());
            }
            here.insert(id(index));
            policy.insert(id(index));
        };
        for index in [0, 1, 0, 1].into_iter().chain(100..200) {
            visit(&mut policy, index);
        }
        assert!(here.contains(&id(0)) && here.contains(&id(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_victim_is_there_exactly_when_one_may_go(steps in prop::collection::vec((0u8..4, 0u32..12), 1..200)) {
            let mut policy = S3Fifo::new(6);
            let mut here: HashSet<BlockId> = HashSet::new();
            for (step, index) in steps {
                match step {
                    0 => if here.insert(id(index)) { policy.insert(id(index)) },
                    1 => policy.touch(id(index)),
                    2 => { here.remove(&id(index)); policy.remove(id(index)) }
                    _ => {
                        let may_go = |id: BlockId| !id.index.is_multiple_of(3);
                        match policy.victim(&may_go) {
                            Some(victim) => prop_assert!(may_go(victim) && here.remove(&victim)),
                            None => prop_assert!(!here.iter().any(|id| may_go(*id))),
                        }
                    }
                }
            }
        }
    }
}
