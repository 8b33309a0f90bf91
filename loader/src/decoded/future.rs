//! Which samples are needed when: what a tier of decoded samples admits and evicts by.

use std::sync::{Arc, OnceLock};

use forebay_gpu::tier::{NEVER, Need};

use crate::plan::{Order, World};

/// Needed in the next epoch; when doesn't matter.
const NEXT_EPOCH: Need = NEVER - 1;

/// Which samples are needed when.
#[derive(Debug)]
pub(super) struct Future {
    /// None while samples are found in storage order: their numbers are their positions.
    order: Option<Arc<Order>>,
    world: World,
    next: OnceLock<Option<Order>>,
}

impl Future {
    /// Of an epoch in this order; in storage order without one.
    pub(super) fn new(order: Option<Arc<Order>>, world: World) -> Self {
        Self { order, world, next: OnceLock::new() }
    }

    /// When a sample is needed next, for one that stands behind `reached` or not.
    pub(super) fn need(&self, number: u64, reached: u64) -> Need {
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
