//! The line cut in lanes, and lanes in windows.
//!
//! Position p is sample p div C of lane p mod C. Lanes lie on the line in digit-reversed order, so that the lanes of one rank
//! are neighbours there and ranks share shards only at their edges. First windows are staggered, so that the lanes
//! don't all turn a page at once.

use std::ops::Range;

use super::residency::PageId;

/// Fewer lanes would mix a batch from too few shards; more would split shards among ranks.
const LEAST_LANES: u64 = 48;

/// How `total` samples are cut. A lane is named by its place on the line.
#[derive(Debug)]
pub(super) struct Lanes {
    total: u64,
    /// Samples of a full window of one lane.
    window: u64,
    place_of_lane: Vec<u32>,
    lane_at_place: Vec<u32>,
    /// Where the lane at each place starts on the line, and the line's end.
    starts: Vec<u64>,
}

impl Lanes {
    /// Lanes for an order with this many canonical ranks, a window being `shuffle_window` samples over all lanes.
    pub(super) fn new(total: u64, canonical_ranks: u32, shuffle_window: u64) -> Self {
        let ranks = u64::from(canonical_ranks);
        let per_rank = LEAST_LANES.div_ceil(ranks);
        let lanes = ranks * per_rank;
        let radices = [prime_factors(ranks), prime_factors(per_rank)].concat();
        let place_of_lane: Vec<u32> = (0..lanes).map(|lane| reverse_digits(lane, &radices) as u32).collect();
        let mut lane_at_place = vec![0; place_of_lane.len()];
        for (lane, &place) in (0..).zip(&place_of_lane) {
            lane_at_place[place as usize] = lane;
        }
        let mut starts = vec![0];
        let mut end = 0;
        for &lane in &lane_at_place {
            end += total / lanes + u64::from(u64::from(lane) < total % lanes);
            starts.push(end);
        }
        Self { total, window: shuffle_window.div_ceil(lanes), place_of_lane, lane_at_place, starts }
    }

    /// One lane that is the line.
    pub(super) fn single(total: u64, window: u64) -> Self {
        Self { total, window, place_of_lane: vec![0], lane_at_place: vec![0], starts: vec![0, total] }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.place_of_lane.capacity() + self.lane_at_place.capacity()) * size_of::<u32>()
            + self.starts.capacity() * size_of::<u64>()
    }

    /// C.
    pub(super) fn count(&self) -> u64 {
        self.place_of_lane.len() as u64
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The lane's place, and the position's number in the lane.
    pub(super) fn locate(&self, position: u64) -> (u32, u64) {
        (self.place_of_lane[(position % self.count()) as usize], position / self.count())
    }

    /// The place of the lane that holds `x` of the line, and how far along the lane it lies.
    pub(super) fn place_of(&self, x: u64) -> (u32, u64) {
        let place = self.starts.partition_point(|&start| start <= x) - 1;
        (place as u32, x - self.starts[place])
    }

    /// The position of sample `offset` of the lane at `place`.
    pub(super) fn position(&self, place: u32, offset: u64) -> u64 {
        u64::from(self.lane_at_place[place as usize]) + offset * self.count()
    }

    /// The number in the lane of the lane's first position that is not before `position`.
    pub(super) fn offset_from(&self, place: u32, position: u64) -> u64 {
        position.saturating_sub(u64::from(self.lane_at_place[place as usize])).div_ceil(self.count())
    }

    /// Samples in the lane.
    pub(super) fn size(&self, place: u32) -> u64 {
        self.stretch(place).end - self.stretch(place).start
    }

    /// The lane on the line.
    pub(super) fn stretch(&self, place: u32) -> Range<u64> {
        self.starts[place as usize]..self.starts[place as usize + 1]
    }

    pub(super) fn lane_at(&self, place: u32) -> u64 {
        u64::from(self.lane_at_place[place as usize])
    }

    pub(super) fn places(&self) -> Range<u32> {
        0..self.place_of_lane.len() as u32
    }

    /// The window that holds sample `offset` of the lane.
    pub(super) fn page_at(&self, place: u32, offset: u64) -> PageId {
        let first = self.first_window(place);
        let window = if offset < first { 0 } else { 1 + (offset - first) / self.window };
        PageId { place, window }
    }

    /// The numbers in its lane of a page's samples; empty for a page that does not exist.
    pub(super) fn offsets(&self, page: PageId) -> Range<u64> {
        let (size, first) = (self.size(page.place), self.first_window(page.place));
        let (begin, end) = match page.window.checked_sub(1) {
            None => (0, first),
            Some(before) => {
                let begin = first.saturating_add(before.saturating_mul(self.window));
                (begin, begin.saturating_add(self.window))
            }
        };
        begin.min(size)..end.min(size)
    }

    /// Samples of a lane's first window: (place + 1) / C of a full one, rounded up.
    fn first_window(&self, place: u32) -> u64 {
        let first = (u128::from(self.window) * (u128::from(place) + 1)).div_ceil(u128::from(self.count()));
        first as u64
    }
}

fn reverse_digits(mut number: u64, radices: &[u64]) -> u64 {
    let mut reversed = 0;
    for radix in radices {
        reversed = reversed * radix + number % radix;
        number /= radix;
    }
    reversed
}

fn prime_factors(mut n: u64) -> Vec<u64> {
    let mut factors = Vec::new();
    let mut prime = 2;
    while n > 1 {
        while n.is_multiple_of(prime) {
            factors.push(prime);
            n /= prime;
        }
        prime += 1;
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_tile_every_lane() {
        for (total, ranks, window) in [(10_000, 8, 500), (7, 3, 1), (5_000, 64, 131_072), (999, 1, 48)] {
            let lanes = Lanes::new(total, ranks, window);
            let mut samples = 0;
            for place in lanes.places() {
                let mut next = 0;
                while next < lanes.size(place) {
                    let page = lanes.page_at(place, next);
                    let offsets = lanes.offsets(page);
                    assert_eq!(offsets.start, next);
                    assert_eq!(lanes.page_at(place, offsets.end - 1), page);
                    next = offsets.end;
                }
                samples += next;
            }
            assert_eq!(samples, total);
        }
    }

    #[test]
    fn a_ranks_lanes_are_neighbours_on_the_line() {
        for ranks in [2, 3, 6, 8, 16] {
            let lanes = Lanes::new(48_000, ranks, 480);
            let of_rank = |place: u32| lanes.lane_at(place) % u64::from(ranks);
            let changes =
                lanes.places().skip(1).filter(|&place| of_rank(place) != of_rank(place - 1)).count();
            assert_eq!(changes, ranks as usize - 1);
        }
    }

    #[test]
    fn the_largest_window_does_not_overflow() {
        let lanes = Lanes::new(1 << 62, 1 << 20, u64::MAX);
        let page = lanes.page_at(5, 100);
        assert!(lanes.offsets(page).contains(&100));
        assert!(lanes.offsets(PageId { place: 5, window: u64::MAX }).is_empty());
    }
}
