//! Walking positions: what [`Order::sample`] would compute again for every position is kept per lane.
//!
//! Gives exactly the order's samples. Memory is one open window per lane that the walk touches, at most about 400 bytes each.

use std::ops::Range;
use std::sync::Arc;

use super::line::SampleRef;
use super::order::{OpenPage, Order};
use super::residency::PageId;

/// Where a walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The sample at the position.
    pub sample: SampleRef,
    /// The window that holds it.
    pub page: PageId,
}

/// A walk over positions; any position may follow any other, rising ones are fast.
#[derive(Debug)]
pub struct Cursor {
    order: Arc<Order>,
    open: Vec<Option<Box<Open>>>,
}

#[derive(Debug)]
struct Open {
    page: OpenPage,
    slots: Range<usize>,
}

impl Cursor {
    /// A walk over an epoch.
    pub fn new(order: Arc<Order>) -> Self {
        let open = order.lanes.places().map(|_| None).collect();
        Self { order, open }
    }

    /// The order that is walked.
    pub fn order(&self) -> &Arc<Order> {
        &self.order
    }

    /// The sample at `position`, and its window.
    ///
    /// # Panics
    /// Where `position` is not below the order's total.
    pub fn at(&mut self, position: u64) -> Stop {
        let (place, offset) = self.order.locate(position);
        let lane = &mut self.open[place as usize];
        let open = match lane {
            Some(open) if open.page.offsets.contains(&offset) => open,
            _ => lane.insert(Box::new(Open::new(&self.order, self.order.lanes.page_at(place, offset)))),
        };
        let x = open.page.base + open.page.perm.at(offset - open.page.offsets.start);
        Stop { sample: self.order.line().at(x, &open.slots), page: open.page.page }
    }
}

impl Open {
    fn new(order: &Order, page: PageId) -> Self {
        let page = order.open(page);
        let slots = order.line().slots(&(page.base..page.base + page.perm.len()));
        Self { page, slots }
    }
}
